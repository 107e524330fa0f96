#pragma once

#include <pybind11/pybind11.h>

#include "../src/serving/counts.hpp"

namespace pygrade::inline v0_2::bindings {
template <class T, std::size_t N>
void add_counts(pybind11::dict& to, const T& counters, const detail::Count<T> (&counts)[N]) {
  for (const detail::Count<T>& count : counts) to[count.name] = counters.*count.member;
}
}  // namespace pygrade::inline v0_2::bindings
