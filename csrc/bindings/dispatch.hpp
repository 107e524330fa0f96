// The fast path of the serving and training ops: eager calls that need no more than the core, past pybind11's
// dispatcher and torch's, which cost more than a small op does. `name_fast_path` takes the arguments of the public
// function. It returns None for another backend, a mode of torch, a gradient, and for an argument that it does not read
// as it is (`TypeMisfit`, `ValueMisfit`); the Python layer then converts the argument or words the error, and calls
// torch's op. Every other error is raised.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>

#include "arrays.hpp"

namespace pygrade::inline v0_2::bindings {
// Whether the fast path may take these arguments: numpy arrays, or plain tensors outside dispatch modes and functorch
// transforms, with the core as backend. The caller checks for gradients and for tracing by dynamo.
bool may_run(py::handle scores, py::handle weights);

// Whether a gradient to one of these tensors is wanted.
bool wants_gradient(std::initializer_list<py::handle> values);

// An integer in [low, high], read as operator.index does.
std::int64_t integer(py::handle value, const char* name, std::int64_t low, std::int64_t high);

// A float or an int of Python.
double number(py::handle value, const char* name);

// The truth of a Python object.
bool is_true(py::handle value);

// Whether the value is this text.
bool is_text(py::handle value, std::string_view text);

// torch's setting for None, else the number, at least 1.
int thread_count(py::handle num_threads);

// A new numpy array of a type number (py::dtype::num_of).
py::object new_numpy(int type, const Shape& shape);

// A new float32 or int32 array of the kind of `like`, numpy or torch.
py::object new_array(py::handle like, Dtype dtype, const Shape& shape);

// A float32 array of a shape, made by `new_arrays`.
struct NewArray {
  Shape shape;
  py::object object{};
  std::span<float> values{};
};

// Arrays of the kind of `like`. Tensors share one block of memory, which torch allocates: a third of the time that as
// many calls of torch.empty take.
void new_arrays(py::handle like, std::span<NewArray> wanted);

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

// Sets Python's error to the exception that is being handled; returns null.
PyObject* set_error() noexcept;

template <auto function>
struct Entry;

template <std::size_t count, py::object (*function)(const Arguments<count>&)>
struct Entry<function> {
  static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t size) noexcept {
    if (size != static_cast<Py_ssize_t>(count)) {
      PyErr_Format(PyExc_TypeError, "got %zd arguments; expected %zu", size, count);
      return nullptr;
    }
    Arguments<count> arguments;
    for (std::size_t i = 0; i < count; ++i) arguments[i] = given[i];
    try {
      return function(arguments).release().ptr();
    } catch (const Misfit&) {
      Py_RETURN_NONE;
    } catch (...) {
      return set_error();
    }
  }
};

// Adds a function of positional arguments; `names` are theirs, with commas between.
template <auto function>
void def_positional(py::module_& module, const char* name, std::string names) {
  for (std::size_t at = 0; (at = names.find(',', at)) != names.npos; at += 10) names.insert(at, ": object");
  static const std::string signature = std::string(name) + "(" + names + ": object) -> object";
  static PyMethodDef definition{name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&Entry<function>::call)),
                                METH_FASTCALL, signature.c_str()};
  module.add_object(name, py::reinterpret_steal<py::object>(
                              PyCFunction_NewEx(&definition, nullptr, py::object(module.attr("__name__")).ptr())));
}
}  // namespace pygrade::inline v0_2::bindings
