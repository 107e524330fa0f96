#include <stdexcept>

#include "check.hpp"
#include "pygrade/advantage.hpp"

using namespace pygrade;

namespace {

constexpr float missing = std::numeric_limits<float>::quiet_NaN(), infinite = std::numeric_limits<float>::infinity();
const std::vector<float> one = {1.0f};

std::vector<float> advantage_of(const std::vector<float>& rewards, const std::vector<float>& weights,
                                std::int64_t batch, AdvantageOptions options, int threads = 1) {
  const std::size_t components = weights.size();
  const std::size_t count = rewards.size() / components;
  std::vector<float> advantage(count, missing);
  group_advantage(rewards, weights, batch, static_cast<std::int64_t>(count) / batch, options, advantage, false,
                  threads);
  return advantage;
}

}  // namespace

TEST(deviations_are_divided_as_asked) {
  const std::vector<float> rewards = {1, 3, 2, 10};  // two groups: deviations ∓1 and ∓4
  CHECK_EQUAL(advantage_of(rewards, one, 2, {Normalize::none}), (std::vector<float>{-1, 1, -4, 4}));
  CHECK_EQUAL(advantage_of(rewards, one, 2, {Normalize::group}), (std::vector<float>{-1, 1, -1, 1}));
  const auto batch = advantage_of(rewards, one, 2, {Normalize::batch});
  CHECK_NEAR(batch[1], 1.0 / std::sqrt(8.5), 1e-7);
  CHECK_NEAR(batch[2], -4.0 / std::sqrt(8.5), 1e-6);
}

TEST(components_are_weighed_and_can_be_scaled_alone) {
  const std::vector<float> rewards = {1, 100, 3, 300};  // one group, two samples of two components
  CHECK_EQUAL(advantage_of(rewards, {1, 0.5f}, 1, {Normalize::none}), (std::vector<float>{-51, 51}));
  CHECK_EQUAL(advantage_of(rewards, {1, 0.5f}, 1, {Normalize::component}), (std::vector<float>{-1.5f, 1.5f}));
}

TEST(leave_one_out_and_clip) {
  CHECK_EQUAL(advantage_of({1, 3}, one, 1, {Normalize::none, true}), (std::vector<float>{-2, 2}));
  CHECK_EQUAL(advantage_of({0, 8}, one, 1, {Normalize::none, false, 3.0f}), (std::vector<float>{-3, 3}));
}

TEST(constant_groups_lone_samples_and_nan_get_zero) {
  CHECK_EQUAL(advantage_of({0.1f, 0.1f, 0.1f}, one, 1, {Normalize::group}), (std::vector<float>{0, 0, 0}));
  CHECK_EQUAL(advantage_of({5}, one, 1, {Normalize::group, true}), (std::vector<float>{0}));
  CHECK_EQUAL(advantage_of({missing, 1, 3}, one, 1, {Normalize::none}), (std::vector<float>{0, -1, 1}));
  CHECK_EQUAL(advantage_of({1, 3, infinite, infinite, 1, 3}, one, 3, {Normalize::batch}),
              (std::vector<float>{-1, 1, 0, 0, -1, 1}));
}

TEST(threads_change_nothing) {
  std::vector<float> rewards(400'000);
  for (std::size_t i = 0; i < rewards.size(); ++i) rewards[i] = static_cast<float>((i * 2654435761u) % 1000) / 7.0f;
  for (Normalize normalize : {Normalize::none, Normalize::group, Normalize::batch, Normalize::component})
    CHECK(advantage_of(rewards, {1, 2}, 50'000, {normalize}, 4) == advantage_of(rewards, {1, 2}, 50'000, {normalize}));
}

// Group sizes that fill vectors and use single precision, in full and partial blocks, and one that does not.
TEST(groups_of_many_samples_agree_with_plain_loops) {
  for (const std::int64_t samples : {8, 16, 24, 32, 64, 9})
    for (const std::int64_t batch : {1, 7, 16, 37}) {
      std::vector<float> rewards(static_cast<std::size_t>(batch * samples));
      for (std::size_t i = 0; i < rewards.size(); ++i)
        rewards[i] = 100.0f + static_cast<float>((i * 2654435761u) % 1009) / 64.0f;
      const auto found = advantage_of(rewards, one, batch, {Normalize::group, false, 100.0f});
      for (std::int64_t b = 0; b < batch; ++b) {
        const float* group = rewards.data() + b * samples;
        double mean = 0.0, square = 0.0;
        for (std::int64_t g = 0; g < samples; ++g) mean += group[g] / static_cast<double>(samples);
        for (std::int64_t g = 0; g < samples; ++g) square += (group[g] - mean) * (group[g] - mean);
        const double deviation = std::sqrt(square / static_cast<double>(samples));
        for (std::int64_t g = 0; g < samples; ++g)
          CHECK_NEAR(found[static_cast<std::size_t>(b * samples + g)], (group[g] - mean) / deviation, 1e-5);
      }
    }
}

TEST(sizes_that_do_not_fit_are_refused) {
  std::vector<float> out(4);
  const std::vector<float> rewards(4);
  CHECK_THROWS(std::invalid_argument, "rewards holds 4 values; want 6", group_advantage(rewards, one, 2, 3, {}, out));
  CHECK_THROWS(std::invalid_argument, "advantage holds 3 values; want 4",
               group_advantage(rewards, one, 2, 2, {}, std::span(out).first(3)));
  CHECK_THROWS(std::invalid_argument, "clip is negative or NaN",
               group_advantage(rewards, one, 2, 2, {Normalize::none, false, missing}, out));
}
