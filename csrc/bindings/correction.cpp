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
                                 py::handle map_std, py::handle map_knots, py::handle map_weights) {
  const auto found = std::ranges::find(Correction::form_names, form);
  if (found == Correction::form_names.end())
    throw py::value_error("form is '" + form + "'; want '', 'marginal' or 'conditional'");
  Correction::Parts parts;
  parts.structure = {std::move(items), std::move(parents), std::move(amounts), std::move(indicators),
                     static_cast<Correction::Form>(found - Correction::form_names.begin())};
  const auto features = static_cast<std::size_t>(any_array(median, "median").size());
  const py::handle given[] = {median, x_mean, x_std, l_mean, l_std, weights, map_mean, map_std, map_knots, map_weights};
  static_assert(std::size(given) == std::size(detail::correction_tensors));
  for (std::size_t i = 0; i < std::size(given); ++i) {
    const auto& tensor = detail::correction_tensors[i];
    parts.*tensor.values = numbers(given[i], tensor.name, detail::shape_of(tensor, parts.structure, features));
  }
  return std::make_unique<Correction>(std::move(parts));
}

void apply(const Correction& correction, py::handle context, py::handle predictions, py::handle offsets,
           py::handle items, py::handle result, int num_threads) {
  const auto count = [](std::size_t n) { return static_cast<std::int64_t>(n); };
  const std::size_t tasks = correction.num_tasks(), features = correction.num_features(),
                    columns = correction.num_items();
  const Array p = array(predictions, "predictions", Dtype::float32, {any_size, count(tasks)});
  const auto bounds = array(offsets, "offsets", Dtype::int64, {any_size});
  std::span<const float> x, item_rows;
  if (!context.is_none())
    x = array(context, "context", Dtype::float32, {bounds.size() - 1, count(features)}).span<const float>();
  if (!items.is_none())
    item_rows = array(items, "items", Dtype::float32, {p.shape[0], count(columns)}).span<const float>();
  const auto to = array(result, "result", Dtype::float32, {p.shape[0], count(tasks)}).span<float>();
  const py::gil_scoped_release release;
  correction.apply(x, p.span<const float>(), bounds.span<const std::int64_t>(), item_rows, to, num_threads);
}

void gram(py::handle z, py::handle u, py::handle h, py::handle offsets, py::handle result, int num_threads) {
  const auto bounds = array(offsets, "offsets", Dtype::int64, {any_size});
  const Array zs = array(z, "z", Dtype::float64, {bounds.size() - 1, any_size});
  const Array us = array(u, "u", Dtype::float64, {any_size, any_size});
  const Array hs = array(h, "h", Dtype::float64, {us.shape[0]});
  const std::int64_t size = zs.shape[1] * us.shape[1];
  const auto to = array(result, "result", Dtype::float64, {size, size}).span<double>();
  const py::gil_scoped_release release;
  correction_gram(zs.span<const double>(), us.span<const double>(), hs.span<const double>(),
                  bounds.span<const std::int64_t>(), to, num_threads);
}

}  // namespace

void bind_correction(py::module_& module) {
  py::class_<Correction>(module, "Correction")
      .def(py::init(&make), py::kw_only(), py::arg("items"), py::arg("parents"), py::arg("amounts"),
           py::arg("indicators"), py::arg("form"), py::arg("median"), py::arg("x_mean"), py::arg("x_std"),
           py::arg("l_mean"), py::arg("l_std"), py::arg("weights"), py::arg("map_mean"), py::arg("map_std"),
           py::arg("map_knots"), py::arg("map_weights"))
      .def("apply", &apply, py::arg("context").none(true), py::arg("predictions"), py::arg("offsets"),
           py::arg("items").none(true), py::arg("result"), py::arg("num_threads") = 1);
  module.def("correction_gram", &gram, py::arg("z"), py::arg("u"), py::arg("h"), py::arg("offsets"), py::arg("result"),
             py::arg("num_threads") = 1);
}

}  // namespace pygrade::inline v0_2::bindings
