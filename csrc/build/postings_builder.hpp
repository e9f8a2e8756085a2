// Runs in, terms.bin, windows.bin, postings.bin and tiles.bin out. Terms are cut into ranges of about a million
// postings; threads merge the runs range by range, and the results are written in order.
#pragma once

#include <memory>

#include "build/run.hpp"
#include "storage/errors.hpp"
#include "storage/file_io.hpp"
#include "storage/format.hpp"
#include "threads.hpp"

namespace aslfast {

// impact() of storage/format.hpp, from a table for the counts and lengths that are common.
class Impacts {
public:
    explicit Impacts(const Norm& norm) : norm_(norm) {
        for (uint32_t count = 0; count < kCounts; ++count)
            for (uint32_t length = 0; length < kLengths; ++length)
                table_[count * kLengths + length] = count ? impact(count, norm.at(length)) : uint8_t{0};
    }
    uint8_t at(uint32_t count, uint32_t length) const {
        if (count < kCounts && length < kLengths) return table_[count * kLengths + length];
        return impact(count, norm_.at(length));
    }

private:
    static constexpr uint32_t kCounts = 8, kLengths = 512;
    Norm norm_;
    std::vector<uint8_t> table_ = std::vector<uint8_t>(kCounts * kLengths);
};

class PostingsBuilder {
public:
    using Sources = std::vector<std::unique_ptr<PostingSource>>;

    // lengths: of all passages.
    PostingsBuilder(const std::string& folder, const Sources& sources, const std::vector<uint32_t>& lengths,
                    const Norm& norm)
        : sources_(sources),
          lengths_(lengths),
          impacts_(norm),
          terms_(folder + "/" + kTermsFile),
          windows_(folder + "/" + kWindowsFile),
          postings_(folder + "/" + kPostingsFile),
          tiles_file_(folder + "/" + kTilesFile) {
        for (const auto& source : sources) total_ += source->postings();
        impacts_at_ = align(total_ * sizeof(uint16_t));
        counts_at_ = align(impacts_at_ + total_);
    }

    // Adds to `counts` what is in the files.
    void write(size_t threads, Counts& counts) {
        const std::vector<Cut> cuts = cut();
        run_ordered(
            cuts.size() - 1, threads, [&](size_t i) { return merge(cuts[i], cuts[i + 1]); },
            [&](Piece piece) { write(piece); });
        if (next_.posting != total_) throw InputError("the runs do not have the postings they announced");
        counts.terms = hashes_.size();
        counts.windows = next_.window;
        counts.postings = total_;
        counts.tiled = next_.tiles;
        counts.big_counts = big_.size();
        postings_.skip_to(align(counts_at_ + total_));
        postings_.write(big_);
        postings_.finish();
        windows_.finish();
        tiles_file_.finish();
        finish_terms();
    }

private:
    using Cut = std::vector<uint64_t>;  // of each source: the first term that is not before the cut

    struct Piece {  // the merged lists of a range of terms
        std::string names;
        std::vector<Term> terms;  // where they start, within the piece
        std::vector<uint32_t> hashes;
        std::vector<Window> windows;
        std::vector<uint16_t> docs;
        std::vector<uint8_t> impacts, counts;
        std::vector<BigCount> big;
        std::vector<Tiles> tiles;
    };

    // Of the names at every so many postings of each of S sources, every S-th: pieces of about kPieceSize postings,
    // whether the sources are alike or not.
    std::vector<Cut> cut() const {
        const size_t step = std::max<size_t>(sources_.size(), 1);
        std::vector<std::string_view> names;
        for (const auto& source : sources_) {
            uint64_t last = 0;
            for (uint64_t term = 0; term < source->terms(); ++term) {
                if (source->first_posting(term) - last < kPieceSize / step) continue;
                names.push_back(source->name(term));
                last = source->first_posting(term);
            }
            source->release();
        }
        std::sort(names.begin(), names.end());
        std::vector<Cut> cuts{Cut(sources_.size(), 0)};
        for (size_t i = step; i <= names.size(); i += step) cuts.push_back(find(names[i - 1]));
        cuts.emplace_back();
        for (const auto& source : sources_) cuts.back().push_back(source->terms());
        return cuts;
    }

    Cut find(std::string_view name) const {
        Cut cut;
        for (const auto& source : sources_) {
            uint64_t low = 0, high = source->terms();
            while (low < high) {
                const uint64_t middle = (low + high) / 2;
                if (source->name(middle) < name)
                    low = middle + 1;
                else
                    high = middle;
            }
            cut.push_back(low);
        }
        return cut;
    }

    Piece merge(Cut at, const Cut& end) const {
        Piece piece;
        PostingList list;
        for (;;) {
            bool more = false;
            std::string_view name;
            for (size_t s = 0; s < at.size(); ++s) {
                if (at[s] == end[s]) continue;
                const std::string_view own = sources_[s]->name(at[s]);
                if (!more || own < name) name = own;
                more = true;
            }
            if (!more) return piece;
            list.clear();
            for (size_t s = 0; s < at.size(); ++s)
                if (at[s] < end[s] && sources_[s]->name(at[s]) == name) sources_[s]->append(at[s]++, list);
            if (!list.docs.empty()) add(name, list, piece);
        }
    }

    void add(std::string_view name, const PostingList& list, Piece& piece) const {
        piece.terms.push_back({piece.names.size(), piece.windows.size(), piece.tiles.size(), piece.docs.size()});
        piece.names += name;
        piece.hashes.push_back(static_cast<uint32_t>(hash(name)));
        const size_t first = piece.docs.size(), n = list.docs.size(), first_window = piece.windows.size();
        encode_docs(list.docs.data(), n, piece.docs, piece.windows);
        piece.impacts.resize(first + n);
        piece.counts.resize(first + n);
        for (size_t i = 0; i < n; ++i) {
            const uint32_t count = list.counts[i];
            piece.impacts[first + i] = impacts_.at(count, lengths_[list.docs[i]]);
            piece.counts[first + i] = static_cast<uint8_t>(std::min<uint32_t>(count, kBigCount));
            if (count >= kBigCount) piece.big.push_back({first + i, count, 0});
        }
        add_highest(first, first_window, piece);
    }

    // The highest impact of each window of a term and, where a window has enough postings, of its tiles.
    static void add_highest(size_t first, size_t first_window, Piece& piece) {
        uint32_t begin = 0;
        for (size_t w = first_window; w < piece.windows.size(); ++w) {
            Window& window = piece.windows[w];
            const uint8_t* impacts = piece.impacts.data() + first;
            window.max_impact = *std::max_element(impacts + begin, impacts + window.end);
            if (window.end - begin >= kTiledPostings) {
                piece.tiles.push_back(tiles_of(piece.docs.data() + first + begin, impacts + begin, window.end - begin));
            }
            begin = window.end;
        }
    }

    static Tiles tiles_of(const uint16_t* docs, const uint8_t* impacts, uint32_t n) {
        Tiles tiles{};
        uint32_t group = 0;
        for (uint32_t i = 0; i < n; ++i) {
            uint8_t& highest = tiles.highest[docs[i] >> kTileBits];
            highest = std::max(highest, impacts[i]);
            while (group <= docs[i] / kGroupSize) tiles.starts[group++] = static_cast<uint16_t>(i);
        }
        while (group < kGroups) tiles.starts[group++] = static_cast<uint16_t>(n);  // n fits: the last group is empty
        return tiles;
    }

    void write(Piece& piece) {
        for (Term& term : piece.terms)
            term = {term.name + next_.name, term.window + next_.window, term.tiles + next_.tiles,
                    term.posting + next_.posting};
        for (BigCount& big : piece.big) big_.push_back({big.posting + next_.posting, big.count, 0});
        tiles_file_.write(piece.tiles);
        terms_.write(piece.terms);
        windows_.write(piece.windows);
        postings_.write_at(next_.posting * sizeof(uint16_t), piece.docs);
        postings_.write_at(impacts_at_ + next_.posting, piece.impacts);
        postings_.write_at(counts_at_ + next_.posting, piece.counts);
        names_ += piece.names;
        hashes_.insert(hashes_.end(), piece.hashes.begin(), piece.hashes.end());
        next_ = {next_.name + piece.names.size(), next_.window + piece.windows.size(), next_.tiles + piece.tiles.size(),
                 next_.posting + piece.docs.size()};
        for (const auto& source : sources_) source->release();
    }

    void finish_terms() {
        if (hashes_.size() > kMaxTerms) throw InputError("an index holds at most 2,147,483,647 different terms");
        terms_.write(&next_, sizeof next_);
        terms_.pad();
        std::vector<uint32_t> slots(slot_count(hashes_.size()), kFree);
        for (uint32_t term = 0; term < hashes_.size(); ++term) {
            uint64_t at = hashes_[term] & (slots.size() - 1);
            while (slots[at] != kFree) at = (at + 1) & (slots.size() - 1);
            slots[at] = term;
        }
        terms_.write(slots);
        terms_.pad();
        terms_.write(names_);
        terms_.finish();
    }

    static constexpr uint64_t kPieceSize = 1 << 20;  // postings: a few MB of results per thread
    const Sources& sources_;
    const std::vector<uint32_t>& lengths_;
    Impacts impacts_;
    Writer terms_, windows_, postings_, tiles_file_;
    uint64_t total_ = 0, impacts_at_ = 0, counts_at_ = 0;
    Term next_{};
    std::vector<BigCount> big_;
    std::string names_;
    std::vector<uint32_t> hashes_;  // of the terms; 32 bits are as many as there can be slots
};

}  // namespace aslfast
