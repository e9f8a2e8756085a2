// A hash table from term to number (0, 1, 2, ... in order of arrival); the terms lie one after another in one buffer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace aslfast {

class Vocabulary {
public:
    uint32_t size() const { return static_cast<uint32_t>(offsets_.size() - 1); }
    std::string_view term(uint32_t id) const {
        return std::string_view(bytes_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
    }

    // The number of the term, which is added if it is new.
    uint32_t add(std::string_view term) {
        const auto hash = static_cast<uint32_t>(std::hash<std::string_view>{}(term));
        size_t at = hash & (slots_.size() - 1);
        for (; slots_[at].id != kFree; at = (at + 1) & (slots_.size() - 1))
            if (slots_[at].hash == hash && this->term(slots_[at].id) == term) return slots_[at].id;
        const uint32_t id = size();
        slots_[at] = {hash, id};
        bytes_ += term;
        offsets_.push_back(bytes_.size());
        if (size() * 2u > slots_.size()) grow();
        return id;
    }

private:
    static constexpr uint32_t kFree = 0xFFFFFFFF;
    struct Slot {
        uint32_t hash = 0;
        uint32_t id = kFree;
    };

    void grow() {
        std::vector<Slot> old(slots_.size() * 2);
        old.swap(slots_);
        for (const Slot& slot : old) {
            if (slot.id == kFree) continue;
            size_t at = slot.hash & (slots_.size() - 1);
            while (slots_[at].id != kFree) at = (at + 1) & (slots_.size() - 1);
            slots_[at] = slot;
        }
    }

    std::vector<Slot> slots_ = std::vector<Slot>(1024);
    std::string bytes_;
    std::vector<uint64_t> offsets_{0};
};

}  // namespace aslfast
