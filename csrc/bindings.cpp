// Python's view of the index: converts arguments and results, and nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "build.hpp"
#include "search.hpp"

namespace py = pybind11;

namespace {

// Views into Python's own UTF-8 copies: valid while the lists are.
std::vector<std::string_view> views(const py::list& strings) {
    std::vector<std::string_view> result;
    result.reserve(strings.size());
    for (const py::handle item : strings) {
        if (!PyUnicode_Check(item.ptr())) throw py::type_error("expected a list of str");
        Py_ssize_t size = 0;
        const char* bytes = PyUnicode_AsUTF8AndSize(item.ptr(), &size);
        if (!bytes) throw py::error_already_set();
        result.emplace_back(bytes, static_cast<size_t>(size));
    }
    return result;
}

py::dict to_dict(const aslfast::Counts& counts) {
    py::dict result;
    result["passages"] = counts.passages;
    result["terms"] = counts.terms;
    result["postings"] = counts.postings;
    result["tokens"] = counts.tokens;
    result["non_empty"] = counts.non_empty;
    return result;
}

aslfast::Counts to_counts(const py::dict& counts) {
    auto get = [&counts](const char* name) { return counts[name].cast<uint64_t>(); };
    return {get("passages"), get("terms"), get("postings"), get("tokens"), get("non_empty")};
}

py::tuple search(const aslfast::Index& index, const std::vector<std::string>& queries, size_t k, double k1, double b,
                 size_t threads) {
    std::vector<std::vector<aslfast::Hit>> hits;
    {
        py::gil_scoped_release release;
        hits = aslfast::search(index, queries, k, k1, b, threads);
    }
    py::array_t<float> scores({queries.size(), k});
    py::array_t<int32_t> docs({queries.size(), k});
    std::fill_n(scores.mutable_data(), scores.size(), 0.0f);
    std::fill_n(docs.mutable_data(), docs.size(), -1);
    py::list ids;
    for (size_t q = 0; q < hits.size(); ++q) {
        py::list row;
        for (size_t i = 0; i < hits[q].size(); ++i) {
            scores.mutable_at(q, i) = hits[q][i].score;
            docs.mutable_at(q, i) = static_cast<int32_t>(hits[q][i].doc);
            row.append(py::str(index.id(hits[q][i].doc)));
        }
        ids.append(row);
    }
    return py::make_tuple(ids, scores, docs);
}

// (id, contents) of each id, None for one that is not there.
py::list passages(const aslfast::Index& index, const std::vector<std::string>& ids) {
    py::list result;
    for (const std::string& id : ids) {
        const auto doc = index.find_id(id);
        if (doc)
            result.append(py::make_tuple(py::str(index.id(*doc)), py::str(index.contents(*doc))));
        else
            result.append(py::none());
    }
    return result;
}

std::vector<std::string> analyze(const std::string& text) {
    std::vector<std::string> terms;
    aslfast::EnglishAnalyzer().analyze(text, [&terms](std::string_view term) { terms.emplace_back(term); });
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
    m.def("analyze", &analyze, py::arg("text"));
    m.def("file_names", [] { return std::vector<std::string>(aslfast::kFiles.begin(), aslfast::kFiles.end()); });
    m.def(
        "checksum",
        [](const std::string& path) {
            py::gil_scoped_release release;
            const aslfast::MappedFile file(path);
            return aslfast::checksum({file.data(), file.size()});
        },
        py::arg("path"));
    py::class_<aslfast::IndexBuilder>(m, "IndexBuilder")
        .def(py::init<std::string, int>(), py::arg("folder"), py::arg("threads"))
        .def(
            "add",
            [](aslfast::IndexBuilder& self, const py::list& ids, const py::list& contents) {
                const auto id_views = views(ids), content_views = views(contents);
                if (id_views.size() != content_views.size())
                    throw py::value_error("as many ids as contents are needed");
                py::gil_scoped_release release;
                self.add(id_views, content_views);
            },
            py::arg("ids"), py::arg("contents"))
        .def("finish", [](aslfast::IndexBuilder& self) {
            aslfast::Counts counts;
            {
                py::gil_scoped_release release;
                counts = self.finish();
            }
            return to_dict(counts);
        });
    py::class_<aslfast::Index>(m, "Index")
        .def(py::init([](const std::string& folder, const py::dict& counts, const std::array<uint64_t, 4>& checksums) {
                 const aslfast::Counts expected = to_counts(counts);
                 py::gil_scoped_release release;
                 return std::make_unique<aslfast::Index>(folder, expected, checksums);
             }),
             py::arg("folder"), py::arg("counts"), py::arg("checksums"))
        .def("search", &search, py::arg("queries"), py::arg("k"), py::arg("k1"), py::arg("b"), py::arg("threads"))
        .def("passages", &passages, py::arg("ids"));
}
