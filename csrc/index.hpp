// An index on disk, mapped into memory and checked. N passages, V terms, P postings; the arrays lie back to back.
//   terms.bin     u64 term_offsets[V+1], u64 posting_offsets[V+1], the terms' bytes, sorted
//   postings.bin  u32 docs[P] (rising within a term), u16 counts[P]
//   passages.bin  u64 id_offsets[N+1], u64 content_offsets[N+1], u32 lengths[N] (terms in a passage),
//                 u32 order[N] (passages sorted by id), the ids' bytes
//   contents.bin  the texts' bytes
#pragma once

#include <algorithm>
#include <array>
#include <optional>

#include "files.hpp"

namespace aslfast {

inline constexpr const char* kTermsFile = "terms.bin";
inline constexpr const char* kPostingsFile = "postings.bin";
inline constexpr const char* kPassagesFile = "passages.bin";
inline constexpr const char* kContentsFile = "contents.bin";
inline constexpr std::array<const char*, 4> kFiles{kTermsFile, kPostingsFile, kPassagesFile, kContentsFile};
inline constexpr uint64_t kMaxDocuments = 0x7FFFFFFF;
inline constexpr uint64_t kMaxTerms = 0xFFFFFFFE;
inline constexpr uint64_t kMaxCount = 0xFFFF;

struct Counts {
    uint64_t passages = 0, terms = 0, postings = 0;
    uint64_t tokens = 0;     // terms of all passages, with repetition
    uint64_t non_empty = 0;  // passages with at least one term: Lucene's N and the divisor of its mean length
};

struct Postings {
    const uint32_t* docs;
    const uint16_t* counts;
    uint64_t size;
};

class Index {
public:
    // checksums: of kFiles, in that order. Throws FileError, FormatError.
    Index(const std::string& folder, const Counts& counts, const std::array<uint64_t, 4>& checksums)
        : counts_(counts),
          terms_(folder + "/" + kTermsFile),
          postings_(folder + "/" + kPostingsFile),
          passages_(folder + "/" + kPassagesFile),
          contents_(folder + "/" + kContentsFile) {
        const MappedFile* files[] = {&terms_, &postings_, &passages_, &contents_};
        for (size_t i = 0; i < 4; ++i)
            if (checksum({files[i]->data(), files[i]->size()}) != checksums[i]) files[i]->fail("its checksum is wrong");
        check_sizes();
    }

    const Counts& counts() const { return counts_; }
    const uint32_t* lengths() const { return lengths_; }
    std::string_view id(uint32_t doc) const { return slice(ids_, id_offsets_, doc); }
    std::string_view contents(uint32_t doc) const { return slice(contents_.data(), content_offsets_, doc); }

    std::optional<Postings> find_term(std::string_view term) const {
        uint64_t low = 0, high = counts_.terms;
        while (low < high) {
            const uint64_t middle = (low + high) / 2;
            if (this->term(middle) < term)
                low = middle + 1;
            else
                high = middle;
        }
        if (low == counts_.terms || this->term(low) != term) return std::nullopt;
        const uint64_t first = posting_offsets_[low];
        return Postings{docs_ + first, term_counts_ + first, posting_offsets_[low + 1] - first};
    }

    std::optional<uint32_t> find_id(std::string_view id) const {
        const uint32_t* end = order_ + counts_.passages;
        const uint32_t* at = std::lower_bound(
            order_, end, id, [this](uint32_t doc, std::string_view wanted) { return this->id(doc) < wanted; });
        if (at == end || this->id(*at) != id) return std::nullopt;
        return *at;
    }

private:
    std::string_view term(uint64_t i) const { return slice(term_bytes_, term_offsets_, i); }

    static std::string_view slice(const char* bytes, const uint64_t* offsets, uint64_t i) {
        return {bytes + offsets[i], offsets[i + 1] - offsets[i]};
    }

    // Takes arrays off the front of a file, which must be long enough.
    struct Cursor {
        const MappedFile& file;
        size_t at = 0;
        template <class T>
        const T* take(uint64_t n) {
            if (n > (file.size() - at) / sizeof(T)) file.fail("it is too short");
            const char* start = file.data() + at;
            at += n * sizeof(T);
            return reinterpret_cast<const T*>(start);
        }
        // The rest must be what the last offset says.
        const char* take_bytes(const uint64_t* offsets, uint64_t n) {
            check_offsets(file, offsets, n, file.size() - at);
            return file.data() + at;
        }
    };

    static void check_offsets(const MappedFile& file, const uint64_t* offsets, uint64_t n, uint64_t total) {
        bool rising = offsets[0] == 0 && offsets[n] == total;
        for (uint64_t i = 0; i < n; ++i) rising &= offsets[i] <= offsets[i + 1];
        if (!rising) file.fail("its size or its offsets are wrong");
    }

    void check_docs(const MappedFile& file, const uint32_t* docs, uint64_t n) const {
        uint32_t highest = 0;
        for (uint64_t i = 0; i < n; ++i) highest = std::max(highest, docs[i]);
        if (n && highest >= counts_.passages) file.fail("it names a passage that does not exist");
    }

    // After this no look-up can leave a file, whatever is in it.
    void check_sizes() {
        const uint64_t n = counts_.passages, v = counts_.terms, p = counts_.postings;
        if (n > kMaxDocuments) passages_.fail("it claims too many passages");
        if (v > kMaxTerms) terms_.fail("it claims too many terms");
        Cursor terms{terms_};
        term_offsets_ = terms.take<uint64_t>(v + 1);
        posting_offsets_ = terms.take<uint64_t>(v + 1);
        term_bytes_ = terms.take_bytes(term_offsets_, v);
        Cursor postings{postings_};
        docs_ = postings.take<uint32_t>(p);
        term_counts_ = postings.take<uint16_t>(p);
        if (postings.at != postings_.size()) postings_.fail("it is too long");
        check_offsets(terms_, posting_offsets_, v, p);
        Cursor passages{passages_};
        id_offsets_ = passages.take<uint64_t>(n + 1);
        content_offsets_ = passages.take<uint64_t>(n + 1);
        lengths_ = passages.take<uint32_t>(n);
        order_ = passages.take<uint32_t>(n);
        ids_ = passages.take_bytes(id_offsets_, n);
        check_offsets(contents_, content_offsets_, n, contents_.size());
        check_docs(postings_, docs_, p);
        check_docs(passages_, order_, n);
    }

    Counts counts_;
    MappedFile terms_, postings_, passages_, contents_;
    const uint64_t *term_offsets_, *posting_offsets_, *id_offsets_, *content_offsets_;
    const uint32_t *docs_, *lengths_, *order_;
    const uint16_t* term_counts_;
    const char *term_bytes_, *ids_;
};

}  // namespace aslfast
