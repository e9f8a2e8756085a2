// UTF-8 in and out, word classes and lower case, from the generated range tables.
#pragma once

#include <algorithm>
#include <array>
#include <iterator>
#include <string>

#include "unicode_tables.hpp"

namespace aslfast {

struct CodePoint {
    uint32_t value;
    uint32_t bytes;  // how many bytes it took; 0 at the end of the text
};

// Any bytes are accepted: what is not UTF-8 comes out as U+FFFD, one byte at a time, which is never part of a word.
inline CodePoint decode(const char* p, const char* end) {
    if (p >= end) return {0, 0};
    const auto lead = static_cast<unsigned char>(*p);
    if (lead < 0x80) return {lead, 1};
    const uint32_t n = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || static_cast<size_t>(end - p) < n) return {0xFFFD, 1};
    uint32_t value = lead & (0xFFu >> (n + 1));
    for (uint32_t i = 1; i < n; ++i) {
        const auto next = static_cast<unsigned char>(p[i]);
        if ((next & 0xC0) != 0x80) return {0xFFFD, 1};
        value = value << 6 | (next & 0x3F);
    }
    return {value, n};
}

inline void append_utf8(std::string& out, uint32_t c) {
    if (c < 0x80) {
        out += static_cast<char>(c);
        return;
    }
    const int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    out += static_cast<char>((0xF00u >> n & 0xF0u) | c >> (6 * (n - 1)));
    for (int i = n - 2; i >= 0; --i) out += static_cast<char>(0x80 | (c >> (6 * i) & 0x3F));
}

// The range of a sorted table that holds c, or nullptr.
template <class Range, size_t N>
const Range* find_range(const Range (&table)[N], uint32_t c) {
    auto after = std::upper_bound(std::begin(table), std::end(table), c,
                                  [](uint32_t value, const Range& range) { return value < range.first; });
    if (after == std::begin(table) || c > std::prev(after)->last) return nullptr;
    return &*std::prev(after);
}

inline WordClass find_word_class(uint32_t c) {
    const ClassRange* range = find_range(kClassRanges, c);
    return range ? range->word_class : kOther;
}

inline WordClass word_class(uint32_t c) {
    static const auto basic_plane = [] {  // 64 KiB: nearly all text is here, and a look-up beats a search
        std::array<WordClass, 0x10000> classes{};
        for (uint32_t i = 0; i < classes.size(); ++i) classes[i] = find_word_class(i);
        return classes;
    }();
    return c < basic_plane.size() ? basic_plane[c] : find_word_class(c);
}

// Simple (one to one) lower case, as Java's Character.toLowerCase(int).
inline uint32_t to_lower(uint32_t c) {
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    const LowerRange* range = find_range(kLowerRanges, c);
    if (!range || (c - range->first) % static_cast<uint32_t>(range->step)) return c;
    return static_cast<uint32_t>(static_cast<int64_t>(c) + range->delta);
}

}  // namespace aslfast
