#include "pygrade/policy.hpp"

#include <pybind11/stl.h>

#include <optional>

#include "arrays.hpp"
#include "families.hpp"
#include "serving/prediction_scales.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
py::bytes to_bytes(const std::vector<std::byte>& content) {
  return {reinterpret_cast<const char*>(content.data()), content.size()};
}

void evaluate(const Policy& policy, py::handle context, py::handle predictions,
              const std::optional<std::string>& scenario, py::handle inputs, py::handle concentration,
              py::handle weights, py::handle values, py::handle items) {
  const std::size_t tasks = policy.tasks().size();
  const auto c = span_of<const float>(context, "context", {policy.features().size()});
  const Array p = array(predictions, "predictions", Dtype::float32, {any_size, tasks});
  const auto i = span_of<float>(inputs, "inputs", {policy.num_inputs()});
  const auto a = span_of<float>(concentration, "concentration", {tasks});
  const auto w = span_of<float>(weights, "weights", {tasks});
  Policy::RequestValues in_force;
  policy.find_values(optional_span<const float>(values, "values", {tasks}), scenario, in_force);
  Policy::Workspace workspace;
  std::span<const float> rows = p.span<const float>();
  std::vector<float> corrected;
  if (policy.corrected()) {
    const Correction& correction = *policy.correction();
    const auto columns = optional_span<const float>(items, "items", {p.shape[0], correction.num_items()});
    Correction::Workspace memory;
    corrected.resize(rows.size());
    correction.apply(c, rows, columns, memory, corrected);
    rows = corrected;
  }
  policy.request_inputs(c, rows, workspace, i, in_force.multipliers);
  policy.evaluate(i, scenario, workspace, a, w);
}

void piecewise_linear(py::handle values, const std::vector<float>& x, const std::vector<float>& y, py::handle result) {
  const auto from = span_of<const float>(values, "values");
  PiecewiseLinear(x, y).map(from.data(), 1, span_of<float>(result, "result", {from.size()}));
}

// scales: JSON of policies and logs; predictions[M, T] as a table has them → result[M, T] as a log has them.
void read_predictions(const std::string& scales, const std::vector<std::string>& tasks, py::handle predictions,
                      py::handle result) {
  const auto from = span_of<const float>(predictions, "predictions", {any_size, tasks.size()});
  try {
    const auto parsed = detail::parse_scales(detail::Json::parse(scales), tasks);
    parsed.read(from, span_of<float>(result, "result", {from.size() / tasks.size(), tasks.size()}));
  } catch (const detail::JsonError& error) {
    throw py::value_error(error.what());
  }
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
  // Shared with C++ rankers.
  py::class_<Policy, std::shared_ptr<Policy>>(module, "Policy")
      .def(py::init([](const py::bytes& json, const py::bytes& tensors, const std::string& name) {
             return mutable_of(Policy::parse(std::string_view(json), bytes_of(tensors), name));
           }),
           "json"_a, "tensors"_a, "name"_a = "policy")
      .def_static(
          "load", [](const std::string& path) { return mutable_of(Policy::load(path)); }, "path"_a,
          py::call_guard<py::gil_scoped_release>())
      .def_static(
          "read",
          [](const std::string& path) {
            const auto files = [&] {
              const py::gil_scoped_release unlocked;
              return Policy::read(path);
            }();
            return py::make_tuple(to_bytes(files.json), to_bytes(files.tensors));
          },
          "path"_a)
      .def_property_readonly("tasks", &Policy::tasks)
      .def_property_readonly("features", &Policy::features)
      .def_property_readonly("scenarios", &Policy::scenarios)
      .def_property_readonly("version", &Policy::version)
      .def_property_readonly("schema_hash", &Policy::schema_hash)
      .def_property_readonly("num_inputs", &Policy::num_inputs)
      .def("evaluate", &evaluate, "context"_a, "predictions"_a, "scenario"_a, "inputs"_a, "concentration"_a,
           "weights"_a, "values"_a = py::none(), "items"_a = py::none());
  module.def("read_predictions", &read_predictions, "scales"_a, "tasks"_a, "predictions"_a, "result"_a);
  module.def("piecewise_linear", &piecewise_linear, "values"_a, "x"_a, "y"_a, "result"_a);
}
}  // namespace pygrade::inline v0_2::bindings
