#include "arrays.hpp"

#include <pybind11/numpy.h>

#include "families.hpp"
#include "torch.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
constexpr std::array<const char*, 7> dtype_names{"float32", "float16", "bfloat16", "float64", "int32", "int64", "bool"};
}  // namespace

const char* dtype_name(Dtype dtype) { return dtype_names[static_cast<std::size_t>(dtype)]; }

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

[[noreturn]] void refuse_dtype(py::handle dtype, const char* name) {
  throw TypeMisfit(prefix(name) + py::cast<std::string>(py::str(dtype)) +
                   "; expected float32, float16, bfloat16, float64, int32, int64 or bool");
}

// By kind, a letter of numpy's ('B' for brain floats), and bits.
bool find_dtype(char kind, int bits, Dtype& dtype) {
  struct Known {
    char kind;
    int bits;
  };
  constexpr Known known[] = {{'f', 32}, {'f', 16}, {'B', 16}, {'f', 64}, {'i', 32}, {'i', 64}, {'b', 8}};  // as Dtype
  for (std::size_t i = 0; i < std::size(known); ++i)
    if (known[i].kind == kind && known[i].bits == bits) return dtype = static_cast<Dtype>(i), true;
  return false;
}

Dtype numpy_dtype(const py::array& value, const char* name) {
  const py::dtype dtype = value.dtype();
  Dtype found;
  if (dtype.byteorder() == '>' || !find_dtype(dtype.kind(), static_cast<int>(8 * dtype.itemsize()), found))
    refuse_dtype(dtype, name);
  return found;
}

Array from_numpy(const py::array& value, const char* name) {
  Array result;
  result.dtype = numpy_dtype(value, name);
  result.ndim = static_cast<int>(value.ndim());
  if (result.ndim > 4)
    throw ValueMisfit(prefix(name) + std::to_string(result.ndim) + "-dimensional; expected at most 4");
  if (!(value.flags() & py::array::c_style)) throw ValueMisfit(prefix(name) + "not C-contiguous");
  for (int d = 0; d < result.ndim; ++d) result.shape[static_cast<std::size_t>(d)] = value.shape(d);
  result.data = const_cast<void*>(value.data());
  return result;
}

// The torch dtypes in the order of Dtype, looked up once.
const std::array<PyObject*, 7>& torch_dtypes() {
  static py::gil_safe_call_once_and_store<std::array<PyObject*, 7>> storage;
  return storage
      .call_once_and_store_result([] {
        const py::module_ module = py::module_::import("torch");
        std::array<PyObject*, 7> found{};
        for (std::size_t i = 0; i < found.size(); ++i)
          found[i] = py::object(module.attr(dtype_name(static_cast<Dtype>(i)))).release().ptr();
        return found;
      })
      .get_stored();
}

bool dl_dtype(const DlTensor& tensor, Dtype& dtype) {
  constexpr std::string_view codes = "iuf?Bcb";  // the letters by DLPack's numbers of kinds
  return tensor.lanes == 1 && tensor.code < codes.size() && find_dtype(codes[tensor.code], tensor.bits, dtype);
}

// Reads a plain, contiguous CPU tensor of a known dtype. Anything else is left to from_torch, which reports errors.
bool from_exchange(py::handle value, Array& result) {
  constexpr std::int32_t cpu = 1;
  const Torch* known = torch();
  if (known == nullptr || known->api == nullptr || !known->is_tensor(value)) return false;
  DlTensor tensor;
  if (known->api->tensor_from_object(value.ptr(), &tensor) != 0) {
    // Errors that torch raises for a tensor without plain memory, such as a sparse one; anything else is not expected.
    if (!PyErr_ExceptionMatches(PyExc_RuntimeError) && !PyErr_ExceptionMatches(PyExc_BufferError))
      throw py::error_already_set();
    PyErr_Clear();
    return false;
  }
  if (tensor.device_type != cpu || tensor.ndim > 4 || !dl_dtype(tensor, result.dtype)) return false;
  std::int64_t step = 1;
  bool contiguous = true;
  for (int d = tensor.ndim - 1; d >= 0; --d) {
    const std::int64_t size = tensor.shape[d];
    contiguous &= size == 1 || tensor.strides == nullptr || tensor.strides[d] == step;
    step *= size;
    result.shape[static_cast<std::size_t>(d)] = size;
  }
  result.ndim = tensor.ndim;
  result.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  return contiguous || step == 0;
}

Array from_torch(py::handle value, const char* name) {
  Array result;
  const py::object dtype = value.attr("dtype");
  const auto& known = torch_dtypes();
  std::size_t code = 0;
  while (code < known.size() && known[code] != dtype.ptr()) ++code;
  if (code == known.size()) refuse_dtype(dtype, name);
  result.dtype = static_cast<Dtype>(code);
  if (py::hasattr(value, "layout") && py::str(value.attr("layout")).cast<std::string_view>() != "torch.strided")
    throw TypeMisfit(prefix(name) + "not a dense tensor");
  if (!value.attr("is_cpu").cast<bool>()) throw ValueMisfit(prefix(name) + "not in CPU memory");
  if (!value.attr("is_contiguous")().cast<bool>()) throw ValueMisfit(prefix(name) + "not C-contiguous");
  const py::tuple shape = value.attr("shape");
  result.ndim = static_cast<int>(shape.size());
  if (result.ndim > 4)
    throw ValueMisfit(prefix(name) + std::to_string(result.ndim) + "-dimensional; expected at most 4");
  for (std::size_t d = 0; d < shape.size(); ++d) result.shape[d] = shape[d].cast<std::int64_t>();
  try {
    result.data = reinterpret_cast<void*>(value.attr("data_ptr")().cast<std::uintptr_t>());
  } catch (py::error_already_set&) {
    throw TypeMisfit(prefix(name) + "a tensor without memory to read");
  }
  return result;
}
}  // namespace

std::string shape_text(const Array& value) { return shape_text(value.shape.data(), value.ndim); }

bool is_numpy(py::handle value) {
  return reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())) ==
         reinterpret_cast<PyObject*>(py::detail::npy_api::get().PyArray_Type_);
}

Array any_array(py::handle value, const char* name) {
  if (Array result; from_exchange(value, result)) return result;
  if (is_numpy(value)) return from_numpy(py::reinterpret_borrow<py::array>(value), name);
  if (py::hasattr(value, "data_ptr")) return from_torch(value, name);
  throw TypeMisfit(prefix(name) + py::cast<std::string>(py::str(py::type::handle_of(value).attr("__name__"))) +
                   "; expected a numpy array or a torch tensor");
}

void check(const Array& value, const char* name, Dtype dtype, const Shape& shape) {
  if (value.dtype != dtype)
    throw TypeMisfit(prefix(name) + dtype_name(value.dtype) + "; expected " + dtype_name(dtype));
  bool same = value.ndim == shape.ndim;
  for (std::size_t d = 0; same && d < static_cast<std::size_t>(shape.ndim); ++d)
    same = shape.sizes[d] == any_size || shape.sizes[d] == value.shape[d];
  if (!same)
    throw ValueMisfit(prefix(name) + "of shape " + shape_text(value.shape.data(), value.ndim) + "; expected " +
                      shape_text(shape.sizes.data(), shape.ndim));
}

Array array(py::handle value, const char* name, Dtype dtype, const Shape& shape) {
  const Array result = any_array(value, name);
  check(result, name, dtype, shape);
  return result;
}

namespace {
// The copy, with numpy's warnings of numbers that do not fit silenced.
py::object convert(py::object given, const py::object& type) {
  const py::module_ numpy = py::module_::import("numpy");
  if (py::hasattr(given, "detach")) {
    given = given.attr("detach")().attr("cpu")();
    if (given.attr("is_floating_point")().cast<bool>()) given = given.attr("float")();
    given = given.attr("numpy")();
  }
  given = numpy.attr("asarray")(given);
  const py::object settings = numpy.attr("seterr")("invalid"_a = "ignore", "over"_a = "ignore");
  struct Restore {
    const py::object set, old;
    ~Restore() { set(**py::dict(old)); }
  } restore{numpy.attr("seterr"), settings};
  py::object made = numpy.attr("ascontiguousarray")(given, type);
  if (made.attr("dtype").attr("kind").cast<char>() == 'i' && !numpy.attr("array_equal")(made, given).cast<bool>())
    throw py::value_error("expected integers of " + py::str(type).cast<std::string>());
  return made;
}
}  // namespace

py::object cast_array(py::handle value, const char* name, Dtype dtype) {
  if (is_numpy(value)) {
    const auto array = py::reinterpret_borrow<py::array>(value);
    Dtype found;
    if ((array.flags() & py::array::c_style) && array.dtype().byteorder() != '>' &&
        find_dtype(array.dtype().kind(), static_cast<int>(8 * array.dtype().itemsize()), found) && found == dtype)
      return array;
  } else if (py::isinstance(value, py::module_::import("numpy.ma").attr("MaskedArray"))) {
    throw ValueMisfit(prefix(name) + "a masked array; expected a plain one");
  }
  try {
    return convert(py::reinterpret_borrow<py::object>(value), py::dtype(dtype_name(dtype)));
  } catch (const py::error_already_set& error) {
    throw ValueMisfit(std::string(name) + " is no array of numbers: " + error.what());
  } catch (const py::value_error& error) {
    throw ValueMisfit(std::string(name) + " holds another number; " + error.what());
  }
}
}  // namespace pygrade::inline v0_2::bindings
