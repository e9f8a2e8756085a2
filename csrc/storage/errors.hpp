// The three ways in which the core fails. Python gets OSError, ValueError and ValueError (python/bindings.cpp).
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace aslfast {

// The operating system refuses: the disk is full, there is no such file, no permission.
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

// Input that cannot be indexed; one line says why.
struct InputError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace aslfast
