// UTF-8 decoding and encoding, the properties of each character, and lower case, from the generated range tables.
#pragma once

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "text/unicode_normal_tables.hpp"
#include "text/unicode_tables.hpp"

namespace aslfast {

struct CodePoint {
    uint32_t value;
    uint32_t bytes;  // how many bytes it took; 0 at the end of the text
};

// Any bytes are accepted: what is not UTF-8 comes out as U+FFFD, one byte at a time, which is never part of a word.
// (U+FFFD itself takes three bytes.)
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
    const bool overlong = (n == 3 && value < 0x800) || (n == 4 && value < 0x10000);
    if (overlong || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) return {0xFFFD, 1};
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

inline constexpr PlainRange kWhiteSpaceRanges[] = {
    {0x9, 0xD},       {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};
inline constexpr PlainRange kPairedRanges[] = {  // letters of Hangul, and the signs of Han that repeat another
    {0x1100, 0x11FF}, {0x3005, 0x3005}, {0x303B, 0x303B}, {0x3131, 0x318E}, {0xA960, 0xA97C},
    {0xAC00, 0xD7A3}, {0xD7B0, 0xD7C6}, {0xD7CB, 0xD7FB}, {0xFFA0, 0xFFDC}};

// The properties of a character: its word class (low bits) and flags.
enum CharacterFlag : uint16_t {
    kWordClassBits = 0x1F,
    kLetterOrDigit = 0x20,
    kMark = 0x40,
    kWhiteSpace = 0x80,
    kPaired = 0x100,    // of the scripts that the cjk analyzer cuts into pairs
    kReorders = 0x200,  // a mark with a combining class: may change places with its neighbours
    kNotInNfc = 0x400,  // decomposes, or composes with the character before it
    kNotInNfkc = 0x800,
};

// Planes 0 to 3; beyond, only a few thousand characters in plane 14 have properties.
constexpr uint32_t kDenseCharacters = 0x40000;
constexpr uint32_t kPlane14 = 0xE0000;

struct CharacterTable {
    std::vector<uint16_t> flags = std::vector<uint16_t>(kDenseCharacters + 0x1001);

    static uint32_t place(uint32_t c) {
        if (c < kDenseCharacters) return c;
        return kDenseCharacters + std::min(c - kPlane14, uint32_t{0x1000});  // the last place: no properties
    }
    template <class Range, size_t N, class Bits>
    void add(const Range (&table)[N], Bits bits) {
        for (const Range& range : table)
            for (uint32_t c = range.first; c <= range.last; ++c) flags[place(c)] |= bits(range);
    }

    CharacterTable() {
        add(kClassRanges, [](const ClassRange& range) { return uint16_t{range.word_class}; });
        add(kLetterOrDigitRanges, [](const PlainRange&) { return kLetterOrDigit; });
        add(kMarkRanges, [](const PlainRange&) { return kMark; });
        add(kWhiteSpaceRanges, [](const PlainRange&) { return kWhiteSpace; });
        add(kPairedRanges, [](const PlainRange&) { return kPaired; });
        add(kCombiningRanges, [](const CombiningRange&) { return kReorders; });
        add(kNotInNfcRanges, [](const PlainRange&) { return kNotInNfc; });
        add(kNotInNfkcRanges, [](const PlainRange&) { return kNotInNfkc; });
        for (uint16_t& bits : flags) {
            const uint16_t word_class = bits & kWordClassBits;
            if (word_class == kHan || word_class == kHiragana || word_class == kKatakana) bits |= kPaired;
        }
    }
};

// Half a megabyte, filled at the first use: analysing a text is mostly look-ups.
inline const uint16_t* character_flags() {
    static const CharacterTable table;
    return table.flags.data();
}

// Simple (one to one) lower case, as Java's Character.toLowerCase(int).
inline uint32_t to_lower(uint32_t c) {
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    const LowerRange* range = find_range(kLowerRanges, c);
    if (!range || (c - range->first) % static_cast<uint32_t>(range->step)) return c;
    return static_cast<uint32_t>(static_cast<int64_t>(c) + range->delta);
}

}  // namespace aslfast
