// The chain of Lucene's EnglishAnalyzer (and Anserini's default): standard tokenizer, possessive 's off, lower case,
// 33 stop words out, Porter stemmer. We differ in one thing: the text is put into normal form C first, so that a letter
// and its accent give the same term written as one character or as two.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "text/porter.hpp"
#include "text/tokenizer.hpp"
#include "text/unicode_normal.hpp"

namespace aslfast {

inline constexpr std::string_view kStopWords[] = {
    "a",   "an",    "and",  "are",   "as",    "at",   "be",   "but", "by",  "for",  "if",
    "in",  "into",  "is",   "it",    "no",    "not",  "of",   "on",  "or",  "such", "that",
    "the", "their", "then", "there", "these", "they", "this", "to",  "was", "will", "with"};

// For each first byte, the lengths that stop words have, as bits: this rules out nearly all other words.
struct StopLengths {
    std::array<uint8_t, 256> bits{};
    constexpr StopLengths() {
        for (const std::string_view stop : kStopWords)
            bits[static_cast<unsigned char>(stop[0])] |= static_cast<uint8_t>(1u << stop.size());
    }
};

inline bool is_stop_word(std::string_view word) {
    static constexpr StopLengths kLengths;
    if (word.size() > 5 || !(kLengths.bits[static_cast<unsigned char>(word[0])] >> word.size() & 1)) return false;
    for (const std::string_view stop : kStopWords)
        if (stop == word) return true;
    return false;
}

class English {
public:
    static constexpr NormalForm kForm = NormalForm::kC;
    using Words = Tokenizer;

    // The term a word becomes, until the next call; empty for a stop word.
    std::string_view term(std::string_view word) {
        term_.resize(word.size());
        unsigned char bits = 0;
        for (size_t i = 0; i < word.size(); ++i) {
            const char c = word[i];
            bits |= static_cast<unsigned char>(c);
            term_[i] = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
        }
        if (bits >= 0x80) return unicode_term(word);
        const size_t n = term_.size();
        if (n >= 2 && term_[n - 1] == 's' && term_[n - 2] == '\'') term_.resize(n - 2);
        if (is_stop_word(term_)) return {};
        if (term_.size() > 2) term_.resize(Porter<char>::stem(term_.data(), term_.size()));
        return term_;
    }

private:
    std::string_view unicode_term(std::string_view word) {
        wide_.clear();
        for (const char *p = word.data(), *end = p + word.size(); p < end;) {
            const CodePoint c = decode(p, end);
            wide_.push_back(static_cast<char32_t>(to_lower(c.value)));
            p += c.bytes;
        }
        const size_t n = wide_.size();
        if (n >= 2 && wide_[n - 1] == 's' && is_apostrophe(wide_[n - 2])) wide_.resize(n - 2);
        encode_wide();
        if (is_stop_word(term_)) return {};
        size_t length = 0;  // in UTF-16 units, as Lucene counts
        for (const char32_t c : wide_) length += c >= 0x10000 ? 2 : 1;
        if (length <= 2) return term_;
        wide_.resize(Porter<char32_t>::stem(wide_.data(), wide_.size()));
        encode_wide();
        return term_;
    }

    static bool is_apostrophe(char32_t c) { return c == U'\'' || c == U'\u2019' || c == U'\uFF07'; }

    void encode_wide() {
        term_.clear();
        for (const char32_t c : wide_) append_utf8(term_, c);
    }

    std::string term_;
    std::u32string wide_;
};

}  // namespace aslfast
