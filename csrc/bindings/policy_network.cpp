#include "pygrade/policy_network.hpp"

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "families.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
// The network and the Python objects whose memory it works in.
class Network {
 public:
  Network(py::list parameters, py::object input_mean, py::object input_std, float concentration_floor,
          float total_concentration)
      : owners_(py::make_tuple(parameters, input_mean, input_std)),
        network_(layers_of(parameters),
                 {concentration_floor, total_concentration, span_of<const float>(input_mean, "input_mean"),
                  span_of<const float>(input_std, "input_std")}) {}

  // PolicyNetwork's concentration or forward.
  template <auto run>
  void evaluate(py::handle inputs, py::handle factor, py::handle concentration, int num_threads) {
    const Array x = array(inputs, "inputs", Dtype::float32, {any_size, network_.num_inputs()});
    const auto alpha = span_of<float>(concentration, "concentration", {x.shape[0], network_.num_tasks()});
    const auto f = optional_span<const float>(factor, "factor", {x.shape[0]});
    const py::gil_scoped_release release;
    (network_.*run)(x.span<const float>(), f, alpha, num_threads);
  }

  double gradient(py::handle slope, py::handle gradient, int num_threads) {
    const auto from = span_of<const float>(slope, "slope", {any_size, network_.num_tasks()});
    const auto to = flat(gradient, "gradient");
    const py::gil_scoped_release release;
    return network_.gradient(from, to, num_threads);
  }

  void adam(py::handle gradient, py::handle first, py::handle second, std::int64_t step, double learning_rate,
            double beta1, double beta2, double epsilon, double weight_decay, double scale) const {
    network_.adam(flat(gradient, "gradient"), flat(first, "first"), flat(second, "second"), step,
                  {learning_rate, beta1, beta2, epsilon, weight_decay, scale});
  }

  std::int64_t num_parameters() const { return network_.num_parameters(); }

 private:
  static std::vector<DenseLayer> layers_of(const py::list& parameters) {
    if (parameters.size() % 2 != 0)
      throw py::value_error("parameters are " + std::to_string(parameters.size()) +
                            "; expected weights and bias of each layer");
    std::vector<DenseLayer> layers;
    for (std::size_t i = 0; i < parameters.size(); i += 2) {
      const std::string weights = "parameters[" + std::to_string(i) + "]";
      const std::string bias = "parameters[" + std::to_string(i + 1) + "]";
      const Array w = array(parameters[i], weights.c_str(), Dtype::float32, {any_size, any_size});
      const Array b = array(parameters[i + 1], bias.c_str(), Dtype::float32, {w.shape[0]});
      layers.push_back({w.shape[1], w.shape[0], w.span<float>(), b.span<float>()});
    }
    return layers;
  }

  std::span<float> flat(py::handle value, const char* name) const {
    return span_of<float>(value, name, {network_.num_parameters()});
  }

  py::tuple owners_;
  PolicyNetwork network_;
};
}  // namespace

void bind_policy_network(py::module_& module) {
  module.def("policy_network_is_fast", &PolicyNetwork::is_fast);
  module.def("clip_factor", &clip_factor, "norm"_a, "max_norm"_a);
  py::class_<Network>(module, "PolicyNetwork")
      .def(py::init<py::list, py::object, py::object, float, float>(), "parameters"_a, "input_mean"_a, "input_std"_a,
           "concentration_floor"_a, "total_concentration"_a)
      .def_property_readonly("num_parameters", &Network::num_parameters)
      .def("concentration", &Network::evaluate<&PolicyNetwork::concentration>, "inputs"_a, "factor"_a,
           "concentration"_a, "num_threads"_a)
      .def("forward", &Network::evaluate<&PolicyNetwork::forward>, "inputs"_a, "factor"_a, "concentration"_a,
           "num_threads"_a)
      .def("gradient", &Network::gradient, "slope"_a, "gradient"_a, "num_threads"_a)
      .def("adam", &Network::adam, "gradient"_a, "first"_a, "second"_a, "step"_a, "learning_rate"_a, "beta1"_a,
           "beta2"_a, "epsilon"_a, "weight_decay"_a, "scale"_a);
}
}  // namespace pygrade::inline v0_2::bindings
