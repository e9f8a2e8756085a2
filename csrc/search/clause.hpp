// A query term in a segment, and look-ups of single passages in its postings.
#pragma once

#include <algorithm>
#include <cstdint>

#include "storage/segment.hpp"

namespace aslfast {

// A query term in one segment.
struct Clause {
    Postings list;
    float weight;
    uint16_t factor;  // from an impact to a bound

    uint16_t bound_of(uint8_t impact) const { return static_cast<uint16_t>((impact * uint32_t{factor} >> 8) + 1); }
};

// The postings [begin, end) of a clause in one window.
struct Part {
    const Clause* clause;
    uint32_t begin, end;
    uint32_t most;       // no bound is higher
    const Tiles* tiles;  // null: a short list

    uint32_t size() const { return end - begin; }
};

// The first posting of this passage or a later one in a part that has tiles: its 128 passages are known, and how many
// postings of these come before is counted.
inline uint32_t lower_posting(const Part& part, uint32_t doc) {
    const uint32_t group = doc / kGroupSize;
    const uint16_t* docs = part.clause->list.docs;
    const uint32_t first = part.begin + part.tiles->starts[group];
    const uint32_t last = group + 1 < kGroups ? part.begin + part.tiles->starts[group + 1] : part.end;
    uint16_t before = 0;
    for (uint32_t i = first; i < std::min(last, part.end); ++i)
        before = static_cast<uint16_t>(before + (docs[i] < doc));
    return first + before;
}

// Prefetches the memory that a look-up will read, so that many look-ups overlap.
inline void prefetch_posting(const Part& part, uint32_t doc) {
    const uint32_t at = part.begin + part.tiles->starts[doc / kGroupSize];
    __builtin_prefetch(part.clause->list.docs + at);
    __builtin_prefetch(part.clause->list.impacts + at);
    __builtin_prefetch(part.clause->list.counts + at);
}

// The posting of this passage, or kFree.
inline uint32_t find_posting(const Part& part, uint16_t doc) {
    const uint16_t* docs = part.clause->list.docs;
    const uint32_t at = part.tiles
                            ? lower_posting(part, doc)
                            : static_cast<uint32_t>(std::lower_bound(docs + part.begin, docs + part.end, doc) - docs);
    return at < part.end && docs[at] == doc ? at : kFree;
}

}  // namespace aslfast
