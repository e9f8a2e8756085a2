// An Arrow array from Python, kept alive while its strings are read.
#pragma once

#include <pybind11/pybind11.h>

#include "python/arrow_strings.hpp"

namespace aslfast {

namespace py = pybind11;

class ArrowStrings {
public:
    // array: anything with __arrow_c_array__, such as a pyarrow.Array.
    ArrowStrings(const py::object& array, const std::string& what) {
        if (!py::hasattr(array, "__arrow_c_array__"))
            throw py::type_error(what + ": expected an Arrow array (a chunk of it, where it is chunked)");
        capsules_ = array.attr("__arrow_c_array__")();
        const auto* schema = get<ArrowSchema>(0, "arrow_schema");
        const auto* values = get<ArrowArray>(1, "arrow_array");
        views_ = arrow_views(*schema, *values, what);
    }

    const std::vector<std::string_view>& views() const { return views_; }

private:
    template <class T>
    const T* get(size_t i, const char* name) const {
        const py::object capsule = capsules_[i];
        const auto* pointer = static_cast<const T*>(PyCapsule_GetPointer(capsule.ptr(), name));
        if (!pointer) throw py::error_already_set();
        return pointer;
    }

    py::tuple capsules_;  // own what the views point into
    std::vector<std::string_view> views_;
};

}  // namespace aslfast
