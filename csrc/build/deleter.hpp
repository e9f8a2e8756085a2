// Deletes passages of a segment: their texts are in the segment and are analysed again, for the terms they have.
#pragma once

#include <unordered_map>

#include "storage/deletions.hpp"
#include "storage/segment.hpp"
#include "storage/segment_spec.hpp"
#include "text/analyzer.hpp"

namespace aslfast {

class Deleter {
public:
    Deleter(const SegmentSpec& spec, const std::string& analyzer)
        : spec_(spec), segment_(spec.folder, spec.counts, spec.checks), analyzer_(analyzer), deletions_(load(spec)) {
        if (spec.deleted) sums_ = spec.deleted->sums;
    }

    // docs: in any order; those already deleted, or given twice, count once.
    DeletedSpec write(std::vector<uint32_t> docs, const std::string& file) {
        std::sort(docs.begin(), docs.end());
        if (!docs.empty() && docs.back() >= spec_.counts.passages)
            throw InputError("the segment has no passage " + std::to_string(docs.back()));
        TextBlock block;
        uint64_t block_number = ~uint64_t{0};
        for (const uint32_t doc : docs) {
            if (deletions_.is_deleted(doc)) continue;
            if (std::exchange(block_number, doc / kBlockPassages) != doc / kBlockPassages)
                segment_.texts().read(block_number, block);
            remove(doc, block.texts[doc % kBlockPassages]);
        }
        std::vector<RemovedTerm> removed;
        for (const auto& entry : removed_) removed.push_back(entry.second);
        deletions_.remove(std::move(removed));
        return {file, deletions_.write(file), sums_};
    }

private:
    static Deletions load(const SegmentSpec& spec) {
        if (!spec.deleted) return Deletions(spec.counts.passages);
        return Deletions(spec.deleted->file, spec.deleted->checksum, spec.counts.passages);
    }

    void remove(uint32_t doc, std::string_view text) {
        deletions_.mark(doc);
        const uint32_t length = segment_.length(doc);
        ++sums_.passages;
        sums_.tokens += length;
        sums_.non_empty += length > 0;
        std::vector<std::string> terms;
        analyzer_.analyze(text, [&terms](std::string_view term) { terms.emplace_back(term); });
        if (terms.size() != length) throw wrong_analyzer();
        std::sort(terms.begin(), terms.end());
        terms.erase(std::unique(terms.begin(), terms.end()), terms.end());
        for (const std::string& term : terms) {
            RemovedTerm& entry = removed_[term];
            if (entry.passages++ > 0) continue;
            const auto number = segment_.find_term(term);
            if (!number) throw wrong_analyzer();
            entry.term = *number;
        }
    }

    FormatError wrong_analyzer() const {
        return {spec_.folder, "its texts give other terms than it holds: it was built by another version's analyzer"};
    }

    const SegmentSpec& spec_;
    Segment segment_;
    Analyzer analyzer_;
    Deletions deletions_;
    Statistics sums_;
    std::unordered_map<std::string, RemovedTerm> removed_;
};

}  // namespace aslfast
