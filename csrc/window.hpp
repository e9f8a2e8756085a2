// Scoring one window of 65,536 passages with bounds in whole numbers: scores are scaled so that those of all terms
// together fit 16 bits, and rounded up, so that a passage whose bound is below the limit cannot be among the best.
// Terms are split as in MaxScore (Turtle and Flood 1995): the bounds of the passages that have an essential term are
// added up in an array; the other terms together are below the limit, so they are looked up for what is left.
#pragma once

#include <cstdlib>
#include <memory>

#include "segment.hpp"
#include "simd.hpp"

namespace aslfast {

// A query term in one segment.
struct Clause {
    Postings list;
    float weight;
    std::array<uint16_t, 256> bounds;  // of an impact, scaled
};

// The postings [begin, end) of a clause in one window.
struct Part {
    const Clause* clause;
    uint32_t begin, end;
    uint32_t most;  // no bound is higher

    uint32_t size() const { return end - begin; }
};

// The posting in [begin, end) of a passage, or kFree. Passages are spread evenly as a rule: starts where that puts it.
inline uint32_t find_posting(const Postings& list, uint32_t begin, uint32_t end, uint16_t doc) {
    if (begin >= end) return kFree;
    const uint16_t* docs = list.docs;
    uint32_t low = begin, high = end;  // it is in [low, high) if anywhere
    const uint32_t guess = low + static_cast<uint32_t>(static_cast<uint64_t>(doc) * (end - begin) >> kWindowBits);
    uint32_t step = 8;
    if (docs[guess] > doc) {
        high = guess;
        while (guess >= low + step && docs[guess - step] > doc) high = guess - step, step *= 2;
        if (guess >= low + step) low = guess - step;
    } else {
        low = guess;
        while (guess + step < end && docs[guess + step] <= doc) low = guess + step, step *= 2;
        if (guess + step < end) high = guess + step;
    }
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        (docs[middle] <= doc ? low : high) = middle;
    }
    return low < high && docs[low] == doc ? low : kFree;
}

// What a window's passages can score at most.
class WindowBounds {
public:
    WindowBounds()
        : sums_(static_cast<uint16_t*>(std::aligned_alloc(64, kWindowSize * sizeof(uint16_t))), &std::free),
          found_(new Candidate[kWindowSize + 1]) {
        if (!sums_) throw std::bad_alloc();
        std::fill_n(sums_.get(), kWindowSize, uint16_t{0});
    }

    // Adds up the essential ones of the window's parts. The caller wants passages whose bound is at least `limit`,
    // 1 to 65,535.
    void start(std::vector<Part>& parts, uint32_t limit) {
        parts_ = &parts;
        std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) {  // most postings spared per bound
            return static_cast<uint64_t>(a.most) * b.size() < static_cast<uint64_t>(b.most) * a.size();
        });
        others_ = 0;
        rest_ = 0;
        while (others_ < parts.size() && rest_ + parts[others_].most < limit) rest_ += parts[others_++].most;
        std::sort(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(others_),
                  [](const Part& a, const Part& b) { return a.most < b.most; });
        uint64_t added = 0;
        for (size_t i = others_; i < parts.size(); ++i) {
            add(parts[i]);
            added += parts[i].size();
        }
        sparse_ = added < kSparse;
    }

    bool sparse() const { return sparse_; }

    // A limit that at least n passages reach by their essential terms; 1 if that is not known. Not for sparse ones.
    uint32_t nth_highest(size_t n) {
        if (n > kGroups) return 1;
        highest_.assign(kGroups, 0);
        for (size_t i = 0; i < kWindowSize; i += kGroups)
            for (size_t group = 0; group < kGroups; ++group)
                highest_[group] = std::max(highest_[group], sums_[i + group]);
        const auto nth = highest_.begin() + static_cast<std::ptrdiff_t>(n - 1);
        std::nth_element(highest_.begin(), nth, highest_.end(), std::greater<>());
        return std::max<uint32_t>(*nth, 1);
    }

    struct Found {
        Candidate *first, *last;
        Candidate* begin() const { return first; }
        Candidate* end() const { return last; }
        size_t size() const { return static_cast<size_t>(last - first); }
    };

    // The passages whose bound is at least `limit`, which is no lower than it was at the start. Valid until the next
    // call; may be called again with another limit unless the window is sparse.
    Found candidates(uint32_t limit) {
        collect(static_cast<uint16_t>(limit > rest_ ? limit - rest_ : 1));
        uint32_t rest = rest_;
        for (size_t i = others_; i-- > 0 && n_found_ > 0;) {
            rest -= (*parts_)[i].most;
            refine((*parts_)[i]);
            keep(limit > rest ? limit - rest : 1);
        }
        return {found_.get(), found_.get() + n_found_};
    }

    // To be called after candidates(), before the next window.
    void finish() {
        if (!sparse_) std::fill_n(sums_.get(), kWindowSize, uint16_t{0});
    }

private:
    static constexpr size_t kGroups = 2048;    // of passages, whose highest sums stand for them
    static constexpr uint64_t kSparse = 6144;  // postings; below, going through them again beats going through the sums
    static constexpr uint64_t kLookUp = 24;    // looking a passage up costs as much as adding so many postings

    void add(const Part& part) {
        const uint16_t* docs = part.clause->list.docs;
        const uint8_t* impacts = part.clause->list.impacts;
        const uint16_t* bounds = part.clause->bounds.data();
        uint16_t* sums = sums_.get();
        for (uint32_t i = part.begin; i < part.end; ++i)
            sums[docs[i]] = static_cast<uint16_t>(sums[docs[i]] + bounds[impacts[i]]);
    }

    void collect(uint16_t low) {
        Candidate* end = found_.get();
        if (sparse_)
            for (size_t i = others_; i < parts_->size(); ++i) end = take((*parts_)[i], low, end);
        else
            end = find_above(sums_.get(), kWindowSize, low, end);
        n_found_ = static_cast<size_t>(end - found_.get());
    }

    // Finds them by their postings, and zeroes what it looked at: nothing is taken twice.
    Candidate* take(const Part& part, uint16_t low, Candidate* out) {
        const uint16_t* docs = part.clause->list.docs;
        for (uint32_t i = part.begin; i < part.end; ++i) {
            const uint16_t sum = sums_[docs[i]];
            sums_[docs[i]] = 0;
            *out = {docs[i], sum};
            out += sum >= low;
        }
        return out;
    }

    // Adds a non-essential part to the candidates' bounds.
    void refine(const Part& part) {
        if (n_found_ * kLookUp > part.size()) return refine_all(part);
        const Clause& clause = *part.clause;
        for (Candidate* c = found_.get(); c < found_.get() + n_found_; ++c) {
            const uint32_t at = find_posting(clause.list, part.begin, part.end, c->doc);
            if (at != kFree) c->bound = static_cast<uint16_t>(c->bound + clause.bounds[clause.list.impacts[at]]);
        }
    }

    // The same through the sums, when the candidates are many.
    void refine_all(const Part& part) {
        Candidate* const end = found_.get() + n_found_;
        for (const Candidate* c = found_.get(); c < end; ++c) sums_[c->doc] = c->bound;
        add(part);
        for (Candidate* c = found_.get(); c < end; ++c) c->bound = sums_[c->doc];
        if (!sparse_) return;
        for (uint32_t i = part.begin; i < part.end; ++i) sums_[part.clause->list.docs[i]] = 0;
        for (const Candidate* c = found_.get(); c < end; ++c) sums_[c->doc] = 0;
    }

    void keep(uint32_t low) {
        Candidate* const end = found_.get() + n_found_;
        n_found_ = static_cast<size_t>(
            std::remove_if(found_.get(), end, [low](const Candidate& c) { return c.bound < low; }) - found_.get());
    }

    std::unique_ptr<uint16_t[], decltype(&std::free)> sums_;  // zero between windows
    std::vector<Part>* parts_ = nullptr;                      // others_ non-essential ones first, highest bound last
    size_t others_ = 0;
    uint32_t rest_ = 0;  // what the non-essential parts can add to a bound
    bool sparse_ = false;
    std::unique_ptr<Candidate[]> found_;
    size_t n_found_ = 0;
    std::vector<uint16_t> highest_;
};

}  // namespace aslfast
