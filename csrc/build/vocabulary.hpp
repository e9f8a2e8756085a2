// A hash table from term to number (0, 1, 2, ... in order of arrival); the terms lie one after another in one buffer.
// A slot has the first eight bytes of its term: most are found with a single look into memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "storage/format.hpp"

namespace aslfast {

class Vocabulary {
public:
    uint32_t size() const { return static_cast<uint32_t>(offsets_.size() - 1); }
    std::string_view term(uint32_t id) const { return {bytes_.data() + offsets_[id], offsets_[id + 1] - offsets_[id]}; }

    // The number of the term, which is added if it is new.
    uint32_t add(std::string_view term) {
        Slot wanted = make_slot(term);
        size_t at = wanted.tag & (slots_.size() - 1);
        for (; slots_[at].id != kFree; at = (at + 1) & (slots_.size() - 1))
            if (slots_[at].start == wanted.start && slots_[at].tag == wanted.tag &&
                (term.size() <= kShort || this->term(slots_[at].id) == term))
                return slots_[at].id;
        wanted.id = size();
        slots_[at] = wanted;
        bytes_ += term;
        offsets_.push_back(bytes_.size());
        if (size() * 2u > slots_.size()) grow();
        return wanted.id;
    }

private:
    struct Slot {
        uint64_t start = 0;  // of a short term: all of it and its size; else the first eight bytes
        uint32_t tag = 0;    // hash; the highest bit says that the term is short
        uint32_t id = kFree;
    };
    static constexpr size_t kShort = 7;
    static constexpr uint32_t kShortBit = 1u << 31;

    static uint64_t first_bytes(const char* bytes, size_t size) {
        if (size > kShort) return load<uint64_t>(bytes);
        uint64_t start = uint64_t{size} << 56;
        if (size >= 4) {  // two loads that overlap, the common bytes shifted out of the second
            const uint64_t end = load<uint32_t>(bytes + size - 4);
            return start | load<uint32_t>(bytes) | end >> (8 - size) * 8 << 32;
        }
        for (size_t i = 0; i < size; ++i) start |= uint64_t{static_cast<unsigned char>(bytes[i])} << i * 8;
        return start;
    }

    template <class T>
    static T load(const char* bytes) {
        T value;
        std::memcpy(&value, bytes, sizeof value);
        return value;
    }

    static Slot make_slot(std::string_view term) {
        const uint64_t start = first_bytes(term.data(), term.size());
        const uint64_t rest = term.size() <= 8 ? 0 : hash(term.substr(8));
        const auto product = static_cast<unsigned __int128>(start ^ rest) * 0x9E3779B97F4A7C15;
        const uint64_t mixed = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
        const auto tag = static_cast<uint32_t>(mixed ^ mixed >> 32);
        return {start, term.size() <= kShort ? tag | kShortBit : tag & ~kShortBit, kFree};
    }

    void grow() {
        std::vector<Slot> old(slots_.size() * 2);
        old.swap(slots_);
        for (const Slot& slot : old) {
            if (slot.id == kFree) continue;
            size_t at = slot.tag & (slots_.size() - 1);
            while (slots_[at].id != kFree) at = (at + 1) & (slots_.size() - 1);
            slots_[at] = slot;
        }
    }

    std::vector<Slot> slots_ = std::vector<Slot>(1024);
    std::string bytes_;
    std::vector<uint64_t> offsets_{0};
};

}  // namespace aslfast
