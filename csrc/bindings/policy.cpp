#include "pygrade/policy.hpp"

#include <pybind11/stl.h>

#include <optional>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {

namespace {

std::span<const std::byte> bytes_of(const py::bytes& value) {
  const std::string_view view = value;
  return std::as_bytes(std::span(view));
}

py::bytes to_bytes(const std::vector<std::byte>& content) {
  return {reinterpret_cast<const char*>(content.data()), content.size()};
}

void evaluate(const Policy& policy, py::handle context, py::handle predictions,
              const std::optional<std::string>& scenario, py::handle inputs, py::handle concentration,
              py::handle weights, py::handle values, py::handle items) {
  const auto tasks = static_cast<std::int64_t>(policy.tasks().size());
  const Array c = array(context, "context", Dtype::float32, {static_cast<std::int64_t>(policy.features().size())});
  const Array p = array(predictions, "predictions", Dtype::float32, {any_size, tasks});
  const Array i = array(inputs, "inputs", Dtype::float32, {static_cast<std::int64_t>(policy.num_inputs())});
  const Array a = array(concentration, "concentration", Dtype::float32, {tasks});
  const Array w = array(weights, "weights", Dtype::float32, {tasks});
  std::vector<float> multipliers(policy.tasks().size());
  std::span<const float> given;
  if (!values.is_none()) given = array(values, "values", Dtype::float32, {tasks}).span<const float>();
  policy.multipliers(given, scenario, multipliers);
  if (!policy.trade_offs()) multipliers.clear();
  Policy::Workspace workspace;
  std::span<const float> rows = p.span<const float>(), item_rows;
  std::vector<float> corrected;
  if (policy.corrected()) {
    const auto columns = static_cast<std::int64_t>(policy.correction()->num_items());
    if (!items.is_none()) item_rows = array(items, "items", Dtype::float32, {p.shape[0], columns}).span<const float>();
    Correction::Workspace memory;
    corrected.resize(rows.size());
    policy.correction()->apply(c.span<const float>(), rows, item_rows, memory, corrected);
    rows = corrected;
  }
  policy.request_inputs(c.span<const float>(), rows, i.span<float>(), multipliers);
  policy.evaluate(i.span<const float>(), scenario, workspace, a.span<float>(), w.span<float>());
}

void piecewise_linear(py::handle values, const std::vector<float>& x, const std::vector<float>& y, py::handle result) {
  const Array from = array(values, "values", Dtype::float32, {any_size});
  const Array to = array(result, "result", Dtype::float32, {from.size()});
  PiecewiseLinear(x, y).map(from.span<const float>().data(), 1, to.span<float>());
}

}  // namespace

void bind_policy(py::module_& module) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ArtifactMissing& error) {
      py::set_error(PyExc_FileNotFoundError, error.what());
    } catch (const ArtifactError& error) {
      py::set_error(PyExc_ValueError, error.what());
    }
  });
  // Shared with C++ rankers. pybind11 holds no pointers to const; nothing here changes a policy.
  py::class_<Policy, std::shared_ptr<Policy>>(module, "Policy")
      .def(py::init([](const py::bytes& json, const py::bytes& tensors, const std::string& name) {
             return std::const_pointer_cast<Policy>(Policy::parse(std::string_view(json), bytes_of(tensors), name));
           }),
           py::arg("json"), py::arg("tensors"), py::arg("name") = "policy")
      .def_static(
          "load", [](const std::string& path) { return std::const_pointer_cast<Policy>(Policy::load(path)); },
          py::arg("path"), py::call_guard<py::gil_scoped_release>())
      .def_static(
          "read",
          [](const std::string& path) {
            const auto files = [&] {
              const py::gil_scoped_release unlocked;
              return Policy::read(path);
            }();
            return py::make_tuple(to_bytes(files.json), to_bytes(files.tensors));
          },
          py::arg("path"))
      .def_property_readonly("tasks", &Policy::tasks)
      .def_property_readonly("features", &Policy::features)
      .def_property_readonly("scenarios", &Policy::scenarios)
      .def_property_readonly("version", &Policy::version)
      .def_property_readonly("schema_hash", &Policy::schema_hash)
      .def_property_readonly("num_inputs", &Policy::num_inputs)
      .def("evaluate", &evaluate, py::arg("context"), py::arg("predictions"), py::arg("scenario").none(true),
           py::arg("inputs"), py::arg("concentration"), py::arg("weights"), py::arg("values") = py::none(),
           py::arg("items") = py::none());
  module.def("piecewise_linear", &piecewise_linear, py::arg("values"), py::arg("x"), py::arg("y"), py::arg("result"));
}

}  // namespace pygrade::inline v0_2::bindings
