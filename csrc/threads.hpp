// Running a function on several threads.
#pragma once

#include <cstddef>
#include <functional>
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

}  // namespace aslfast
