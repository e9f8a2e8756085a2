// The passages' texts: blocks of 32, compressed with LZ4 (blocks.bin and texts.bin of storage/format.hpp).
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "storage/errors.hpp"
#include "storage/format.hpp"
#include "storage/lz4/lz4.h"
#include "storage/paged_file.hpp"

namespace aslfast {

// Appends one block of at most 32 texts to `out`; `raw` is scratch. The bytes do not depend on what was compressed
// before.
inline void compress_block(const std::string_view* texts, size_t n, std::string& raw, std::string& out) {
    raw.clear();
    for (size_t i = 0; i < n; ++i) {
        const auto size = static_cast<uint32_t>(texts[i].size());
        if (texts[i].size() > LZ4_MAX_INPUT_SIZE) throw InputError("a passage has more than 2 GB of text");
        raw.append(reinterpret_cast<const char*>(&size), sizeof size);
    }
    for (size_t i = 0; i < n; ++i) raw += texts[i];
    if (raw.size() > LZ4_MAX_INPUT_SIZE) throw InputError("32 passages in a row have more than 2 GB of text");
    const auto raw_size = static_cast<uint32_t>(raw.size());
    const size_t before = out.size();
    out.resize(before + sizeof raw_size + static_cast<size_t>(LZ4_compressBound(static_cast<int>(raw_size))));
    std::memcpy(out.data() + before, &raw_size, sizeof raw_size);
    const int size = LZ4_compress_default(raw.data(), out.data() + before + sizeof raw_size, static_cast<int>(raw_size),
                                          LZ4_compressBound(static_cast<int>(raw_size)));
    out.resize(before + sizeof raw_size + static_cast<size_t>(size));
}

// Some texts, one after another in memory.
struct TextBlock {
    std::string raw;
    std::vector<std::string_view> texts;  // into raw
};

class TextReader {
public:
    // The files outlive this.
    TextReader(const PagedFile& blocks, const PagedFile& texts, uint64_t passages)
        : blocks_(blocks), texts_(texts), passages_(passages) {}

    std::string text(uint32_t doc) const {
        TextBlock block;
        read(doc / kBlockPassages, block);
        return std::string(block.texts[doc % kBlockPassages]);
    }

    // The 32 texts (the last block: fewer) from passage 32 * number on. Throws FormatError where the files are damaged,
    // however.
    void read(uint64_t number, TextBlock& block) const {
        const std::string_view packed = this->packed(number);
        uint32_t raw_size = 0;
        const uint64_t n = std::min<uint64_t>(kBlockPassages, passages_ - number * kBlockPassages);
        if (packed.size() < sizeof raw_size) texts_.fail("a block is too short");
        std::memcpy(&raw_size, packed.data(), sizeof raw_size);
        const uint64_t most = 255 * packed.size();  // LZ4 cannot do better: allocate no memory for a forged size
        if (packed.size() > LZ4_MAX_INPUT_SIZE || raw_size > LZ4_MAX_INPUT_SIZE || raw_size > most ||
            raw_size < n * sizeof(uint32_t))
            texts_.fail("the size of a block is wrong");
        block.raw.resize(raw_size);
        const int size =
            LZ4_decompress_safe(packed.data() + sizeof raw_size, block.raw.data(),
                                static_cast<int>(packed.size() - sizeof raw_size), static_cast<int>(raw_size));
        if (size < 0 || static_cast<uint32_t>(size) != raw_size) texts_.fail("a block cannot be decompressed");
        split(n, block);
    }

private:
    std::string_view packed(uint64_t number) const {
        if (number >= (passages_ + kBlockPassages - 1) / kBlockPassages) blocks_.fail("it has fewer blocks");
        blocks_.need(number * sizeof(uint64_t), 2 * sizeof(uint64_t));
        const auto* offsets = reinterpret_cast<const uint64_t*>(blocks_.data()) + number;
        if (offsets[1] < offsets[0]) blocks_.fail("its offsets are wrong");
        texts_.need(offsets[0], offsets[1] - offsets[0]);
        return {texts_.data() + offsets[0], offsets[1] - offsets[0]};
    }

    void split(uint64_t n, TextBlock& block) const {
        block.texts.clear();
        uint64_t at = n * sizeof(uint32_t);
        for (uint64_t i = 0; i < n; ++i) {
            uint32_t size = 0;
            std::memcpy(&size, block.raw.data() + i * sizeof size, sizeof size);
            if (size > block.raw.size() - at) texts_.fail("a text is longer than its block");
            block.texts.emplace_back(block.raw.data() + at, size);
            at += size;
        }
    }

    const PagedFile& blocks_;
    const PagedFile& texts_;
    uint64_t passages_;
};

}  // namespace aslfast
