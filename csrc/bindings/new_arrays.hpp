// New numpy arrays for results.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <ranges>

#include "arrays.hpp"

namespace pygrade::inline v0_2::bindings {
template <class T>
py::array_t<T> new_array_of(const Shape& shape) {
  return py::array_t<T>(std::vector<py::ssize_t>(shape.sizes.begin(), shape.sizes.begin() + shape.ndim));
}

template <std::ranges::contiguous_range Values>
auto copy_to_array(const Values& values, const Shape& shape) {
  auto made = new_array_of<std::ranges::range_value_t<Values>>(shape);
  std::ranges::copy(values, made.mutable_data());
  return made;
}

template <std::ranges::contiguous_range Values>
auto copy_to_array(const Values& values) {
  return copy_to_array(values, {std::ranges::size(values)});
}
}  // namespace pygrade::inline v0_2::bindings
