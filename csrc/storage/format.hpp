// The files of one segment: N passages, V terms, W windows, P postings. Little-endian; every section starts at a
// multiple of 64 bytes, and every file ends in at least 64 zero bytes, so that a vector load may run over an end.
//   terms.bin     Term terms[V + 1], u32 slots[slot_count(V)], the terms' bytes (terms in byte order, no duplicates)
//   windows.bin   Window windows[W]: the windows of 65,536 passages that a term occurs in, rising, term after term
//   postings.bin  u16 docs[P] (passage number - 65,536 * window, rising), u8 impacts[P], u8 counts[P], BigCount big[E]
//   tiles.bin     Tiles tiles[L] of the windows with 1,024 postings or more, term after term
//   passages.bin  u32 lengths[N] (terms in a passage), u64 ids[N + 1] (offsets), u32 slots[slot_count(N)], ids' bytes
//   blocks.bin    u64 offsets[B + 1] into texts.bin, B = N / 32 rounded up
//   texts.bin     blocks of 32 passages: u32 raw size, then LZ4 of (u32 sizes[n], the n texts' bytes)
//   checks.bin    u64 checksums of every 64 KiB page of the files above, file after file (no end of zero bytes here)
// A segment never changes once it is written. What is deleted from it is in a file of its own (deletions.hpp).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace aslfast {

inline constexpr const char* kTermsFile = "terms.bin";
inline constexpr const char* kWindowsFile = "windows.bin";
inline constexpr const char* kPostingsFile = "postings.bin";
inline constexpr const char* kTilesFile = "tiles.bin";
inline constexpr const char* kPassagesFile = "passages.bin";
inline constexpr const char* kBlocksFile = "blocks.bin";
inline constexpr const char* kTextsFile = "texts.bin";
inline constexpr const char* kChecksFile = "checks.bin";
inline constexpr std::array<const char*, 7> kCheckedFiles{kTermsFile,    kWindowsFile, kPostingsFile, kTilesFile,
                                                          kPassagesFile, kBlocksFile,  kTextsFile};
inline constexpr uint64_t kMaxPassages = 0x7FFFFFFF;  // of all segments together: numbers are int32 in Python
inline constexpr uint64_t kMaxTerms = 0x7FFFFFFF;
inline constexpr uint32_t kWindowBits = 16;
inline constexpr uint32_t kWindowSize = 1u << kWindowBits;
inline constexpr uint32_t kTileBits = 5;
inline constexpr uint32_t kTiles = kWindowSize >> kTileBits;  // of a window
inline constexpr uint32_t kGroupSize = 128;
inline constexpr uint32_t kGroups = kWindowSize / kGroupSize;
inline constexpr uint32_t kTiledPostings = 1024;  // a window with as many has tiles
inline constexpr uint32_t kBlockPassages = 32;
inline constexpr uint64_t kPageBytes = 65536;
inline constexpr uint64_t kAlign = 64;
inline constexpr uint32_t kFree = 0xFFFFFFFF;  // of a slot: empty
inline constexpr uint8_t kBigCount = 255;      // of a count: look in big[]

struct Counts {
    uint64_t passages = 0, terms = 0, windows = 0, postings = 0;
    uint64_t tiled = 0;       // windows that have tiles
    uint64_t big_counts = 0;  // postings whose count is 255 or more
    uint64_t tokens = 0;      // terms of all passages, with repetition
    uint64_t non_empty = 0;   // passages with at least one term: Lucene's N and the divisor of its mean length
};

struct Term {         // where the term's parts start; they end where the next one's start
    uint64_t name;    // in the terms' bytes
    uint64_t window;  // in windows[]
    uint64_t tiles;   // in tiles[]
    uint64_t posting;
};

struct Window {
    uint32_t end;  // one past its last posting, counted from the term's first
    uint16_t number;
    uint8_t max_impact;
    uint8_t zero;
};

struct BigCount {  // in order of posting
    uint64_t posting;
    uint32_t count;
    uint32_t zero;
};

struct Tiles {                 // of one term in one window
    uint8_t highest[kTiles];   // the highest impact among each 32 passages, 0 for none
    uint16_t starts[kGroups];  // postings of the window that stand before each 128 passages
};

inline uint64_t align(uint64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// An open-addressing table of n entries: a power of two, at most two thirds full. Entry i is in the first free slot
// from hash(its bytes) & (slots - 1) on.
inline uint64_t slot_count(uint64_t n) {
    uint64_t slots = 16;
    while (slots * 2 < n * 3) slots *= 2;
    return slots;
}

// Multiply and fold, eight bytes at a time (after wyhash, public domain).
inline uint64_t hash(std::string_view bytes) {
    constexpr uint64_t kMix = 0x9E3779B97F4A7C15;
    uint64_t state = bytes.size() * kMix;
    for (size_t at = 0; at < bytes.size(); at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, bytes.data() + at, bytes.size() - at < 8 ? bytes.size() - at : 8);
        const auto product = static_cast<unsigned __int128>(state ^ word) * kMix;
        state = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
    }
    return state ^ state >> 29;
}

// Length normalisation of BM25: tf / (tf + at(length)), at(length) = k1 * (1 - b + b * length / mean length).
struct Norm {
    double fixed, per_term;
    Norm(double k1, double b, uint64_t tokens, uint64_t non_empty)
        : fixed(k1 * (1 - b)),
          per_term(tokens ? k1 * b * static_cast<double>(std::max<uint64_t>(non_empty, 1)) / static_cast<double>(tokens)
                          : 0) {}
    double at(double length) const { return fixed + per_term * length; }
};

// 255 * tf / (tf + norm) rounded up: never below the true value.
inline uint8_t impact(uint32_t count, double norm) {
    return static_cast<uint8_t>(std::ceil(255.0 * count / (count + norm)));
}

}  // namespace aslfast
