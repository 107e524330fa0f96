#include "pygrade/grpo.hpp"

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::bindings {

void bind_grpo(py::module_& module) {
  module.def(
      "grpo_loss",
      [](py::handle concentration, py::handle log_weights, py::handle old_log_prob, py::handle advantages,
         py::handle reference, double clip, double clip_high, double kl_coefficient, double entropy_coefficient,
         double weight_floor, double log_ratio_clamp, py::handle loss, py::handle kl, py::handle entropy,
         py::handle clip_fraction, py::handle ratio_max, py::handle gradient, bool validate, int num_threads) {
        const Array l = array(log_weights, "log_weights", Dtype::float32, {any_size, any_size, any_size});
        const DirichletShape shape{l.shape[0], l.shape[1], l.shape[2]};
        const auto read = [](py::handle value, const char* name, std::initializer_list<std::int64_t> sizes) {
          return array(value, name, Dtype::float32, sizes).span<const float>();
        };
        const auto write = [](py::handle value, const char* name, std::initializer_list<std::int64_t> sizes) {
          return array(value, name, Dtype::float32, sizes).span<float>();
        };
        const std::int64_t batch = shape.batch;
        const GrpoInputs inputs{read(concentration, "concentration", {batch, shape.tasks}), l.span<const float>(),
                                read(old_log_prob, "old_log_prob", {batch, shape.samples}),
                                read(advantages, "advantages", {batch, shape.samples}),
                                read(reference, "reference_concentration", {batch, shape.tasks})};
        const GrpoOutputs outputs{
            write(loss, "loss", {batch}),           write(kl, "kl", {batch}),
            write(entropy, "entropy", {batch}),     write(clip_fraction, "clip_fraction", {batch}),
            write(ratio_max, "ratio_max", {batch}), write(gradient, "gradient", {batch, shape.tasks})};
        const GrpoOptions options{clip, clip_high, kl_coefficient, entropy_coefficient, weight_floor, log_ratio_clamp};
        const py::gil_scoped_release release;
        grpo_loss(inputs, shape, options, outputs, validate, num_threads);
      },
      py::arg("concentration"), py::arg("log_weights"), py::arg("old_log_prob"), py::arg("advantages"),
      py::arg("reference_concentration"), py::arg("clip"), py::arg("clip_high"), py::arg("kl_coefficient"),
      py::arg("entropy_coefficient"), py::arg("weight_floor"), py::arg("log_ratio_clamp"), py::arg("loss"),
      py::arg("kl"), py::arg("entropy"), py::arg("clip_fraction"), py::arg("ratio_max"), py::arg("gradient"),
      py::arg("validate"), py::arg("num_threads"));
}

}  // namespace pygrade::bindings
