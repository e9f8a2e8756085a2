// The deletions of a segment of N passages, in one file that is replaced whenever more is deleted:
//   u64 bits[(N + 63) / 64], then {u32 term, u32 passages}[D], sorted by term: how many deleted passages have the term,
// so that a term's document frequency is that of the live passages.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "storage/checksum.hpp"
#include "storage/file_io.hpp"

namespace aslfast {

struct RemovedTerm {
    uint32_t term = 0, passages = 0;
};

class Deletions {
public:
    explicit Deletions(uint64_t passages) : bits_((passages + 63) / 64) {}

    // Throws FileError, FormatError.
    Deletions(const std::string& file, uint64_t checksum, uint64_t passages) : Deletions(passages) {
        const Reader reader(file);
        const uint64_t bits_size = bits_.size() * sizeof(uint64_t);
        if (reader.size() < bits_size || (reader.size() - bits_size) % sizeof(RemovedTerm) != 0)
            throw FormatError(file, "its size is wrong");
        std::string bytes(reader.size(), 0);
        reader.read(0, bytes.data(), bytes.size());
        if (aslfast::checksum(bytes) != checksum) throw FormatError(file, "its checksum is wrong");
        removed_.resize((bytes.size() - bits_size) / sizeof(RemovedTerm));
        std::memcpy(bits_.data(), bytes.data(), bits_size);
        std::memcpy(removed_.data(), bytes.data() + bits_size, bytes.size() - bits_size);
    }

    bool is_deleted(uint32_t doc) const { return bits_[doc / 64] >> doc % 64 & 1; }

    // How many deleted passages have the term.
    uint32_t removed(uint32_t term) const {
        const auto at = std::lower_bound(removed_.begin(), removed_.end(), term,
                                         [](const RemovedTerm& entry, uint32_t wanted) { return entry.term < wanted; });
        return at != removed_.end() && at->term == term ? at->passages : 0;
    }

    const std::vector<uint64_t>& bits() const { return bits_; }
    const std::vector<RemovedTerm>& removed() const { return removed_; }

    void mark(uint32_t doc) { bits_[doc / 64] |= uint64_t{1} << doc % 64; }

    // Adds to the counts. `more`: in any order, no term twice.
    void remove(std::vector<RemovedTerm> more) {
        more.insert(more.end(), removed_.begin(), removed_.end());
        std::sort(more.begin(), more.end(), [](const RemovedTerm& a, const RemovedTerm& b) { return a.term < b.term; });
        removed_.clear();
        for (const RemovedTerm& entry : more) {
            if (removed_.empty() || removed_.back().term != entry.term) removed_.push_back({entry.term, 0});
            removed_.back().passages += entry.passages;
        }
    }

    // Returns the file's checksum.
    uint64_t write(const std::string& file) const {
        std::string bytes(reinterpret_cast<const char*>(bits_.data()), bits_.size() * sizeof(uint64_t));
        bytes.append(reinterpret_cast<const char*>(removed_.data()), removed_.size() * sizeof(RemovedTerm));
        Writer writer(file);
        writer.write(bytes);
        writer.close();
        return checksum(bytes);
    }

private:
    std::vector<uint64_t> bits_;
    std::vector<RemovedTerm> removed_;
};

}  // namespace aslfast
