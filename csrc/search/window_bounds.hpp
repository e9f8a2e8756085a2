// Scoring one window of 65,536 passages with bounds in integers: scores are scaled so that those of all terms
// together fit 16 bits, and rounded up, so that a passage whose bound is below the limit cannot be among the best.
// The bounds of short lists are added up in an array. Long lists are bounded by their tiles, the highest impact among
// each 32 passages: only where these can lift a passage to the limit is a long list looked at (block-max pruning, Ding
// and Suel 2011, with tiles fixed in passage space as in Mallia et al. 2021). Where that prunes too little, long lists
// are added up like short ones.
#pragma once

#include <cstdlib>
#include <memory>

#include "search/clause.hpp"
#include "search/simd.hpp"

namespace aslfast {

// Upper bounds of the scores of a window's passages.
class WindowBounds {
public:
    WindowBounds()
        : sums_(static_cast<uint16_t*>(std::aligned_alloc(64, kWindowSize * sizeof(uint16_t))), &std::free),
          found_(new Candidate[kWindowSize + 1]),
          rests_(kTiles),
          bests_(kTiles),
          hot_(kTiles) {
        if (!sums_) throw std::bad_alloc();
        std::fill_n(sums_.get(), kWindowSize, uint16_t{0});
    }

    struct Found {
        Candidate *first, *last;
        Candidate* begin() const { return first; }
        Candidate* end() const { return last; }
        size_t size() const { return static_cast<size_t>(last - first); }
    };

    // Starts a window: adds the short lists up. False, and nothing to take, if no passage can reach `limit`.
    bool start(const std::vector<Part>& parts, uint32_t limit) {
        parts_.assign(parts.begin(), parts.end());
        const auto longs =
            std::partition(parts_.begin(), parts_.end(), [](const Part& p) { return p.tiles == nullptr; });
        std::sort(longs, parts_.end(), [](const Part& a, const Part& b) { return a.most > b.most; });
        n_short_ = static_cast<size_t>(longs - parts_.begin());
        done_.clear();
        added_ = 0;
        std::fill(rests_.begin(), rests_.end(), uint16_t{0});
        for (size_t i = n_short_; i < parts_.size(); ++i)
            add_bounds(rests_.data(), parts_[i].tiles->highest, kTiles, parts_[i].clause->factor);
        uint32_t most = highest(rests_.data(), kTiles);
        for (size_t i = 0; i < n_short_; ++i) most += parts_[i].most;
        if (most < limit) return false;
        for (size_t i = 0; i < n_short_; ++i) add(parts_[i]);
        return true;
    }

    // Before there are k hits to compare with: returns all passages of the n most promising tiles or a few more, of
    // those that have not been taken; none if there are no more. Valid until the next call.
    Found take_best_tiles(size_t n) {
        find_bests();
        const uint32_t most = highest(bests_.data(), kTiles), step = most / 16 + 1;
        if (most == 0) return {found_.get(), found_.get()};
        n_hot_ = 0;
        for (uint32_t low = most; n_hot_ < n && low > 0; low = low > step ? low - step : low - 1)
            n_hot_ = find(bests_, low);
        return {found_.get(), take_hot_tiles(1, found_.get())};
    }

    // Returns the passages not taken yet whose bound is at least `limit`, 1 to 65,535; this ends the window. Valid
    // until the next call.
    Found take_rest(uint32_t limit) {
        add_long_lists(limit);
        Candidate* const first = take_hot_tiles(limit, found_.get());
        Candidate* end = first;
        if (added_ < kSparse)
            for (size_t i = 0; i < n_short_; ++i) end = take_short(parts_[i], limit, end);
        else
            end = take_sums(limit, end);
        return {found_.get(), refine(first, end, limit)};
    }

private:
    static constexpr uint64_t kLookUp = 64;    // finding a tile in a list costs as much as adding so many postings
    static constexpr uint64_t kFind = 8;       // the same for finding a passage in a list, many in a row
    static constexpr uint64_t kSparse = 4096;  // postings; below, going through them again beats going through the sums

    void add(const Part& part) {
        const uint16_t* __restrict docs = part.clause->list.docs;
        const uint8_t* __restrict impacts = part.clause->list.impacts;
        const uint32_t factor = part.clause->factor;
        uint16_t* __restrict sums = sums_.get();
        auto add_one = [&](uint32_t i) {
            sums[docs[i]] = static_cast<uint16_t>(sums[docs[i]] + (impacts[i] * factor >> 8) + 1);
        };
        uint32_t i = part.begin;
        for (; i + 4 <= part.end; i += 4) add_one(i), add_one(i + 1), add_one(i + 2), add_one(i + 3);
        for (; i < part.end; ++i) add_one(i);
        added_ += part.size();
    }

    // Makes short ones of the long lists with the highest bounds, until the tiles where the others alone reach the
    // limit are so few that looking into them costs less than adding the next list.
    void add_long_lists(uint32_t limit) {
        for (n_hot_ = find(rests_, limit); n_hot_ > 0 && n_short_ < parts_.size(); n_hot_ = find(rests_, limit)) {
            const Part& part = parts_[n_short_];
            if (n_hot_ * (parts_.size() - n_short_) * kLookUp < part.size()) break;
            add(part);
            subtract_bounds(rests_.data(), part.tiles->highest, kTiles, part.clause->factor);
            for (const uint32_t tile : done_) rests_[tile] = 0;
            ++n_short_;
        }
        for (const uint32_t tile : done_) std::fill_n(sums_.get() + (tile << kTileBits), 1u << kTileBits, uint16_t{0});
    }

    size_t find(const std::vector<uint16_t>& tiles, uint32_t limit) {
        return static_cast<size_t>(
            find_above(tiles.data(), nullptr, kTiles / 32, static_cast<uint16_t>(limit), hot_.data()) - hot_.data());
    }

    // The highest bound of each tile's passages, by long and short lists.
    void find_bests() {
        std::fill(bests_.begin(), bests_.end(), uint16_t{0});
        for (size_t i = 0; i < n_short_; ++i) {
            const Part& part = parts_[i];
            for (uint32_t at = part.begin; at < part.end; ++at) {
                const uint16_t doc = part.clause->list.docs[at];
                bests_[doc >> kTileBits] = std::max(bests_[doc >> kTileBits], sums_[doc]);
            }
        }
        for (size_t tile = 0; tile < kTiles; ++tile) bests_[tile] = static_cast<uint16_t>(bests_[tile] + rests_[tile]);
    }

    // Adds the long lists up in the hot tiles and takes what reaches the limit there; the tiles are done then.
    Candidate* take_hot_tiles(uint32_t limit, Candidate* out) {
        for (size_t h = 0; h < n_hot_; ++h) prefetch(static_cast<uint32_t>(hot_[h].doc) << kTileBits);
        for (size_t h = 0; h < n_hot_; ++h) {
            const uint32_t tile = hot_[h].doc, first = tile << kTileBits;
            uint16_t* sums = sums_.get() + first;
            for (size_t i = n_short_; i < parts_.size(); ++i) add_tile(parts_[i], tile);
            for (uint32_t i = 0; i < 1u << kTileBits; ++i) {
                *out = {static_cast<uint16_t>(first + i), sums[i]};
                out += sums[i] >= limit;
                sums[i] = 0;
            }
            rests_[tile] = 0;
            done_.push_back(tile);
        }
        return out;
    }

    void prefetch(uint32_t doc) const {
        for (size_t i = n_short_; i < parts_.size(); ++i)
            if (parts_[i].tiles->highest[doc >> kTileBits] > 0) prefetch_posting(parts_[i], doc);
    }

    void add_tile(const Part& part, uint32_t tile) {
        if (part.tiles->highest[tile] == 0) return;
        const Postings& list = part.clause->list;
        for (uint32_t i = lower_posting(part, tile << kTileBits); i < part.end && list.docs[i] >> kTileBits == tile;
             ++i)
            sums_[list.docs[i]] = static_cast<uint16_t>(sums_[list.docs[i]] + part.clause->bound_of(list.impacts[i]));
    }

    // Takes the passages of a short list that long lists may lift to the limit, zeroing the sums it looked at so that
    // nothing is taken twice.
    Candidate* take_short(const Part& part, uint32_t limit, Candidate* out) {
        const uint16_t* docs = part.clause->list.docs;
        for (uint32_t i = part.begin; i < part.end; ++i) {
            const uint16_t doc = docs[i], sum = sums_[doc];
            sums_[doc] = 0;
            *out = {doc, sum};
            out += sum + rests_[doc >> kTileBits] >= limit;  // a sum of 0 is not: tiles that reach it were taken
        }
        return out;
    }

    // The same from the sums of all passages.
    Candidate* take_sums(uint32_t limit, Candidate* out) {
        Candidate* const end = find_above(sums_.get(), rests_.data(), kTiles, static_cast<uint16_t>(limit), out);
        std::fill_n(sums_.get(), kWindowSize, uint16_t{0});
        return end;
    }

    // Adds the long lists' own postings, list after list; keeps what reaches the limit.
    Candidate* refine(Candidate* first, Candidate* last, uint32_t limit) {
        for (size_t i = n_short_; i < parts_.size() && first < last; ++i) {
            const Part& part = parts_[i];
            subtract_bounds(rests_.data(), part.tiles->highest, kTiles, part.clause->factor);
            if (static_cast<uint64_t>(last - first) * kFind > part.size())
                add_through_sums(part, first, last);
            else
                add_found(part, first, last);
            last = std::remove_if(first, last, [this, limit](const Candidate& c) {
                return c.bound + rests_[c.doc >> kTileBits] < limit;
            });
        }
        return last;
    }

    void add_found(const Part& part, Candidate* first, Candidate* last) const {
        for (const Candidate* c = first; c < last; ++c) prefetch_posting(part, c->doc);
        for (Candidate* c = first; c < last; ++c) {
            if (part.tiles->highest[c->doc >> kTileBits] == 0) continue;
            const uint32_t at = find_posting(part, c->doc);
            if (at != kFree)
                c->bound = static_cast<uint16_t>(c->bound + part.clause->bound_of(part.clause->list.impacts[at]));
        }
    }

    // The same when the candidates are many.
    void add_through_sums(const Part& part, Candidate* first, Candidate* last) {
        for (const Candidate* c = first; c < last; ++c) sums_[c->doc] = c->bound;
        add(part);
        for (Candidate* c = first; c < last; ++c) c->bound = std::exchange(sums_[c->doc], uint16_t{0});
        for (uint32_t i = part.begin; i < part.end; ++i) sums_[part.clause->list.docs[i]] = 0;
    }

    std::unique_ptr<uint16_t[], decltype(&std::free)> sums_;  // zero between windows
    std::vector<Part> parts_;                                 // n_short_ short lists, then long ones
    size_t n_short_ = 0;
    uint64_t added_ = 0;  // postings in the sums
    std::unique_ptr<Candidate[]> found_;
    std::vector<uint16_t> rests_;  // of each tile: what the long lists can add to a passage
    std::vector<uint16_t> bests_;  // the same with the short lists
    std::vector<Candidate> hot_;   // the first n_hot_: tiles to add the long lists up in
    size_t n_hot_ = 0;
    std::vector<uint32_t> done_;  // tiles that have been taken
};

}  // namespace aslfast
