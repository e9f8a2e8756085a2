// One segment (format.hpp), mapped. Every range is checked against the page checksums when it is first used; a look-up
// that would leave a file throws FormatError, however it is damaged.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "storage/checksum.hpp"
#include "storage/file_io.hpp"
#include "storage/format.hpp"
#include "storage/paged_file.hpp"
#include "storage/texts.hpp"

namespace aslfast {

// The postings of one term, window after window.
struct Postings {
    const Window* windows;
    uint32_t n_windows;
    const uint16_t* docs;
    const uint8_t* impacts;
    const uint8_t* counts;
    const Tiles* tiles;  // of every window that has tiles
    uint32_t n_tiles;
    uint32_t size;   // passages that have the term
    uint64_t first;  // number of its first posting in the segment

    uint32_t begin(uint32_t window) const { return window == 0 ? 0 : std::min(windows[window - 1].end, size); }
    uint32_t end(uint32_t window) const { return std::min(windows[window].end, size); }
};

class Segment {
public:
    // checks: the checksum of checks.bin. Throws FileError, FormatError.
    Segment(const std::string& folder, const Counts& counts, uint64_t checks)
        : counts_(counts),
          page_checks_(folder + "/" + kChecksFile),
          terms_(open(folder, 0, checks)),
          windows_(open(folder, 1, checks)),
          postings_(open(folder, 2, checks)),
          tiles_(open(folder, 3, checks)),
          passages_(open(folder, 4, checks)),
          blocks_(open(folder, 5, checks)),
          text_bytes_(open(folder, 6, checks)),
          texts_(*blocks_, *text_bytes_, counts.passages) {
        check_counts();
        const uint64_t v = counts.terms, n = counts.passages, p = counts.postings;
        term_slots_at_ = align((v + 1) * sizeof(Term));
        names_at_ = align(term_slots_at_ + slot_count(v) * sizeof(uint32_t));
        impacts_at_ = align(p * sizeof(uint16_t));
        counts_at_ = align(impacts_at_ + p);
        big_at_ = align(counts_at_ + p);
        ids_at_ = align(n * sizeof(uint32_t));
        id_slots_at_ = align(ids_at_ + (n + 1) * sizeof(uint64_t));
        id_bytes_at_ = align(id_slots_at_ + slot_count(n) * sizeof(uint32_t));
    }

    const Counts& counts() const { return counts_; }

    std::optional<uint32_t> find_term(std::string_view name) const {
        return find(*terms_, term_slots_at_, counts_.terms, name, [this](uint32_t i) { return term(i); });
    }

    std::string_view term(uint32_t number) const {
        const Term* record = this->record(number);
        return slice(*terms_, names_at_, record[0].name, record[1].name);
    }

    // How many passages have the term.
    uint64_t frequency(uint32_t number) const {
        const Term* record = this->record(number);
        return record[1].posting - record[0].posting;
    }

    Postings postings(uint32_t number) const {
        const Term* record = this->record(number);
        const uint64_t first = record[0].posting, n = record[1].posting - first;
        const uint64_t n_windows = record[1].window - record[0].window;
        const uint64_t n_tiles = record[1].tiles - record[0].tiles;
        const auto* windows = get<Window>(*windows_, 0, record[0].window, n_windows);
        if (n > counts_.passages || n_windows > n || n_tiles > n_windows)
            terms_->fail("a term has more postings than there are passages");
        const auto* docs = get<uint16_t>(*postings_, 0, first, n);
        const auto* impacts = get<uint8_t>(*postings_, impacts_at_, first, n);
        const auto* counts = get<uint8_t>(*postings_, counts_at_, first, n);
        const auto* tiles = get<Tiles>(*tiles_, 0, record[0].tiles, n_tiles);
        return {windows,
                static_cast<uint32_t>(n_windows),
                docs,
                impacts,
                counts,
                tiles,
                static_cast<uint32_t>(n_tiles),
                static_cast<uint32_t>(n),
                first};
    }

    // How often the passage of a posting has the term.
    uint32_t count(const Postings& list, uint32_t at) const {
        return list.counts[at] < kBigCount ? list.counts[at] : big_count(list.first + at);
    }

    uint32_t length(uint32_t doc) const { return *get<uint32_t>(*passages_, 0, doc, 1); }

    void prefetch_length(uint32_t doc) const {
        __builtin_prefetch(passages_->data() + uint64_t{doc} * sizeof(uint32_t));
    }

    std::string_view id(uint32_t doc) const {
        const auto* offsets = get<uint64_t>(*passages_, ids_at_, doc, 2);
        return slice(*passages_, id_bytes_at_, offsets[0], offsets[1]);
    }

    std::optional<uint32_t> find_id(std::string_view id) const {
        return find(*passages_, id_slots_at_, counts_.passages, id, [this](uint32_t i) { return this->id(i); });
    }

    std::string text(uint32_t doc) const { return texts_.text(doc); }
    const TextReader& texts() const { return texts_; }

    // Checks every page of every file.
    void verify() const {
        for (const auto* file : {&terms_, &windows_, &postings_, &tiles_, &passages_, &blocks_, &text_bytes_})
            (*file)->verify_all();
    }

private:
    // checks.bin is checked as a whole, once, when the first file is opened.
    std::unique_ptr<PagedFile> open(const std::string& folder, size_t index, uint64_t checks) {
        if (index == 0) {
            if (checksum({page_checks_.data(), page_checks_.size()}) != checks)
                page_checks_.fail("its checksum is wrong");
        }
        const std::string path = folder + "/" + kCheckedFiles[index];
        std::error_code error;
        const uint64_t size = std::filesystem::file_size(path, error);
        if (error) throw FileError(path, error.value());
        const uint64_t bytes = (size + kPageBytes - 1) / kPageBytes * sizeof(uint64_t);
        if (bytes > page_checks_.size() - pages_at_) page_checks_.fail("it is too short for the segment's files");
        const auto* checksums = reinterpret_cast<const uint64_t*>(page_checks_.data() + pages_at_);
        pages_at_ += bytes;
        return std::make_unique<PagedFile>(path, checksums, size);
    }

    void check_counts() const {
        if (pages_at_ != page_checks_.size()) page_checks_.fail("it is too long for the segment's files");
        if (counts_.passages > kMaxPassages) passages_->fail("it claims too many passages");
        if (counts_.terms > kMaxTerms) terms_->fail("it claims too many terms");
        if (counts_.postings > postings_->size()) postings_->fail("it is too short");
    }

    const Term* record(uint32_t number) const { return get<Term>(*terms_, 0, number, 2); }

    template <class T>
    static const T* get(const PagedFile& file, uint64_t section, uint64_t first, uint64_t n) {
        if (first > file.size() || n > file.size()) file.fail("it refers to what it does not have");
        file.need(section + first * sizeof(T), n * sizeof(T));
        return reinterpret_cast<const T*>(file.data() + section) + first;
    }

    static std::string_view slice(const PagedFile& file, uint64_t section, uint64_t begin, uint64_t end) {
        if (end < begin) file.fail("its offsets are wrong");
        return {get<char>(file, section, begin, end - begin), end - begin};
    }

    template <class Name>
    static std::optional<uint32_t> find(const PagedFile& file, uint64_t section, uint64_t n, std::string_view wanted,
                                        Name name) {
        const uint64_t mask = slot_count(n) - 1;
        for (uint64_t at = hash(wanted) & mask, tries = 0; tries <= mask; at = (at + 1) & mask, ++tries) {
            const uint32_t number = *get<uint32_t>(file, section, at, 1);
            if (number == kFree) return std::nullopt;
            if (number >= n) file.fail("a slot names what does not exist");
            if (name(number) == wanted) return number;
        }
        return std::nullopt;
    }

    uint32_t big_count(uint64_t posting) const {
        const auto* big = get<BigCount>(*postings_, big_at_, 0, counts_.big_counts);
        const auto* end = big + counts_.big_counts;
        const auto* at = std::lower_bound(
            big, end, posting, [](const BigCount& entry, uint64_t wanted) { return entry.posting < wanted; });
        if (at == end || at->posting != posting) postings_->fail("a big count is missing");
        return at->count;
    }

    Counts counts_;
    MappedFile page_checks_;
    uint64_t pages_at_ = 0;
    std::unique_ptr<PagedFile> terms_, windows_, postings_, tiles_, passages_, blocks_, text_bytes_;
    TextReader texts_;
    uint64_t term_slots_at_, names_at_, impacts_at_, counts_at_, big_at_, ids_at_, id_slots_at_, id_bytes_at_;
};

}  // namespace aslfast
