#pragma once

#include <pybind11/pybind11.h>

#include <string_view>
#include <vector>

#include "pygrade/features.hpp"

namespace pygrade::inline v0_2::bindings {
// Texts and numbers of a request's context; the texts belong to Python.
inline std::vector<ContextValue> context_of(const pybind11::dict& given) {
  std::vector<ContextValue> values;
  for (const auto& [name, value] : given) {
    ContextValue entry{.name = pybind11::cast<std::string_view>(name)};
    if (PyUnicode_Check(value.ptr()))
      entry.text = pybind11::cast<std::string_view>(value);
    else if (!value.is_none())
      entry.number = pybind11::cast<double>(value);
    values.push_back(entry);
  }
  return values;
}
}  // namespace pygrade::inline v0_2::bindings
