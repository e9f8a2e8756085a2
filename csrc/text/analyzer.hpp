// From texts to terms, by the analyzer's name. Any bytes are accepted: what is not UTF-8 separates words.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

#include "text/analyzers/cjk.hpp"
#include "text/analyzers/english.hpp"
#include "text/analyzers/simple.hpp"
#include "text/analyzers/whitespace.hpp"

namespace aslfast {

inline constexpr std::array<std::string_view, 4> kAnalyzers{"english", "simple", "cjk", "whitespace"};

class Analyzer {
public:
    // Throws std::invalid_argument for an unknown name.
    explicit Analyzer(std::string_view name) : rules_(find(name)), normalizer_(form()) {}

    // Calls take(term) for every term of the text, in order; the view lives until the next call.
    template <class Take>
    void analyze(std::string_view text, Take&& take) {
        each_word(text, [&take](std::string_view word, const char*, auto& rules) {
            const std::string_view term = rules.term(word);
            if (!term.empty()) take(term);
        });
    }

    // Calls take(word, end, rules) for every word of the normalised text, which ends at `end`;
    // rules.term(word) is its term, or empty.
    template <class Take>
    void each_word(std::string_view text, Take&& take) {
        std::visit(
            [&](auto& rules) {
                const std::string_view normal = normalizer_.normalize(text);
                typename std::decay_t<decltype(rules)>::Words words(normal);
                for (std::string_view word; words.next(word);) take(word, normal.data() + normal.size(), rules);
            },
            rules_);
    }

private:
    using Rules = std::variant<English, Simple, Cjk, Whitespace>;

    static Rules find(std::string_view name) {
        if (name == kAnalyzers[0]) return English();
        if (name == kAnalyzers[1]) return Simple();
        if (name == kAnalyzers[2]) return Cjk();
        if (name == kAnalyzers[3]) return Whitespace();
        std::string known;
        for (const std::string_view analyzer : kAnalyzers) known.append(known.empty() ? "" : ", ").append(analyzer);
        throw std::invalid_argument("analyzer \"" + std::string(name) + "\": expected one of " + known);
    }

    NormalForm form() const {
        return std::visit([](const auto& rules) { return std::decay_t<decltype(rules)>::kForm; }, rules_);
    }

    Rules rules_;
    Normalizer normalizer_;
};

}  // namespace aslfast
