// Strings of Arrow arrays as views into Arrow's own buffers (the Arrow C data interface), checked to be UTF-8.
// https://arrow.apache.org/docs/format/CDataInterface.html
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "storage/errors.hpp"

extern "C" {
struct ArrowSchema {
    const char *format, *name, *metadata;
    int64_t flags, n_children;
    ArrowSchema** children;
    ArrowSchema* dictionary;
    void (*release)(ArrowSchema*);
    void* private_data;
};

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void** buffers;
    ArrowArray** children;
    ArrowArray* dictionary;
    void (*release)(ArrowArray*);
    void* private_data;
};
}

namespace aslfast {

// The length of the character at p, 0 where it is not well-formed UTF-8 (Unicode 15, table 3-7).
inline size_t utf8_length(const unsigned char* p, const unsigned char* end) {
    const unsigned char lead = *p;
    if (lead < 0x80) return 1;
    const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead < 0xC2 || lead > 0xF4 || static_cast<size_t>(end - p) < size) return 0;
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;   // no overlong forms
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;  // no surrogates, nothing beyond
    if (p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < size; ++i)
        if ((p[i] & 0xC0) != 0x80) return 0;
    return size;
}

inline bool is_utf8(std::string_view text) {
    const auto* p = reinterpret_cast<const unsigned char*>(text.data());
    const auto* end = p + text.size();
    while (p < end) {
        uint64_t word = 0;
        if (end - p >= 8) {
            std::memcpy(&word, p, 8);
            if (!(word & 0x8080808080808080)) {
                p += 8;
                continue;
            }
        }
        const size_t size = utf8_length(p, end);
        if (size == 0) return false;
        p += size;
    }
    return true;
}

template <class Offset>
std::vector<std::string_view> arrow_views(const ArrowArray& array, const std::string& what) {
    std::vector<std::string_view> views(static_cast<size_t>(array.length));
    const auto* offsets = static_cast<const Offset*>(array.buffers[1]) + array.offset;
    const auto* bytes = static_cast<const char*>(array.buffers[2]);
    for (size_t i = 0; i < views.size(); ++i) {
        if (offsets[i] < 0 || offsets[i + 1] < offsets[i]) throw InputError(what + ": the array's offsets are wrong");
        if (offsets[i + 1] == offsets[i]) continue;
        views[i] = {bytes + offsets[i], static_cast<size_t>(offsets[i + 1] - offsets[i])};
        if (!is_utf8(views[i])) throw InputError(what + "[" + std::to_string(i) + "] is not UTF-8");
    }
    return views;
}

// what: how an error names the array. Throws InputError.
inline std::vector<std::string_view> arrow_views(const ArrowSchema& schema, const ArrowArray& array,
                                                 const std::string& what) {
    const std::string format = schema.format;
    if (schema.dictionary || (format != "u" && format != "U"))
        throw InputError(what + ": expected an array of string or large_string, not of format '" + format + "'");
    const auto* valid = static_cast<const unsigned char*>(array.buffers[0]);
    for (int64_t i = 0; valid && array.null_count != 0 && i < array.length; ++i)
        if (!(valid[(array.offset + i) / 8] >> (array.offset + i) % 8 & 1))
            throw InputError(what + "[" + std::to_string(i) + "] is null");
    if (array.length == 0) return {};
    return format == "u" ? arrow_views<int32_t>(array, what) : arrow_views<int64_t>(array, what);
}

}  // namespace aslfast
