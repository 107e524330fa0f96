#include "arrays.hpp"

#include <pybind11/numpy.h>

namespace pygrade::bindings {

const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return "float32";
    case Dtype::float16:
      return "float16";
    case Dtype::bfloat16:
      return "bfloat16";
    case Dtype::float64:
      return "float64";
    case Dtype::int32:
      return "int32";
    case Dtype::int64:
      return "int64";
    default:
      return "bool";
  }
}

std::int64_t Array::size() const {
  std::int64_t count = 1;
  for (int d = 0; d < ndim; ++d) count *= shape[static_cast<std::size_t>(d)];
  return count;
}

namespace {

std::string prefix(const char* name) { return std::string(name) + " is "; }

std::string shape_text(const std::int64_t* shape, int ndim) {
  std::string text = "[";
  for (int d = 0; d < ndim; ++d) {
    if (d > 0) text += ", ";
    text += shape[d] == any_size ? "*" : std::to_string(shape[d]);
  }
  return text + "]";
}

Dtype numpy_dtype(const py::array& value, const char* name) {
  const char kind = value.dtype().kind();
  const auto bytes = value.dtype().itemsize();
  if (value.dtype().byteorder() != '>') {
    if (kind == 'f' && bytes == 4) return Dtype::float32;
    if (kind == 'f' && bytes == 2) return Dtype::float16;
    if (kind == 'f' && bytes == 8) return Dtype::float64;
    if (kind == 'i' && bytes == 4) return Dtype::int32;
    if (kind == 'i' && bytes == 8) return Dtype::int64;
    if (kind == 'b') return Dtype::boolean;
  }
  throw py::type_error(prefix(name) + py::cast<std::string>(py::str(value.dtype())) +
                       "; want float32, float16, bfloat16, float64, int32, int64 or bool");
}

Array from_numpy(const py::array& value, const char* name) {
  Array result;
  result.dtype = numpy_dtype(value, name);
  result.ndim = static_cast<int>(value.ndim());
  if (result.ndim > 4)
    throw py::value_error(prefix(name) + std::to_string(result.ndim) + "-dimensional; want at most 4");
  if (!(value.flags() & py::array::c_style)) throw py::value_error(prefix(name) + "not C-contiguous");
  for (int d = 0; d < result.ndim; ++d) result.shape[static_cast<std::size_t>(d)] = value.shape(d);
  result.data = const_cast<void*>(value.data());
  return result;
}

// The torch dtypes in the order of Dtype, looked up once.
const std::array<PyObject*, 7>& torch_dtypes() {
  static const std::array<PyObject*, 7> dtypes = [] {
    const py::module_ torch = py::module_::import("torch");
    std::array<PyObject*, 7> found{};
    for (std::size_t i = 0; i < found.size(); ++i)
      found[i] = py::object(torch.attr(dtype_name(static_cast<Dtype>(i)))).release().ptr();
    return found;
  }();
  return dtypes;
}

Array from_torch(py::handle value, const char* name) {
  Array result;
  const py::object dtype = value.attr("dtype");
  const auto& known = torch_dtypes();
  std::size_t code = 0;
  while (code < known.size() && known[code] != dtype.ptr()) ++code;
  if (code == known.size())
    throw py::type_error(prefix(name) + py::cast<std::string>(py::str(dtype)) +
                         "; want float32, float16, bfloat16, float64, int32, int64 or bool");
  result.dtype = static_cast<Dtype>(code);
  if (!value.attr("is_cpu").cast<bool>()) throw py::value_error(prefix(name) + "not in CPU memory");
  if (!value.attr("is_contiguous")().cast<bool>()) throw py::value_error(prefix(name) + "not C-contiguous");
  const py::tuple shape = value.attr("shape");
  result.ndim = static_cast<int>(shape.size());
  if (result.ndim > 4)
    throw py::value_error(prefix(name) + std::to_string(result.ndim) + "-dimensional; want at most 4");
  for (std::size_t d = 0; d < shape.size(); ++d) result.shape[d] = shape[d].cast<std::int64_t>();
  result.data = reinterpret_cast<void*>(value.attr("data_ptr")().cast<std::uintptr_t>());
  return result;
}

}  // namespace

Array any_array(py::handle value, const char* name) {
  if (py::isinstance<py::array>(value)) return from_numpy(py::reinterpret_borrow<py::array>(value), name);
  if (py::hasattr(value, "data_ptr")) return from_torch(value, name);
  throw py::type_error(prefix(name) + py::cast<std::string>(py::str(py::type::handle_of(value).attr("__name__"))) +
                       "; want a numpy array or a torch tensor");
}

Array array(py::handle value, const char* name, Dtype dtype, std::initializer_list<std::int64_t> shape) {
  const Array result = any_array(value, name);
  if (result.dtype != dtype)
    throw py::type_error(prefix(name) + dtype_name(result.dtype) + "; want " + dtype_name(dtype));
  bool same = result.ndim == static_cast<int>(shape.size());
  for (std::size_t d = 0; same && d < shape.size(); ++d) {
    const std::int64_t wanted = shape.begin()[d];
    same = wanted == any_size || wanted == result.shape[d];
  }
  if (!same)
    throw py::value_error(prefix(name) + "of shape " + shape_text(result.shape.data(), result.ndim) + "; want " +
                          shape_text(shape.begin(), static_cast<int>(shape.size())));
  return result;
}

}  // namespace pygrade::bindings
