// Python's view of the core (aslfast/_bm25.pyi): converts arguments and results, and nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "python/bind_build.hpp"
#include "python/bind_index.hpp"
#include "search/simd.hpp"
#include "storage/checksum.hpp"
#include "text/analyzer.hpp"

namespace py = pybind11;

namespace {

std::vector<std::string> analyze(const std::string& text, const std::string& analyzer) {
    std::vector<std::string> terms;
    aslfast::Analyzer(analyzer).analyze(text, [&terms](std::string_view term) { terms.emplace_back(term); });
    return terms;
}

void raise_os_error(const aslfast::FileError& error) {
    const py::object value = py::reinterpret_steal<py::object>(
        PyObject_CallFunction(PyExc_OSError, "iss", error.code, error.what(), error.path.c_str()));
    PyErr_SetObject(PyExc_OSError, value.ptr());
}

void translate(std::exception_ptr error) {
    try {
        if (error) std::rethrow_exception(error);
    } catch (const aslfast::FileError& e) {
        raise_os_error(e);
    } catch (const aslfast::FormatError& e) {
        PyErr_SetString(PyExc_ValueError, (e.path + ": " + e.what()).c_str());
    } catch (const aslfast::InputError& e) {
        PyErr_SetString(PyExc_ValueError, e.what());
    } catch (const aslfast::DuplicateId& e) {
        PyErr_SetObject(PyExc_KeyError, py::make_tuple(e.what(), e.first, e.second).ptr());
    }
}

}  // namespace

PYBIND11_MODULE(_bm25, m) {
    py::register_local_exception_translator(translate);
    m.def("analyzers", [] { return std::vector<std::string>(aslfast::kAnalyzers.begin(), aslfast::kAnalyzers.end()); });
    m.def("analyze", &analyze, py::arg("text"), py::arg("analyzer"));
    m.def("simd_names", &aslfast::simd_names);
    m.def("use_simd", &aslfast::use_simd, py::arg("name"));
    m.def("segment_files", [] {
        std::vector<std::string> names(aslfast::kCheckedFiles.begin(), aslfast::kCheckedFiles.end());
        names.emplace_back(aslfast::kChecksFile);
        return names;
    });
    m.def(
        "checksum",
        [](const std::string& path) {
            py::gil_scoped_release release;
            const aslfast::MappedFile file(path);
            return aslfast::checksum({file.data(), file.size()});
        },
        py::arg("path"));
    aslfast::bind_index(m);
    aslfast::bind_build(m);
}
