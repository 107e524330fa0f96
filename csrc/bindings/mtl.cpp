#include "pygrade/mtl.hpp"

#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

std::int64_t size_of(std::size_t count) { return static_cast<std::int64_t>(count); }

void predict(const MultiTaskModel& model, py::handle dense, py::handle ids, py::handle probabilities, bool calibrated,
             int num_threads) {
  const Array d = array(dense, "dense", Dtype::float32, {any_size, size_of(model.dense_columns().size())});
  const Array i = array(ids, "ids", Dtype::int64, {d.shape[0], size_of(model.id_columns().size())});
  const Array p = array(probabilities, "probabilities", Dtype::float32, {d.shape[0], size_of(model.tasks().size())});
  const py::gil_scoped_release unlocked;
  model.predict(d.span<const float>(), i.span<const std::int64_t>(), p.span<float>(), calibrated, num_threads);
}

void predict_request(const MultiTaskModel& model, py::handle request_dense, py::handle request_ids, py::handle dense,
                     py::handle ids, py::handle probabilities, bool calibrated) {
  const std::int64_t dense_columns = size_of(model.dense_columns().size() - model.request_dense());
  const std::int64_t id_columns = size_of(model.id_columns().size() - model.request_ids());
  const Array rd = array(request_dense, "request_dense", Dtype::float32, {size_of(model.request_dense())});
  const Array ri = array(request_ids, "request_ids", Dtype::int64, {size_of(model.request_ids())});
  const Array d = array(dense, "dense", Dtype::float32, {any_size, dense_columns});
  const Array i = array(ids, "ids", Dtype::int64, {d.shape[0], id_columns});
  const Array p = array(probabilities, "probabilities", Dtype::float32, {d.shape[0], size_of(model.tasks().size())});
  const py::gil_scoped_release unlocked;
  model.predict_request(rd.span<const float>(), ri.span<const std::int64_t>(), d.span<const float>(),
                        i.span<const std::int64_t>(), p.span<float>(), calibrated);
}

}  // namespace

void bind_mtl(py::module_& module) {
  // Shared with C++ pipelines. pybind11 holds no pointers to const; nothing here changes a model.
  py::class_<MultiTaskModel, std::shared_ptr<MultiTaskModel>>(module, "MultiTaskModel")
      .def(py::init([](const py::bytes& json, const py::bytes& tensors, const std::string& name) {
             const std::string_view text = json, content = tensors;
             return std::const_pointer_cast<MultiTaskModel>(
                 MultiTaskModel::parse(text, std::as_bytes(std::span(content)), name));
           }),
           py::arg("json"), py::arg("tensors"), py::arg("name") = "mtl")
      .def_static(
          "load",
          [](const std::filesystem::path& path) {
            return std::const_pointer_cast<MultiTaskModel>(MultiTaskModel::load(path));
          },
          py::arg("path"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("tasks", &MultiTaskModel::tasks)
      .def_property_readonly("dense_columns", &MultiTaskModel::dense_columns)
      .def_property_readonly("id_columns", &MultiTaskModel::id_columns)
      .def_property_readonly("features", &MultiTaskModel::features)
      .def_property_readonly("schema_hash", &MultiTaskModel::schema_hash)
      .def_property_readonly("request_dense", &MultiTaskModel::request_dense)
      .def_property_readonly("request_ids", &MultiTaskModel::request_ids)
      .def("predict", &predict, py::arg("dense"), py::arg("ids"), py::arg("probabilities"),
           py::arg("calibrated") = true, py::arg("num_threads") = 1)
      .def("predict_request", &predict_request, py::arg("request_dense"), py::arg("request_ids"), py::arg("dense"),
           py::arg("ids"), py::arg("probabilities"), py::arg("calibrated") = true);
}

}  // namespace pygrade::inline v0_2::bindings
