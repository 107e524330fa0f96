#include "pygrade/mtl.hpp"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
void predict(const MultiTaskModel& model, py::handle dense, py::handle ids, py::handle probabilities, bool calibrated,
             int num_threads) {
  const Array d = array(dense, "dense", Dtype::float32, {any_size, model.dense_columns().size()});
  const auto i = span_of<const std::int64_t>(ids, "ids", {d.shape[0], model.id_columns().size()});
  const auto p = span_of<float>(probabilities, "probabilities", {d.shape[0], model.tasks().size()});
  const py::gil_scoped_release unlocked;
  model.predict(d.span<const float>(), i, p, calibrated, num_threads);
}

void predict_request(const MultiTaskModel& model, py::handle request_dense, py::handle request_ids, py::handle dense,
                     py::handle ids, py::handle probabilities, bool calibrated) {
  const std::size_t dense_columns = model.dense_columns().size() - model.request_dense();
  const std::size_t id_columns = model.id_columns().size() - model.request_ids();
  const auto rd = span_of<const float>(request_dense, "request_dense", {model.request_dense()});
  const auto ri = span_of<const std::int64_t>(request_ids, "request_ids", {model.request_ids()});
  const Array d = array(dense, "dense", Dtype::float32, {any_size, dense_columns});
  const auto i = span_of<const std::int64_t>(ids, "ids", {d.shape[0], id_columns});
  const auto p = span_of<float>(probabilities, "probabilities", {d.shape[0], model.tasks().size()});
  const py::gil_scoped_release unlocked;
  model.predict_request(rd, ri, d.span<const float>(), i, p, calibrated);
}
}  // namespace

void bind_mtl(py::module_& module) {
  // Shared with C++ pipelines.
  py::class_<MultiTaskModel, std::shared_ptr<MultiTaskModel>>(module, "MultiTaskModel")
      .def(py::init([](const py::bytes& json, const py::bytes& tensors, const std::string& name) {
             return mutable_of(MultiTaskModel::parse(std::string_view(json), bytes_of(tensors), name));
           }),
           "json"_a, "tensors"_a, "name"_a = "mtl")
      .def_static(
          "load", [](const std::filesystem::path& path) { return mutable_of(MultiTaskModel::load(path)); }, "path"_a,
          py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("tasks", &MultiTaskModel::tasks)
      .def_property_readonly("dense_columns", &MultiTaskModel::dense_columns)
      .def_property_readonly("id_columns", &MultiTaskModel::id_columns)
      .def_property_readonly("features", &MultiTaskModel::features)
      .def_property_readonly("schema_hash", &MultiTaskModel::schema_hash)
      .def_property_readonly("request_dense", &MultiTaskModel::request_dense)
      .def_property_readonly("request_ids", &MultiTaskModel::request_ids)
      .def("predict", &predict, "dense"_a, "ids"_a, "probabilities"_a, "calibrated"_a = true, "num_threads"_a = 1)
      .def("predict_request", &predict_request, "request_dense"_a, "request_ids"_a, "dense"_a, "ids"_a,
           "probabilities"_a, "calibrated"_a = true);
}
}  // namespace pygrade::inline v0_2::bindings
