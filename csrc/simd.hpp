// Finding the large values of an array: the one loop where vectors pay. The machine's best instructions are chosen when
// the program runs; all ways give the same result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace aslfast {

enum class Simd { kScalar, kAvx2, kAvx512 };

inline std::vector<std::string_view> simd_names() {
    std::vector<std::string_view> names{"scalar"};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) names.push_back("avx2");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512bw")) names.push_back("avx512");
#endif
    return names;
}

// The way in use by all threads; set by tests and benchmarks alone.
inline Simd& simd() {
    static Simd level = static_cast<Simd>(simd_names().size() - 1);
    return level;
}

inline void use_simd(std::string_view name) {
    const auto names = simd_names();
    const auto at = std::find(names.begin(), names.end(), name);
    if (at == names.end()) throw std::invalid_argument("this machine has no " + std::string(name));
    simd() = static_cast<Simd>(at - names.begin());
}

// A place in a window of passages, and an upper bound of its score so far.
struct Candidate {
    uint16_t doc;
    uint16_t bound;
};

inline Candidate* find_above_scalar(const uint16_t* values, size_t first, size_t last, uint16_t low, Candidate* out) {
    for (size_t i = first; i < last; ++i)
        if (values[i] >= low) *out++ = {static_cast<uint16_t>(i), values[i]};
    return out;
}

#if defined(__x86_64__)
inline Candidate* take_bits(const uint16_t* values, size_t first, uint64_t bits, Candidate* out) {
    for (; bits != 0; bits &= bits - 1) {
        const auto i = static_cast<size_t>(__builtin_ctzll(bits)) + first;
        *out++ = {static_cast<uint16_t>(i), values[i]};
    }
    return out;
}

__attribute__((target("avx2"))) inline Candidate* find_above_avx2(const uint16_t* values, size_t n, uint16_t low,
                                                                  Candidate* out) {
    const __m256i limit = _mm256_set1_epi16(static_cast<short>(low));
    for (size_t i = 0; i < n; i += 16) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + i));
        const __m256i above = _mm256_cmpeq_epi16(_mm256_max_epu16(v, limit), v);  // two bits of the mask a value
        if (const auto mask = static_cast<uint32_t>(_mm256_movemask_epi8(above)))
            for (uint32_t bits = mask & 0x55555555u; bits != 0; bits &= bits - 1) {
                const size_t at = i + static_cast<size_t>(__builtin_ctz(bits)) / 2;
                *out++ = {static_cast<uint16_t>(at), values[at]};
            }
    }
    return out;
}

__attribute__((target("avx512bw"))) inline Candidate* find_above_avx512(const uint16_t* values, size_t n, uint16_t low,
                                                                        Candidate* out) {
    const __m512i limit = _mm512_set1_epi16(static_cast<short>(low));
    for (size_t i = 0; i < n; i += 64) {
        const uint64_t a = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(values + i), limit);
        const uint64_t b = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(values + i + 32), limit);
        if (const uint64_t bits = a | b << 32) out = take_bits(values, i, bits, out);
    }
    return out;
}
#endif

// Every i < n with values[i] >= low, rising, to `out`, which has room for n. n is a multiple of 64. Returns the end.
inline Candidate* find_above(const uint16_t* values, size_t n, uint16_t low, Candidate* out) {
#if defined(__x86_64__)
    if (simd() == Simd::kAvx512) return find_above_avx512(values, n, low, out);
    if (simd() == Simd::kAvx2) return find_above_avx2(values, n, low, out);
#endif
    return find_above_scalar(values, 0, n, low, out);
}

}  // namespace aslfast
