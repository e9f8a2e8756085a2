// Python's view of building, merging and deleting (aslfast/_bm25.pyi).
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "build/deleter.hpp"
#include "build/index_builder.hpp"
#include "build/merger.hpp"
#include "python/arrow_array.hpp"
#include "python/spec_dicts.hpp"

namespace aslfast {

// Views into Python's own UTF-8 copies: valid while the strings are. The sequence keeps them.
inline std::vector<std::string_view> string_views(const py::object& fast_sequence) {
    std::vector<std::string_view> views(static_cast<size_t>(PySequence_Fast_GET_SIZE(fast_sequence.ptr())));
    for (size_t i = 0; i < views.size(); ++i) {
        PyObject* item = PySequence_Fast_GET_ITEM(fast_sequence.ptr(), static_cast<Py_ssize_t>(i));
        if (!PyUnicode_Check(item)) throw py::type_error("expected a sequence of str");
        Py_ssize_t size = 0;
        const char* bytes = PyUnicode_AsUTF8AndSize(item, &size);
        if (!bytes) throw py::error_already_set();
        views[i] = {bytes, static_cast<size_t>(size)};
    }
    return views;
}

inline py::object fast_sequence(const py::object& sequence) {
    PyObject* fast = PySequence_Fast(sequence.ptr(), "expected a sequence of str");
    if (!fast) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(fast);
}

inline void add_views(IndexBuilder& builder, const std::vector<std::string_view>& ids,
                      const std::vector<std::string_view>& contents) {
    if (ids.size() != contents.size()) throw py::value_error("as many ids as contents are needed");
    const py::gil_scoped_release release;
    builder.add(ids, contents);
}

inline void add_strings(IndexBuilder& builder, const py::object& ids, const py::object& contents) {
    // A list may be changed by another thread while the GIL is released: tuples hold the strings.
    const py::object own_ids = py::tuple(fast_sequence(ids));
    const py::object own_contents = py::tuple(fast_sequence(contents));
    add_views(builder, string_views(own_ids), string_views(own_contents));
}

inline void add_arrow(IndexBuilder& builder, const py::object& ids, const py::object& contents) {
    const ArrowStrings own_ids(ids, "ids"), own_contents(contents, "contents");
    add_views(builder, own_ids.views(), own_contents.views());
}

inline py::dict to_dict(const DeletedSpec& deleted) {
    py::dict result;
    result["file"] = deleted.file;
    result["checksum"] = deleted.checksum;
    result["passages"] = deleted.sums.passages;
    result["tokens"] = deleted.sums.tokens;
    result["non_empty"] = deleted.sums.non_empty;
    return result;
}

using DocNumbers = py::array_t<uint32_t, py::array::c_style | py::array::forcecast>;

inline py::dict delete_passages(const py::dict& segment, const DocNumbers& docs, const std::string& analyzer,
                                const std::string& file) {
    const SegmentSpec spec = to_spec(segment);
    std::vector<uint32_t> numbers(docs.data(), docs.data() + docs.size());
    DeletedSpec deleted;
    {
        const py::gil_scoped_release release;
        deleted = Deleter(spec, analyzer).write(std::move(numbers), file);
    }
    return to_dict(deleted);
}

inline py::dict merge_segments(const py::list& segments, const std::string& folder, double k1, double b,
                               size_t threads) {
    const std::vector<SegmentSpec> specs = to_specs(segments);
    Counts counts;
    {
        const py::gil_scoped_release release;
        counts = Merger(specs, folder).write(k1, b, threads);
    }
    return to_dict(counts);
}

inline py::dict finish_build(IndexBuilder& builder) {
    Counts counts;
    {
        const py::gil_scoped_release release;
        counts = builder.finish();
    }
    return to_dict(counts);
}

inline void bind_build(py::module_& m) {
    py::class_<IndexBuilder>(m, "IndexBuilder")
        .def(py::init<std::string, std::string, double, double, size_t, uint64_t>(), py::arg("folder"), py::kw_only(),
             py::arg("analyzer"), py::arg("k1"), py::arg("b"), py::arg("threads"), py::arg("memory_bytes"))
        .def("add", &add_strings, py::arg("ids"), py::arg("contents"))
        .def("add_arrow", &add_arrow, py::arg("ids"), py::arg("contents"))
        .def("finish", &finish_build);
    m.def("merge_segments", &merge_segments, py::arg("segments"), py::arg("folder"), py::kw_only(), py::arg("k1"),
          py::arg("b"), py::arg("threads"));
    m.def("delete_passages", &delete_passages, py::arg("segment"), py::arg("docs"), py::arg("analyzer"),
          py::arg("file"));
}

}  // namespace aslfast
