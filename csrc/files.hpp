// Reading by memory map, writing with errors, checksums. Files are little-endian, as every supported machine is.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "format.hpp"

namespace aslfast {

// The system said no: disk full, no such file, no permission.
struct FileError : std::runtime_error {
    FileError(std::string file, int code)
        : std::runtime_error(std::strerror(code)), path(std::move(file)), code(code) {}
    std::string path;
    int code;
};

// The bytes of a file are not what the index says they are.
struct FormatError : std::runtime_error {
    FormatError(std::string file, const std::string& what) : std::runtime_error(what), path(std::move(file)) {}
    std::string path;
};

class Writer {
public:
    explicit Writer(std::string path)
        : path_(std::move(path)), fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
        if (fd_ < 0) throw FileError(path_, errno);
        buffer_.reserve(kBuffer);
    }
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    ~Writer() {
        if (fd_ >= 0) ::close(fd_);
    }

    void write(const void* data, size_t bytes) {
        size_ += bytes;
        if (buffer_.size() + bytes > kBuffer) flush();
        if (bytes >= kBuffer)
            put(flushed_, data, bytes), flushed_ += bytes;
        else
            buffer_.append(static_cast<const char*>(data), bytes);
    }
    template <class Array>
    void write(const Array& array) {
        write(array.data(), array.size() * sizeof(*array.data()));
    }

    // Writes somewhere else, unbuffered; the place of write() stays.
    template <class Array>
    void write_at(uint64_t offset, const Array& array) {
        put(offset, array.data(), array.size() * sizeof(*array.data()));
    }

    uint64_t size() const { return size_; }

    // Leaves zero bytes up to `offset`, which write() goes on from.
    void skip_to(uint64_t offset) {
        flush();
        size_ = flushed_ = offset;
    }
    // Up to the next section.
    void pad() { write(kZeros, align(size_) - size_); }

    // The zero bytes at the end of a file of a segment; then as close().
    void finish() {
        write(kZeros, kAlign);
        close();
    }

    // Flushes to the disk, where a lack of space may first show.
    void close() {
        flush();
        const bool failed = ::fsync(fd_) != 0;
        const int code = errno;
        const bool close_failed = ::close(std::exchange(fd_, -1)) != 0;
        if (failed || close_failed) throw FileError(path_, failed ? code : errno);
    }

    void flush() {
        put(flushed_, buffer_.data(), buffer_.size());
        flushed_ += buffer_.size();
        buffer_.clear();
    }

private:
    static constexpr size_t kBuffer = 1 << 18;
    static constexpr char kZeros[kAlign] = {};

    void put(uint64_t offset, const void* data, size_t bytes) {
        for (size_t done = 0; done < bytes;) {
            const ssize_t n = ::pwrite(fd_, static_cast<const char*>(data) + done, bytes - done,
                                       static_cast<off_t>(offset + done));
            if (n < 0 && errno != EINTR) throw FileError(path_, errno);
            if (n > 0) done += static_cast<size_t>(n);
        }
    }

    std::string path_;
    int fd_;
    std::string buffer_;
    uint64_t flushed_ = 0, size_ = 0;
};

// Reads parts of a file by copying them.
class Reader {
public:
    explicit Reader(std::string path) : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
        struct stat status{};
        if (fd_ < 0 || ::fstat(fd_, &status) != 0) throw FileError(path_, errno);
        size_ = static_cast<uint64_t>(status.st_size);
    }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    ~Reader() { ::close(fd_); }

    uint64_t size() const { return size_; }
    void read(uint64_t offset, char* to, size_t bytes) const {
        for (size_t done = 0; done < bytes;) {
            const ssize_t n = ::pread(fd_, to + done, bytes - done, static_cast<off_t>(offset + done));
            if (n < 0 && errno != EINTR) throw FileError(path_, errno);
            if (n == 0) throw FormatError(path_, "it became shorter while it was read");
            if (n > 0) done += static_cast<size_t>(n);
        }
    }

private:
    std::string path_;
    int fd_;
    uint64_t size_ = 0;
};

class MappedFile {
public:
    explicit MappedFile(std::string path) : path_(std::move(path)) {
        const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
        if (fd < 0) throw FileError(path_, errno);
        struct stat status{};
        int code = ::fstat(fd, &status) == 0 ? 0 : errno;
        size_ = code == 0 ? static_cast<size_t>(status.st_size) : 0;
        if (size_ > 0) {
            void* map = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
            if (map == MAP_FAILED) code = errno;
            data_ = code == 0 ? static_cast<const char*>(map) : nullptr;
        }
        ::close(fd);
        if (code != 0) throw FileError(path_, code);
    }
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile() {
        if (data_) ::munmap(const_cast<char*>(data_), size_);
    }

    const char* data() const { return data_; }
    size_t size() const { return size_; }
    const std::string& path() const { return path_; }
    // Gives the pages read so far back to the system: for a file that is read once, in order.
    void release() const { ::madvise(const_cast<char*>(data_), size_, MADV_DONTNEED); }
    [[noreturn]] void fail(const std::string& what) const { throw FormatError(path_, what); }

private:
    std::string path_;
    const char* data_ = nullptr;
    size_t size_ = 0;
};

// Four lanes of FNV-1a over 64-bit words. Every step is a bijection of its lane's state and of the word, and the lanes
// are joined by the same step: one changed word always changes the result.
inline uint64_t checksum(std::string_view bytes) {
    constexpr uint64_t kPrime = 0x9E3779B97F4A7C15;
    auto step = [](uint64_t state, uint64_t word) {
        state = (state ^ word) * kPrime;
        return state ^ state >> 32;
    };
    uint64_t lanes[4] = {bytes.size(), 1, 2, 3}, words[4];
    const size_t whole = bytes.size() / sizeof words * sizeof words;
    for (size_t at = 0; at < whole; at += sizeof words) {
        std::memcpy(words, bytes.data() + at, sizeof words);
        for (int i = 0; i < 4; ++i) lanes[i] = step(lanes[i], words[i]);
    }
    std::memset(words, 0, sizeof words);
    if (whole < bytes.size()) std::memcpy(words, bytes.data() + whole, bytes.size() - whole);
    uint64_t state = 0;
    for (int i = 0; i < 4; ++i) state = step(state, step(lanes[i], words[i]));
    return state;
}

// A mapped file of a segment whose 64 KiB pages are checked when they are first used in this process.
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

    // To be called before bytes [offset, offset + bytes) are used. Throws FormatError where they are not in the file or
    // not what was written. Threads may check one page at the same time: they find the same.
    void need(uint64_t offset, uint64_t bytes) const {
        if (offset > size() || bytes > size() - offset) fail("it refers to what lies beyond its end");
        if (bytes == 0) return;
        for (uint64_t page = offset / kPageBytes, last = (offset + bytes - 1) / kPageBytes; page <= last; ++page)
            if (!(verified_[page / 64].load(std::memory_order_relaxed) >> page % 64 & 1)) verify(page);
    }

    // Checks every page, also those found good before.
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
