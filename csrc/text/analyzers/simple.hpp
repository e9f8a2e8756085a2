// Runs of letters and digits with the marks that follow one of them, in lower case, in normal form KC. No stop words,
// no stemming. A word is cut after 255 UTF-16 units; marks past that are left out.
#pragma once

#include <string>
#include <string_view>

#include "text/tokenizer.hpp"
#include "text/unicode_normal.hpp"

namespace aslfast {

// The end of the word that begins at p with a letter or digit and holds no character of the flags `stop`.
inline const char* simple_word_end(const char* p, const char* end, const uint16_t* flags, uint16_t stop) {
    const char* begin = p;
    p = skip_word<false>(p, end);
    auto length = static_cast<size_t>(p - begin);
    if (length > kMaxTokenLength) return begin + kMaxTokenLength;
    for (CodePoint c = decode(p, end); c.bytes > 0; c = decode(p, end)) {
        const uint16_t has = flags[CharacterTable::place(c.value)];
        length += c.bytes == 4 ? 2 : 1;
        if (!(has & (kLetterOrDigit | kMark)) || (has & stop) || length > kMaxTokenLength) break;
        p += c.bytes;
    }
    return p;
}

class SimpleWords {
public:
    explicit SimpleWords(std::string_view text) : at_(text.data()), end_(at_ + text.size()) {}

    // Puts the next word into `word`; false at the end of the text.
    bool next(std::string_view& word) {
        CodePoint c = decode(at_, end_);
        for (; c.bytes > 0 && !(flags_[CharacterTable::place(c.value)] & kLetterOrDigit); c = decode(at_, end_))
            at_ += c.bytes;
        const char* begin = at_;
        if (c.bytes > 0) at_ = simple_word_end(at_, end_, flags_, 0);
        word = {begin, static_cast<size_t>(at_ - begin)};
        return at_ > begin;
    }

private:
    const char* at_;
    const char* end_;
    const uint16_t* flags_ = character_flags();
};

class Simple {
public:
    static constexpr NormalForm kForm = NormalForm::kKC;
    using Words = SimpleWords;

    // The word in lower case, until the next call.
    std::string_view term(std::string_view word) {
        term_.clear();
        bool ascii = true;
        for (const char *p = word.data(), *end = p + word.size(); p < end;) {
            const CodePoint c = decode(p, end);
            append_utf8(term_, to_lower(c.value));
            ascii &= c.value < 0x80;
            p += c.bytes;
        }
        // a letter and its mark may have no character in common but in lower case (H with a line below)
        return ascii ? std::string_view(term_) : normalizer_.normalize(term_);
    }

private:
    Normalizer normalizer_{kForm};
    std::string term_;
};

}  // namespace aslfast
