// The Porter stemmer: M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980, with the two changes of
// his own released program that Lucene follows ("bli" -> "ble" for "abli" -> "able", and "logi" -> "log").
// Only a, e, i, o, u and (after a consonant) y are vowels, in any script.
#pragma once

#include <cstddef>
#include <string_view>

namespace aslfast {

struct SuffixRule {
    std::string_view suffix, replacement;
};

inline constexpr SuffixRule kStep2[] = {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
                                        {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
                                        {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
                                        {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
                                        {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
                                        {"logi", "log"}};
inline constexpr SuffixRule kStep3[] = {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
                                        {"ical", "ic"},  {"ful", ""},   {"ness", ""}};
inline constexpr SuffixRule kStep4[] = {{"al", ""},   {"ance", ""},  {"ence", ""},  {"er", ""},    {"ic", ""},
                                        {"able", ""}, {"ible", ""},  {"ant", ""},   {"ement", ""}, {"ment", ""},
                                        {"ent", ""},  {"sion", "s"}, {"tion", "t"}, {"ou", ""},    {"ism", ""},
                                        {"ate", ""},  {"iti", ""},   {"ous", ""},   {"ive", ""},   {"ize", ""}};

// Char is char for ASCII words and char32_t for others, so that a character is always one unit.
template <class Char>
class Porter {
public:
    // Stems word[0, size) in place and returns the new size, which is at most `size`. Words of one or two letters are
    // to be left as they are, by the caller.
    static size_t stem(Char* word, size_t size) {
        Porter porter(word, size);
        porter.step1();
        porter.replace_first(kStep2, 0);
        porter.replace_first(kStep3, 0);
        porter.replace_first(kStep4, 1);
        porter.step5();
        return porter.size_;
    }

private:
    Porter(Char* word, size_t size) : word_(word), size_(size) {}

    bool is_consonant(size_t i) const {
        const Char c = word_[i];
        if (c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u') return false;
        return c != 'y' || i == 0 || !is_consonant(i - 1);
    }

    // Porter's m: how often a vowel is followed by a consonant in word[0, size).
    int measure(size_t size) const {
        int m = 0;
        bool after_vowel = false;
        for (size_t i = 0; i < size; ++i) {
            const bool consonant = is_consonant(i);
            m += after_vowel && consonant;
            after_vowel = !consonant;
        }
        return m;
    }

    bool has_vowel(size_t size) const {
        for (size_t i = 0; i < size; ++i)
            if (!is_consonant(i)) return true;
        return false;
    }

    bool ends_in_double_consonant() const {
        return size_ >= 2 && word_[size_ - 1] == word_[size_ - 2] && is_consonant(size_ - 1);
    }

    // Porter's *o: word[0, size) ends consonant, vowel, consonant, the last not w, x or y.
    bool ends_cvc(size_t size) const {
        if (size < 3 || !is_consonant(size - 1) || is_consonant(size - 2) || !is_consonant(size - 3)) return false;
        const Char c = word_[size - 1];
        return c != 'w' && c != 'x' && c != 'y';
    }

    bool ends(std::string_view suffix) const {
        if (suffix.size() > size_) return false;
        const Char* tail = word_ + (size_ - suffix.size());
        for (size_t i = suffix.size(); i-- > 0;)
            if (tail[i] != static_cast<Char>(suffix[i])) return false;
        return true;
    }

    void append(std::string_view text) {
        for (const char c : text) word_[size_++] = static_cast<Char>(c);
    }

    // Applies the first rule that fits, if the measure of what stays exceeds `above`.
    template <size_t N>
    void replace_first(const SuffixRule (&rules)[N], int above) {
        for (const SuffixRule& rule : rules) {
            if (!ends(rule.suffix)) continue;
            const size_t stem_size = size_ - rule.suffix.size();
            // (s)ion and (t)ion: the letter before "ion" belongs to the stem
            const size_t kept = above == 1 ? rule.replacement.size() : 0;
            if (measure(stem_size + kept) <= above) return;
            size_ = stem_size;
            append(rule.replacement);
            return;
        }
    }

    void step1() {
        if (ends("sses") || ends("ies"))
            size_ -= 2;
        else if (ends("s") && !ends("ss"))
            size_ -= 1;
        if (ends("eed")) {
            if (measure(size_ - 3) > 0) size_ -= 1;
        } else if (ends("ed") && has_vowel(size_ - 2)) {
            size_ -= 2;
            restore_e();
        } else if (ends("ing") && has_vowel(size_ - 3)) {
            size_ -= 3;
            restore_e();
        }
        if (ends("y") && has_vowel(size_ - 1)) word_[size_ - 1] = 'i';
    }

    // After -ed or -ing is taken off: conflat(e), siz(e), hop(p), fil(e).
    void restore_e() {
        if (ends("at") || ends("bl") || ends("iz"))
            append("e");
        else if (ends_in_double_consonant())
            size_ -= !(ends("l") || ends("s") || ends("z"));
        else if (measure(size_) == 1 && ends_cvc(size_))
            append("e");
    }

    void step5() {
        if (ends("e")) {
            const int m = measure(size_);
            if (m > 1 || (m == 1 && !ends_cvc(size_ - 1))) size_ -= 1;
        }
        if (ends("ll") && measure(size_) > 1) size_ -= 1;
    }

    Char* word_;
    size_t size_;
};

}  // namespace aslfast
