// For Chinese, Japanese and Korean, after Lucene's CJKAnalyzer: pairs of neighbours in a run of Han, Hiragana, Katakana
// and Hangul, a single character as itself. We differ from Lucene in three things: the text is put into
// normal form KC instead of folding widths only; other words are those of `simple`, not of the standard tokenizer;
// there are no stop words. Marks on these scripts (variation selectors, sound marks that do not compose) are left out.
#pragma once

#include "text/analyzers/simple.hpp"

namespace aslfast {

class CjkWords {
public:
    explicit CjkWords(std::string_view text) : at_(text.data()), end_(at_ + text.size()) {}

    // Puts the next word or pair into `word`; false at the end of the text. A pair may have marks in it.
    bool next(std::string_view& word) {
        if (first_ && take_pair(word)) return true;
        for (CodePoint c = decode(at_, end_); c.bytes > 0; c = decode(at_, end_)) {
            const uint16_t has = flags(c);
            const char* begin = at_;
            if (has & kPaired) {
                first_ = at_;
                first_end_ = at_ += c.bytes;
                alone_ = true;
                if (take_pair(word)) return true;
            } else if (has & kLetterOrDigit) {
                at_ = simple_word_end(at_, end_, flags_, kPaired);
                word = {begin, static_cast<size_t>(at_ - begin)};
                return true;
            } else {
                at_ += c.bytes;
            }
        }
        return false;
    }

private:
    // Takes the pair that begins at first_, or a single character there; false at the end of a run whose pairs are
    // taken.
    bool take_pair(std::string_view& word) {
        CodePoint c = decode(at_, end_);
        for (; c.bytes > 0 && (flags(c) & kMark); c = decode(at_, end_)) at_ += c.bytes;
        const bool pair = c.bytes > 0 && (flags(c) & kPaired);
        if (!pair) {
            word = {first_, static_cast<size_t>(first_end_ - first_)};
            first_ = nullptr;
            return alone_;
        }
        word = {first_, static_cast<size_t>(at_ + c.bytes - first_)};
        first_ = at_;
        first_end_ = at_ += c.bytes;
        alone_ = false;
        return true;
    }

    uint16_t flags(const CodePoint& c) const { return flags_[CharacterTable::place(c.value)]; }

    const char* at_;
    const char* end_;
    const char* first_ = nullptr;  // the last character of the current run, the first of the next pair
    const char* first_end_ = nullptr;
    bool alone_ = false;
    const uint16_t* flags_ = character_flags();
};

class Cjk {
public:
    static constexpr NormalForm kForm = NormalForm::kKC;
    using Words = CjkWords;

    // The word in lower case, the pair without marks, until the next call.
    std::string_view term(std::string_view word) {
        const CodePoint first = decode(word.data(), word.data() + word.size());
        return flags_[CharacterTable::place(first.value)] & kPaired ? without_marks(word) : simple_.term(word);
    }

private:
    std::string_view without_marks(std::string_view pair) {
        pair_.clear();
        for (const char *p = pair.data(), *end = p + pair.size(); p < end;) {
            const CodePoint c = decode(p, end);
            if (!(flags_[CharacterTable::place(c.value)] & kMark)) append_utf8(pair_, c.value);
            p += c.bytes;
        }
        return pair_;
    }

    const uint16_t* flags_ = character_flags();
    Simple simple_;
    std::string pair_;
};

}  // namespace aslfast
