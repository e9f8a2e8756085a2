// Words of a text as Lucene 9's StandardTokenizer finds them: the word-break rules of Unicode UAX#29, of which the
// segments with a letter or digit are kept; Han and Hiragana one character at a time; runs of South-East Asian script
// whole; emoji with what modifies them; a word ends after 255 UTF-16 units. The character tables are of a newer
// Unicode, and the rarest emoji (a keycap of # or *, a joiner in front) differ.
#pragma once

#include <string_view>

#include "text/ascii.hpp"
#include "text/unicode.hpp"

namespace aslfast {

inline constexpr uint32_t kMaxTokenLength = 255;  // UTF-16 units, as in Lucene

// The rules for ASCII, as sets of bits.
struct AsciiRules {
    enum : uint8_t { kLetterBit = 1, kDigitBit = 2, kGap = 4, kMiddle = 8, kNotAscii = 16 };
    std::array<uint8_t, 256> bits{};   // of a character
    std::array<uint8_t, 256> spans{};  // of punctuation: kLetterBit if it joins letters, kDigitBit if it joins digits

    constexpr AsciiRules() {
        for (int c = 0; c < 256; ++c) {
            const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'), digit = c >= '0' && c <= '9';
            bits[c] = letter ? kLetterBit : digit ? kDigitBit : c >= 0x80 ? kNotAscii : c == '_' ? 0 : kGap;
        }
        for (const char c : {'.', '\''}) set_middle(c, kLetterBit | kDigitBit);
        for (const char c : {',', ';'}) set_middle(c, kDigitBit);
        set_middle(':', kLetterBit);
    }
    constexpr void set_middle(char c, int joined) {
        bits[static_cast<unsigned char>(c)] |= kMiddle;
        spans[static_cast<unsigned char>(c)] = static_cast<uint8_t>(joined);
    }

    constexpr uint8_t of(char c) const { return bits[static_cast<unsigned char>(c)]; }
    constexpr bool is_alnum(char c) const { return of(c) & (kLetterBit | kDigitBit); }
    constexpr bool is_gap(char c) const { return of(c) & kGap; }  // in no word, except between two characters
    constexpr bool ends_word(char c) const { return !(of(c) & (kMiddle | kNotAscii)); }
    constexpr bool bridges(char before, char middle, char after) const {
        return of(before) & of(after) & spans[static_cast<unsigned char>(middle)];
    }
};
inline constexpr AsciiRules kAscii;

class Tokenizer {
public:
    explicit Tokenizer(std::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

    // Puts the next word into `word`; false at the end of the text.
    bool next(std::string_view& word) {
        for (;;) {
            while (at_ < end_ && kAscii.is_gap(*at_)) ++at_;
            if (const char* end = ascii_word_end()) {
                word = {at_, static_cast<size_t>(end - at_)};
                at_ = end;
                return true;
            }
            const Unit first = unit(at_);
            if (first.bytes == 0) return false;
            if (!starts_word(first.word_class)) {
                at_ += first.bytes;
                continue;
            }
            const char* begin = at_;
            length_ = 0;
            const bool is_word = scan(first);
            word = {begin, static_cast<size_t>(at_ - begin)};
            if (is_word) return true;
        }
    }

private:
    // Nearly all words are ASCII up to their end, and the rules below then come to this. nullptr where they may not.
    const char* ascii_word_end() const {
        if (at_ == end_ || !kAscii.is_alnum(*at_)) return nullptr;
        const char* p = skip_word<true>(at_, end_);
        for (; p < end_ && !kAscii.ends_word(*p); p = skip_word<true>(p + 1, end_)) {
            if (!is_ascii(*p)) {
                if (unit(p).word_class == kOther) break;
                return nullptr;
            }
            if (p + 1 == end_) break;
            if (!is_ascii(p[1])) return nullptr;
            if (!kAscii.bridges(p[-1], *p, p[1])) break;
        }
        return static_cast<size_t>(p - at_) <= kMaxTokenLength ? p : nullptr;
    }

    struct Unit {
        WordClass word_class;
        uint32_t bytes;
        uint32_t utf16;
    };

    static bool starts_word(WordClass c) {
        return is_letter(c) || c == kNumeric || c == kKatakana || c == kExtendNumLet || c >= kHan;
    }
    static bool is_letter(WordClass c) { return c == kLetter || c == kHebrew; }

    Unit unit(const char* p) const {
        const CodePoint c = decode(p, end_);
        if (c.bytes == 0) return {kOther, 0, 0};
        const auto word_class = static_cast<WordClass>(flags_[CharacterTable::place(c.value)] & kWordClassBits);
        return {word_class, c.bytes, c.value >= 0x10000 ? 2u : 1u};
    }

    // Takes one character and the marks that extend it (WB4); false, at the character, if the word is full.
    bool take(const Unit& u) {
        if (length_ + u.utf16 > kMaxTokenLength) return false;
        at_ += u.bytes;
        length_ += u.utf16;
        if (at_ < end_ && is_ascii(*at_)) return true;  // ASCII extends nothing
        for (Unit mark = unit(at_); mark.word_class == kExtend; mark = unit(at_)) {
            if (length_ + mark.utf16 > kMaxTokenLength) return true;
            at_ += mark.bytes;
            length_ += mark.utf16;
        }
        return true;
    }

    // Reads one segment from at_ on; false if it is underscores (and the like) alone.
    bool scan(const Unit& first) {
        const char* begin = at_;
        take(first);
        if (first.word_class == kHan || first.word_class == kHiragana) return true;
        if (first.word_class == kRegional) return unit(at_).word_class == kRegional && take(unit(at_));
        if (first.word_class == kPictographic) {
            while (after_joiner(begin) && unit(at_).word_class == kPictographic && take(unit(at_))) {
            }
            return true;
        }
        bool has_letter = first.word_class != kExtendNumLet;
        WordClass before = first.word_class;
        for (;;) {
            const Unit u = unit(at_);
            if (joins(before, u.word_class)) {
                if (!take(u)) return has_letter;
                before = u.word_class;
                has_letter |= before != kExtendNumLet;
            } else {
                before = take_across(before, u);
                if (before == kOther) return has_letter;
            }
        }
    }

    // Whether the word so far ends in a zero-width joiner (U+200D), which makes one emoji of two.
    bool after_joiner(const char* begin) const { return at_ - begin >= 3 && std::string_view(at_ - 3, 3) == "\u200D"; }

    // WB5, WB8 to WB10, WB13 to WB13b: no break between neighbours of these classes.
    static bool joins(WordClass a, WordClass b) {
        if (a == kSouthEastAsian || b == kSouthEastAsian) return a == b;
        if (a == kKatakana) return b == kKatakana || b == kExtendNumLet;
        if (b == kKatakana) return a == kExtendNumLet;
        return is_letter(b) || b == kNumeric || b == kExtendNumLet;
    }

    // WB6, WB7, WB11, WB12: punctuation between two letters or two digits belongs to the word ("can't", "3.14").
    // WB7a to WB7c: a quote after a Hebrew letter does too. Returns the class that what follows is joined to, or
    // kOther.
    WordClass take_across(WordClass before, const Unit& middle) {
        if (!is_middle(before, middle.word_class)) return kOther;
        const Tokenizer restart = *this;
        if (take(middle)) {
            const Unit after = unit(at_);
            const bool same_kind = middle.word_class == kDoubleQuote ? after.word_class == kHebrew
                                   : before == kNumeric              ? after.word_class == kNumeric
                                                                     : is_letter(after.word_class);
            if (same_kind && length_ + after.utf16 <= kMaxTokenLength) return before;
            if (before == kHebrew && middle.word_class == kSingleQuote) return kSingleQuote;
        }
        *this = restart;
        return kOther;
    }

    static bool is_middle(WordClass before, WordClass c) {
        const bool either = c == kMidNumLet || c == kSingleQuote;
        if (before == kNumeric) return either || c == kMidNum;
        if (!is_letter(before)) return false;
        return either || c == kMidLetter || (before == kHebrew && c == kDoubleQuote);
    }

    const char* at_;
    const char* end_;
    const uint16_t* flags_ = character_flags();
    uint32_t length_ = 0;
};

}  // namespace aslfast
