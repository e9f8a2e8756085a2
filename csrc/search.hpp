// Exact BM25 as in Lucene 9 (BM25Similarity), term at a time:
//   score(d) = sum over query terms t (with repetition) of idf(t) * tf / (tf + k1 * (1 - b + b * length(d) / mean))
//   idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))
// N and the mean length count passages with at least one term. Lengths are exact; Lucene rounds them to one byte.
#pragma once

#include <atomic>
#include <cmath>

#include "analyze.hpp"
#include "index.hpp"
#include "threads.hpp"

namespace aslfast {

struct Hit {
    float score;
    uint32_t doc;
};

// Higher score first; of equal scores the earlier passage.
inline bool is_better(const Hit& a, const Hit& b) { return a.score != b.score ? a.score > b.score : a.doc < b.doc; }

// The best k of the hits offered in order of passage number.
class TopK {
public:
    explicit TopK(size_t k) : k_(k) {}

    void offer(Hit hit) {
        if (hits_.size() == k_) {
            if (hit.score <= hits_.front().score) return;  // on a tie the earlier passage stays
            std::pop_heap(hits_.begin(), hits_.end(), is_better);
            hits_.back() = hit;
        } else {
            hits_.push_back(hit);
        }
        std::push_heap(hits_.begin(), hits_.end(), is_better);
    }

    std::vector<Hit> sorted() && {
        std::sort_heap(hits_.begin(), hits_.end(), is_better);
        return std::move(hits_);
    }

private:
    size_t k_;
    std::vector<Hit> hits_;  // a heap with the worst hit in front
};

// One thread's search state.
class Searcher {
public:
    Searcher(const Index& index, double k1, double b) : index_(index), block_(kBlock, 0.0f) {
        const Counts& counts = index.counts();
        const double mean =
            static_cast<double>(counts.tokens) / static_cast<double>(std::max<uint64_t>(counts.non_empty, 1));
        norm_ = static_cast<float>(k1 * (1 - b));
        norm_per_term_ = mean > 0 ? static_cast<float>(k1 * b / mean) : 0.0f;
    }

    // At most k >= 1 hits, best first; fewer if fewer passages share a term with the query.
    std::vector<Hit> search(std::string_view query, size_t k) {
        find_terms(query);
        TopK top(k);
        for (;;) {
            uint32_t first = kNone;  // the next passage that any term is in
            for (const Term& term : terms_)
                if (term.at < term.postings.size) first = std::min(first, term.postings.docs[term.at]);
            if (first == kNone) break;
            score_block(first / kBlock * kBlock, top);
        }
        return std::move(top).sorted();
    }

private:
    static constexpr uint32_t kBlock = 32768;  // passages scored together: 128 KiB of scores stay in the cache
    static constexpr uint32_t kNone = 0xFFFFFFFF;

    struct Term {
        Postings postings;
        float weight;  // idf times how often the query has it
        uint64_t at;   // first posting not yet scored
    };

    void find_terms(std::string_view query) {
        std::vector<std::string> words;
        analyzer_.analyze(query, [&words](std::string_view term) { words.emplace_back(term); });
        std::sort(words.begin(), words.end());
        terms_.clear();
        for (size_t i = 0, next; i < words.size(); i = next) {
            for (next = i + 1; next < words.size() && words[next] == words[i]; ++next) {
            }
            if (const auto postings = index_.find_term(words[i]))
                terms_.push_back(
                    {*postings, static_cast<float>(static_cast<double>(next - i) * idf(postings->size)), 0});
        }
    }

    double idf(uint64_t df) const {
        const auto n = static_cast<double>(index_.counts().non_empty), d = static_cast<double>(df);
        return std::log1p((n - d + 0.5) / (d + 0.5));
    }

    // Scores passages [first, first + kBlock) and leaves the block zeroed.
    void score_block(uint32_t first, TopK& top) {
        const uint32_t* lengths = index_.lengths();
        for (Term& term : terms_) {
            const Postings& postings = term.postings;
            uint64_t i = term.at;
            for (; i < postings.size && postings.docs[i] - first < kBlock; ++i) {
                const uint32_t doc = postings.docs[i];
                const float tf = postings.counts[i];
                block_[doc - first] +=
                    term.weight * tf / (tf + norm_ + norm_per_term_ * static_cast<float>(lengths[doc]));
            }
            term.at = i;
        }
        for (uint32_t i = 0; i < kBlock; ++i) {
            if (block_[i] == 0.0f) continue;
            top.offer({block_[i], first + i});
            block_[i] = 0.0f;
        }
    }

    const Index& index_;
    EnglishAnalyzer analyzer_;
    std::vector<float> block_;
    std::vector<Term> terms_;
    float norm_, norm_per_term_;
};

// One list of hits a query, the same whatever the number of threads.
inline std::vector<std::vector<Hit>> search(const Index& index, const std::vector<std::string>& queries, size_t k,
                                            double k1, double b, size_t threads) {
    std::vector<std::vector<Hit>> hits(queries.size());
    std::atomic<size_t> next{0};
    auto run = [&](size_t) {
        Searcher searcher(index, k1, b);
        for (size_t q = next++; q < queries.size(); q = next++) hits[q] = searcher.search(queries[q], k);
    };
    run_threads(std::min(std::max<size_t>(threads, 1), queries.size()), run);
    return hits;
}

}  // namespace aslfast
