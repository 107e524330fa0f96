#include <pybind11/stl.h>

#include <algorithm>
#include <memory>

#include "../src/serving/correction_tensors.hpp"
#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
std::vector<float> numbers(py::handle value, const char* name, const std::vector<std::int64_t>& sizes) {
  Shape shape(static_cast<int>(sizes.size()), {});
  std::ranges::copy(sizes, shape.sizes.begin());
  const auto span = array(value, name, Dtype::float32, shape).span<const float>();
  return {span.begin(), span.end()};
}

std::unique_ptr<Correction> make(std::vector<std::string> items, std::vector<std::int64_t> parents,
                                 std::vector<bool> amounts, std::vector<std::int64_t> indicators,
                                 const std::string& form, py::handle median, py::handle x_mean, py::handle x_std,
                                 py::handle l_mean, py::handle l_std, py::handle weights, py::handle map_mean,
                                 py::handle map_std, py::handle map_knots, py::handle map_weights,
                                 py::handle tree_inputs, py::handle tree_thresholds, py::handle tree_masks,
                                 py::handle tree_leaves) {
  const auto found = std::ranges::find(Correction::form_names, form);
  if (found == Correction::form_names.end())
    throw py::value_error("form is '" + form + "'; expected '', 'marginal' or 'conditional'");
  Correction::Parts parts;
  parts.structure = {std::move(items),
                     std::move(parents),
                     std::move(amounts),
                     std::move(indicators),
                     static_cast<Correction::Form>(found - Correction::form_names.begin()),
                     static_cast<std::int64_t>(any_array(tree_inputs, "tree_inputs").shape[0])};
  const auto features = static_cast<std::size_t>(any_array(median, "median").size());
  const py::handle given[] = {median,  x_mean,    x_std,       l_mean,      l_std,           weights,    map_mean,
                              map_std, map_knots, map_weights, tree_inputs, tree_thresholds, tree_masks, tree_leaves};
  static_assert(std::size(given) == std::size(detail::correction_tensors));
  for (std::size_t i = 0; i < std::size(given); ++i) {
    const auto& tensor = detail::correction_tensors[i];
    parts.*tensor.values = numbers(given[i], tensor.name, detail::shape_of(tensor, parts.structure, features));
  }
  return std::make_unique<Correction>(std::move(parts));
}

void apply(const Correction& correction, py::handle context, py::handle predictions, py::handle offsets,
           py::handle items, py::handle result, int num_threads) {
  const Array p = array(predictions, "predictions", Dtype::float32, {any_size, correction.num_tasks()});
  const auto bounds = span_of<const std::int64_t>(offsets, "offsets");
  const auto x = optional_span<const float>(context, "context", {bounds.size() - 1, correction.num_features()});
  const auto columns = optional_span<const float>(items, "items", {p.shape[0], correction.num_items()});
  const auto to = span_of<float>(result, "result", {p.shape[0], correction.num_tasks()});
  const py::gil_scoped_release release;
  correction.apply(x, p.span<const float>(), bounds, columns, to, num_threads);
}

// Inputs of the trees, result[M, D].
void tree_inputs(const Correction& correction, py::handle context, py::handle predictions, py::handle offsets,
                 py::handle items, py::handle result) {
  const Array p = array(predictions, "predictions", Dtype::float32, {any_size, correction.num_tasks()});
  const auto bounds = span_of<const std::int64_t>(offsets, "offsets");
  const auto x = optional_span<const float>(context, "context", {bounds.size() - 1, correction.num_features()});
  const auto columns = optional_span<const float>(items, "items", {p.shape[0], correction.num_items()});
  const auto to = span_of<float>(result, "result", {p.shape[0], correction.num_tree_inputs()});
  const py::gil_scoped_release release;
  correction.tree_inputs(x, p.span<const float>(), bounds, columns, to);
}

// Shifts added to the log odds of the candidates of a request, result[T, 1 + V].
void shifts(const Correction& correction, py::handle context, py::handle predictions, py::handle items,
            py::handle result) {
  const std::size_t tasks = correction.num_tasks(), columns = correction.num_items();
  const auto added = correction.shifts(optional_span<const float>(context, "context"),
                                       optional_span<const float>(predictions, "predictions"),
                                       optional_span<const float>(items, "items"));
  std::ranges::copy(added, span_of<double>(result, "result", {tasks, 1 + tasks + columns}).begin());
}

void gram(py::handle z, py::handle u, py::handle h, py::handle offsets, py::handle result, int num_threads) {
  const auto bounds = span_of<const std::int64_t>(offsets, "offsets");
  const Array zs = array(z, "z", Dtype::float64, {bounds.size() - 1, any_size});
  const Array us = array(u, "u", Dtype::float64, {any_size, any_size});
  const auto hs = span_of<const double>(h, "h", {us.shape[0]});
  const std::int64_t size = zs.shape[1] * us.shape[1];
  const auto to = span_of<double>(result, "result", {size, size});
  const py::gil_scoped_release release;
  correction_gram(zs.span<const double>(), us.span<const double>(), hs, bounds, to, num_threads);
}
}  // namespace

void bind_correction(py::module_& module) {
  py::class_<Correction>(module, "Correction")
      .def(py::init(&make), py::kw_only(), "items"_a, "parents"_a, "amounts"_a, "indicators"_a, "form"_a, "median"_a,
           "x_mean"_a, "x_std"_a, "l_mean"_a, "l_std"_a, "weights"_a, "map_mean"_a, "map_std"_a, "map_knots"_a,
           "map_weights"_a, "tree_inputs"_a, "tree_thresholds"_a, "tree_masks"_a, "tree_leaves"_a)
      .def("tree_inputs", &tree_inputs, "context"_a, "predictions"_a, "offsets"_a, "items"_a, "result"_a)
      .def_property_readonly("num_tree_inputs", &Correction::num_tree_inputs)
      .def("shifts", &shifts, "context"_a, "predictions"_a, "items"_a, "result"_a)
      .def("apply", &apply, "context"_a, "predictions"_a, "offsets"_a, "items"_a, "result"_a, "num_threads"_a = 1);
  module.def("correction_gram", &gram, "z"_a, "u"_a, "h"_a, "offsets"_a, "result"_a, "num_threads"_a = 1);
}
}  // namespace pygrade::inline v0_2::bindings
