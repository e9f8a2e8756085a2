// checks.bin: the checksums of every page of a segment's files, once these are written.
#pragma once

#include <string>
#include <vector>

#include "storage/checksum.hpp"
#include "storage/file_io.hpp"
#include "storage/format.hpp"
#include "threads.hpp"

namespace aslfast {

// Pages are read into a buffer, not mapped, so that a large file does not count as memory of the process.
inline std::vector<uint64_t> page_checksums(const std::string& path, size_t threads) {
    const Reader file(path);
    std::vector<uint64_t> sums((file.size() + kPageBytes - 1) / kPageBytes);
    std::atomic<size_t> next{0};
    run_throwing(std::max<size_t>(std::min(threads, sums.size()), 1), [&](size_t) {
        std::string page(kPageBytes, 0);
        for (size_t i; (i = next.fetch_add(1)) < sums.size();) {
            const uint64_t offset = i * kPageBytes, bytes = std::min(kPageBytes, file.size() - offset);
            file.read(offset, page.data(), bytes);
            sums[i] = checksum({page.data(), bytes});
        }
    });
    return sums;
}

inline void write_checks(const std::string& folder, size_t threads) {
    Writer file(folder + "/" + kChecksFile);
    for (const char* name : kCheckedFiles) file.write(page_checksums(folder + "/" + name, threads));
    file.close();
}

}  // namespace aslfast
