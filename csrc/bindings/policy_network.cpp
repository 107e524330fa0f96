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
        network_(layers_of(parameters), {concentration_floor, total_concentration, vector(input_mean, "input_mean"),
                                         vector(input_std, "input_std")}) {}

  void concentration(py::handle inputs, py::handle factor, py::handle concentration, int num_threads) const {
    const auto [x, f, alpha] = batch(inputs, factor, concentration);
    const py::gil_scoped_release release;
    network_.concentration(x, f, alpha, num_threads);
  }

  void forward(py::handle inputs, py::handle factor, py::handle concentration, int num_threads) {
    const auto [x, f, alpha] = batch(inputs, factor, concentration);
    const py::gil_scoped_release release;
    network_.forward(x, f, alpha, num_threads);
  }

  double gradient(py::handle slope, py::handle gradient, int num_threads) {
    const auto from = array(slope, "slope", Dtype::float32, {any_size, network_.num_tasks()}).span<const float>();
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
  struct Batch {
    std::span<const float> inputs, factor;
    std::span<float> concentration;
  };

  static std::span<const float> vector(py::handle value, const char* name) {
    return array(value, name, Dtype::float32, {any_size}).span<const float>();
  }

  static std::vector<DenseLayer> layers_of(const py::list& parameters) {
    if (parameters.size() % 2 != 0)
      throw py::value_error("parameters are " + std::to_string(parameters.size()) +
                            "; want weights and bias of each layer");
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

  Batch batch(py::handle inputs, py::handle factor, py::handle concentration) const {
    const Array x = array(inputs, "inputs", Dtype::float32, {any_size, network_.num_inputs()});
    const Array alpha = array(concentration, "concentration", Dtype::float32, {x.shape[0], network_.num_tasks()});
    std::span<const float> f;
    if (!factor.is_none()) f = array(factor, "factor", Dtype::float32, {x.shape[0]}).span<const float>();
    return {x.span<const float>(), f, alpha.span<float>()};
  }

  std::span<float> flat(py::handle value, const char* name) const {
    return array(value, name, Dtype::float32, {network_.num_parameters()}).span<float>();
  }

  py::tuple owners_;
  PolicyNetwork network_;
};

}  // namespace

void bind_policy_network(py::module_& module) {
  module.def("policy_network_is_fast", &PolicyNetwork::is_fast);
  module.def("clip_factor", &clip_factor, py::arg("norm"), py::arg("max_norm"));
  py::class_<Network>(module, "PolicyNetwork")
      .def(py::init<py::list, py::object, py::object, float, float>(), py::arg("parameters"), py::arg("input_mean"),
           py::arg("input_std"), py::arg("concentration_floor"), py::arg("total_concentration"))
      .def_property_readonly("num_parameters", &Network::num_parameters)
      .def("concentration", &Network::concentration, py::arg("inputs"), py::arg("factor"), py::arg("concentration"),
           py::arg("num_threads"))
      .def("forward", &Network::forward, py::arg("inputs"), py::arg("factor"), py::arg("concentration"),
           py::arg("num_threads"))
      .def("gradient", &Network::gradient, py::arg("slope"), py::arg("gradient"), py::arg("num_threads"))
      .def("adam", &Network::adam, py::arg("gradient"), py::arg("first"), py::arg("second"), py::arg("step"),
           py::arg("learning_rate"), py::arg("beta1"), py::arg("beta2"), py::arg("epsilon"), py::arg("weight_decay"),
           py::arg("scale"));
}

}  // namespace pygrade::inline v0_2::bindings
