// From passages to a run: every thread records the terms of its chunks of passages, in order and under numbers of its
// own; then all threads turn passage -> terms into term -> passages by a counting sort.
#pragma once

#include <memory>
#include <numeric>

#include "build/run.hpp"
#include "build/term_stream.hpp"
#include "build/vocabulary.hpp"
#include "threads.hpp"

namespace aslfast {

// The postings of some passages in a row.
struct Gathered {
    size_t shard;
    uint32_t first;                  // number of the first passage
    std::vector<uint32_t> lengths;   // terms of each passage
    std::vector<uint32_t> distinct;  // postings of each passage
    std::vector<uint32_t> terms;
    std::vector<uint8_t> counts;
    std::vector<BigCount> big;  // `posting` counts within the chunk

    uint64_t bytes() const { return (lengths.size() + distinct.size() + terms.size()) * 4 + counts.size(); }
};

// One thread's terms, in order of first occurrence.
class Shard {
public:
    explicit Shard(const std::string& analyzer) : stream_(analyzer) {}

    const Vocabulary& vocabulary() const { return vocabulary_; }

    // The table, two arrays of places and the strings that are sorted in the end.
    uint64_t bytes() const { return vocabulary_.size() * uint64_t{100}; }

    void add(std::string_view text, Gathered& chunk) {
        const size_t before = chunk.terms.size();
        uint32_t length = 0;
        ++passage_;
        auto number = [this](std::string_view term) {
            const uint32_t number = vocabulary_.add(term);
            if (number == seen_.size()) seen_.emplace_back();
            return number;
        };
        stream_.analyze_numbers(text, number, [&](uint32_t term) {
            Seen& seen = seen_[term];
            if (seen.passage != passage_) {
                seen = {passage_, static_cast<uint32_t>(counts_.size())};
                chunk.terms.push_back(term);
                counts_.push_back(0);
            }
            ++counts_[seen.at];
            ++length;
        });
        chunk.lengths.push_back(length);
        chunk.distinct.push_back(static_cast<uint32_t>(counts_.size()));
        for (size_t i = 0; i < counts_.size(); ++i) {
            chunk.counts.push_back(static_cast<uint8_t>(std::min<uint32_t>(counts_[i], kBigCount)));
            if (counts_[i] >= kBigCount) chunk.big.push_back({before + i, counts_[i], 0});
        }
        counts_.clear();
    }

private:
    struct Seen {
        uint32_t passage = 0;  // the last one that had the term
        uint32_t at = 0;       // in counts_
    };
    TermStream stream_;
    Vocabulary vocabulary_;
    std::vector<Seen> seen_;
    std::vector<uint32_t> counts_;  // of the current passage
    uint32_t passage_ = 0;
};

// Byte order of terms: by their first eight bytes, which nearly always differ, then by the rest.
struct TermKey {
    uint64_t prefix;
    std::string_view name;
    uint32_t shard, term;

    TermKey() = default;
    TermKey(std::string_view name, size_t shard, uint32_t term)
        : prefix(0), name(name), shard(static_cast<uint32_t>(shard)), term(term) {
        std::memcpy(&prefix, name.data(), std::min<size_t>(name.size(), 8));
        prefix = __builtin_bswap64(prefix);
    }
    bool operator<(const TermKey& other) const {
        return prefix != other.prefix ? prefix < other.prefix : name < other.name;
    }
};

// All shards' terms in byte order, equal ones side by side: each shard's sorted on a thread, then merged two by two.
inline std::vector<TermKey> sort_terms(const std::vector<std::unique_ptr<Shard>>& shards) {
    std::vector<size_t> ends{0};
    for (const auto& shard : shards) ends.push_back(ends.back() + shard->vocabulary().size());
    std::vector<TermKey> keys(ends.back());
    const size_t n = shards.size();
    auto begin = [&](size_t shard) { return keys.begin() + static_cast<ptrdiff_t>(ends[std::min(shard, n)]); };
    run_throwing(n, [&](size_t s) {
        const Vocabulary& vocabulary = shards[s]->vocabulary();
        for (uint32_t term = 0; term < vocabulary.size(); ++term)
            keys[ends[s] + term] = TermKey(vocabulary.term(term), s, term);
        std::sort(begin(s), begin(s + 1));
    });
    for (size_t width = 1; width < n; width *= 2)
        run_throwing((n + 2 * width - 1) / (2 * width), [&](size_t pair) {
            const size_t s = pair * 2 * width;
            std::inplace_merge(begin(s), begin(s + width), begin(s + 2 * width));
        });
    return keys;
}

class Inverter {
public:
    // The chunks in order of passage. Their term numbers are overwritten; the names live as long as the shards.
    Inverter(const std::vector<std::unique_ptr<Shard>>& shards, std::vector<Gathered>& chunks) : chunks_(chunks) {
        number_terms(shards);
        cut_parts(shards.size());
    }

    MemoryRun run() {
        run_throwing(parts_.size(), [this](size_t part) { count(parts_[part]); });
        uint32_t total = 0;
        run_.starts.reserve(run_.names.size() + 1);
        for (size_t term = 0; term < run_.names.size(); ++term) {
            run_.starts.push_back(total);
            for (Part& part : parts_) total += std::exchange(part.next[term], total);
        }
        run_.starts.push_back(total);
        run_.docs.resize(total);
        run_.term_counts.resize(total);
        run_throwing(parts_.size(), [this](size_t part) { scatter(parts_[part]); });
        for (const Part& part : parts_) run_.big.insert(run_.big.end(), part.big.begin(), part.big.end());
        std::sort(run_.big.begin(), run_.big.end(),
                  [](const BigCount& a, const BigCount& b) { return a.posting < b.posting; });
        return std::move(run_);
    }

private:
    struct Part {  // chunks [first, last), the work of one thread
        size_t first, last;
        std::vector<uint32_t> next;  // of each term: how many postings, then where the next one goes
        std::vector<BigCount> big;
    };

    void number_terms(const std::vector<std::unique_ptr<Shard>>& shards) {
        for (const auto& shard : shards) places_.emplace_back(shard->vocabulary().size());
        for (const TermKey& key : sort_terms(shards)) {
            if (run_.names.empty() || run_.names.back() != key.name) run_.names.push_back(key.name);
            places_[key.shard][key.term] = static_cast<uint32_t>(run_.names.size() - 1);
        }
    }

    // Parts of about as many postings each.
    void cut_parts(size_t n) {
        uint64_t total = 0, sum = 0;
        for (const Gathered& chunk : chunks_) total += chunk.terms.size();
        size_t first = 0;
        for (size_t i = 0; i < chunks_.size(); ++i) {
            sum += chunks_[i].terms.size();
            if (i + 1 < chunks_.size() && sum * n < total * (parts_.size() + 1)) continue;
            parts_.push_back({first, i + 1, {}, {}});
            first = i + 1;
        }
    }

    void count(Part& part) {
        part.next.resize(run_.names.size());
        for (size_t c = part.first; c < part.last; ++c) {
            const std::vector<uint32_t>& places = places_[chunks_[c].shard];
            for (uint32_t& term : chunks_[c].terms) ++part.next[term = places[term]];
        }
    }

    void scatter(Part& part) {
        for (size_t c = part.first; c < part.last; ++c) {
            Gathered& chunk = chunks_[c];
            size_t from = 0;
            auto big = chunk.big.begin();
            for (uint32_t i = 0; i < chunk.distinct.size(); ++i)
                for (const size_t end = from + chunk.distinct[i]; from < end; ++from) {
                    const uint32_t to = part.next[chunk.terms[from]]++;
                    run_.docs[to] = chunk.first + i;
                    run_.term_counts[to] = chunk.counts[from];
                    if (chunk.counts[from] == kBigCount) part.big.push_back({to, (big++)->count, 0});
                }
            chunk = {};
        }
    }

    std::vector<Gathered>& chunks_;
    std::vector<std::vector<uint32_t>> places_;  // shard -> its term's number -> the term's place in byte order
    std::vector<Part> parts_;
    MemoryRun run_;
};

}  // namespace aslfast
