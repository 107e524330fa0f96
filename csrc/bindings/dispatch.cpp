#include "dispatch.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "families.hpp"
#include "torch.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
std::atomic<const Torch*> connected{nullptr};

// A reference that is kept until the process ends.
PyObject* keep(py::object value) { return value.release().ptr(); }

void connect_torch(py::handle module, py::handle backend) {
  const py::object type = module.attr("Tensor");
  const py::object core = module.attr("_C");
  auto* found = new Torch{};
  found->tensor_type = keep(type);
  if (py::hasattr(type, "__dlpack_c_exchange_api__")) {
    const py::object capsule = type.attr("__dlpack_c_exchange_api__");
    const auto* api = static_cast<const DlExchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (api == nullptr) PyErr_Clear();
    if (api != nullptr && api->major == 1) found->api = api;  // lives as long as the type
  }
  found->empty = keep(module.attr("empty"));
  found->float32 = keep(module.attr("float32"));
  found->int32 = keep(module.attr("int32"));
  found->cpu = keep(module.attr("device")("cpu"));
  found->dispatch_modes = keep(core.attr("_len_torch_dispatch_stack"));
  found->transforms = keep(core.attr("_are_functorch_transforms_active"));
  found->grad_enabled = keep(module.attr("is_grad_enabled"));
  found->num_threads = keep(module.attr("get_num_threads"));
  found->backend = py::reinterpret_borrow<py::object>(backend).release().ptr();
  connected.store(found);
}

py::object result_of(PyObject* function) {
  PyObject* result = PyObject_CallNoArgs(function);
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

bool requires_grad(py::handle tensor) {
  static PyObject* const name = PyUnicode_InternFromString("requires_grad");
  PyObject* found = PyObject_GetAttr(tensor.ptr(), name);
  if (found == nullptr) throw py::error_already_set();
  Py_DECREF(found);
  return found == Py_True;
}

bool core_is_chosen(const Torch& known) {
  PyObject* chosen = nullptr;
  if (PyContextVar_Get(known.backend, nullptr, &chosen) < 0) throw py::error_already_set();
  const py::object held = py::reinterpret_steal<py::object>(chosen);
  return chosen != nullptr && (PyUnicode_CompareWithASCIIString(chosen, "auto") == 0 ||
                               PyUnicode_CompareWithASCIIString(chosen, "cpu") == 0);
}

// No dispatch mode and no functorch transform, whose wrapped tensors have no readable memory.
bool no_modes(const Torch& known) {
  return PyLong_AsLong(result_of(known.dispatch_modes).ptr()) == 0 && result_of(known.transforms).ptr() == Py_False;
}
}  // namespace

const Torch* torch() { return connected.load(std::memory_order_acquire); }

bool wants_gradient(std::initializer_list<py::handle> values) {
  const Torch* known = torch();
  for (const py::handle value : values)
    if (known->is_tensor(value) && requires_grad(value)) return result_of(known->grad_enabled).ptr() == Py_True;
  return false;
}

bool may_run(py::handle scores, py::handle weights) {
  const Torch* known = torch();
  if (known == nullptr || !core_is_chosen(*known)) return false;
  if (is_numpy(scores) && is_numpy(weights)) return true;
  return known->is_tensor(scores) && known->is_tensor(weights) && no_modes(*known);
}

std::int64_t integer(py::handle value, const char* name, std::int64_t low, std::int64_t high) {
  const long long number = PyLong_AsLongLong(value.ptr());
  if (number == -1 && PyErr_Occurred()) {
    if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_OverflowError))
      throw py::error_already_set();
    PyErr_Clear();
    throw TypeMisfit(std::string(name) + " is not an integer of 64 bits");
  }
  if (number < low || number > high)
    throw ValueMisfit(std::string(name) + " is " + std::to_string(number) + "; expected " + std::to_string(low) +
                      " to " + std::to_string(high));
  return number;
}

double number(py::handle value, const char* name) {
  if (PyFloat_Check(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
  if (!PyLong_Check(value.ptr())) throw TypeMisfit(std::string(name) + " is not a number of Python");
  const double result = PyLong_AsDouble(value.ptr());
  if (result == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return result;
}

bool is_true(py::handle value) {
  const int result = PyObject_IsTrue(value.ptr());
  if (result < 0) throw py::error_already_set();
  return result == 1;
}

bool is_text(py::handle value, std::string_view text) {
  return PyUnicode_Check(value.ptr()) && PyUnicode_CompareWithASCIIString(value.ptr(), text.data()) == 0;
}

int thread_count(py::handle num_threads) {
  if (num_threads.is_none()) return static_cast<int>(PyLong_AsLong(result_of(torch()->num_threads).ptr()));
  return static_cast<int>(integer(num_threads, "num_threads", 1, 1 << 20));
}

PyObject* set_error() noexcept {
  try {
    throw;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::logic_error& error) {  // of the core's own checks
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  } catch (...) {
    PyErr_SetString(PyExc_SystemError, "unknown C++ exception");
  }
  return nullptr;
}

py::object new_numpy(int type, const Shape& shape) {
  const auto& numpy = py::detail::npy_api::get();
  Py_intptr_t sizes[4];
  std::copy(shape.sizes.begin(), shape.sizes.end(), sizes);
  PyObject* made = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, numpy.PyArray_DescrFromType_(type), shape.ndim,
                                               sizes, nullptr, nullptr, 0, nullptr);
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

py::object new_array(py::handle like, Dtype dtype, const Shape& shape) {
  const bool whole = dtype == Dtype::int32;
  if (is_numpy(like)) return new_numpy(whole ? py::dtype::num_of<std::int32_t>() : py::dtype::num_of<float>(), shape);
  const auto ndim = static_cast<std::size_t>(shape.ndim);
  // Separate sizes: torch reads a tuple of them slower.
  static PyObject* const names = keep(py::make_tuple("dtype", "device"));
  const Torch& known = *torch();
  py::object sizes[4];
  PyObject* arguments[6];
  for (std::size_t d = 0; d < ndim; ++d) {
    sizes[d] = py::reinterpret_steal<py::object>(PyLong_FromLongLong(shape.sizes[d]));
    arguments[d] = sizes[d].ptr();
  }
  arguments[ndim] = whole ? known.int32 : known.float32;
  arguments[ndim + 1] = known.cpu;
  PyObject* made = PyObject_Vectorcall(known.empty, arguments, ndim, names);
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

namespace {
// Memory of torch that several tensors share.
struct Block {
  DlManaged* memory;
  std::atomic<int> users;

  void leave() {
    if (users.fetch_sub(1) > 1) return;
    memory->deleter(memory);
    delete this;
  }
};

struct Part {
  DlManaged managed{};
  std::array<std::int64_t, 4> sizes{}, strides{};
  Block* block = nullptr;

  static void end(DlManaged* managed) {  // by any thread, with or without the interpreter
    auto* part = static_cast<Part*>(managed->context);
    part->block->leave();
    delete part;
  }
};

constexpr std::int32_t dl_cpu = 1;
constexpr std::uint8_t dl_float = 2;

Block* allocate_block(const DlExchange& api, std::int64_t size) {
  DlTensor like{nullptr, dl_cpu, 0, 1, dl_float, 32, 1, &size, nullptr, 0};
  DlManaged* memory = nullptr;
  if (api.allocate(&like, &memory, nullptr, [](void*, const char*, const char*) {}) != 0) throw std::bad_alloc();
  return new Block{memory, 1};
}

py::object part_of(const DlExchange& api, Block* block, float* data, const Shape& shape) {
  auto* part = new Part{.sizes = shape.sizes, .block = block};
  block->users.fetch_add(1);
  std::int64_t step = 1;
  for (auto d = static_cast<std::size_t>(shape.ndim); d-- > 0; step *= std::max<std::int64_t>(shape.sizes[d], 1))
    part->strides[d] = step;
  part->managed = {
      api.major, api.minor,
      part,      &Part::end,
      0,         {data, dl_cpu, 0, shape.ndim, dl_float, 32, 1, part->sizes.data(), part->strides.data(), 0}};
  void* object = nullptr;
  if (api.managed_to_object(&part->managed, &object) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}
}  // namespace

void new_arrays(py::handle like, std::span<NewArray> wanted) {
  const DlExchange* api = is_numpy(like) ? nullptr : torch()->api;
  if (api == nullptr) {
    for (NewArray& made : wanted) {
      made.object = new_array(like, Dtype::float32, made.shape);
      made.values = any_array(made.object, "the result").span<float>();
    }
    return;
  }
  std::int64_t total = 0;
  for (const NewArray& made : wanted) total += made.shape.padded_size();
  Block* block = allocate_block(*api, total);
  const std::unique_ptr<Block, void (*)(Block*)> user(block, [](Block* held) { held->leave(); });
  auto* data = static_cast<float*>(block->memory->tensor.data);
  for (NewArray& made : wanted) {
    made.object = part_of(*api, block, data, made.shape);
    made.values = {data, static_cast<std::size_t>(made.shape.size())};
    data += made.shape.padded_size();
  }
}

namespace {
Array output(py::handle value, const char* name, Dtype dtype, const Shape& shape) {
  const Array result = array(value, name, dtype, shape);
  const bool plain = is_numpy(value) ? py::reinterpret_borrow<py::array>(value).writeable()
                                     : torch()->is_tensor(value) && (dtype != Dtype::float32 || !requires_grad(value));
  if (!plain) throw ValueMisfit(std::string(name) + " is not plain memory to fill");
  return result;
}
}  // namespace

Best::Best(py::handle out, py::handle like, const Shape& shape) : out_(out) {
  if (out.is_none()) {
    first_ = new_array(like, Dtype::float32, shape);
    second_ = new_array(like, Dtype::int32, shape);
    values_ = any_array(first_, "values");
    indices_ = any_array(second_, "indices");
    return;
  }
  if (!PyTuple_Check(out.ptr()) || PyTuple_GET_SIZE(out.ptr()) != 2) throw TypeMisfit("out is not a pair");
  first_ = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(out.ptr(), 0));
  second_ = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(out.ptr(), 1));
  values_ = output(first_, "out[0]", Dtype::float32, shape);
  indices_ = output(second_, "out[1]", Dtype::int32, shape);
}

py::object Best::tuple(py::handle type) const {
  if (reinterpret_cast<PyObject*>(Py_TYPE(out_.ptr())) == type.ptr()) return py::reinterpret_borrow<py::object>(out_);
  auto* kind = reinterpret_cast<PyTypeObject*>(type.ptr());
  PyObject* made = kind->tp_alloc(kind, 2);
  if (made == nullptr) throw py::error_already_set();
  PyTuple_SET_ITEM(made, 0, first_.inc_ref().ptr());
  PyTuple_SET_ITEM(made, 1, second_.inc_ref().ptr());
  return py::reinterpret_steal<py::object>(made);
}

void bind_dispatch(py::module_& module) { module.def("connect_torch", &connect_torch, "torch"_a, "backend"_a); }
}  // namespace pygrade::inline v0_2::bindings
