// The k best passages of a query, the same as if every passage were scored (scoring.hpp), which most are not:
// windows (window_bounds.hpp) are taken in the order of their highest bound, until none can hold a better passage;
// within a window, only passages whose bound reaches the k-th best score are scored exactly.
#pragma once

#include <atomic>
#include <unordered_map>

#include "search/index.hpp"
#include "search/scoring.hpp"
#include "search/top_k.hpp"
#include "search/window_bounds.hpp"
#include "text/analyzer.hpp"
#include "threads.hpp"

namespace aslfast {

struct SearchOptions {
    size_t k = 10;
    bool lucene = false;                           // Lucene's one-byte lengths
    bool exhaustive = false;                       // score every passage: the reference for the pruned search
    const std::vector<uint64_t>* allow = nullptr;  // one bit a passage
};

// The position of a window in a clause's list, and in the list's tiles; kFree where it is in neither.
struct Place {
    uint32_t window, tiles;
};

// What a thread needs to search; sums are zero between searches.
struct SearchMemory {
    WindowBounds bounds;
    std::vector<Part> parts;
    std::vector<Clause> clauses;
    std::vector<Place> places;          // [clause][window]
    std::vector<uint32_t> most, order;  // of windows: highest bound; windows to search, most promising first
    std::vector<double> sums;           // of the exhaustive search
};

class Searcher {
public:
    Searcher(const Index& index, const SearchOptions& options, SearchMemory& memory)
        : index_(index),
          options_(options),
          scoring_(index.k1(), index.b(), index.live(), options.lucene),
          analyzer_(index.analyzer()),
          memory_(memory) {}

    // Best first; fewer than k if fewer live passages share a term with the query.
    std::vector<Hit> search(std::string_view query) {
        find_terms(query);
        TopK top(options_.k);
        const bool exhaustive = options_.exhaustive || terms_.size() > kMaxClauses;
        for (size_t s = 0; s < index_.segments().size() && !terms_.empty(); ++s) {
            start_segment(s);
            if (exhaustive)
                score_all(top);
            else
                score_promising(top);
        }
        return std::move(top).sorted();
    }

private:
    static constexpr double kMostBound = 65000;  // of all terms together, so that factors and sums fit 16 bits
    static constexpr size_t kMaxClauses = 4096;  // more would leave the bounds too coarse

    struct QueryTerm {
        std::string name;
        float weight;
        std::vector<uint32_t> numbers;  // in every segment; kFree where it has no such term
    };

    // Different terms in byte order: sums are taken in that order.
    void find_terms(std::string_view query) {
        std::vector<std::string> words;
        analyzer_.analyze(query, [&words](std::string_view term) { words.emplace_back(term); });
        std::sort(words.begin(), words.end());
        terms_.clear();
        double total = 0;
        for (size_t i = 0, next; i < words.size(); i = next) {
            for (next = i + 1; next < words.size() && words[next] == words[i]; ++next) {
            }
            QueryTerm term{words[i], 0, {}};
            const uint64_t df = find_in_segments(term);
            if (df == 0) continue;
            term.weight = scoring_.weight(static_cast<uint32_t>(next - i), df);
            total += term.weight;
            terms_.push_back(std::move(term));
        }
        scale_ = (kMostBound - 3.0 * static_cast<double>(terms_.size())) / total;
    }

    // Returns how many live passages have the term.
    uint64_t find_in_segments(QueryTerm& term) const {
        uint64_t df = 0;
        for (const auto& part : index_.segments()) {
            const auto number = part->segment().find_term(term.name);
            term.numbers.push_back(number.value_or(kFree));
            if (number) df += part->frequency(*number);
        }
        return df;
    }

    void start_segment(size_t s) {
        part_ = index_.segments()[s].get();
        const Counts& counts = part_->segment().counts();
        norm_.emplace(index_.k1(), index_.b(), counts.tokens, counts.non_empty);
        drift_ = scoring_.drift(*norm_);
        memory_.clauses.clear();
        for (const QueryTerm& term : terms_) {
            if (term.numbers[s] == kFree) continue;
            memory_.clauses.push_back({part_->segment().postings(term.numbers[s]), term.weight, 0});
        }
    }

    // ---- everything -------------------------------------------------------------------------------------------------

    void score_all(TopK& top) {
        std::vector<uint32_t> at(memory_.clauses.size(), 0);
        for (uint32_t first = 0; first < part_->segment().counts().passages; first += kWindowSize) {
            memory_.sums.assign(kWindowSize, -1.0);  // no term yet
            for (size_t i = 0; i < at.size(); ++i) {
                const Postings& list = memory_.clauses[i].list;
                if (at[i] < list.n_windows && list.windows[at[i]].number == first >> kWindowBits)
                    add_all(memory_.clauses[i], at[i]++, first);
            }
            for (uint32_t i = 0; i < kWindowSize; ++i)
                if (memory_.sums[i] >= 0 && is_wanted(first + i))
                    top.offer({static_cast<float>(memory_.sums[i]), part_->first() + first + i});
        }
    }

    void add_all(const Clause& clause, uint32_t window, uint32_t first) {
        const Postings& list = clause.list;
        for (uint32_t at = list.begin(window); at < list.end(window); ++at) {
            double& sum = memory_.sums[list.docs[at]];
            sum = std::max(sum, 0.0) + contribution(clause, at, part_->segment().length(first + list.docs[at]));
        }
    }

    // ---- only promising windows -------------------------------------------------------------------------------------

    void score_promising(TopK& top) {
        for (Clause& clause : memory_.clauses) set_factor(clause);
        order_windows();
        for (const uint32_t window : memory_.order) {
            if (memory_.most[window] < limit(top)) return;
            list_parts(window);
            score_window(window, top);
        }
    }

    // Rounded up, and Clause::bound_of adds one more for the rounding of floats: no scaled contribution is above its
    // bound, and all clauses' highest bounds together are at most 65,535.
    void set_factor(Clause& clause) const {
        clause.factor = static_cast<uint16_t>(std::ceil(scale_ * clause.weight * 256 / 255));
    }

    void order_windows() {
        const size_t n = (part_->segment().counts().passages + kWindowSize - 1) >> kWindowBits;
        memory_.places.assign(n * memory_.clauses.size(), {kFree, kFree});
        memory_.most.assign(n, 0);
        memory_.order.clear();
        for (size_t i = 0; i < memory_.clauses.size(); ++i) {
            const Clause& clause = memory_.clauses[i];
            for (uint32_t w = 0, tiled = 0; w < clause.list.n_windows; ++w) {
                const Window& window = clause.list.windows[w];
                if (window.number >= n) throw FormatError(kWindowsFile, "it names a window that does not exist");
                const bool is_tiled = clause.list.end(w) - clause.list.begin(w) >= kTiledPostings;
                if (is_tiled && tiled == clause.list.n_tiles) throw FormatError(kTilesFile, "tiles are missing");
                memory_.places[i * n + window.number] = {w, is_tiled ? tiled++ : kFree};
                memory_.most[window.number] += clause.bound_of(window.max_impact);
            }
        }
        for (uint32_t w = 0; w < n; ++w)
            if (memory_.most[w] > 0) memory_.order.push_back(w);
        std::stable_sort(memory_.order.begin(), memory_.order.end(),
                         [this](uint32_t a, uint32_t b) { return memory_.most[a] > memory_.most[b]; });
    }

    void list_parts(uint32_t window) {
        memory_.parts.clear();
        for (size_t i = 0; i < memory_.clauses.size(); ++i) {
            const Clause& clause = memory_.clauses[i];
            const auto [at, tiles] = place(i, window);
            if (at == kFree) continue;
            const uint32_t begin = clause.list.begin(at), end = clause.list.end(at);
            if (begin < end)
                memory_.parts.push_back({&clause, begin, end, clause.bound_of(clause.list.windows[at].max_impact),
                                         tiles == kFree ? nullptr : clause.list.tiles + tiles});
        }
    }

    Place place(size_t clause, uint32_t window) const { return memory_.places[clause * memory_.most.size() + window]; }

    // No passage with a lower bound can be among the best.
    uint32_t limit(const TopK& top) const {
        if (!top.full()) return 1;
        return std::max(1u, static_cast<uint32_t>(scale_ * top.worst() / drift_));
    }

    // While there are fewer than k hits, the most promising tiles first, and in these the highest bounds.
    void score_window(uint32_t window, TopK& top) {
        if (!memory_.bounds.start(memory_.parts, limit(top))) return;
        while (!top.full()) {
            const auto found = memory_.bounds.take_best_tiles(top.missing() / 8 + 4);
            if (found.size() == 0) return;
            if (found.size() > top.missing())
                std::nth_element(found.first, found.first + top.missing(), found.last,
                                 [](const Candidate& a, const Candidate& b) { return a.bound > b.bound; });
            score_each(window, found, top);
        }
        score_each(window, memory_.bounds.take_rest(limit(top)), top);
    }

    void score_each(uint32_t window, const WindowBounds::Found& found, TopK& top) {
        for (const Candidate& candidate : found)
            part_->segment().prefetch_length((window << kWindowBits) + candidate.doc);
        for (const Part& part : memory_.parts)
            if (part.tiles)
                for (const Candidate& candidate : found) prefetch_posting(part, candidate.doc);
        for (const Candidate& candidate : found) score(window, candidate, top);
    }

    void score(uint32_t window, const Candidate& candidate, TopK& top) {
        const uint32_t doc = (window << kWindowBits) + candidate.doc;
        if (candidate.bound < limit(top) || !is_wanted(doc)) return;
        const uint32_t length = part_->segment().length(doc);
        if (top.full() && candidate.bound * scoring_.drift(*norm_, length) < (1 - 1e-9) * scale_ * top.worst()) return;
        double sum = 0;
        for (const Part& part : memory_.parts) {
            const uint32_t posting = find_posting(part, candidate.doc);
            if (posting != kFree) sum += contribution(*part.clause, posting, length);
        }
        top.offer({static_cast<float>(sum), part_->first() + doc});
    }

    // ---- both -------------------------------------------------------------------------------------------------------

    float contribution(const Clause& clause, uint32_t posting, uint32_t length) const {
        return Scoring::contribution(clause.weight, part_->segment().count(clause.list, posting),
                                     scoring_.inverse(length));
    }

    bool is_wanted(uint32_t doc) const {
        if (doc >= part_->segment().counts().passages) throw FormatError(kPostingsFile, "it has a passage too many");
        if (!part_->is_live(doc)) return false;
        const uint32_t number = part_->first() + doc;
        return !options_.allow || ((*options_.allow)[number / 64] >> number % 64 & 1) != 0;
    }

    const Index& index_;
    SearchOptions options_;
    Scoring scoring_;
    Analyzer analyzer_;
    SearchMemory& memory_;
    std::vector<QueryTerm> terms_;
    double scale_ = 0;  // from scores to bounds
    const LiveSegment* part_ = nullptr;
    std::optional<Norm> norm_;  // of the segment's impacts
    double drift_ = 1;
};

// One list of hits a query, the same whatever the number of threads; a query that occurs twice is searched once.
inline std::vector<std::vector<Hit>> search(const Index& index, const std::vector<std::string>& queries,
                                            const SearchOptions& options, size_t threads) {
    std::vector<size_t> first(queries.size()), different;
    std::unordered_map<std::string_view, size_t> seen;
    for (size_t q = 0; q < queries.size(); ++q) {
        first[q] = seen.emplace(queries[q], q).first->second;
        if (first[q] == q) different.push_back(q);
    }
    std::vector<std::vector<Hit>> hits(queries.size());
    std::atomic<size_t> next{0};
    run_throwing(std::min(std::max<size_t>(threads, 1), different.size()), [&](size_t) {
        static thread_local std::unique_ptr<SearchMemory> memory;
        try {
            if (!memory) memory = std::make_unique<SearchMemory>();
            Searcher searcher(index, options, *memory);
            for (size_t i = next++; i < different.size(); i = next++)
                hits[different[i]] = searcher.search(queries[different[i]]);
        } catch (...) {
            memory.reset();  // its sums may not be zero
            next = different.size();
            throw;
        }
    });
    for (size_t q = 0; q < queries.size(); ++q)
        if (first[q] != q) hits[q] = hits[first[q]];
    return hits;
}

}  // namespace aslfast
