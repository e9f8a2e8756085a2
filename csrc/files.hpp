// Reading by memory map, writing with errors, checksums. Files are little-endian, as every supported machine is.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

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
    explicit Writer(std::string path) : path_(std::move(path)), file_(std::fopen(path_.c_str(), "wb")) {
        if (!file_) throw FileError(path_, errno);
    }
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    ~Writer() {
        if (file_) std::fclose(file_);
    }

    void write(const void* data, size_t bytes) {
        if (bytes && std::fwrite(data, 1, bytes, file_) != bytes) throw FileError(path_, errno);
    }
    template <class Array>
    void write(const Array& array) {
        write(array.data(), array.size() * sizeof(*array.data()));
    }

    // Flushes to the disk, where a lack of space may first show.
    void close() {
        const bool failed = std::fflush(file_) != 0 || ::fsync(fileno(file_)) != 0;
        const int code = errno;
        const bool close_failed = std::fclose(std::exchange(file_, nullptr)) != 0;
        if (failed || close_failed) throw FileError(path_, failed ? code : errno);
    }

private:
    std::string path_;
    std::FILE* file_;
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
    [[noreturn]] void fail(const std::string& what) const { throw FormatError(path_, what); }

private:
    std::string path_;
    const char* data_ = nullptr;
    size_t size_ = 0;
};

// FNV-1a over 64-bit words: every step is a bijection of the state, so one changed word always changes the result.
inline uint64_t checksum(std::string_view bytes) {
    constexpr uint64_t kPrime = 0x100000001B3;
    uint64_t state = 0xCBF29CE484222325 ^ bytes.size();
    for (size_t at = 0; at < bytes.size(); at += 8) {
        uint64_t word = 0;
        std::memcpy(&word, bytes.data() + at, bytes.size() - at < 8 ? bytes.size() - at : 8);
        state = (state ^ word) * kPrime;
        state ^= state >> 32;
    }
    return state;
}

}  // namespace aslfast
