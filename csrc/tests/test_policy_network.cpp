#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "check.hpp"
#include "pygrade/policy_network.hpp"

using namespace pygrade;

namespace {
// A network of any widths with parameters from a fixed rule, and a batch for it.
struct Case {
  std::vector<std::int64_t> widths;
  std::int64_t batch;
  std::vector<std::vector<float>> parameters;
  std::vector<float> mean, std, inputs, factor, concentration, slope;

  explicit Case(std::vector<std::int64_t> sizes, std::int64_t rows) : widths(std::move(sizes)), batch(rows) {
    for (std::size_t i = 0; i + 1 < widths.size(); ++i) {
      const float scale = 1.5f / std::sqrt(static_cast<float>(widths[i]));
      parameters.push_back(numbers(widths[i] * widths[i + 1], scale));
      parameters.push_back(numbers(widths[i + 1], 0.3f));
    }
    mean = numbers(widths.front(), 1.0f);
    std = numbers(widths.front(), 0.4f);
    for (float& value : std) value += 1.0f;
    inputs = numbers(batch * widths.front(), 3.0f);
    factor = numbers(batch, 0.5f);
    for (float& value : factor) value += 1.0f;
    concentration.resize(static_cast<std::size_t>(batch * widths.back()));
    slope = numbers(batch * widths.back(), 1.0f / static_cast<float>(std::max<std::int64_t>(batch, 1)));
  }

  // Between -scale and scale.
  std::vector<float> numbers(std::int64_t count, float scale) {
    std::vector<float> result(static_cast<std::size_t>(count));
    for (float& value : result) {
      state_ = state_ * 1664525u + 1013904223u;
      value = scale * (static_cast<float>(state_ >> 8) * 0x1p-23f - 1.0f);
    }
    return result;
  }

  std::vector<DenseLayer> layers() {
    std::vector<DenseLayer> result;
    for (std::size_t i = 0; i + 1 < widths.size(); ++i)
      result.push_back({widths[i], widths[i + 1], parameters[2 * i], parameters[2 * i + 1]});
    return result;
  }
  PolicyNetwork network() { return PolicyNetwork(layers(), {0.1f, 10.0f, mean, std}); }

 private:
  std::uint32_t state_ = 1;
};

bool equal_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// FNV-1a over the bits.
std::uint64_t hash(std::span<const float> values, std::uint64_t state = 0xcbf29ce484222325u) {
  for (const float value : values) state = (state ^ __builtin_bit_cast(std::uint32_t, value)) * 0x100000001b3u;
  return state;
}
}  // namespace

TEST(unknown_inputs_are_the_mean_and_broken_ones_are_cut) {
  Case c({2, 4, 2}, 3);
  const float huge = std::numeric_limits<float>::infinity();
  c.inputs = {std::numeric_limits<float>::quiet_NaN(), huge, c.mean[0], c.mean[1] + 6.0f * c.std[1], c.mean[0], 1e30f};
  c.network().concentration(c.inputs, {}, c.concentration);
  for (std::size_t t = 0; t < 2; ++t) {
    CHECK_EQUAL(c.concentration[t], c.concentration[2 + t]);
    CHECK_EQUAL(c.concentration[t], c.concentration[4 + t]);
  }
}

TEST(bits_depend_on_neither_threads_nor_the_rest_of_the_batch) {
  Case c({33, 64, 17, 8}, 1000);
  PolicyNetwork network = c.network();
  std::vector<float> gradient(static_cast<std::size_t>(network.num_parameters())), other = gradient;
  network.forward(c.inputs, c.factor, c.concentration);
  const double norm = network.gradient(c.slope, gradient);
  const std::vector<float> once = c.concentration;
  for (const int threads : {2, 3, 16}) {
    std::ranges::fill(c.concentration, 0.0f);
    network.forward(c.inputs, c.factor, c.concentration, threads);
    CHECK(equal_bits(c.concentration, once));
    CHECK_EQUAL(network.gradient(c.slope, other, threads), norm);
    CHECK(equal_bits(other, gradient));
    std::ranges::fill(c.concentration, 0.0f);
    network.concentration(c.inputs, c.factor, c.concentration, threads);
    CHECK(equal_bits(c.concentration, once));
  }
  for (const std::int64_t row : {0, 63, 64, 999}) {
    std::vector<float> alone(8);
    network.concentration(std::span(c.inputs).subspan(static_cast<std::size_t>(row * 33), 33),
                          std::span(c.factor).subspan(static_cast<std::size_t>(row), 1), alone);
    for (std::size_t t = 0; t < 8; ++t) CHECK_EQUAL(alone[t], once[static_cast<std::size_t>(row) * 8 + t]);
  }
}

// Each instruction set runs this test. Another order of sums is another hash.
TEST(bits_are_equal_on_every_instruction_set) {
  std::uint64_t state = 0xcbf29ce484222325u;
  for (const auto& widths :
       std::vector<std::vector<std::int64_t>>{{32, 64, 64, 8}, {3, 5, 2}, {40, 130, 7, 33}, {1, 1}}) {
    Case c(widths, 200);
    PolicyNetwork network = c.network();
    std::vector<float> gradient(static_cast<std::size_t>(network.num_parameters()));
    std::vector<float> first(gradient.size()), second(gradient.size());
    for (int step = 1; step <= 3; ++step) {
      network.forward(c.inputs, c.factor, c.concentration);
      const double norm = network.gradient(c.slope, gradient);
      network.adam(gradient, first, second, step, {.learning_rate = 0.01, .scale = clip_factor(norm, 0.1)});
      state = hash(gradient, hash(c.concentration, state));
    }
    for (const auto& part : c.parameters) state = hash(part, state);
    state = hash(second, hash(first, state));
  }
  CHECK_EQUAL(state, 15803604103330555830u);
}

TEST(an_empty_batch_has_no_gradient) {
  Case c({2, 3, 2}, 0);
  PolicyNetwork network = c.network();
  std::vector<float> gradient(static_cast<std::size_t>(network.num_parameters()), 1.0f);
  network.forward(c.inputs, {}, c.concentration);
  CHECK_EQUAL(network.gradient(c.slope, gradient), 0.0);
  CHECK_EQUAL(gradient, std::vector<float>(gradient.size(), 0.0f));
}

TEST(parameters_that_are_not_numbers_show_in_the_norm) {
  Case c({2, 3, 2}, 4);
  c.parameters[1][0] = std::numeric_limits<float>::quiet_NaN();
  PolicyNetwork network = c.network();
  std::vector<float> gradient(static_cast<std::size_t>(network.num_parameters()));
  network.forward(c.inputs, {}, c.concentration);
  CHECK(std::isnan(c.concentration[0]));
  CHECK(!std::isfinite(network.gradient(c.slope, gradient)));
}

TEST(what_does_not_fit_is_named) {  // and the rest in tests/policy/test_fused_network.py
  Case c({2, 3, 2}, 4);
  PolicyNetwork network = c.network();
  std::vector<float> gradient(static_cast<std::size_t>(network.num_parameters())), moment = gradient;
  CHECK_THROWS(std::logic_error, "forward", network.gradient(c.slope, gradient));
  CHECK_THROWS(std::invalid_argument, "inputs holds 7",
               network.forward(std::span(c.inputs).first(7), {}, c.concentration));
  network.forward(c.inputs, {}, c.concentration);
  CHECK_THROWS(std::invalid_argument, "gradient holds 1", network.gradient(c.slope, std::span(gradient).first(1)));
  CHECK_THROWS(std::invalid_argument, "step is 0", network.adam(gradient, moment, moment, 0, {}));
  CHECK_THROWS(std::invalid_argument, "beta2", network.adam(gradient, moment, moment, 1, {.beta2 = 1.0}));
  auto layers = c.layers();
  layers[1].inputs = 4;
  CHECK_THROWS(std::invalid_argument, "layer 1 maps 4 inputs", PolicyNetwork(layers, {0.1f, 1.0f, c.mean, c.std}));
  CHECK_THROWS(std::invalid_argument, "layers is empty", PolicyNetwork({}, {0.1f, 1.0f, {}, {}}));
  Case wide({2, 65}, 1);
  CHECK_THROWS(std::invalid_argument, "tasks is 65", wide.network());
}
