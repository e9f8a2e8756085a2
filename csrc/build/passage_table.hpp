// The passages' lengths and ids: gathered in memory (14 bytes a passage and the id's own), then passages.bin.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "storage/errors.hpp"
#include "storage/file_io.hpp"
#include "storage/format.hpp"

namespace aslfast {

// Two passages with one id, numbered in order of arrival.
struct DuplicateId : std::runtime_error {
    DuplicateId(std::string_view id, uint32_t first, uint32_t second)
        : std::runtime_error(std::string(id)), first(first), second(second) {}
    uint32_t first, second;
};

class PassageTable {
public:
    std::vector<uint32_t> lengths;

    void add_id(std::string_view id) {
        if (id_ends_.size() == kMaxPassages) throw InputError("an index holds at most 2,147,483,647 passages");
        ids_ += id;
        id_ends_.push_back(ids_.size());
    }

    uint32_t size() const { return static_cast<uint32_t>(id_ends_.size() - 1); }

    void count(Counts& counts) const {
        counts.passages = lengths.size();
        for (const uint32_t length : lengths) {
            counts.tokens += length;
            counts.non_empty += length > 0;
        }
    }

    // Throws DuplicateId for the first passage whose id was there before.
    void write(const std::string& folder) const {
        Writer file(folder + "/" + kPassagesFile);
        file.write(lengths);
        file.pad();
        file.write(id_ends_);
        file.pad();
        file.write(slots());
        file.pad();
        file.write(ids_);
        file.finish();
    }

private:
    std::string_view id(uint32_t doc) const { return {ids_.data() + id_ends_[doc], id_ends_[doc + 1] - id_ends_[doc]}; }

    // The ids' hashes are computed a little ahead, so that the slots are prefetched when they are needed.
    std::vector<uint32_t> slots() const {
        std::vector<uint32_t> slots(slot_count(size()), kFree);
        const uint64_t mask = slots.size() - 1;
        constexpr uint32_t kAhead = 16;
        uint64_t next[kAhead] = {};
        for (uint64_t ahead = 0; ahead < uint64_t{size()} + kAhead; ++ahead) {
            uint64_t at = next[ahead % kAhead];
            if (ahead < size()) {
                next[ahead % kAhead] = hash(id(static_cast<uint32_t>(ahead))) & mask;
                __builtin_prefetch(&slots[next[ahead % kAhead]], 1);
            }
            if (ahead < kAhead) continue;
            const auto doc = static_cast<uint32_t>(ahead - kAhead);
            for (; slots[at] != kFree; at = (at + 1) & mask)
                if (id(slots[at]) == id(doc)) throw DuplicateId(id(doc), slots[at], doc);
            slots[at] = doc;
        }
        return slots;
    }

    std::string ids_;
    std::vector<uint64_t> id_ends_{0};
};

}  // namespace aslfast
