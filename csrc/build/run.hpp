// Postings on their way into a segment: lists of (passage, count), term after term. A run is one source of them, sorted
// by term and, within a term, by passage: in memory or, where that is short, in a file. Runs cover passages in order.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "storage/file_io.hpp"
#include "storage/format.hpp"

namespace aslfast {

struct PostingList {
    std::vector<uint32_t> docs, counts;
    void clear() {
        docs.clear();
        counts.clear();
    }
};

class PostingSource {
public:
    virtual ~PostingSource() = default;
    virtual uint64_t terms() const = 0;
    virtual std::string_view name(uint64_t term) const = 0;
    virtual uint64_t first_posting(uint64_t term) const = 0;  // of `terms()` too: one past the last
    virtual uint64_t postings() const = 0;                    // how many append() yields, over all terms
    virtual void append(uint64_t term, PostingList& list) const = 0;
    virtual void release() const {}  // what was read so far is not needed again soon
};

// Appends one term's passages as a segment has them: 16 bits each, and the windows they lie in.
inline void encode_docs(const uint32_t* numbers, size_t n, std::vector<uint16_t>& docs, std::vector<Window>& windows) {
    const size_t first = docs.size();
    docs.resize(first + n);
    for (size_t i = 0; i < n;) {
        const uint32_t window = numbers[i] >> kWindowBits;
        for (; i < n && numbers[i] >> kWindowBits == window; ++i) docs[first + i] = static_cast<uint16_t>(numbers[i]);
        windows.push_back({static_cast<uint32_t>(i), static_cast<uint16_t>(window), 0, 0});
    }
}

// Gathered in memory (inverter.hpp makes one). Numbers are of 32 bits: a run has fewer than 2^32 postings.
struct MemoryRun final : PostingSource {
    std::vector<std::string_view> names;
    std::vector<uint32_t> starts;  // of each term's postings, and one past the last
    std::vector<uint32_t> docs;
    std::vector<uint8_t> term_counts;
    std::vector<BigCount> big;

    uint64_t terms() const override { return names.size(); }
    std::string_view name(uint64_t term) const override { return names[term]; }
    uint64_t first_posting(uint64_t term) const override { return starts[term]; }
    uint64_t postings() const override { return docs.size(); }
    void append(uint64_t term, PostingList& list) const override {
        list.docs.insert(list.docs.end(), docs.begin() + starts[term], docs.begin() + starts[term + 1]);
        for (uint32_t at = starts[term]; at < starts[term + 1]; ++at)
            list.counts.push_back(term_counts[at] < kBigCount ? term_counts[at] : find_big(big.data(), big.size(), at));
    }

    static uint32_t find_big(const BigCount* big, size_t n, uint64_t posting) {
        return std::lower_bound(big, big + n, posting,
                                [](const BigCount& b, uint64_t wanted) { return b.posting < wanted; })
            ->count;
    }
};

// A run in a file, which is removed at the end. Only this process writes and reads it, so nothing in it is checked.
//   Term terms[V + 1], names, u16 docs[P], u8 counts[P], BigCount big[E], Window windows[W], each at a multiple of 64
class FileRun final : public PostingSource {
public:
    // Braces: the file is written before its path is moved.
    FileRun(const MemoryRun& run, std::string path) : FileRun{write(run, path), std::move(path)} {}
    ~FileRun() override { ::unlink(file_.path().c_str()); }

    uint64_t terms() const override { return n_terms_; }
    std::string_view name(uint64_t term) const override {
        return {at<char>(names_at_) + records()[term].name, records()[term + 1].name - records()[term].name};
    }
    uint64_t first_posting(uint64_t term) const override { return records()[term].posting; }
    uint64_t postings() const override { return records()[n_terms_].posting; }
    void append(uint64_t term, PostingList& list) const override {
        const Term& record = records()[term];
        const uint16_t* docs = at<uint16_t>(docs_at_) + record.posting;
        const uint8_t* counts = at<uint8_t>(counts_at_) + record.posting;
        uint32_t i = 0;
        for (uint64_t w = record.window; w < records()[term + 1].window; ++w) {
            const Window& window = at<Window>(windows_at_)[w];
            for (; i < window.end; ++i) {
                list.docs.push_back(static_cast<uint32_t>(window.number) << kWindowBits | docs[i]);
                list.counts.push_back(counts[i] < kBigCount ? counts[i] : big_count(record.posting + i));
            }
        }
    }
    void release() const override { file_.release(); }

private:
    struct Layout {
        uint64_t terms, names, windows, docs, counts, big, n_big;
    };

    FileRun(const Layout& layout, std::string path)
        : file_(std::move(path)),
          n_terms_(layout.terms),
          names_at_(layout.names),
          windows_at_(layout.windows),
          docs_at_(layout.docs),
          counts_at_(layout.counts),
          big_at_(layout.big),
          n_big_(layout.n_big) {}

    // The sections' sizes are known when the lists are encoded; the lists themselves go out in pieces.
    static Layout write(const MemoryRun& run, const std::string& path) {
        const uint64_t v = run.terms(), p = run.postings();
        Writer file(path);
        Layout layout{v, align((v + 1) * sizeof(Term)), 0, 0, 0, 0, run.big.size()};
        uint64_t name_bytes = 0;
        for (const std::string_view name : run.names) name_bytes += name.size();
        layout.docs = align(layout.names + name_bytes);
        layout.counts = align(layout.docs + p * sizeof(uint16_t));
        layout.big = align(layout.counts + p);
        layout.windows = align(layout.big + run.big.size() * sizeof(BigCount));
        write_lists(run, layout, file);
        file.skip_to(layout.names);
        for (const std::string_view name : run.names) file.write(name);
        file.flush();
        file.write_at(layout.counts, run.term_counts);
        file.write_at(layout.big, run.big);
        return layout;
    }

    // Docs and windows in pieces of about a million postings, and the term records at the front of the file.
    static void write_lists(const MemoryRun& run, const Layout& layout, Writer& file) {
        std::vector<uint16_t> docs;
        std::vector<Window> windows;
        Term next{};
        auto put = [&] {
            file.write_at(layout.docs + (next.posting - docs.size()) * sizeof(uint16_t), docs);
            file.write_at(layout.windows + (next.window - windows.size()) * sizeof(Window), windows);
            docs.clear();
            windows.clear();
        };
        for (uint64_t term = 0; term < run.terms(); ++term) {
            file.write(&next, sizeof next);
            const uint32_t n = run.starts[term + 1] - run.starts[term];
            const size_t windows_before = windows.size();
            encode_docs(run.docs.data() + run.starts[term], n, docs, windows);
            next.name += run.names[term].size();
            next.window += windows.size() - windows_before;
            next.posting += n;
            if (docs.size() >= 1 << 20) put();
        }
        put();
        file.write(&next, sizeof next);
    }

    template <class T>
    const T* at(uint64_t offset) const {
        return reinterpret_cast<const T*>(file_.data() + offset);
    }
    const Term* records() const { return at<Term>(0); }
    uint32_t big_count(uint64_t posting) const { return MemoryRun::find_big(at<BigCount>(big_at_), n_big_, posting); }

    MappedFile file_;
    uint64_t n_terms_, names_at_, windows_at_, docs_at_, counts_at_, big_at_, n_big_;
};

}  // namespace aslfast
