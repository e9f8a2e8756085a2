// From texts to numbers of terms, for building: a word is analysed at its first occurrence and looked up from then on.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "text/analyzer.hpp"

namespace aslfast {

class TermStream {
public:
    static constexpr size_t kCacheBytes = size_t{32} << 20;

    // cache_bytes is rounded down to a power of two; two thirds of it get used, and half as much again while it grows.
    explicit TermStream(std::string_view analyzer, size_t cache_bytes = kCacheBytes)
        : analyzer_(analyzer), most_slots_(cache_bytes / sizeof(Slot)), slots_(kFirstSlots) {}

    // Calls take(number) for every term of the text, in order. number(term) gives the number of a term, always the same
    // one and below 2^32 - 1; it is called at a word's first occurrence, and again for words that do not fit the cache.
    template <class Number, class Take>
    void analyze_numbers(std::string_view text, Number&& number, Take&& take) {
        analyzer_.each_word(text, [&](std::string_view word, const char* end, auto& rules) {
            auto work_out = [&]() -> uint32_t {
                const std::string_view term = rules.term(word);
                return term.empty() ? kStop : number(term);
            };
            const uint32_t found = cacheable(word) ? look_up(key_of(word, end), work_out) : work_out();
            if (found != kStop) take(found);
        });
    }

    // Empties the cache: to be called before the numbers get another meaning.
    void forget() { slots_.assign(kFirstSlots, {}), used_ = 0; }

private:
    static constexpr size_t kKeyBytes = 12;  // 99% of English words are no longer; 16-byte slots, four to a cache line
    static constexpr size_t kFirstSlots = size_t{1} << 12;
    static constexpr uint32_t kStop = 0xFFFFFFFF;

    // A word, filled up with zero bytes, and its number. All zero: free.
    struct Slot {
        uint64_t low = 0;
        uint32_t high = 0;
        uint32_t number = 0;
        bool holds(const Slot& key) const { return low == key.low && high == key.high; }
        bool is_free() const { return (low | high) == 0; }
    };

    static bool cacheable(std::string_view word) { return word.size() <= kKeyBytes && word.back() != '\0'; }

    // Reads twelve bytes at once where the text, or a term's buffer, goes on for that long: `end` is where it ends.
    static Slot key_of(std::string_view word, const char* end) {
        const char* p = word.data();
        char copy[kKeyBytes] = {};
        if (end - p < static_cast<ptrdiff_t>(kKeyBytes)) p = static_cast<char*>(std::memcpy(copy, p, word.size()));
        Slot key;
        std::memcpy(&key.low, p, 8);
        std::memcpy(&key.high, p + 8, 4);
        const size_t bits = word.size() * 8;
        key.low &= bits < 64 ? (uint64_t{1} << bits) - 1 : ~uint64_t{0};
        key.high &= bits > 64 ? ~uint32_t{0} >> (96 - bits) : 0;
        return key;
    }

    size_t home(const Slot& key) const {
        const auto product =
            static_cast<unsigned __int128>(key.low ^ key.high * 0x9E3779B97F4A7C15) * 0xD6E8FEB86659FD93;
        return (static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64)) & (slots_.size() - 1);
    }

    template <class WorkOut>
    uint32_t look_up(Slot key, WorkOut&& work_out) {
        for (size_t at = home(key); !slots_[at].is_free(); at = (at + 1) & (slots_.size() - 1))
            if (slots_[at].holds(key)) return slots_[at].number;
        key.number = work_out();
        add(key);
        return key.number;
    }

    // A full cache is emptied: frequent words come back at once, and the others cost as much as they did at first.
    void add(const Slot& key) {
        if ((used_ + 1) * 3 > slots_.size() * 2) {
            if (slots_.size() * 2 > most_slots_)
                forget();
            else
                grow();
        }
        insert(key);
        ++used_;
    }

    void insert(const Slot& key) {
        size_t at = home(key);
        while (!slots_[at].is_free()) at = (at + 1) & (slots_.size() - 1);
        slots_[at] = key;
    }

    void grow() {
        std::vector<Slot> old(slots_.size() * 2);
        old.swap(slots_);
        for (const Slot& slot : old)
            if (!slot.is_free()) insert(slot);
    }

    Analyzer analyzer_;
    size_t most_slots_;
    std::vector<Slot> slots_;
    size_t used_ = 0;
};

}  // namespace aslfast
