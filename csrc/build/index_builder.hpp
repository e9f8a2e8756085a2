// Builds a segment: passages in, the files of storage/format.hpp out. The bytes do not depend on the number of threads,
// the sizes of the batches or the memory.
#pragma once

#include "build/chunk_pool.hpp"
#include "build/page_checks.hpp"
#include "build/passage_table.hpp"
#include "build/postings_builder.hpp"

namespace aslfast {

// Writes what comes after the texts, of which only the end is missing: passages.bin in parallel with the postings' four
// files, then checks.bin.
inline Counts write_segment(const std::string& folder, TextWriter& texts, const PassageTable& passages,
                            const PostingsBuilder::Sources& sources, double k1, double b, size_t threads) {
    Counts counts;
    passages.count(counts);
    const Norm norm(k1, b, counts.tokens, counts.non_empty);
    run_throwing(2, [&](size_t half) {
        if (half == 1) return PostingsBuilder(folder, sources, passages.lengths, norm).write(threads, counts);
        passages.write(folder);
        texts.finish();
    });
    write_checks(folder, threads);
    return counts;
}

// Memory: `memory_bytes` for buffered postings and their terms. On top of it, every passage takes the bytes of its id
// and 12 (finish(): up to 18 more), every thread a few MB of texts and up to 32 MB of cached words; finish() takes
// about 30 bytes for every distinct term.
class IndexBuilder {
public:
    IndexBuilder(std::string folder, const std::string& analyzer, double k1, double b, size_t threads,
                 uint64_t memory_bytes)
        : folder_(std::move(folder)),
          k1_(k1),
          b_(b),
          threads_(std::max<size_t>(threads, 1)),
          memory_(std::min(memory_bytes, kMostMemory)),
          chunk_bytes_(std::min<uint64_t>(kChunkBytes, memory_bytes / 64)),
          texts_(folder_),
          pool_(std::make_unique<ChunkPool>(threads_, analyzer, texts_)) {}

    // Adds passages in order; they are copied. Their errors may be thrown by a later call.
    void add(const std::vector<std::string_view>& ids, const std::vector<std::string_view>& contents) {
        const std::lock_guard lock(mutex_);
        check_open();
        for (size_t i = 0; i < ids.size(); ++i) {
            passages_.add_id(ids[i]);
            chunk_.bytes += contents[i];
            chunk_.ends.push_back(chunk_.bytes.size());
            if (passages_.size() % kBlockPassages == 0 &&
                (chunk_.ends.size() >= kChunkPassages || chunk_.bytes.size() >= chunk_bytes_))
                close_chunk();
        }
    }

    // Writes the files; returns how many of what they hold. Throws DuplicateId.
    Counts finish() {
        const std::lock_guard lock(mutex_);
        check_open();
        finished_ = true;
        if (!chunk_.ends.empty()) close_chunk();
        pool_->wait();
        if (runs_.empty())
            runs_.push_back(std::make_unique<MemoryRun>(pool_->run(passages_.lengths)));
        else
            write_run();
        const Counts counts = write_segment(folder_, texts_, passages_, runs_, k1_, b_, threads_);
        runs_.clear();
        pool_.reset();
        return counts;
    }

private:
    void check_open() const {
        if (finished_) throw InputError("finish() was called before: a builder writes one segment");
    }

    void close_chunk() {
        const uint32_t next = passages_.size();
        chunk_.first = next - static_cast<uint32_t>(chunk_.ends.size());
        pool_->add(std::exchange(chunk_, {}));
        if (pool_->bytes() >= memory_) {
            pool_->wait();
            write_run();
        }
    }

    void write_run() {
        const MemoryRun run = pool_->run(passages_.lengths);
        runs_.push_back(std::make_unique<FileRun>(run, folder_ + "/run-" + std::to_string(runs_.size()) + ".bin"));
        pool_->clear();
    }

    // A run's postings have numbers of 32 bits, and each takes 10 bytes.
    static constexpr uint64_t kMostMemory = uint64_t{0xF0000000} * 10;
    static constexpr uint64_t kChunkBytes = 1 << 20;

    std::mutex mutex_;  // Python may call from several threads
    bool finished_ = false;
    std::string folder_;
    double k1_, b_;
    size_t threads_;
    uint64_t memory_, chunk_bytes_;
    PassageTable passages_;
    Chunk chunk_;
    PostingsBuilder::Sources runs_;
    TextWriter texts_;
    std::unique_ptr<ChunkPool> pool_;  // destroyed first: its threads write texts
};

}  // namespace aslfast
