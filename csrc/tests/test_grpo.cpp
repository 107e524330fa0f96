#include <stdexcept>

#include "check.hpp"
#include "pygrade/grpo.hpp"

using namespace pygrade;

namespace {

// Two requests, three samples, two tasks; sampled from `old`, so that the ratios at concentration == old are 1.
struct Case {
  std::vector<float> concentration{0.5f, 2.0f, 3.0f, 1.5f};
  std::vector<float> reference{1.0f, 1.0f, 3.0f, 1.5f};
  std::vector<float> log_weights = std::vector<float>(12);
  std::vector<float> old_log_prob = std::vector<float>(6);
  std::vector<float> advantages{1.0f, -0.5f, 0.0f, 2.0f, -1.0f, 0.25f};
  std::vector<float> loss = std::vector<float>(2), kl = loss, entropy = loss, clip_fraction = loss, ratio_max = loss;
  std::vector<float> gradient = std::vector<float>(4);
  DirichletShape shape{2, 3, 2};
  GrpoOptions options;

  Case() {
    dirichlet_sample(concentration, shape, 1, 0, {}, log_weights, {});
    dirichlet_log_prob(concentration, log_weights, shape, options.weight_floor, old_log_prob);
  }
  void run(bool validate = true) {
    grpo_loss({concentration, log_weights, old_log_prob, advantages, reference}, shape, options,
              {loss, kl, entropy, clip_fraction, ratio_max, gradient}, validate);
  }
};

}  // namespace

TEST(on_policy_loss_is_minus_the_mean_advantage_plus_the_penalty) {
  Case c;
  c.run();
  CHECK_NEAR(c.loss[0], -0.5 / 3.0 + 0.01 * c.kl[0], 1e-6);
  CHECK_NEAR(c.loss[1], -1.25 / 3.0, 1e-6);
  CHECK_NEAR(c.kl[1], 0.0, 1e-6);
  CHECK(c.kl[0] > 0.1f);
  CHECK_EQUAL(c.clip_fraction[0], 0.0f);
  CHECK_NEAR(c.ratio_max[1], 1.0, 1e-5);
}

TEST(the_gradient_is_the_slope_of_the_loss) {
  Case c;
  c.options.kl_coefficient = 0.3;
  c.options.entropy_coefficient = 0.2;
  c.options.clip = 0.5;
  c.run();
  const std::vector<float> gradient = c.gradient;
  for (std::size_t i = 0; i < 4; ++i) {
    const float step = 1e-2f;
    const float start = c.concentration[i];
    c.concentration[i] = start + step;
    c.run();
    const double above = c.loss[i / 2];
    c.concentration[i] = start - step;
    c.run();
    const double below = c.loss[i / 2];
    c.concentration[i] = start;
    CHECK_NEAR(gradient[i], (above - below) / (2.0 * step), 5e-3);
  }
}

TEST(a_bad_row_throws_or_is_nan) {
  Case c;
  c.reference[3] = -1.0f;
  CHECK_THROWS(std::invalid_argument, "reference_concentration[1, 1] is -1", c.run());
  c.run(false);
  CHECK(std::isfinite(c.loss[0]));
  CHECK(std::isnan(c.loss[1]));
}

TEST(bad_options_are_named) {
  Case c;
  c.options.log_ratio_clamp = 0.0;
  CHECK_THROWS(std::invalid_argument, "log_ratio_clamp", c.run());
  c = Case();
  c.options.clip = -1.0;
  CHECK_THROWS(std::invalid_argument, "clip is", c.run());
  c = Case();
  c.shape.samples = 0;
  CHECK_THROWS(std::invalid_argument, "no samples", c.run());
  c = Case();
  c.advantages.pop_back();
  CHECK_THROWS(std::invalid_argument, "advantages holds 5 values; want 6", c.run());
}
