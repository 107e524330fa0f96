// The part of torch that the bindings use: looked up through Python once, never linked.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace pygrade::inline v0_2::bindings {
namespace py = pybind11;

// The part of DLPack's C exchange API (1.x, frozen) that reads and makes tensors: about 40 ns instead of 2 µs of
// attribute lookups.
struct DlTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};

struct DlManaged {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(DlManaged* self);
  std::uint64_t flags;
  DlTensor tensor;
};

struct DlExchange {
  std::uint32_t major, minor;
  void* previous;
  int (*allocate)(DlTensor* like, DlManaged** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  void* managed_from_object;
  int (*managed_to_object)(DlManaged* tensor, void** object);  // takes the tensor over
  int (*tensor_from_object)(void* object, DlTensor* out);
  void* current_stream;
};

struct Torch {
  PyObject* tensor_type;  // torch.Tensor
  const DlExchange* api;  // null if torch has none that we know
  PyObject *empty, *float32, *int32, *cpu;
  PyObject *dispatch_modes, *transforms, *grad_enabled, *num_threads;  // functions without arguments
  PyObject* backend;                                                   // the ContextVar of use_backend

  bool is_tensor(py::handle value) const { return reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())) == tensor_type; }
};

// Null until pygrade.ops.dispatch is imported, which connects torch.
const Torch* torch();
}  // namespace pygrade::inline v0_2::bindings
