// Normal forms C and KC of Unicode (UAX#15), of the version in unicode_normal_tables.hpp whatever Python runs.
// A character that passes the quick check and does not reorder begins a segment of its own; only segments with others
// in them are ever decomposed, sorted and composed, and a text without such segments is returned as it is.
#pragma once

#include <cstring>
#include <string_view>
#include <unordered_map>

#include "text/ascii.hpp"
#include "text/unicode.hpp"

namespace aslfast {

enum class NormalForm { kC, kKC };

// Hangul syllables are arithmetic: 19 leads, 21 vowels, 27 finals or none.
inline constexpr uint32_t kSyllable = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kFinal = 0x11A7;
inline constexpr uint32_t kLeads = 19, kVowels = 21, kFinals = 28;

inline uint8_t combining_class(uint32_t c) {
    const CombiningRange* range = find_range(kCombiningRanges, c);
    return range ? range->order : 0;
}

// (first, second) -> the character they compose to.
inline const std::unordered_map<uint64_t, uint32_t>& compositions() {
    static const auto table = [] {
        std::unordered_map<uint64_t, uint32_t> pairs;
        for (const MapRange& range : kCanonicalRanges)
            for (uint32_t c = range.first; c <= range.last && range.size == 2; ++c) {
                const uint32_t* parts = kCanonicalValues + range.at + 2 * (c - range.first);
                if (!(character_flags()[CharacterTable::place(c)] & kNotInNfc))
                    pairs[uint64_t{parts[0]} << 32 | parts[1]] = c;
            }
        return pairs;
    }();
    return table;
}

// What a and b compose to, or 0.
inline uint32_t compose(uint32_t a, uint32_t b) {
    if (a - kLead < kLeads && b - kVowel < kVowels) return kSyllable + ((a - kLead) * kVowels + b - kVowel) * kFinals;
    if (a - kSyllable < kLeads * kVowels * kFinals && (a - kSyllable) % kFinals == 0 && b - kFinal - 1 < kFinals - 1)
        return a + (b - kFinal);
    const auto found = compositions().find(uint64_t{a} << 32 | b);
    return found == compositions().end() ? 0 : found->second;
}

class Normalizer {
public:
    explicit Normalizer(NormalForm form)
        : compatible_(form == NormalForm::kKC),
          quick_no_(static_cast<uint16_t>(kReorders | (compatible_ ? kNotInNfkc : kNotInNfc))) {}

    // The text in normal form: the text itself, or a view that lives until the next call.
    std::string_view normalize(std::string_view text) {
        const char *kept = text.data(), *end = kept + text.size();
        normal_.clear();
        for (const char* p = skip_below(kept, end, first_byte()); p < end; p = skip_below(p, end, first_byte())) {
            const CodePoint c = decode(p, end);
            if (!(flags_[CharacterTable::place(c.value)] & quick_no_)) {
                p += c.bytes;
                continue;
            }
            const char* begin = kept < p ? character_before(p, kept) : p;
            p = read_segment(begin, p, end);
            if (segment_is_normal()) continue;
            normal_.append(kept, begin);
            append_segment();
            kept = p;
        }
        if (kept == text.data()) return text;
        normal_.append(kept, end);
        return normal_;
    }

private:
    struct Part {
        uint32_t value;
        uint8_t order;  // combining class
    };

    // The first byte of the first character that may fail the quick check: U+0300 for form C, U+0080 for KC.
    unsigned char first_byte() const { return compatible_ ? 0x80 : 0xCC; }

    // The beginning of the character that ends at p, or p if no character does.
    static const char* character_before(const char* p, const char* begin) {
        const char* q = p - 1;
        while (q > begin && p - q < 4 && (*q & 0xC0) == 0x80) --q;
        return q + decode(q, p).bytes == p ? q : p;
    }

    // Takes the characters from begin on: those before p, and those that fail the quick check. Returns their end.
    const char* read_segment(const char* begin, const char* p, const char* end) {
        read_.clear();
        for (CodePoint c = decode(begin, end); c.bytes > 0; c = decode(begin, end)) {
            if (begin >= p && !(flags_[CharacterTable::place(c.value)] & quick_no_)) break;
            read_.push_back(c.value);
            begin += c.bytes;
        }
        return begin;
    }

    // Only marks in order, none that decomposes or composes.
    bool segment_is_normal() const {
        uint8_t before = 0;
        for (size_t i = 0; i < read_.size(); ++i) {
            const uint16_t flags = flags_[CharacterTable::place(read_[i])];
            if (flags & quick_no_ & ~kReorders) return false;
            const uint8_t order = flags & kReorders ? combining_class(read_[i]) : 0;
            if (order != 0 && order < before) return false;
            before = order;
        }
        return true;
    }

    void append_segment() {
        parts_.clear();
        for (const uint32_t c : read_) decompose(c);
        sort_marks();
        compose_parts();
        for (const Part& part : parts_) append_utf8(normal_, part.value);
    }

    void decompose(uint32_t c) {
        const uint32_t syllable = c - kSyllable;
        if (syllable < kLeads * kVowels * kFinals) {
            parts_.push_back({kLead + syllable / kFinals / kVowels, 0});
            parts_.push_back({kVowel + syllable / kFinals % kVowels, 0});
            if (syllable % kFinals) parts_.push_back({kFinal + syllable % kFinals, 0});
        } else if (!map(c, kCanonicalRanges, kCanonicalValues) &&
                   !(compatible_ && map(c, kCompatibleRanges, kCompatibleValues))) {
            parts_.push_back({c, combining_class(c)});
        }
    }

    // Decomposes c by the table; false if it is not in there.
    template <size_t N>
    bool map(uint32_t c, const MapRange (&table)[N], const uint32_t* values) {
        const MapRange* range = find_range(table, c);
        if (!range) return false;
        const uint32_t i = c - range->first;
        if (range->step) {
            decompose(values[range->at] + i);
            return true;
        }
        for (uint32_t part = 0; part < range->size; ++part) decompose(values[range->at + i * range->size + part]);
        return true;
    }

    // Sorts marks between two characters of class 0 by their class.
    void sort_marks() {
        for (auto first = parts_.begin(); first != parts_.end();) {
            auto last = first + 1;
            if (first->order != 0) {
                while (last != parts_.end() && last->order != 0) ++last;
                std::stable_sort(first, last, [](const Part& a, const Part& b) { return a.order < b.order; });
            }
            first = last;
        }
    }

    // Joins to each character of class 0 what follows it, unless a mark of the same class, or of class 0, lies between.
    void compose_parts() {
        size_t starter = parts_.size(), size = 0;
        for (size_t i = 0; i < parts_.size(); ++i) {
            const Part part = parts_[i];
            const bool adjacent = starter + 1 == size;
            if (starter < size && (adjacent || (parts_[size - 1].order < part.order && part.order != 0))) {
                if (const uint32_t joined = compose(parts_[starter].value, part.value)) {
                    parts_[starter].value = joined;
                    continue;
                }
            }
            if (part.order == 0) starter = size;
            parts_[size++] = part;
        }
        parts_.resize(size);
    }

    bool compatible_;
    uint16_t quick_no_;
    const uint16_t* flags_ = character_flags();
    std::string normal_;
    std::vector<uint32_t> read_;
    std::vector<Part> parts_;
};

}  // namespace aslfast
