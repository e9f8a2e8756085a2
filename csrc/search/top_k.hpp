// The best k of the hits offered, in any order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace aslfast {

struct Hit {
    float score;
    uint32_t doc;
};

// Higher score first; of equal scores the earlier passage.
inline bool is_better(const Hit& a, const Hit& b) { return a.score != b.score ? a.score > b.score : a.doc < b.doc; }

class TopK {
public:
    explicit TopK(size_t k) : k_(k) {}

    bool full() const { return hits_.size() == k_; }
    size_t missing() const { return k_ - hits_.size(); }
    float worst() const { return hits_.front().score; }  // of a full one

    void offer(Hit hit) {
        if (full()) {
            if (!is_better(hit, hits_.front())) return;
            std::pop_heap(hits_.begin(), hits_.end(), is_better);
            hits_.back() = hit;
        } else {
            hits_.push_back(hit);
        }
        std::push_heap(hits_.begin(), hits_.end(), is_better);
    }

    std::vector<Hit> sorted() && {
        std::sort_heap(hits_.begin(), hits_.end(), is_better);
        return std::move(hits_);
    }

private:
    size_t k_;
    std::vector<Hit> hits_;  // a heap with the worst hit in front
};

}  // namespace aslfast
