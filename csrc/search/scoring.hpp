// BM25 as Lucene 9 computes it (BM25Similarity), in float32:
//   score(d) = sum over distinct query terms t of w - w / (1 + tf * inverse),  w = (count of t in the query) * idf(t)
//   inverse  = 1 / (k1 * (1 - b + b * length(d) / mean)),  idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))
// The sum is taken in double and rounded once, as Lucene does. N and mean are of live passages with at least one term.
// Lengths are exact, or rounded down to Lucene's one byte.
#pragma once

#include "storage/format.hpp"
#include "storage/segment_spec.hpp"

namespace aslfast {

// Lucene's SmallFloat.byte4ToInt(intToByte4(length)): exact up to 40, then the four highest bits of length - 24.
inline uint32_t lucene_length(uint32_t length) {
    if (length < 24 + 8) return length;
    const uint32_t above = length - 24;
    const int shift = 28 - __builtin_clz(above);
    return 24 + (above >> shift << shift);
}

class Scoring {
public:
    Scoring(double k1, double b, const Statistics& live, bool lucene)
        : live_(live),
          norm_(k1, b, live.tokens, live.non_empty),
          k1_(static_cast<float>(k1)),
          b_(static_cast<float>(b)),
          mean_(static_cast<float>(static_cast<double>(live.tokens) /
                                   static_cast<double>(std::max<uint64_t>(live.non_empty, 1)))),
          lucene_(lucene) {}

    // The weight of a term that df passages have and the query `count` times.
    float weight(uint32_t count, uint64_t df) const {
        const auto n = static_cast<double>(live_.non_empty), d = static_cast<double>(df);
        return static_cast<float>(count) * static_cast<float>(std::log1p((n - d + 0.5) / (d + 0.5)));
    }

    float inverse(uint32_t length) const {
        if (!lucene_) return static_cast<float>(1.0 / norm_.at(length));
        return 1.0f / (k1_ * ((1.0f - b_) + b_ * static_cast<float>(lucene_length(length)) / mean_));
    }

    static float contribution(float weight, uint32_t count, float inverse) {
        return weight - weight / (1.0f + static_cast<float>(count) * inverse);
    }

    // A segment's impacts are computed with its own mean length, and exact lengths. A contribution can exceed them by
    // at most this factor, the quotient of the two norms: tf / (tf + n') <= n / n' * tf / (tf + n) for n >= n'.
    double drift(const Norm& segment, uint32_t length) const {
        const double norm = norm_.at(lucene_ ? lucene_length(length) : length);
        return norm > 0 ? std::max(1.0, segment.at(length) / norm) : 1.0;
    }

    // The same bound for passages of any length; lucene_length(x) > x * 8 / 9.
    double drift(const Norm& segment) const {
        const double means = norm_.per_term > 0 ? std::max(1.0, segment.per_term / norm_.per_term) : 1.0;
        return lucene_ ? means * 1.125 : means;
    }

private:
    Statistics live_;
    Norm norm_;
    float k1_, b_, mean_;
    bool lucene_;
};

}  // namespace aslfast
