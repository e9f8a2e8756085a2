// An Arrow array from Python, held while its strings are read.
#pragma once

#include <pybind11/pybind11.h>

#include "arrow_strings.hpp"

namespace aslfast {

class ArrowStrings {
public:
    // array: anything with __arrow_c_array__, such as a pyarrow.Array.
    ArrowStrings(const pybind11::object& array, const std::string& what) {
        if (!pybind11::hasattr(array, "__arrow_c_array__"))
            throw pybind11::type_error(what + ": expected an Arrow array (a chunk of it, where it is chunked)");
        capsules_ = array.attr("__arrow_c_array__")();
        const auto* schema = get<ArrowSchema>(0, "arrow_schema");
        const auto* values = get<ArrowArray>(1, "arrow_array");
        views_ = arrow_views(*schema, *values, what);
    }

    const std::vector<std::string_view>& views() const { return views_; }

private:
    template <class T>
    const T* get(size_t i, const char* name) const {
        const pybind11::object capsule = capsules_[i];
        const auto* pointer = static_cast<const T*>(PyCapsule_GetPointer(capsule.ptr(), name));
        if (!pointer) throw pybind11::error_already_set();
        return pointer;
    }

    pybind11::tuple capsules_;  // own what the views point into
    std::vector<std::string_view> views_;
};

}  // namespace aslfast
