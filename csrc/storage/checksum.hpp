// The checksum of every page of a segment, and of small files as a whole.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace aslfast {

// Four lanes of FNV-1a over 64-bit words. Every step is a bijection of its lane's state and of the word, and the lanes
// are combined by the same step: one changed word always changes the result.
inline uint64_t checksum(std::string_view bytes) {
    constexpr uint64_t kPrime = 0x9E3779B97F4A7C15;
    auto step = [](uint64_t state, uint64_t word) {
        state = (state ^ word) * kPrime;
        return state ^ state >> 32;
    };
    uint64_t lanes[4] = {bytes.size(), 1, 2, 3}, words[4];
    const size_t whole = bytes.size() / sizeof words * sizeof words;
    for (size_t at = 0; at < whole; at += sizeof words) {
        std::memcpy(words, bytes.data() + at, sizeof words);
        for (int i = 0; i < 4; ++i) lanes[i] = step(lanes[i], words[i]);
    }
    std::memset(words, 0, sizeof words);
    if (whole < bytes.size()) std::memcpy(words, bytes.data() + whole, bytes.size() - whole);
    uint64_t state = 0;
    for (int i = 0; i < 4; ++i) state = step(state, step(lanes[i], words[i]));
    return state;
}

}  // namespace aslfast
