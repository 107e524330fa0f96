#include <bit>
#include <limits>
#include <stdexcept>

#include "check.hpp"
#include "pygrade/dirichlet.hpp"

#define PYGRADE_ISA_NAMESPACE tests
#include "simd/numerics.hpp"

using namespace pygrade;

namespace {

struct Draw {
  std::vector<float> weights, log_weights, log_prob;
};

Draw draw(const std::vector<float>& concentration, const DirichletShape& shape, std::uint64_t seed,
          std::uint64_t offset = 0, bool validate = true, int threads = 1) {
  const float unwritten = std::numeric_limits<float>::quiet_NaN();
  const auto draws = static_cast<std::size_t>(shape.batch * shape.samples);
  Draw result;
  result.weights.assign(draws * static_cast<std::size_t>(shape.tasks), unwritten);
  result.log_weights = result.weights;
  result.log_prob.assign(draws, unwritten);
  dirichlet_sample(concentration, shape, seed, offset, result.weights, result.log_weights, result.log_prob, validate,
                   threads);
  return result;
}

}  // namespace

TEST(philox_gives_the_known_answers_of_random123) {
  const auto words = [](std::uint64_t key, std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    const auto w = detail::tests::philox(key, a, b, c, d);
    return std::vector<std::uint32_t>{w.w0, w.w1, w.w2, w.w3};
  };
  const std::uint32_t ones = ~0u;
  CHECK_EQUAL(words(0, 0, 0, 0, 0), (std::vector<std::uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK_EQUAL(words(~0ull, ones, ones, ones, ones),
              (std::vector<std::uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK_EQUAL(words(0x299f31d0a4093822, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344),
              (std::vector<std::uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(draws_keep_their_bits_forever) {  // otherwise logged seeds no longer reproduce logged weights
  const Draw d = draw({0.02f, 1.0f, 30.0f, 1e-30f, 1e6f, 0.5f}, {2, 2, 3}, (1ull << 63) + 12345, (1ull << 32) - 1);
  const std::vector<std::uint32_t> expected = {0xc1b17c46, 0xc0ce58d0, 0xbacfabaa, 0xc2a2b9bb, 0xc00ed748, 0xbde88416,
                                               0xf0de5171, 0xb3c21d20, 0xc181c0c1, 0xf0df0521, 0xb4789403, 0xc1747562};
  std::vector<std::uint32_t> bits;
  for (const float value : d.log_weights) bits.push_back(std::bit_cast<std::uint32_t>(value));
  CHECK_EQUAL(bits, expected);
}

TEST(weights_sum_to_one_for_every_number_of_tasks_and_samples) {
  for (std::int64_t tasks = 1; tasks <= 64; tasks += tasks < 20 ? 1 : 11) {
    for (const std::int64_t samples : {1, 7, 16, 23, 64, 70}) {
      std::vector<float> concentration(static_cast<std::size_t>(3 * tasks));
      for (std::size_t i = 0; i < concentration.size(); ++i) concentration[i] = 0.1f + static_cast<float>(i % 7);
      const Draw d = draw(concentration, {3, samples, tasks}, 5);
      for (std::size_t row = 0; row < d.log_prob.size(); ++row) {
        double sum = 0.0;
        for (std::size_t t = 0; t < static_cast<std::size_t>(tasks); ++t)
          sum += d.weights[row * static_cast<std::size_t>(tasks) + t];
        CHECK_NEAR(sum, 1.0, 1e-5);
        CHECK(std::isfinite(d.log_prob[row]));
      }
    }
  }
}

TEST(threads_and_parts_change_nothing) {
  std::vector<float> concentration(4000, 0.7f);
  const Draw one = draw(concentration, {1000, 9, 4}, 3, 50);
  const Draw four = draw(concentration, {1000, 9, 4}, 3, 50, true, 4);
  CHECK(one.weights == four.weights && one.log_weights == four.log_weights && one.log_prob == four.log_prob);
  const Draw tail = draw(std::vector<float>(400, 0.7f), {100, 9, 4}, 3, 950);
  CHECK(std::equal(tail.weights.begin(), tail.weights.end(), one.weights.end() - 3600));
}

TEST(outputs_that_nobody_wants_may_be_empty) {
  const std::vector<float> concentration = {0.5f, 2.0f};
  std::vector<float> log_weights(6);
  dirichlet_sample(concentration, {1, 3, 2}, 9, 0, {}, log_weights, {});
  CHECK(log_weights == draw(concentration, {1, 3, 2}, 9).log_weights);
}

TEST(densities_of_the_uniform_distribution) {
  const std::vector<float> ones(4, 1.0f);
  const std::vector<float> log_weights = {-1.0f, -2.0f, -3.0f, -std::numeric_limits<float>::infinity()};
  std::vector<float> log_prob(1), value(1), gradient(4), other_gradient(4);
  dirichlet_log_prob(ones, log_weights, {1, 1, 4}, 0.0, log_prob);
  CHECK_NEAR(log_prob[0], std::log(6.0), 1e-6);
  dirichlet_entropy(ones, 4, value, gradient);
  CHECK_NEAR(value[0], -std::log(6.0), 1e-6);
  dirichlet_kl(ones, ones, 4, value, gradient, other_gradient);
  CHECK_NEAR(value[0], 0.0, 1e-7);
  for (std::size_t t = 0; t < 4; ++t) CHECK_NEAR(gradient[t] + other_gradient[t], 0.0, 1e-7);
}

TEST(the_log_prob_gradient_is_its_slope) {
  std::vector<float> concentration = {0.5f, 3.0f, 1.0f};
  const std::vector<float> log_weights = {-1.0f, -0.7f, -2.0f, -20.0f, -0.1f, -2.4f};
  const std::vector<float> upstream = {1.0f, -0.5f};
  const DirichletShape shape{1, 2, 3};
  std::vector<float> gradient(3), above(2), below(2);
  dirichlet_log_prob_backward(concentration, log_weights, upstream, shape, 1e-3, gradient);
  for (std::size_t t = 0; t < 3; ++t) {
    const float start = concentration[t];
    concentration[t] = start + 0.01f;
    dirichlet_log_prob(concentration, log_weights, shape, 1e-3, above);
    concentration[t] = start - 0.01f;
    dirichlet_log_prob(concentration, log_weights, shape, 1e-3, below);
    concentration[t] = start;
    CHECK_NEAR(gradient[t], ((above[0] - below[0]) - 0.5 * (above[1] - below[1])) / 0.02, 2e-3);
  }
}

TEST(the_score_is_the_log_prob_and_its_gradient) {
  for (const std::int64_t tasks : {1, 3, 8, 13, 64}) {
    const DirichletShape shape{9, 70, tasks};
    std::vector<float> concentration(static_cast<std::size_t>(9 * tasks)), coefficients(9 * 70);
    for (std::size_t i = 0; i < concentration.size(); ++i) concentration[i] = 0.3f + static_cast<float>(i % 5);
    for (std::size_t i = 0; i < coefficients.size(); ++i) coefficients[i] = static_cast<float>(i % 3) - 1.0f;
    const Draw d = draw(concentration, shape, 1);
    const float unwritten = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> value(9 * 70, unwritten), gradient(concentration.size(), unwritten), score(gradient);
    for (const double floor : {0.0, 1e-3}) {
      std::vector<float> expected(value.size());
      dirichlet_log_prob(concentration, d.log_weights, shape, floor, expected);
      for (const bool given : {true, false}) {
        const std::vector<float> upstream = given ? coefficients : std::vector<float>(coefficients.size(), 1.0f);
        dirichlet_log_prob_backward(concentration, d.log_weights, upstream, shape, floor, gradient);
        dirichlet_score(concentration, d.log_weights, given ? coefficients : std::span<const float>(), shape, floor,
                        value, score, true, 3);
        CHECK_EQUAL(value, expected);
        CHECK_EQUAL(score, gradient);
      }
    }
  }
}

TEST(the_floor_renormalizes) {
  const std::vector<float> log_weights = {0.0f, -50.0f};
  std::vector<float> floored(2);
  floor_log_weights(log_weights, 2, 0.25, floored);
  CHECK_NEAR(floored[0], std::log(0.8), 1e-6);
  CHECK_NEAR(floored[1], std::log(0.2), 1e-6);
}

TEST(bad_concentrations_throw_or_make_their_row_nan) {
  const std::vector<float> concentration = {1.0f, 2.0f, 1.0f, 0.0f};
  CHECK_THROWS(std::invalid_argument, "concentration[1, 1] is 0; want", draw(concentration, {2, 2, 2}, 1));
  const Draw d = draw(concentration, {2, 2, 2}, 1, 0, false);
  for (std::size_t i = 0; i < 8; ++i) CHECK_EQUAL(std::isnan(d.weights[i]), i >= 4);
}

TEST(bad_sizes_are_named) {
  std::vector<float> out(4);
  const std::vector<float> ones(4, 1.0f);
  CHECK_THROWS(std::invalid_argument, "concentration holds 4 values; want 6",
               dirichlet_sample(ones, {2, 1, 3}, 1, 0, {}, {}, {}));
  CHECK_THROWS(std::invalid_argument, "tasks; want 1 to 64", dirichlet_sample(ones, {1, 1, 65}, 1, 0, {}, {}, {}));
  CHECK_THROWS(std::invalid_argument, "weight_floor is 1; want",
               dirichlet_log_prob(ones, ones, {2, 1, 2}, 1.0, std::span(out).first(2)));
  CHECK_THROWS(std::invalid_argument, "coefficients holds 4 values; want 2",
               dirichlet_score(ones, ones, ones, {2, 1, 2}, 0.0, std::span(out).first(2), out));
}
