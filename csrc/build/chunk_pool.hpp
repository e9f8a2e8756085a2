// The threads of a build: chunks of passages in, from one thread; postings and compressed texts out, in order.
#pragma once

#include <map>
#include <queue>

#include "build/inverter.hpp"
#include "build/text_writer.hpp"

namespace aslfast {

inline constexpr size_t kChunkPassages = 1024;  // in a chunk of texts of usual size: whole blocks

// A copy of some passages: what Python passed in may be gone when their turn comes.
struct Chunk {
    uint64_t number = 0;
    uint32_t first = 0;  // number of the first passage
    std::string bytes;
    std::vector<size_t> ends;

    std::vector<std::string_view> texts() const {
        std::vector<std::string_view> views;
        size_t begin = 0;
        for (const size_t end : ends) {
            views.emplace_back(bytes.data() + begin, end - begin);
            begin = end;
        }
        return views;
    }
};

// The result of a thread for a chunk.
struct Analyzed {
    Gathered postings;
    Compressed blocks;
};

// Chunks in, from one thread; analysed chunks out, in order of arrival, however the threads finish.
class ChunkPool {
public:
    ChunkPool(size_t threads, const std::string& analyzer, TextWriter& texts) : analyzer_(analyzer), texts_(texts) {
        for (size_t i = 0; i < threads; ++i) shards_.push_back(std::make_unique<Shard>(analyzer_));
        for (size_t i = 0; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    }
    ~ChunkPool() {
        {
            const std::lock_guard lock(mutex_);
            closed_ = true;
        }
        changed_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }

    // Waits while the threads are far behind. Throws the first error of any chunk so far.
    void add(Chunk chunk) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return error_ || queue_.size() < 2 * workers_.size(); });
        if (error_) std::rethrow_exception(error_);
        chunk.number = added_++;
        queue_.push(std::move(chunk));
        changed_.notify_all();
    }

    void wait() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return error_ || done_ == added_; });
        if (error_) std::rethrow_exception(error_);
    }

    // Bytes that a run of the chunks done so far would take: their postings, the inverted ones, and the shards' terms.
    uint64_t bytes() {
        const std::lock_guard lock(mutex_);
        return 2 * gathered_bytes_ + shard_bytes_;
    }

    // After wait(): returns all postings as one run, which refers to the shards' terms until clear().
    MemoryRun run(std::vector<uint32_t>& lengths) {
        for (const Gathered& chunk : gathered_)
            lengths.insert(lengths.end(), chunk.lengths.begin(), chunk.lengths.end());
        return Inverter(shards_, gathered_).run();
    }

    void clear() {
        gathered_.clear();
        bytes_of_.clear();
        gathered_bytes_ = shard_bytes_ = 0;
        for (auto& shard : shards_) shard = std::make_unique<Shard>(analyzer_);
    }

private:
    void work(size_t worker) {
        Chunk chunk;
        while (take(chunk)) {
            try {
                finish(chunk.number, analyze(chunk, worker), worker);
            } catch (...) {
                const std::lock_guard lock(mutex_);
                if (!error_) error_ = std::current_exception();
                changed_.notify_all();
            }
        }
    }

    bool take(Chunk& chunk) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return closed_ || !queue_.empty(); });
        if (closed_) return false;
        chunk = std::move(queue_.front());
        queue_.pop();
        changed_.notify_all();
        return true;
    }

    Analyzed analyze(const Chunk& chunk, size_t worker) {
        Analyzed result;
        result.postings.shard = worker;
        result.postings.first = chunk.first;
        const std::vector<std::string_view> texts = chunk.texts();
        for (const std::string_view text : texts) shards_[worker]->add(text, result.postings);
        result.blocks = compress(texts);
        return result;
    }

    // Keeps the chunk until those before it are done, then writes its texts.
    void finish(uint64_t number, Analyzed chunk, size_t worker) {
        const uint64_t shard_bytes = shards_[worker]->bytes();
        const std::lock_guard lock(mutex_);
        shard_bytes_ += shard_bytes - std::exchange(bytes_of_[worker], shard_bytes);
        early_.emplace(number, std::move(chunk));
        for (; !early_.empty() && early_.begin()->first == done_; early_.erase(early_.begin()), ++done_) {
            Analyzed& next = early_.begin()->second;
            texts_.write(next.blocks);
            gathered_bytes_ += next.postings.bytes();
            gathered_.push_back(std::move(next.postings));
        }
        changed_.notify_all();
    }

    std::string analyzer_;
    TextWriter& texts_;
    std::vector<std::unique_ptr<Shard>> shards_;
    std::vector<Gathered> gathered_;
    std::mutex mutex_;  // of what follows and, until wait() has returned, of what is above
    std::condition_variable changed_;
    std::queue<Chunk> queue_;
    std::map<uint64_t, Analyzed> early_;
    std::map<size_t, uint64_t> bytes_of_;
    uint64_t added_ = 0, done_ = 0, gathered_bytes_ = 0, shard_bytes_ = 0;
    std::exception_ptr error_;
    bool closed_ = false;
    std::vector<std::thread> workers_;
};

}  // namespace aslfast
