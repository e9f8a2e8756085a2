// Converts between the dicts of aslfast/_bm25.pyi and the specs of storage/segment_spec.hpp.
#pragma once

#include <pybind11/pybind11.h>

#include "storage/segment_spec.hpp"

namespace aslfast {

namespace py = pybind11;

inline uint64_t get_number(const py::dict& values, const char* name) { return values[name].cast<uint64_t>(); }

inline Counts to_counts(const py::dict& c) {
    return {get_number(c, "passages"), get_number(c, "terms"),    get_number(c, "windows"),
            get_number(c, "postings"), get_number(c, "tiled"),    get_number(c, "big_counts"),
            get_number(c, "tokens"),   get_number(c, "non_empty")};
}

inline py::dict to_dict(const Counts& counts) {
    py::dict result;
    result["passages"] = counts.passages;
    result["terms"] = counts.terms;
    result["windows"] = counts.windows;
    result["postings"] = counts.postings;
    result["tiled"] = counts.tiled;
    result["big_counts"] = counts.big_counts;
    result["tokens"] = counts.tokens;
    result["non_empty"] = counts.non_empty;
    return result;
}

inline SegmentSpec to_spec(const py::dict& spec) {
    SegmentSpec result{spec["folder"].cast<std::string>(), to_counts(spec["counts"]), get_number(spec, "checks"), {}};
    if (spec["deleted"].is_none()) return result;
    const py::dict deleted = spec["deleted"];
    result.deleted =
        DeletedSpec{deleted["file"].cast<std::string>(),
                    get_number(deleted, "checksum"),
                    {get_number(deleted, "passages"), get_number(deleted, "tokens"), get_number(deleted, "non_empty")}};
    return result;
}

inline std::vector<SegmentSpec> to_specs(const py::list& segments) {
    std::vector<SegmentSpec> result;
    for (const auto& segment : segments) result.push_back(to_spec(segment.cast<py::dict>()));
    return result;
}

}  // namespace aslfast
