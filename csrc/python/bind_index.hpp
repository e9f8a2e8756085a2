// Python's view of searching (aslfast/_bm25.pyi).
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "python/spec_dicts.hpp"
#include "search/searcher.hpp"

namespace aslfast {

using Numbers = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

inline std::vector<uint32_t> to_docs(const Index& index, const Numbers& docs) {
    std::vector<uint32_t> result;
    for (const int32_t doc : std::vector<int32_t>(docs.data(), docs.data() + docs.size())) {
        if (doc < 0 || static_cast<uint64_t>(doc) >= index.passages())
            throw py::index_error("no passage has the number " + std::to_string(doc));
        result.push_back(static_cast<uint32_t>(doc));
    }
    return result;
}

inline std::vector<uint64_t> to_bits(const Index& index, const Numbers& docs) {
    std::vector<uint64_t> bits(index.passages() / 64 + 1, 0);
    for (const uint32_t doc : to_docs(index, docs)) bits[doc / 64] |= uint64_t{1} << doc % 64;
    return bits;
}

inline py::tuple to_python(const std::vector<std::vector<Hit>>& hits,
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

inline py::tuple search_index(const Index& index, const std::vector<std::string>& queries, size_t k, size_t threads,
                              bool lucene, const std::optional<Numbers>& allow, bool exhaustive) {
    std::optional<std::vector<uint64_t>> allowed;
    if (allow) allowed = to_bits(index, *allow);
    std::vector<std::vector<Hit>> hits;
    std::vector<std::vector<std::string_view>> ids(queries.size());
    {
        py::gil_scoped_release release;
        hits = search(index, queries, {k, lucene, exhaustive, allowed ? &*allowed : nullptr}, threads);
        for (size_t q = 0; q < hits.size(); ++q)
            for (const Hit& hit : hits[q]) ids[q].push_back(index.id(hit.doc));
    }
    return to_python(hits, ids, k);
}

inline Numbers find_docs(const Index& index, const std::vector<std::string>& ids) {
    Numbers docs(static_cast<py::ssize_t>(ids.size()));
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto doc = index.find_id(ids[i]);
        docs.mutable_data()[i] = doc ? static_cast<int32_t>(*doc) : -1;
    }
    return docs;
}

template <class Get>
std::vector<std::string> get_each(const Index& index, const Numbers& docs, Get get) {
    const auto numbers = to_docs(index, docs);
    py::gil_scoped_release release;
    std::vector<std::string> result;
    for (const uint32_t doc : numbers) result.emplace_back(get(doc));
    return result;
}

inline py::dict index_statistics(const Index& index) {
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

inline void bind_index(py::module_& m) {
    py::class_<Index>(m, "Index")
        .def(py::init([](const py::list& segments, const std::string& analyzer, double k1, double b) {
                 const auto specs = to_specs(segments);
                 py::gil_scoped_release release;
                 return std::make_unique<Index>(specs, analyzer, k1, b);
             }),
             py::arg("segments"), py::kw_only(), py::arg("analyzer"), py::arg("k1"), py::arg("b"))
        .def("search", &search_index, py::arg("queries"), py::arg("k"), py::kw_only(), py::arg("threads"),
             py::arg("lucene"), py::arg("allow"), py::arg("exhaustive") = false)
        .def("find", &find_docs, py::arg("ids"))
        .def(
            "ids",
            [](const Index& index, const Numbers& docs) {
                return get_each(index, docs, [&index](uint32_t doc) { return index.id(doc); });
            },
            py::arg("docs"))
        .def(
            "contents",
            [](const Index& index, const Numbers& docs) {
                return get_each(index, docs, [&index](uint32_t doc) { return index.text(doc); });
            },
            py::arg("docs"))
        .def("statistics", &index_statistics)
        .def("verify", &Index::verify, py::call_guard<py::gil_scoped_release>());
}

}  // namespace aslfast
