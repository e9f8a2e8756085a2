// What meta.json says of a segment (aslfast/index/manifest.py), as the core takes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "storage/format.hpp"

namespace aslfast {

// Sums over some passages: those that are live, or those that are deleted.
struct Statistics {
    uint64_t passages = 0, tokens = 0, non_empty = 0;
};

struct DeletedSpec {
    std::string file;
    uint64_t checksum;
    Statistics sums;  // over the deleted passages
};

struct SegmentSpec {
    std::string folder;
    Counts counts;
    uint64_t checks;
    std::optional<DeletedSpec> deleted;
};

}  // namespace aslfast
