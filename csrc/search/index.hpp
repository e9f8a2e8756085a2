// Several segments as one index. Passage numbers run through the segments in order, deleted passages included; the
// statistics are of the live passages, so that scores are those of an index built from the live passages alone.
#pragma once

#include "storage/deletions.hpp"
#include "storage/segment.hpp"
#include "storage/segment_spec.hpp"

namespace aslfast {

// A segment, its deletions, and the number of its first passage.
class LiveSegment {
public:
    LiveSegment(const SegmentSpec& spec, uint32_t first)
        : segment_(spec.folder, spec.counts, spec.checks),
          first_(first),
          live_{spec.counts.passages, spec.counts.tokens, spec.counts.non_empty} {
        if (!spec.deleted) return;
        deletions_.emplace(spec.deleted->file, spec.deleted->checksum, spec.counts.passages);
        live_.passages -= spec.deleted->sums.passages;
        live_.tokens -= spec.deleted->sums.tokens;
        live_.non_empty -= spec.deleted->sums.non_empty;
    }

    const Segment& segment() const { return segment_; }
    uint32_t first() const { return first_; }
    const Statistics& live() const { return live_; }
    bool is_live(uint32_t doc) const { return !deletions_ || !deletions_->is_deleted(doc); }
    // How many live passages have the term.
    uint64_t frequency(uint32_t term) const {
        const uint64_t all = segment_.frequency(term);
        return deletions_ ? all - std::min<uint64_t>(all, deletions_->removed(term)) : all;
    }

private:
    Segment segment_;
    uint32_t first_;
    Statistics live_;
    std::optional<Deletions> deletions_;
};

class Index {
public:
    Index(const std::vector<SegmentSpec>& specs, std::string analyzer, double k1, double b)
        : analyzer_(std::move(analyzer)), k1_(k1), b_(b) {
        for (const SegmentSpec& spec : specs) {
            segments_.push_back(std::make_unique<LiveSegment>(spec, static_cast<uint32_t>(passages_)));
            passages_ += spec.counts.passages;
            const Statistics& live = segments_.back()->live();
            live_.passages += live.passages;
            live_.tokens += live.tokens;
            live_.non_empty += live.non_empty;
        }
        if (passages_ > kMaxPassages) throw std::invalid_argument("more than 2,147,483,647 passages");
    }

    const std::vector<std::unique_ptr<LiveSegment>>& segments() const { return segments_; }
    const Statistics& live() const { return live_; }
    uint64_t passages() const { return passages_; }  // deleted ones included
    const std::string& analyzer() const { return analyzer_; }
    double k1() const { return k1_; }
    double b() const { return b_; }

    // The number of a live passage.
    std::optional<uint32_t> find_id(std::string_view id) const {
        for (const auto& part : segments_) {
            const auto doc = part->segment().find_id(id);
            if (doc && part->is_live(*doc)) return part->first() + *doc;
        }
        return std::nullopt;
    }

    std::string_view id(uint32_t doc) const {
        const LiveSegment& part = segment_of(doc);
        return part.segment().id(doc - part.first());
    }

    std::string text(uint32_t doc) const {
        const LiveSegment& part = segment_of(doc);
        return part.segment().text(doc - part.first());
    }

    void verify() const {
        for (const auto& part : segments_) part->segment().verify();
    }

private:
    const LiveSegment& segment_of(uint32_t doc) const {
        if (doc >= passages_) throw std::out_of_range("no passage has the number " + std::to_string(doc));
        const auto after = std::upper_bound(segments_.begin(), segments_.end(), doc,
                                            [](uint32_t wanted, const auto& part) { return wanted < part->first(); });
        return **std::prev(after);
    }

    std::vector<std::unique_ptr<LiveSegment>> segments_;
    std::string analyzer_;
    double k1_, b_;
    uint64_t passages_ = 0;
    Statistics live_;
};

}  // namespace aslfast
