// The texts of a build: compressed blocks of passages, written in order.
#pragma once

#include "storage/texts.hpp"

namespace aslfast {

// The compressed blocks of some passages.
struct Compressed {
    std::string bytes;
    std::vector<uint64_t> ends;
};

inline Compressed compress(const std::vector<std::string_view>& texts) {
    Compressed blocks;
    std::string raw;
    for (size_t i = 0; i < texts.size(); i += kBlockPassages) {
        compress_block(&texts[i], std::min<size_t>(kBlockPassages, texts.size() - i), raw, blocks.bytes);
        blocks.ends.push_back(blocks.bytes.size());
    }
    return blocks;
}

// Writes texts.bin, and then blocks.bin.
class TextWriter {
public:
    explicit TextWriter(std::string folder) : folder_(std::move(folder)), texts_(folder_ + "/" + kTextsFile) {}

    void write(const Compressed& blocks) {
        for (const uint64_t end : blocks.ends) offsets_.push_back(texts_.size() + end);
        texts_.write(blocks.bytes);
    }

    void finish() {
        texts_.finish();
        Writer file(folder_ + "/" + kBlocksFile);
        file.write(offsets_);
        file.finish();
    }

private:
    std::string folder_;
    Writer texts_;
    std::vector<uint64_t> offsets_{0};
};

}  // namespace aslfast
