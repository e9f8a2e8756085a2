// Words between characters of Unicode's White_Space, as they are, in normal form C. A word is cut after 255 UTF-16
// units.
#pragma once

#include <string_view>

#include "text/tokenizer.hpp"
#include "text/unicode_normal.hpp"

namespace aslfast {

class WhitespaceWords {
public:
    explicit WhitespaceWords(std::string_view text) : at_(text.data()), end_(at_ + text.size()) {}

    // Puts the next word into `word`; false at the end of the text.
    bool next(std::string_view& word) {
        CodePoint c = decode(at_, end_);
        for (; c.bytes > 0 && is_space(c); c = decode(at_, end_)) at_ += c.bytes;
        const char* begin = at_;
        uint32_t length = 0;
        for (; c.bytes > 0 && !is_space(c); c = decode(at_, end_)) {
            length += c.bytes == 4 ? 2 : 1;
            if (length > kMaxTokenLength) break;
            at_ += c.bytes;
        }
        word = {begin, static_cast<size_t>(at_ - begin)};
        return at_ > begin;
    }

private:
    bool is_space(const CodePoint& c) const {
        const bool invalid = c.bytes == 1 && c.value == 0xFFFD;  // a byte that is not UTF-8
        return invalid || (flags_[CharacterTable::place(c.value)] & kWhiteSpace);
    }

    const char* at_;
    const char* end_;
    const uint16_t* flags_ = character_flags();
};

class Whitespace {
public:
    static constexpr NormalForm kForm = NormalForm::kC;
    using Words = WhitespaceWords;
    std::string_view term(std::string_view word) { return word; }
};

}  // namespace aslfast
