// Files: written with every error checked, read by copying or by memory map. They are little-endian, as every supported
// machine is.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "storage/errors.hpp"
#include "storage/format.hpp"

namespace aslfast {

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

    // Writes at another place, unbuffered; the position of write() stays.
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
    // Fills with zero bytes up to the next section.
    void pad() { write(kZeros, align(size_) - size_); }

    // Writes the zero bytes at the end of a file of a segment, then closes it.
    void finish() {
        write(kZeros, kAlign);
        close();
    }

    // Syncs the file to the disk, which may be where a full disk is first noticed.
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
            const ssize_t n =
                ::pwrite(fd_, static_cast<const char*>(data) + done, bytes - done, static_cast<off_t>(offset + done));
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
    // Returns the pages read so far to the system: for a file that is read once, in order.
    void release() const { ::madvise(const_cast<char*>(data_), size_, MADV_DONTNEED); }
    [[noreturn]] void fail(const std::string& what) const { throw FormatError(path_, what); }

private:
    std::string path_;
    const char* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace aslfast
