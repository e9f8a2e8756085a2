// Building an index: passages in, the four files of index.hpp out.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "analyze.hpp"
#include "index.hpp"
#include "threads.hpp"
#include "vocabulary.hpp"

namespace aslfast {

// Bad input, told in one line.
struct InputError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Two passages of one id, numbered in order of arrival.
struct DuplicateId : std::runtime_error {
    DuplicateId(std::string_view id, uint32_t first, uint32_t second)
        : std::runtime_error(std::string(id)), first(first), second(second) {}
    uint32_t first, second;
};

// What one thread gathers: postings in the order of its passages, in term numbers of its own.
struct Shard {
    EnglishAnalyzer analyzer;
    Vocabulary vocabulary;
    std::vector<uint32_t> document;  // the terms of the passage at hand
    std::vector<uint32_t> terms;
    std::vector<uint16_t> counts;

    struct Summary {
        uint32_t length;    // terms in the passage
        uint32_t distinct;  // different terms in the passage
    };

    Summary add(std::string_view text) {
        document.clear();
        analyzer.analyze(text, [this](std::string_view term) { document.push_back(vocabulary.add(term)); });
        std::sort(document.begin(), document.end());
        const size_t before = terms.size();
        for (size_t i = 0, next; i < document.size(); i = next) {
            for (next = i + 1; next < document.size() && document[next] == document[i]; ++next) {
            }
            if (next - i > kMaxCount) throw InputError("one term occurs more than 65,535 times in one passage");
            terms.push_back(document[i]);
            counts.push_back(static_cast<uint16_t>(next - i));
        }
        return {static_cast<uint32_t>(document.size()), static_cast<uint32_t>(terms.size() - before)};
    }
};

// Memory: 12 bytes a posting (a passage of 100 words has about 60), ids and lengths; the texts go straight to disk.
class IndexBuilder {
public:
    IndexBuilder(std::string folder, int threads)
        : folder_(std::move(folder)),
          shards_(static_cast<size_t>(std::max(threads, 1))),
          contents_(folder_ + "/" + kContentsFile) {}

    // Adds passages in order. The same index comes out whatever the number of threads and the size of the batches.
    void add(const std::vector<std::string_view>& ids, const std::vector<std::string_view>& contents) {
        const size_t first = lengths_.size(), n = ids.size();
        if (first + n > kMaxDocuments) throw InputError("an index holds at most 2,147,483,647 passages");
        lengths_.resize(first + n);
        distinct_.resize(first + n);
        for (size_t i = 0; i < n; ++i) {
            ids_ += ids[i];
            id_offsets_.push_back(ids_.size());
            contents_.write(contents[i]);
            content_offsets_.push_back(content_offsets_.back() + contents[i].size());
        }
        const size_t first_span = spans_.size(), per_shard = (n + shards_.size() - 1) / shards_.size();
        for (size_t s = 0; s * per_shard < n; ++s)
            spans_.push_back({s, first + s * per_shard, first + std::min(n, (s + 1) * per_shard)});
        analyze(contents, first, first_span);
    }

    // Writes the files; returns how many of what they hold. Throws DuplicateId.
    Counts finish() {
        contents_.close();
        const std::vector<uint32_t> order = sorted_ids();
        Counts counts;
        counts.passages = lengths_.size();
        counts.terms = write_postings();
        counts.postings = postings_;
        counts.tokens = std::accumulate(lengths_.begin(), lengths_.end(), uint64_t{0});
        counts.non_empty = counts.passages - static_cast<uint64_t>(std::count(lengths_.begin(), lengths_.end(), 0u));
        Writer file(folder_ + "/" + kPassagesFile);
        file.write(id_offsets_);
        file.write(content_offsets_);
        file.write(lengths_);
        file.write(order);
        file.write(ids_);
        file.close();
        return counts;
    }

private:
    struct Span {
        size_t shard, first, last;  // passages [first, last) went to this shard
    };

    // Runs the spans from first_span on, one thread each; an error in any is thrown here.
    void analyze(const std::vector<std::string_view>& contents, size_t first_doc, size_t first_span) {
        std::vector<std::exception_ptr> errors(spans_.size() - first_span);
        auto run = [&](size_t i) {
            const Span& span = spans_[first_span + i];
            try {
                for (size_t doc = span.first; doc < span.last; ++doc) {
                    const Shard::Summary summary = shards_[span.shard].add(contents[doc - first_doc]);
                    lengths_[doc] = summary.length;
                    distinct_[doc] = summary.distinct;
                }
            } catch (...) {
                errors[i] = std::current_exception();
            }
        };
        run_threads(errors.size(), run);
        for (const std::exception_ptr& error : errors)
            if (error) std::rethrow_exception(error);
    }

    std::string_view id(uint32_t doc) const {
        return std::string_view(ids_).substr(id_offsets_[doc], id_offsets_[doc + 1] - id_offsets_[doc]);
    }

    // Passage numbers in the order of their ids, for look-up by binary search.
    std::vector<uint32_t> sorted_ids() const {
        std::vector<uint32_t> order(lengths_.size());
        std::iota(order.begin(), order.end(), 0u);
        std::sort(order.begin(), order.end(), [this](uint32_t a, uint32_t b) {
            const int c = id(a).compare(id(b));
            return c != 0 ? c < 0 : a < b;
        });
        for (size_t i = 1; i < order.size(); ++i)
            if (id(order[i - 1]) == id(order[i])) throw DuplicateId(id(order[i]), order[i - 1], order[i]);
        return order;
    }

    // All shards' terms in byte order, without duplicates, and for every shard: its term number -> place in that order.
    std::vector<std::string_view> merge_vocabularies(std::vector<std::vector<uint32_t>>& places) const {
        std::vector<std::string_view> terms;
        for (const Shard& shard : shards_)
            for (uint32_t t = 0; t < shard.vocabulary.size(); ++t) terms.push_back(shard.vocabulary.term(t));
        std::sort(terms.begin(), terms.end());
        terms.erase(std::unique(terms.begin(), terms.end()), terms.end());
        for (const Shard& shard : shards_) {
            std::vector<uint32_t>& place = places.emplace_back(shard.vocabulary.size());
            for (uint32_t t = 0; t < place.size(); ++t)
                place[t] = static_cast<uint32_t>(
                    std::lower_bound(terms.begin(), terms.end(), shard.vocabulary.term(t)) - terms.begin());
        }
        return terms;
    }

    // Turns passage -> terms into term -> passages by a counting sort. Returns the number of terms.
    uint64_t write_postings() {
        std::vector<std::vector<uint32_t>> places;
        const std::vector<std::string_view> terms = merge_vocabularies(places);
        std::vector<uint64_t> offsets(terms.size() + 1, 0);
        for (size_t s = 0; s < shards_.size(); ++s)
            for (const uint32_t t : shards_[s].terms) ++offsets[places[s][t] + 1];
        std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
        postings_ = offsets.back();
        std::vector<uint32_t> docs(postings_);
        std::vector<uint16_t> counts(postings_);
        std::vector<uint64_t> next(offsets.begin(), offsets.end() - 1);
        std::vector<size_t> read(shards_.size(), 0);
        for (const Span& span : spans_) {
            const Shard& shard = shards_[span.shard];
            for (size_t doc = span.first; doc < span.last; ++doc)
                for (uint32_t i = 0; i < distinct_[doc]; ++i) {
                    const size_t from = read[span.shard]++;
                    const uint64_t to = next[places[span.shard][shard.terms[from]]]++;
                    docs[to] = static_cast<uint32_t>(doc);
                    counts[to] = shard.counts[from];
                }
        }
        Writer postings(folder_ + "/" + kPostingsFile);
        postings.write(docs);
        postings.write(counts);
        postings.close();
        write_terms(terms, offsets);
        return terms.size();
    }

    void write_terms(const std::vector<std::string_view>& terms, const std::vector<uint64_t>& posting_offsets) const {
        std::vector<uint64_t> term_offsets{0};
        for (const std::string_view term : terms) term_offsets.push_back(term_offsets.back() + term.size());
        Writer file(folder_ + "/" + kTermsFile);
        file.write(term_offsets);
        file.write(posting_offsets);
        for (const std::string_view term : terms) file.write(term);
        file.close();
    }

    std::string folder_;
    std::vector<Shard> shards_;
    Writer contents_;
    std::vector<Span> spans_;
    std::string ids_;
    std::vector<uint64_t> id_offsets_{0}, content_offsets_{0};
    std::vector<uint32_t> lengths_, distinct_;
    uint64_t postings_ = 0;
};

}  // namespace aslfast
