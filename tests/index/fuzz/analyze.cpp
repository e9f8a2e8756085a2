// Random bytes, broken UTF-8 and awkward text through every analyzer: any bytes are accepted, terms are UTF-8 and not
// empty, numbered terms are those of the plain analyzer, normal forms are stable.
//   fuzz_analyze [seed [texts]]     built and run by `make fuzz`
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "build/term_stream.hpp"

namespace {

using aslfast::NormalForm;

constexpr const char* kPieces[] = {
    "a", "S", "ing", "ational", "'s", "can't", "U.S.", "1", "3,4", "_", ".", ":", ";", "\"", "-", " ", "\n", "\t",
    "\xCC\x81", "\xCC\xA3", "\xCD\x84", "\xE3\x82\x99", "\xE2\x80\x99", "\xE2\x80\x93", "\xC3\xA9", "\xC3\x8B",
    "\xD7\x90", "\xE6\x9D\xB1", "\xE3\x82\xAB", "\xEF\xBD\xB6", "\xEF\xBE\x9E", "\xEA\xB0\x80", "\xE1\x84\x80",
    "\xE1\x85\xA1", "\xE1\x86\xA8", "\xEF\xB7\xBA", "\xEF\xBC\x87", "\xF0\x9F\x91\xA9", "\xE2\x80\x8D", "\xC2\xAD",
    "\xE0\xB8\x81", "\xF0\xA0\x80\x80", "\xF0\x90\x90\x80", "\xF3\xA0\x84\x80", "\xE1\xBA\x9B",
    // not UTF-8: alone, cut short, too long, a surrogate, beyond the last character
    "\xFF", "\x80", "\xE2\x80", "\xF0\x9F\x91", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80"};

std::string random_text(std::mt19937& random) {
    std::string text;
    const uint32_t kind = random() % 4;
    for (size_t n = random() % (kind == 3 ? 600 : 40); n > 0; --n) {
        if (kind == 0) text += static_cast<char>(random());
        if (kind == 1 || kind == 2) text += kPieces[random() % std::size(kPieces)];
        if (kind == 3) text += kPieces[(random() % 50 ? 0 : random()) % std::size(kPieces)];  // long words
        if (kind == 2 && random() % 4 == 0) text += static_cast<char>(random());
    }
    return text.substr(0, random() % 8 ? std::string::npos : random() % (text.size() + 1));
}

void require(bool held, const char* what, const std::string& text) {
    if (held) return;
    std::printf("%s:", what);
    for (const char c : text) std::printf(" %02X", static_cast<unsigned char>(c));
    std::printf("\n");
    std::abort();
}

bool is_utf8(std::string_view text) {
    const char *p = text.data(), *end = p + text.size();
    for (aslfast::CodePoint c = aslfast::decode(p, end); c.bytes > 0; c = aslfast::decode(p, end)) {
        if (c.bytes == 1 && c.value == 0xFFFD) return false;
        p += c.bytes;
    }
    return true;
}

class Subject {
public:
    explicit Subject(std::string_view analyzer) : analyzer_(analyzer), stream_(analyzer), small_(analyzer, 0) {}

    // The bytes are copied to a block of their own size, so that a read beyond them is seen.
    void check(const std::string& text) {
        const std::unique_ptr<char[]> bytes(new char[text.size()]);
        text.copy(bytes.get(), text.size());
        const std::string_view view(bytes.get(), text.size());
        std::vector<std::string> plain;
        analyzer_.analyze(view, [&plain](std::string_view term) { plain.emplace_back(term); });
        for (const std::string& term : plain) require(!term.empty() && is_utf8(term), "a bad term", text);
        require(numbered(stream_, view) == plain, "numbered terms differ", text);
        require(numbered(small_, view) == plain, "numbered terms differ with a small cache", text);
    }

private:
    std::vector<std::string> numbered(aslfast::TermStream& stream, std::string_view text) {
        std::vector<std::string> terms;
        stream.analyze_numbers(
            text,
            [this](std::string_view term) {
                const auto [at, is_new] = numbers_.try_emplace(std::string(term), names_.size());
                if (is_new) names_.push_back(at->first);
                return at->second;
            },
            [&](uint32_t number) { terms.push_back(names_.at(number)); });
        return terms;
    }

    aslfast::Analyzer analyzer_;
    aslfast::TermStream stream_, small_;
    std::map<std::string, uint32_t> numbers_;
    std::vector<std::string> names_;
};

void check_normal_form(NormalForm form, const std::string& text) {
    aslfast::Normalizer normalizer(form);
    const std::string once(normalizer.normalize(text));
    require(normalizer.normalize(once) == once, "normalised twice", text);
}

}  // namespace

int main(int argc, char** argv) {
    std::mt19937 random(argc > 1 ? static_cast<uint32_t>(std::atol(argv[1])) : 1);
    const long texts = argc > 2 ? std::atol(argv[2]) : 20000;
    std::vector<std::unique_ptr<Subject>> subjects;
    for (const std::string_view name : aslfast::kAnalyzers) subjects.push_back(std::make_unique<Subject>(name));
    for (long i = 0; i < texts; ++i) {
        const std::string text = random_text(random);
        for (const auto& subject : subjects) subject->check(text);
        check_normal_form(NormalForm::kC, text);
        check_normal_form(NormalForm::kKC, text);
    }
    std::printf("%ld texts, %zu analyzers: no fault\n", texts, subjects.size());
}
