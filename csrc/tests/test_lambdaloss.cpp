#include <limits>
#include <stdexcept>

#include "check.hpp"
#include "pygrade/lambdaloss.hpp"

using namespace pygrade;

namespace {

constexpr float missing = std::numeric_limits<float>::quiet_NaN();
const std::vector<float> dcg = {1.0f, 0.5f};

struct Result {
  std::vector<float> loss;
  std::vector<float> gradient;
};

Result loss_of(const std::vector<float>& scores, const std::vector<float>& gains, const std::vector<std::uint8_t>& mask,
               std::int64_t batch, float temperature = 1.0f, int threads = 1) {
  Result result{std::vector<float>(static_cast<std::size_t>(batch), missing),
                std::vector<float>(scores.size(), missing)};
  lambda_loss(scores, gains, mask, dcg, batch, temperature, result.loss, result.gradient, false, threads);
  return result;
}

}  // namespace

TEST(one_pair_has_the_loss_and_slope_of_the_formula) {
  const auto [loss, gradient] = loss_of({2, 1}, {0, 3}, {}, 1, 2.0f);  // weight 3 · |.5 - 1|, margin -1/2
  CHECK_NEAR(loss[0], 1.5 * std::log1p(std::exp(0.5)), 1e-6);
  const double pull = 1.5 / 2.0 / (1.0 + std::exp(-0.5));
  CHECK_NEAR(gradient[0], pull, 1e-6);
  CHECK_NEAR(gradient[1], -pull, 1e-6);
}

TEST(equal_gains_empty_rows_and_ranks_beyond_the_discounts_cost_nothing) {
  CHECK_EQUAL(loss_of({1, 2, 3}, {4, 4, 4}, {}, 1).loss, (std::vector<float>{0}));
  CHECK_EQUAL(loss_of({}, {}, {}, 2).loss, (std::vector<float>{0, 0}));
  const auto [loss, gradient] = loss_of({9, 8, 2, 1}, {1, 1, 1, 1.5f}, {}, 1);
  CHECK(loss[0] > 0.0f && gradient[2] == 0.0f);
}

TEST(masked_candidates_are_not_read) {
  const auto with = loss_of({5, 2, 1, missing}, {missing, 0, 3, 7}, {0, 1, 1, 0}, 1);
  const auto without = loss_of({2, 1}, {0, 3}, {}, 1);
  CHECK_EQUAL(with.loss, without.loss);
  CHECK_EQUAL(with.gradient, (std::vector<float>{0, without.gradient[0], without.gradient[1], 0}));
}

TEST(threads_change_nothing) {
  std::vector<float> scores(20 * 3000);
  std::vector<float> gains(scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i] = static_cast<float>((i * 2654435761u) % 997) / 500.0f;
    gains[i] = static_cast<float>((i * 40503u) % 3);
  }
  const auto one = loss_of(scores, gains, {}, 3000);
  const auto four = loss_of(scores, gains, {}, 3000, 1.0f, 4);
  CHECK(one.loss == four.loss && one.gradient == four.gradient);
}

TEST(sizes_that_do_not_fit_are_refused) {
  std::vector<float> loss(2);
  std::vector<float> gradient(4);
  const std::vector<float> four(4);
  const std::vector<float> three(3);
  CHECK_THROWS(std::invalid_argument, "scores does not hold",
               lambda_loss(three, three, {}, dcg, 2, 1.0f, loss, gradient));
  CHECK_THROWS(std::invalid_argument, "gains holds 3 values; want 4",
               lambda_loss(four, three, {}, dcg, 2, 1.0f, loss, gradient));
  CHECK_THROWS(std::invalid_argument, "gradient holds 3 values; want 4",
               lambda_loss(four, four, {}, dcg, 2, 1.0f, loss, std::span(gradient).first(3)));
  CHECK_THROWS(std::invalid_argument, "temperature", lambda_loss(four, four, {}, dcg, 2, missing, loss, gradient));
}
