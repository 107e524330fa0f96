// Reads numpy arrays and CPU torch tensors without linking either: pointer, shape and dtype, with errors by argument
// name.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

namespace pygrade::inline v0_2::bindings {
namespace py = pybind11;

// An argument that is not what a binding reads as it is. A fast path leaves the call to the Python layer on these
// alone.
struct Misfit {};
struct TypeMisfit : py::type_error, Misfit {
  using py::type_error::type_error;
};
struct ValueMisfit : py::value_error, Misfit {
  using py::value_error::value_error;
};

enum class Dtype : std::uint8_t { float32, float16, bfloat16, float64, int32, int64, boolean };

const char* dtype_name(Dtype dtype);

template <class T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, float>) return Dtype::float32;
  if constexpr (std::is_same_v<T, double>) return Dtype::float64;
  if constexpr (std::is_same_v<T, std::int32_t>) return Dtype::int32;
  if constexpr (std::is_same_v<T, std::int64_t>) return Dtype::int64;
  return Dtype::boolean;  // bool, or std::uint8_t
}

inline constexpr std::int64_t any_size = -1;

struct Size {
  std::int64_t value;
  Size(std::integral auto size) : value(static_cast<std::int64_t>(size)) {}
};

// Up to four sizes; any_size matches every size.
struct Shape {
  int ndim = 0;
  std::array<std::int64_t, 4> sizes{};

  Shape(int dimensions, const std::array<std::int64_t, 4>& given) : ndim(dimensions), sizes(given) {}
  Shape(std::initializer_list<Size> given) : ndim(static_cast<int>(given.size())) {
    std::ranges::transform(given, sizes.begin(), &Size::value);
  }
  std::int64_t size() const {
    std::int64_t count = 1;
    for (int d = 0; d < ndim; ++d) count *= sizes[static_cast<std::size_t>(d)];
    return count;
  }
  std::int64_t padded_size() const { return (size() + 15) / 16 * 16; }  // whole cache lines of floats
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

inline std::span<const std::byte> bytes_of(const py::bytes& value) {
  return std::as_bytes(std::span(std::string_view(value)));
}

// pybind11 holds no pointers to const; no binding changes what this one points to.
template <class T>
std::shared_ptr<T> mutable_of(std::shared_ptr<const T> made) {
  return std::const_pointer_cast<T>(std::move(made));
}

// Whether the value is an ndarray itself: a subclass, such as a masked array, may mean something else.
bool is_numpy(py::handle value);

// The array behind `value`. TypeMisfit if it is not a dense array of `dtype`; ValueMisfit if it is not contiguous, not
// in CPU memory, or not of `shape` (any_size admits every length). `name` is the argument in the message.
Array array(py::handle value, const char* name, Dtype dtype, const Shape& shape);

// The values of such an array, by default a vector of any length.
template <class T>
std::span<T> span_of(py::handle value, const char* name, const Shape& shape = {any_size}) {
  return array(value, name, dtype_of<std::remove_const_t<T>>(), shape).template span<T>();
}

// A numpy array of `dtype` that is C-contiguous: the value itself, or a copy of a list, a tensor, or another array.
// Integers must be exact; a float may be rounded, and None is NaN.
py::object cast_array(py::handle value, const char* name, Dtype dtype);

// Nothing for None.
template <class T>
std::span<T> optional_span(py::handle value, const char* name, const Shape& shape = {any_size}) {
  return value.is_none() ? std::span<T>() : span_of<T>(value, name, shape);
}

// Conversion in two steps: an array of any dtype and shape, and the check of these.
Array any_array(py::handle value, const char* name);
void check(const Array& value, const char* name, Dtype dtype, const Shape& shape);
std::string shape_text(const Array& value);
}  // namespace pygrade::inline v0_2::bindings
