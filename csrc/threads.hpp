// Running a function on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace aslfast {

// Calls run(0) ... run(n - 1), each on a thread of its own (the last on the caller's). `run` must not throw.
template <class Run>
void run_threads(size_t n, Run& run) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i + 1 < n; ++i) threads.emplace_back(std::ref(run), i);
    if (n > 0) run(n - 1);
    for (std::thread& thread : threads) thread.join();
}

// The same for a `run` that may throw: the error of the lowest number is thrown here, once all threads have ended.
template <class Run>
void run_throwing(size_t n, Run&& run) {
    std::vector<std::exception_ptr> errors(n);
    auto guarded = [&](size_t i) {
        try {
            run(i);
        } catch (...) {
            errors[i] = std::current_exception();
        }
    };
    run_threads(n, guarded);
    for (const std::exception_ptr& error : errors)
        if (error) std::rethrow_exception(error);
}

// write(work(0)), write(work(1)), ... write(work(tasks - 1)): the work on several threads, the writing in order. A
// thread that is ahead of its turn waits, so that there are never more results in memory than threads.
template <class Work, class Write>
void run_ordered(size_t tasks, size_t threads, Work&& work, Write&& write) {
    std::atomic<size_t> next{0};
    std::mutex mutex;
    std::condition_variable turn;
    size_t written = 0;
    bool failed = false;
    auto run_tasks = [&](size_t) {
        try {
            for (size_t task; (task = next.fetch_add(1)) < tasks;) {
                auto result = work(task);
                std::unique_lock lock(mutex);
                turn.wait(lock, [&] { return written == task || failed; });
                if (failed) return;
                write(std::move(result));
                ++written;
                turn.notify_all();
            }
        } catch (...) {
            const std::lock_guard lock(mutex);
            failed = true;
            turn.notify_all();
            throw;
        }
    };
    run_throwing(std::max<size_t>(std::min(threads, tasks), 1), run_tasks);
}

}  // namespace aslfast
