// Merges several segments, without their deleted passages, into one: the same bytes as a build from the live passages
// in their order. Postings are read as if the segments were runs; texts are cut into new blocks; nothing is analysed.
#pragma once

#include "build/index_builder.hpp"
#include "storage/deletions.hpp"
#include "storage/segment.hpp"
#include "storage/segment_spec.hpp"

namespace aslfast {

// A segment whose live passages get numbers from `first` on.
class MergeSource final : public PostingSource {
public:
    MergeSource(const SegmentSpec& spec, uint32_t first)
        : segment_(spec.folder, spec.counts, spec.checks), deletions_(load(spec)), postings_(spec.counts.postings) {
        for (const RemovedTerm& term : deletions_.removed()) postings_ -= std::min<uint64_t>(postings_, term.passages);
        const uint64_t passages = spec.counts.passages;
        for (uint64_t word = 0; word < deletions_.bits().size(); ++word) {
            before_.push_back(first);
            const uint64_t used = std::min<uint64_t>(64, passages - word * 64);
            first += static_cast<uint32_t>(used) - count_bits(deletions_.bits()[word]);
        }
        end_ = first;
    }

    const Segment& segment() const { return segment_; }
    bool is_live(uint32_t doc) const { return !deletions_.is_deleted(doc); }
    uint32_t end() const { return end_; }  // one past the number of its last live passage

    uint64_t terms() const override { return segment_.counts().terms; }
    std::string_view name(uint64_t term) const override { return segment_.term(static_cast<uint32_t>(term)); }
    uint64_t first_posting(uint64_t term) const override {
        return term == terms() ? segment_.counts().postings : segment_.postings(static_cast<uint32_t>(term)).first;
    }
    uint64_t postings() const override { return postings_; }

    void append(uint64_t term, PostingList& list) const override {
        const Postings postings = segment_.postings(static_cast<uint32_t>(term));
        for (uint32_t window = 0; window < postings.n_windows; ++window) {
            const uint32_t first = static_cast<uint32_t>(postings.windows[window].number) << kWindowBits;
            for (uint32_t i = postings.begin(window); i < postings.end(window); ++i) {
                const uint32_t doc = first + postings.docs[i];
                if (doc >= segment_.counts().passages)
                    throw InputError("a posting names passage " + std::to_string(doc) + ", which does not exist");
                if (!is_live(doc)) continue;
                list.docs.push_back(number(doc));
                list.counts.push_back(segment_.count(postings, i));
            }
        }
    }

private:
    static Deletions load(const SegmentSpec& spec) {
        if (!spec.deleted) return Deletions(spec.counts.passages);
        return Deletions(spec.deleted->file, spec.deleted->checksum, spec.counts.passages);
    }
    static uint32_t count_bits(uint64_t bits) { return static_cast<uint32_t>(__builtin_popcountll(bits)); }

    // The number of a live passage among all live passages.
    uint32_t number(uint32_t doc) const {
        const uint64_t below = (uint64_t{1} << doc % 64) - 1;
        return before_[doc / 64] + count_bits(~deletions_.bits()[doc / 64] & below);
    }

    Segment segment_;
    Deletions deletions_;
    uint64_t postings_;
    std::vector<uint32_t> before_;  // of every 64 passages: the number of the first live one
    uint32_t end_ = 0;
};

class Merger {
public:
    Merger(const std::vector<SegmentSpec>& specs, std::string folder) : folder_(std::move(folder)) {
        uint64_t passages = 0;
        for (const SegmentSpec& spec : specs)
            passages += spec.counts.passages - (spec.deleted ? spec.deleted->sums.passages : 0);
        if (passages > kMaxPassages) throw InputError("an index holds at most 2,147,483,647 passages");
        for (const SegmentSpec& spec : specs) {
            auto source = std::make_unique<MergeSource>(spec, segments_.empty() ? 0 : segments_.back()->end());
            segments_.push_back(source.get());
            sources_.push_back(std::move(source));
        }
    }

    Counts write(double k1, double b, size_t threads) {
        gather();
        TextWriter texts(folder_);
        run_ordered(
            chunks_.size(), threads, [this](size_t i) { return compress(read(chunks_[i]).texts()); },
            [&texts](const Compressed& blocks) { texts.write(blocks); });
        return write_segment(folder_, texts, passages_, sources_, k1, b, threads);
    }

private:
    struct Place {  // of a live passage, or the end
        size_t segment;
        uint32_t doc;
    };

    // Collects ids and lengths, and where each chunk of texts begins.
    void gather() {
        for (size_t s = 0; s < segments_.size(); ++s) {
            const Segment& segment = segments_[s]->segment();
            for (uint32_t doc = 0; doc < segment.counts().passages; ++doc) {
                if (!segments_[s]->is_live(doc)) continue;
                if (passages_.size() % kChunkPassages == 0) chunks_.push_back({s, doc});
                passages_.add_id(segment.id(doc));
                passages_.lengths.push_back(segment.length(doc));
            }
        }
    }

    Chunk read(Place at) const {
        Chunk chunk;
        for (; at.segment < segments_.size() && chunk.ends.size() < kChunkPassages; ++at.segment, at.doc = 0)
            read_segment(*segments_[at.segment], at.doc, chunk);
        return chunk;
    }

    static void read_segment(const MergeSource& source, uint32_t doc, Chunk& chunk) {
        TextBlock block;
        uint64_t block_number = ~uint64_t{0};
        for (; doc < source.segment().counts().passages && chunk.ends.size() < kChunkPassages; ++doc) {
            if (!source.is_live(doc)) continue;
            if (std::exchange(block_number, doc / kBlockPassages) != doc / kBlockPassages)
                source.segment().texts().read(block_number, block);
            chunk.bytes += block.texts[doc % kBlockPassages];
            chunk.ends.push_back(chunk.bytes.size());
        }
    }

    std::string folder_;
    std::vector<const MergeSource*> segments_;  // the same as sources_
    PostingsBuilder::Sources sources_;
    PassageTable passages_;
    std::vector<Place> chunks_;
};

}  // namespace aslfast
