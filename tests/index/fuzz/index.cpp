// A small index with every byte of its files changed in turn, opened, searched and merged.
//   As it is, a changed byte is an error or changes nothing: every answer is the right one.
//   With the checksums made to fit (as if the files were forged), anything may come out, but no crash.
// Then searches for random bytes.
//   fuzz_index FOLDER [step]     FOLDER: empty, for the files; step: every so many bytes (1)
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "build/merger.hpp"
#include "build/page_checks.hpp"
#include "search/searcher.hpp"

namespace {

namespace fs = std::filesystem;
using Answers = std::vector<std::string>;

const std::vector<std::string> kQueries{"cat", "the w1 w2", "w1 w2 w3 w4 w5 w6 w7", "rare5 w1", "w1 w1 zebra", ""};

std::string read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const fs::path& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// 1,500 passages: w1 is in 1,200 of them and has tiles; one holds a word 300 times.
aslfast::SegmentSpec build(const fs::path& folder) {
    fs::create_directories(folder);
    aslfast::IndexBuilder builder(folder, "english", 0.9, 0.4, 2, 1 << 20);
    std::vector<std::string> ids, texts;
    for (int i = 0; i < 1500; ++i) {
        ids.push_back("id" + std::to_string(i));
        std::string text = i % 5 ? "w1" : "cat";
        for (int w = 2; w < 8; ++w)
            if (i % w == 0) text += " w" + std::to_string(w);
        if (i % 100 == 7) text += " rare" + std::to_string(i / 100);
        for (int n = 0; i == 777 && n < 300; ++n) text += " zebra";
        texts.push_back(text);
    }
    builder.add({ids.begin(), ids.end()}, {texts.begin(), texts.end()});
    const aslfast::Counts counts = builder.finish();
    return {folder, counts, aslfast::checksum(read_file(folder / aslfast::kChecksFile)), {}};
}

// Everything that can be asked, as text. Throws what the index throws.
Answers ask(const aslfast::SegmentSpec& spec) {
    const aslfast::Index index({spec}, "english", 0.9, 0.4);
    Answers answers;
    for (const bool exhaustive : {false, true})
        for (const size_t k : {size_t{3}, size_t{2000}})
            for (const auto& hits : aslfast::search(index, kQueries, {k, k == 3, exhaustive, nullptr}, 1)) {
                std::string line;
                for (const aslfast::Hit& hit : hits)
                    line += std::to_string(hit.score) + " " + std::string(index.id(hit.doc)) + " ";
                answers.push_back(line);
            }
    for (const uint32_t doc : {0u, 31u, 32u, 777u, 1499u}) {
        answers.push_back(index.text(doc));
        const auto found = index.find_id("id" + std::to_string(doc));
        answers.push_back(found ? std::to_string(*found) : "none");
    }
    return answers;
}

// What is asked, or "error".
Answers try_to_ask(const aslfast::SegmentSpec& spec) {
    try {
        return ask(spec);
    } catch (const aslfast::FormatError&) {
    } catch (const aslfast::FileError&) {
    } catch (const std::exception& e) {
        std::fprintf(stderr, "neither an answer nor an error of the index: %s\n", e.what());
        std::exit(1);
    }
    return {"error"};
}

void try_to_merge(const aslfast::SegmentSpec& spec, const fs::path& folder) {
    fs::remove_all(folder);
    fs::create_directories(folder);
    try {
        aslfast::Merger({spec, spec}, folder).write(0.9, 0.4, 1);
    } catch (const std::exception&) {  // two passages of one id at the latest
    }
}

// checks.bin for the files as they are now.
uint64_t forge_checks(const fs::path& folder) {
    fs::remove(folder / aslfast::kChecksFile);
    aslfast::write_checks(folder, 1);
    return aslfast::checksum(read_file(folder / aslfast::kChecksFile));
}

void require(bool held, const char* what, const std::string& file, size_t at) {
    if (held) return;
    std::fprintf(stderr, "%s: byte %zu of %s\n", what, at, file.c_str());
    std::exit(1);
}

size_t change_every_byte(const fs::path& folder, aslfast::SegmentSpec spec, const std::string& name, size_t step) {
    const Answers right = ask(spec);
    const std::string bytes = read_file(folder / name);
    size_t errors = 0;
    for (size_t at = 0; at < bytes.size(); at += step) {
        std::string changed = bytes;
        changed[at] = static_cast<char>(changed[at] ^ (1 << at % 8));
        write_file(folder / name, changed);
        const Answers answers = try_to_ask(spec);
        errors += answers.size() == 1;
        require(answers.size() == 1 || answers == right, "a wrong answer", name, at);
        if (name == aslfast::kChecksFile) continue;
        const std::string checks = read_file(folder / aslfast::kChecksFile);
        aslfast::SegmentSpec forged = spec;
        forged.checks = forge_checks(folder);
        try_to_ask(forged);
        if (at % 64 == 0) try_to_merge(forged, folder / "merged");
        write_file(folder / aslfast::kChecksFile, checks);
    }
    for (const size_t size : {size_t{0}, bytes.size() / 2, bytes.size() - 1}) {
        write_file(folder / name, bytes.substr(0, size));
        const Answers answers = try_to_ask(spec);
        require(answers.size() == 1 || answers == right, "a wrong answer", name + " cut short", size);
    }
    write_file(folder / name, bytes);
    return errors;
}

void search_random_bytes(const aslfast::SegmentSpec& spec) {
    const aslfast::Index index({spec}, "english", 0.9, 0.4);
    std::mt19937 random(1);
    std::vector<std::string> queries;
    for (int i = 0; i < 3000; ++i) {
        std::string query;
        for (size_t n = random() % 60; n > 0; --n) query += static_cast<char>(random() % 3 ? random() : "w1 cat "[random() % 7]);
        queries.push_back(query);
    }
    const auto pruned = aslfast::search(index, queries, {10, false, false, nullptr}, 2);
    const auto full = aslfast::search(index, queries, {10, false, true, nullptr}, 2);
    for (size_t q = 0; q < queries.size(); ++q) {
        require(pruned[q].size() == full[q].size(), "another number of hits", "query", q);
        for (size_t i = 0; i < full[q].size(); ++i)
            require(pruned[q][i].doc == full[q][i].doc && pruned[q][i].score == full[q][i].score, "another hit", "query", q);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return std::fprintf(stderr, "name a new folder\n"), 2;
    const fs::path folder = fs::path(argv[1]) / "segment";
    const size_t step = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
    const aslfast::SegmentSpec spec = build(folder);
    search_random_bytes(spec);
    for (const char* name : aslfast::kCheckedFiles)
        std::printf("%-13s %zu of its changed bytes are errors\n", name, change_every_byte(folder, spec, name, step));
    std::printf("%-13s %zu of its changed bytes are errors\n", aslfast::kChecksFile,
                change_every_byte(folder, spec, aslfast::kChecksFile, step));
    fs::remove_all(folder);
    return 0;
}
