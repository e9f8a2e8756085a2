// The loops that gain from vector instructions: over all sums of a window, or all its tiles. The machine's best
// instructions are chosen at run time; all of them give the same result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace aslfast {

enum class Simd { kScalar, kAvx2, kAvx512 };

#if defined(__x86_64__)
// Whether the processor has what a bit of leaf 7 stands for, and the system saves its registers (XCR0). Not by
// __builtin_cpu_supports: linked by zig it knows nothing, since nobody fills its table.
inline bool cpu_has(uint32_t leaf7_ebx, uint32_t saved) {
    uint32_t a = 0, b = 0, c = 0, d = 0, xcr0 = 0, high = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return false;  // OSXSAVE
    __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    if ((xcr0 & saved) != saved) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & leaf7_ebx) == leaf7_ebx;
}
#endif

inline std::vector<std::string_view> simd_names() {
    std::vector<std::string_view> names{"scalar"};
#if defined(__x86_64__)
    constexpr uint32_t kAvx2Bit = 1u << 5, kAvx512F = 1u << 16, kAvx512Bw = 1u << 30;
    if (cpu_has(kAvx2Bit, 0x06)) names.push_back("avx2");
    if (cpu_has(kAvx2Bit | kAvx512F | kAvx512Bw, 0xE6)) names.push_back("avx512");
#endif
    return names;
}

// The instructions that all threads use; only tests and benchmarks set them.
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

// A passage of a window, and the bound of its score.
struct Candidate {
    uint16_t doc;
    uint16_t bound;
};

// Each function is written once; the compiler generates a version of it for each instruction set.
#define ASLFAST_INLINE inline __attribute__((always_inline))

// Every i < 32 * n with values[i] + rests[i / 32] >= limit and values[i] > 0, rising, to `out`, which has room for all;
// limit > 0. Without `rests`: values[i] >= limit. Returns the end.
ASLFAST_INLINE Candidate* find_above_any(const uint16_t* values, const uint16_t* rests, size_t n, uint16_t limit,
                                         Candidate* out) {
    for (size_t tile = 0; tile < n; ++tile) {
        const uint16_t rest = rests ? rests[tile] : 0, low = limit > rest ? static_cast<uint16_t>(limit - rest) : 1;
        for (size_t i = tile * 32; i < tile * 32 + 32; ++i)
            if (values[i] >= low) *out++ = {static_cast<uint16_t>(i), values[i]};
    }
    return out;
}

// What a clause's impact can add to a bound: the same in every version, and in bound_of().
ASLFAST_INLINE void add_bounds_any(uint16_t* sums, const uint8_t* impacts, size_t n, uint16_t factor) {
    for (size_t i = 0; i < n; ++i)
        sums[i] = static_cast<uint16_t>(sums[i] + (static_cast<uint32_t>(impacts[i] << 8) * factor >> 16) + 1);
}

ASLFAST_INLINE void subtract_bounds_any(uint16_t* sums, const uint8_t* impacts, size_t n, uint16_t factor) {
    for (size_t i = 0; i < n; ++i)
        sums[i] = static_cast<uint16_t>(sums[i] - (static_cast<uint32_t>(impacts[i] << 8) * factor >> 16) - 1);
}

ASLFAST_INLINE uint16_t highest_any(const uint16_t* values, size_t n) {
    uint16_t most = 0;
    for (size_t i = 0; i < n; ++i) most = std::max(most, values[i]);
    return most;
}

#if defined(__x86_64__)
ASLFAST_INLINE Candidate* take_bits(const uint16_t* values, size_t first, uint32_t bits, Candidate* out) {
    for (; bits != 0; bits &= bits - 1) {
        const auto i = static_cast<size_t>(__builtin_ctz(bits)) + first;
        *out++ = {static_cast<uint16_t>(i), values[i]};
    }
    return out;
}

__attribute__((target("avx2"))) inline Candidate* find_above_avx2(const uint16_t* values, const uint16_t* rests,
                                                                  size_t n, uint16_t limit, Candidate* out) {
    for (size_t tile = 0, i = 0; tile < n; ++tile, i += 32) {
        const uint16_t rest = rests ? rests[tile] : 0, least = limit > rest ? static_cast<uint16_t>(limit - rest) : 1;
        const __m256i low = _mm256_set1_epi16(static_cast<short>(least));
        const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + i));
        const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + i + 16));
        const __m256i above_a = _mm256_cmpeq_epi16(_mm256_max_epu16(a, low), a);
        const __m256i above_b = _mm256_cmpeq_epi16(_mm256_max_epu16(b, low), b);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(above_a, above_b), 0xD8);
        if (const auto bits = static_cast<uint32_t>(_mm256_movemask_epi8(packed)))
            out = take_bits(values, i, bits, out);
    }
    return out;
}

__attribute__((target("avx512bw"))) inline Candidate* find_above_avx512(const uint16_t* values, const uint16_t* rests,
                                                                        size_t n, uint16_t limit, Candidate* out) {
    for (size_t tile = 0, i = 0; tile < n; ++tile, i += 32) {
        const uint16_t rest = rests ? rests[tile] : 0, low = limit > rest ? static_cast<uint16_t>(limit - rest) : 1;
        const __m512i v = _mm512_loadu_si512(values + i);
        if (const uint32_t bits = _mm512_cmpge_epu16_mask(v, _mm512_set1_epi16(static_cast<short>(low))))
            out = take_bits(values, i, bits, out);
    }
    return out;
}

__attribute__((target("avx2"))) inline void add_bounds_avx2(uint16_t* s, const uint8_t* q, size_t n, uint16_t f) {
    add_bounds_any(s, q, n, f);
}
__attribute__((target("avx512bw"))) inline void add_bounds_avx512(uint16_t* s, const uint8_t* q, size_t n, uint16_t f) {
    add_bounds_any(s, q, n, f);
}
__attribute__((target("avx2"))) inline void subtract_bounds_avx2(uint16_t* s, const uint8_t* q, size_t n, uint16_t f) {
    subtract_bounds_any(s, q, n, f);
}
__attribute__((target("avx512bw"))) inline void subtract_bounds_avx512(uint16_t* s, const uint8_t* q, size_t n,
                                                                       uint16_t f) {
    subtract_bounds_any(s, q, n, f);
}
__attribute__((target("avx2"))) inline uint16_t highest_avx2(const uint16_t* v, size_t n) { return highest_any(v, n); }
__attribute__((target("avx512bw"))) inline uint16_t highest_avx512(const uint16_t* v, size_t n) {
    return highest_any(v, n);
}
#define ASLFAST_BEST(name, ...)                           \
    (simd() == Simd::kAvx512 ? name##_avx512(__VA_ARGS__) \
     : simd() == Simd::kAvx2 ? name##_avx2(__VA_ARGS__)   \
                             : name##_any(__VA_ARGS__))
#else
#define ASLFAST_BEST(name, ...) name##_any(__VA_ARGS__)
#endif

inline Candidate* find_above(const uint16_t* values, const uint16_t* rests, size_t n, uint16_t limit, Candidate* out) {
    return ASLFAST_BEST(find_above, values, rests, n, limit, out);
}

inline void add_bounds(uint16_t* sums, const uint8_t* impacts, size_t n, uint16_t factor) {
    ASLFAST_BEST(add_bounds, sums, impacts, n, factor);
}

inline void subtract_bounds(uint16_t* sums, const uint8_t* impacts, size_t n, uint16_t factor) {
    ASLFAST_BEST(subtract_bounds, sums, impacts, n, factor);
}

inline uint16_t highest(const uint16_t* values, size_t n) { return ASLFAST_BEST(highest, values, n); }

}  // namespace aslfast
