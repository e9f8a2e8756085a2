// A mapped file whose pages are checked against their checksums when they are first used.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "storage/checksum.hpp"
#include "storage/file_io.hpp"
#include "storage/format.hpp"

namespace aslfast {

// A file of a segment; each of its 64 KiB pages is checked when this process first uses it.
class PagedFile {
public:
    // page_checksums: one for every page, in a mapping or an array that outlives this.
    PagedFile(std::string path, const uint64_t* page_checksums, uint64_t expected_size)
        : file_(std::move(path)),
          checksums_(page_checksums),
          pages_((file_.size() + kPageBytes - 1) / kPageBytes),
          verified_(std::make_unique<std::atomic<uint64_t>[]>(pages_ / 64 + 1)) {
        if (file_.size() < expected_size) fail("it is too short");
        if (file_.size() > expected_size) fail("it is too long");
    }

    const char* data() const { return file_.data(); }
    uint64_t size() const { return file_.size(); }
    [[noreturn]] void fail(const std::string& what) const { file_.fail(what); }

    // Call this before bytes [offset, offset + bytes) are used. Throws FormatError where they are not in the file or
    // not what was written. Threads may check one page at the same time: the result is the same.
    void need(uint64_t offset, uint64_t bytes) const {
        if (offset > size() || bytes > size() - offset) fail("it refers to what lies beyond its end");
        if (bytes == 0) return;
        for (uint64_t page = offset / kPageBytes, last = (offset + bytes - 1) / kPageBytes; page <= last; ++page)
            if (!(verified_[page / 64].load(std::memory_order_relaxed) >> page % 64 & 1)) verify(page);
    }

    // Checks every page, also those that passed before.
    void verify_all() const {
        for (uint64_t page = 0; page < pages_; ++page) verify(page);
    }

private:
    void verify(uint64_t page) const {
        const uint64_t begin = page * kPageBytes;
        if (checksum({data() + begin, std::min(kPageBytes, size() - begin)}) != checksums_[page])
            fail("the checksum of page " + std::to_string(page) + " is wrong: the file is damaged");
        verified_[page / 64].fetch_or(uint64_t{1} << page % 64, std::memory_order_relaxed);
    }

    MappedFile file_;
    const uint64_t* checksums_;
    uint64_t pages_;
    std::unique_ptr<std::atomic<uint64_t>[]> verified_;
};

}  // namespace aslfast
