#include "../src/dirichlet.hpp"  // the functions for tests

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::bindings {
namespace {

DirichletShape shape_of(const Array& log_weights) {
  return {log_weights.shape[0], log_weights.shape[1], log_weights.shape[2]};
}

}  // namespace

void bind_dirichlet(py::module_& module) {
  module.def(
      "dirichlet_sample",
      [](py::handle concentration, std::uint64_t seed, std::uint64_t offset, py::handle weights, py::handle log_weights,
         py::handle log_prob, bool validate, int num_threads) {
        const Array w = array(weights, "weights", Dtype::float32, {any_size, any_size, any_size});
        const DirichletShape shape = shape_of(w);
        const Array c = array(concentration, "concentration", Dtype::float32, {shape.batch, shape.tasks});
        const Array l = array(log_weights, "log_weights", Dtype::float32, {shape.batch, shape.samples, shape.tasks});
        std::span<float> p;  // None: not wanted
        if (!log_prob.is_none())
          p = array(log_prob, "log_prob", Dtype::float32, {shape.batch, shape.samples}).span<float>();
        const py::gil_scoped_release release;
        dirichlet_sample(c.span<const float>(), shape, seed, offset, w.span<float>(), l.span<float>(), p, validate,
                         num_threads);
      },
      py::arg("concentration"), py::arg("seed"), py::arg("offset"), py::arg("weights"), py::arg("log_weights"),
      py::arg("log_prob"), py::arg("validate"), py::arg("num_threads"));
  module.def(
      "dirichlet_log_prob",
      [](py::handle concentration, py::handle log_weights, double weight_floor, py::handle log_prob, bool validate,
         int num_threads) {
        const Array l = array(log_weights, "log_weights", Dtype::float32, {any_size, any_size, any_size});
        const DirichletShape shape = shape_of(l);
        const Array c = array(concentration, "concentration", Dtype::float32, {shape.batch, shape.tasks});
        const Array p = array(log_prob, "log_prob", Dtype::float32, {shape.batch, shape.samples});
        const py::gil_scoped_release release;
        dirichlet_log_prob(c.span<const float>(), l.span<const float>(), shape, weight_floor, p.span<float>(), validate,
                           num_threads);
      },
      py::arg("concentration"), py::arg("log_weights"), py::arg("weight_floor"), py::arg("log_prob"),
      py::arg("validate"), py::arg("num_threads"));
  module.def(
      "dirichlet_log_prob_backward",
      [](py::handle concentration, py::handle log_weights, py::handle gradient, double weight_floor,
         py::handle concentration_gradient, int num_threads) {
        const Array l = array(log_weights, "log_weights", Dtype::float32, {any_size, any_size, any_size});
        const DirichletShape shape = shape_of(l);
        const Array c = array(concentration, "concentration", Dtype::float32, {shape.batch, shape.tasks});
        const Array g = array(gradient, "gradient", Dtype::float32, {shape.batch, shape.samples});
        const Array o =
            array(concentration_gradient, "concentration_gradient", Dtype::float32, {shape.batch, shape.tasks});
        const py::gil_scoped_release release;
        dirichlet_log_prob_backward(c.span<const float>(), l.span<const float>(), g.span<const float>(), shape,
                                    weight_floor, o.span<float>(), num_threads);
      },
      py::arg("concentration"), py::arg("log_weights"), py::arg("gradient"), py::arg("weight_floor"),
      py::arg("concentration_gradient"), py::arg("num_threads"));
  module.def(
      "dirichlet_score",
      [](py::handle concentration, py::handle log_weights, py::handle coefficients, double weight_floor,
         py::handle log_prob, py::handle gradient, bool validate, int num_threads) {
        const Array l = array(log_weights, "log_weights", Dtype::float32, {any_size, any_size, any_size});
        const DirichletShape shape = shape_of(l);
        const Array c = array(concentration, "concentration", Dtype::float32, {shape.batch, shape.tasks});
        std::span<const float> each;
        if (!coefficients.is_none())
          each = array(coefficients, "coefficients", Dtype::float32, {shape.batch, shape.samples}).span<const float>();
        const Array p = array(log_prob, "log_prob", Dtype::float32, {shape.batch, shape.samples});
        const Array g = array(gradient, "gradient", Dtype::float32, {shape.batch, shape.tasks});
        const py::gil_scoped_release release;
        dirichlet_score(c.span<const float>(), l.span<const float>(), each, shape, weight_floor, p.span<float>(),
                        g.span<float>(), validate, num_threads);
      },
      py::arg("concentration"), py::arg("log_weights"), py::arg("coefficients"), py::arg("weight_floor"),
      py::arg("log_prob"), py::arg("gradient"), py::arg("validate"), py::arg("num_threads"));
  module.def(
      "dirichlet_entropy",
      [](py::handle concentration, py::handle entropy, py::handle gradient, bool validate, int num_threads) {
        const Array c = array(concentration, "concentration", Dtype::float32, {any_size, any_size});
        const Array e = array(entropy, "entropy", Dtype::float32, {c.shape[0]});
        const Array g = array(gradient, "gradient", Dtype::float32, {c.shape[0], c.shape[1]});
        const py::gil_scoped_release release;
        dirichlet_entropy(c.span<const float>(), c.shape[1], e.span<float>(), g.span<float>(), validate, num_threads);
      },
      py::arg("concentration"), py::arg("entropy"), py::arg("gradient"), py::arg("validate"), py::arg("num_threads"));
  module.def(
      "dirichlet_kl",
      [](py::handle concentration, py::handle other, py::handle kl, py::handle gradient, py::handle other_gradient,
         bool validate, int num_threads) {
        const Array c = array(concentration, "concentration", Dtype::float32, {any_size, any_size});
        const Array o = array(other, "other", Dtype::float32, {c.shape[0], c.shape[1]});
        const Array k = array(kl, "kl", Dtype::float32, {c.shape[0]});
        const Array g = array(gradient, "gradient", Dtype::float32, {c.shape[0], c.shape[1]});
        const Array h = array(other_gradient, "other_gradient", Dtype::float32, {c.shape[0], c.shape[1]});
        const py::gil_scoped_release release;
        dirichlet_kl(c.span<const float>(), o.span<const float>(), c.shape[1], k.span<float>(), g.span<float>(),
                     h.span<float>(), validate, num_threads);
      },
      py::arg("concentration"), py::arg("other"), py::arg("kl"), py::arg("gradient"), py::arg("other_gradient"),
      py::arg("validate"), py::arg("num_threads"));
  module.def(
      "floor_log_weights",
      [](py::handle log_weights, double weight_floor, py::handle floored, int num_threads) {
        const Array l = array(log_weights, "log_weights", Dtype::float32, {any_size, any_size});
        const Array f = array(floored, "floored", Dtype::float32, {l.shape[0], l.shape[1]});
        const py::gil_scoped_release release;
        floor_log_weights(l.span<const float>(), l.shape[1], weight_floor, f.span<float>(), num_threads);
      },
      py::arg("log_weights"), py::arg("weight_floor"), py::arg("floored"), py::arg("num_threads"));
  module.def(
      "float_function",
      [](int function, py::handle x, py::handle y) {
        const Array from = array(x, "x", Dtype::float32, {any_size});
        const Array to = array(y, "y", Dtype::float32, {from.shape[0]});
        PYGRADE_KERNELS(dirichlet_kernels)
            .float_function(function, from.span<const float>().data(), to.span<float>().data(), from.shape[0]);
      },
      py::arg("function"), py::arg("x"), py::arg("y"));
  module.def(
      "gamma_functions",
      [](py::handle x, py::handle y) {
        const Array from = array(x, "x", Dtype::float64, {any_size});
        const Array to = array(y, "y", Dtype::float64, {from.shape[0], 3});
        PYGRADE_KERNELS(dirichlet_kernels)
            .gamma(from.span<const double>().data(), to.span<double>().data(), from.shape[0]);
      },
      py::arg("x"), py::arg("y"));
}

}  // namespace pygrade::bindings
