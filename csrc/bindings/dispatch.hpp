// Calls that skip torch's dispatcher and the argument checks of the Python layer: when they may, what they return, and
// how they are registered. An `…_at_once` function returns None if the call needs more: conversions, a gradient, a mode
// of torch, another backend, or an error message. The Python layer then takes the general path.
#pragma once

#include <array>
#include <cstddef>

#include "arrays.hpp"

namespace pygrade::bindings {

bool is_numpy(py::handle value);

// Whether an op on these arguments may run in the core directly. numpy arrays only need the chosen backend to allow it;
// tensors must not meet a dispatch mode or functorch transform. The caller handles gradients and tracing by dynamo.
bool may_run(py::handle scores, py::handle weights);

// Whether one of the values is a tensor that requires a gradient.
bool wants_gradient(std::initializer_list<py::handle> values);

// num_threads, at least 1; for None torch's setting.
int thread_count(py::handle num_threads);

// A new numpy array of a type number (py::dtype::num_of).
py::object new_numpy(int type, const Shape& shape);

// A new float32 or int32 array of the kind of `like`, numpy or torch.
py::object new_array(py::handle like, Dtype dtype, const Shape& shape);

// The values and indices that a call fills: those of the pair `out`, or new ones of the kind of `like`.
struct Best {
  Best(py::handle out, py::handle like, const Shape& shape);
  std::span<float> values() const { return values_.span<float>(); }
  std::span<std::int32_t> indices() const { return indices_.span<std::int32_t>(); }
  // The named tuple type(values, indices), made without calling its constructor; `out` itself if it is one.
  py::object tuple(py::handle type) const;

 private:
  py::handle out_;
  py::object first_, second_;
  Array values_, indices_;
};

template <std::size_t count>
using Arguments = std::array<py::handle, count>;

template <auto function>
struct AtOnce;

template <std::size_t count, py::object (*function)(const Arguments<count>&)>
struct AtOnce<function> {
  static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t size) noexcept {
    if (size != static_cast<Py_ssize_t>(count)) {
      PyErr_Format(PyExc_TypeError, "got %zd arguments; want %zu", size, count);
      return nullptr;
    }
    Arguments<count> arguments;
    for (std::size_t i = 0; i < count; ++i) arguments[i] = given[i];
    try {
      return function(arguments).release().ptr();
    } catch (...) {  // the general path reports the error
    }
    Py_RETURN_NONE;
  }
};

// Adds a function of positional arguments that skips pybind11's dispatcher, which would cost more than the function.
// The first line of `doc` is its signature.
template <auto function>
void def_at_once(py::module_& module, const char* name, const char* doc) {
  static PyMethodDef definition{name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&AtOnce<function>::call)),
                                METH_FASTCALL, doc};
  module.add_object(name, py::reinterpret_steal<py::object>(
                              PyCFunction_NewEx(&definition, nullptr, py::object(module.attr("__name__")).ptr())));
}

}  // namespace pygrade::bindings
