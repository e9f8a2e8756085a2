// Runs of ASCII characters, sixteen bytes at a time: most of most texts is found here, not in the tables.
#pragma once

#include <array>
#include <cstdint>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace aslfast {

inline bool is_ascii(char c) { return static_cast<signed char>(c) >= 0; }
inline bool is_ascii_letter(char c) { return static_cast<unsigned char>((c | 0x20) - 'a') < 26; }
inline bool is_ascii_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

// The first byte from p on that is at least `limit`.
inline const char* skip_below(const char* p, const char* end, unsigned char limit) {
#ifdef __SSE2__
    const __m128i limits = _mm_set1_epi8(static_cast<char>(limit));
    for (; end - p >= 16; p += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const int found = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_max_epu8(bytes, limits), bytes));
        if (found) return p + __builtin_ctz(static_cast<unsigned>(found));
    }
#endif
    while (p < end && static_cast<unsigned char>(*p) < limit) ++p;
    return p;
}

// The first byte from p on that is no letter, digit or (if the word may hold it) underscore of ASCII.
template <bool underscore>
const char* skip_word(const char* p, const char* end) {
#ifdef __SSE2__
    const auto above = [](__m128i bytes, int limit) {
        return _mm_cmpgt_epi8(bytes, _mm_set1_epi8(static_cast<char>(limit)));
    };
    for (; end - p >= 16; p += 16) {
        // x + bias, with bias such that the signed range ends where the class does: one comparison for both its ends
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i lower = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
        __m128i inside = above(_mm_add_epi8(lower, _mm_set1_epi8(127 - 'z')), 127 - 26);
        inside = _mm_or_si128(inside, above(_mm_add_epi8(bytes, _mm_set1_epi8(127 - '9')), 127 - 10));
        if (underscore) inside = _mm_or_si128(inside, _mm_cmpeq_epi8(bytes, _mm_set1_epi8('_')));
        const unsigned outside = static_cast<unsigned>(_mm_movemask_epi8(inside)) ^ 0xFFFFu;
        if (outside) return p + __builtin_ctz(outside);
    }
#endif
    while (p < end && (is_ascii_letter(*p) || is_ascii_digit(*p) || (underscore && *p == '_'))) ++p;
    return p;
}

}  // namespace aslfast
