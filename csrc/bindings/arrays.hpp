// Reads numpy arrays and CPU torch tensors without linking either: pointer, shape and dtype, with errors by argument
// name.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace pygrade::inline v0_2::bindings {

namespace py = pybind11;

// An argument that is not what a binding reads as it is. A fast path leaves the call to the Python layer on these
// alone.
struct TypeMisfit : py::type_error {
  using py::type_error::type_error;
};
struct ValueMisfit : py::value_error {
  using py::value_error::value_error;
};

enum class Dtype : std::uint8_t { float32, float16, bfloat16, float64, int32, int64, boolean };

const char* dtype_name(Dtype dtype);

inline constexpr std::int64_t any_size = -1;

// Up to four sizes; any_size matches every size.
struct Shape {
  int ndim = 0;
  std::array<std::int64_t, 4> sizes{};

  Shape(int dimensions, const std::array<std::int64_t, 4>& given) : ndim(dimensions), sizes(given) {}
  Shape(std::initializer_list<std::int64_t> given) : ndim(static_cast<int>(given.size())) {
    std::copy(given.begin(), given.end(), sizes.begin());
  }
  // Without the first size: the part of one request of a batch.
  Shape tail() const { return {ndim - 1, {sizes[1], sizes[2], sizes[3]}}; }
};

// A C-contiguous CPU array that Python owns; valid while the Python object lives.
struct Array {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int ndim = 0;
  std::array<std::int64_t, 4> shape{};

  std::int64_t size() const;
  template <class T>
  std::span<T> span() const {
    return {static_cast<T*>(data), static_cast<std::size_t>(size())};
  }
};

// Whether the value is an ndarray itself: a subclass, such as a masked array, may mean something else.
bool is_numpy(py::handle value);

// The array behind `value`. TypeMisfit if it is not a dense array of `dtype`; ValueMisfit if it is not contiguous, not
// in CPU memory, or not of `shape` (any_size admits every length). `name` is the argument in the message.
Array array(py::handle value, const char* name, Dtype dtype, const Shape& shape);

// The same in two steps: an array of any dtype and shape, and the check of these.
Array any_array(py::handle value, const char* name);
void check(const Array& value, const char* name, Dtype dtype, const Shape& shape);

}  // namespace pygrade::inline v0_2::bindings
