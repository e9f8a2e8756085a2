// Python's view of the core (aslfast/_bm25.pyi): converts arguments and results, and nothing else.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind_build.hpp"
#include "bind_spec.hpp"
#include "search.hpp"

namespace py = pybind11;

namespace {

using Numbers = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

std::vector<uint32_t> to_docs(const aslfast::Index& index, const Numbers& docs) {
    std::vector<uint32_t> result;
    for (const int32_t doc : std::vector<int32_t>(docs.data(), docs.data() + docs.size())) {
        if (doc < 0 || static_cast<uint64_t>(doc) >= index.passages())
            throw py::index_error("no passage has the number " + std::to_string(doc));
        result.push_back(static_cast<uint32_t>(doc));
    }
    return result;
}

std::vector<uint64_t> to_bits(const aslfast::Index& index, const Numbers& docs) {
    std::vector<uint64_t> bits(index.passages() / 64 + 1, 0);
    for (const uint32_t doc : to_docs(index, docs)) bits[doc / 64] |= uint64_t{1} << doc % 64;
    return bits;
}

py::tuple to_python(const std::vector<std::vector<aslfast::Hit>>& hits,
                    const std::vector<std::vector<std::string_view>>& ids, size_t k) {
    py::array_t<float> scores({hits.size(), k});
    py::array_t<int32_t> docs({hits.size(), k});
    std::fill_n(scores.mutable_data(), scores.size(), 0.0f);
    std::fill_n(docs.mutable_data(), docs.size(), -1);
    py::list rows(hits.size());
    for (size_t q = 0; q < hits.size(); ++q) {
        py::list row(hits[q].size());
        for (size_t i = 0; i < hits[q].size(); ++i) {
            scores.mutable_data()[q * k + i] = hits[q][i].score;
            docs.mutable_data()[q * k + i] = static_cast<int32_t>(hits[q][i].doc);
            row[i] = py::str(ids[q][i]);
        }
        rows[q] = row;
    }
    return py::make_tuple(rows, scores, docs);
}

py::tuple search(const aslfast::Index& index, const std::vector<std::string>& queries, size_t k, size_t threads,
                 bool lucene, const std::optional<Numbers>& allow, bool exhaustive) {
    std::optional<std::vector<uint64_t>> allowed;
    if (allow) allowed = to_bits(index, *allow);
    std::vector<std::vector<aslfast::Hit>> hits;
    std::vector<std::vector<std::string_view>> ids(queries.size());
    {
        py::gil_scoped_release release;
        hits = aslfast::search(index, queries, {k, lucene, exhaustive, allowed ? &*allowed : nullptr}, threads);
        for (size_t q = 0; q < hits.size(); ++q)
            for (const aslfast::Hit& hit : hits[q]) ids[q].push_back(index.id(hit.doc));
    }
    return to_python(hits, ids, k);
}

Numbers find(const aslfast::Index& index, const std::vector<std::string>& ids) {
    Numbers docs(static_cast<py::ssize_t>(ids.size()));
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto doc = index.find_id(ids[i]);
        docs.mutable_data()[i] = doc ? static_cast<int32_t>(*doc) : -1;
    }
    return docs;
}

template <class Get>
std::vector<std::string> get_each(const aslfast::Index& index, const Numbers& docs, Get get) {
    const auto numbers = to_docs(index, docs);
    py::gil_scoped_release release;
    std::vector<std::string> result;
    for (const uint32_t doc : numbers) result.emplace_back(get(doc));
    return result;
}

py::dict statistics(const aslfast::Index& index) {
    uint64_t terms = 0, postings = 0;
    for (const auto& part : index.segments()) {
        terms += part->segment().counts().terms;
        postings += part->segment().counts().postings;
    }
    py::dict result;
    result["passages"] = index.live().passages;
    result["tokens"] = index.live().tokens;
    result["non_empty"] = index.live().non_empty;
    result["terms"] = terms;
    result["postings"] = postings;
    return result;
}

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

void bind_index(py::module_& m) {
    py::class_<aslfast::Index>(m, "Index")
        .def(py::init([](const py::list& segments, const std::string& analyzer, double k1, double b) {
                 const auto specs = aslfast::to_specs(segments);
                 py::gil_scoped_release release;
                 return std::make_unique<aslfast::Index>(specs, analyzer, k1, b);
             }),
             py::arg("segments"), py::kw_only(), py::arg("analyzer"), py::arg("k1"), py::arg("b"))
        .def("search", &search, py::arg("queries"), py::arg("k"), py::kw_only(), py::arg("threads"), py::arg("lucene"),
             py::arg("allow"), py::arg("exhaustive") = false)
        .def("find", &find, py::arg("ids"))
        .def(
            "ids",
            [](const aslfast::Index& index, const Numbers& docs) {
                return get_each(index, docs, [&index](uint32_t doc) { return index.id(doc); });
            },
            py::arg("docs"))
        .def(
            "contents",
            [](const aslfast::Index& index, const Numbers& docs) {
                return get_each(index, docs, [&index](uint32_t doc) { return index.text(doc); });
            },
            py::arg("docs"))
        .def("statistics", &statistics)
        .def("verify", &aslfast::Index::verify, py::call_guard<py::gil_scoped_release>());
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
    bind_index(m);
    aslfast::bind_build(m);
}
