#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "check.hpp"
#include "pygrade/fusion.hpp"

using namespace pygrade;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float missing = std::numeric_limits<float>::quiet_NaN();

std::vector<float> noise(std::size_t count, unsigned seed = 1) {
  std::vector<float> values(count);
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(seed >> 8) * 0x1p-24f;
  }
  return values;
}

Scores dense(const std::vector<float>& values, std::int64_t batch, std::int64_t tasks) {
  const auto rows = static_cast<std::int64_t>(values.size()) / tasks;
  return Scores::dense(values.data(), ScoreType::float32, batch, rows / batch, tasks);
}

struct Best {
  std::vector<float> values;
  std::vector<std::int32_t> indices;
};

Best best_of(const Scores& scores, const std::vector<float>& weights, std::int64_t samples, std::int64_t k,
             std::span<const std::uint8_t> mask = {}, FusionOptions options = {}, int threads = 1) {
  const auto size = static_cast<std::size_t>(scores.batch * samples * k);
  Best best{std::vector<float>(size, missing), std::vector<std::int32_t>(size, -7)};
  fuse_topk(scores, weights, samples, k, options, mask, best.values, best.indices, threads);
  return best;
}

std::vector<float> fused_of(const Scores& scores, const std::vector<float>& weights, std::int64_t samples,
                            FusionOptions options = {}) {
  std::vector<float> fused(static_cast<std::size_t>(scores.rows * samples), missing);
  fuse_scores(scores, weights, samples, options, fused);
  return fused;
}

// The tree of fusion.hpp, written out literally.
float fused_by_definition(const float* p, const float* w, int tasks) {
  if (tasks == 1) return p[0] * w[0];
  const int padded = static_cast<int>(std::bit_ceil(static_cast<unsigned>(tasks)));
  std::vector<float> x(static_cast<std::size_t>(padded / 2));
  for (int j = 0; j < padded / 2; ++j) {
    float& sum = x[static_cast<std::size_t>(j)];
    sum = p[j] * w[j];
    if (j + padded / 2 < tasks) sum = std::fma(p[j + padded / 2], w[j + padded / 2], sum);
  }
  for (int h = padded / 4; h > 0; h /= 2)
    for (int j = 0; j < h; ++j) x[static_cast<std::size_t>(j)] += x[static_cast<std::size_t>(j + h)];
  return x[0];
}

}  // namespace

TEST(fused_scores_follow_the_tree_for_every_number_of_tasks) {
  for (int tasks = 1; tasks <= 64; ++tasks) {
    const std::size_t t = static_cast<std::size_t>(tasks);
    const auto values = noise(37 * t, 5);
    const auto weights = noise(3 * t, 9);
    const auto fused = fused_of(dense(values, 1, tasks), weights, 3);
    std::vector<float> expected(3 * 37);
    for (std::size_t g = 0; g < 3; ++g)
      for (std::size_t n = 0; n < 37; ++n)
        expected[g * 37 + n] = fused_by_definition(values.data() + n * t, weights.data() + g * t, tasks);
    CHECK_EQUAL(fused, expected);
  }
}

TEST(ties_zeros_infinities_and_nan_have_their_places) {
  const std::vector<float> values = {0.0f, missing, -0.0f, 3.0f, -infinity, infinity, 3.0f};
  const auto best = best_of(dense(values, 1, 1), {1}, 1, 9);
  CHECK_EQUAL(best.indices, (std::vector<std::int32_t>{5, 3, 6, 0, 2, 4, 1, -1, -1}));
  CHECK(std::isnan(best.values[6]) && best.values[5] == -infinity && best.values[7] == -infinity);
  CHECK(!std::signbit(best.values[4]) && !std::signbit(best.values[3]));
}

TEST(the_best_are_those_of_a_full_sort) {
  for (std::int64_t count : {1, 15, 64, 65, 300, 2000, 30'000})
    for (std::int64_t k : {1, 10, 100, 257, 2000})
      for (float levels : {0.0f, 1.0f, 7.0f, 500.0f}) {
        auto values = noise(static_cast<std::size_t>(count));
        if (levels > 0) std::ranges::transform(values, values.begin(), [=](float x) { return std::floor(x * levels); });
        std::vector<std::int32_t> order(values.size());
        std::iota(order.begin(), order.end(), 0);
        std::ranges::stable_sort(order, std::greater{}, [&](std::int32_t i) { return values[std::size_t(i)]; });
        order.resize(static_cast<std::size_t>(k), -1);
        CHECK_EQUAL(best_of(dense(values, 1, 1), {1}, 1, k).indices, order);
      }
}

TEST(task_major_scores_give_the_same_bits) {
  for (const std::int64_t tasks : {1, 3, 8, 17, 64})
    for (const std::int64_t count : {1, 31, 64, 100}) {
      const auto values = noise(static_cast<std::size_t>(2 * count * tasks));
      std::vector<float> by_task(values.size());
      for (std::int64_t b = 0; b < 2; ++b)
        for (std::int64_t i = 0; i < count; ++i)
          for (std::int64_t t = 0; t < tasks; ++t)
            by_task[static_cast<std::size_t>((b * tasks + t) * count + i)] =
                values[static_cast<std::size_t>((b * count + i) * tasks + t)];
      const auto weights = noise(static_cast<std::size_t>(2 * tasks), 3);
      const auto turned = Scores::dense(by_task.data(), ScoreType::float32, 2, count, tasks, Layout::task_major);
      for (const Transform transform : {Transform::identity, Transform::log1p})
        CHECK_EQUAL(fused_of(turned, weights, 1, {transform}),
                    fused_of(dense(values, 2, tasks), weights, 1, {transform}));
      CHECK_EQUAL(best_of(turned, weights, 1, 10).indices, best_of(dense(values, 2, tasks), weights, 1, 10).indices);
    }
}

TEST(masks_and_empty_requests) {
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const std::vector<std::uint8_t> mask = {1, 0, 1, 0, 0, 0};
  const auto best = best_of(dense(values, 2, 1), {1, -1}, 1, 2, mask);
  CHECK_EQUAL(best.indices, (std::vector<std::int32_t>{2, 0, -1, -1}));
  const std::vector<std::int64_t> offsets = {0, 0, 4, 4, 6};
  const auto jagged = Scores::jagged(values.data(), ScoreType::float32, 6, 1, offsets);
  CHECK_EQUAL(best_of(jagged, {1, 1, 1, -1}, 1, 2).indices, (std::vector<std::int32_t>{-1, -1, 3, 2, -1, -1, 0, 1}));
}

TEST(half_precision_is_widened_exactly) {
  const std::vector<std::uint16_t> half = {0x3c00, 0x0001, 0xfbff, 0x7c00, 0x3555};
  const std::vector<std::uint16_t> brain = {0x3f80, 0x0001, 0xff7f, 0x7f80, 0x3eab};
  std::vector<float> values(5);
  transform_scores(Scores::dense(half.data(), ScoreType::float16, 1, 5, 1), {}, values);
  CHECK_EQUAL(values, (std::vector<float>{1.0f, 0x1p-24f, -65504.0f, infinity, 0.333251953125f}));
  transform_scores(Scores::dense(brain.data(), ScoreType::bfloat16, 1, 5, 1), {}, values);
  CHECK_EQUAL(values, (std::vector<float>{1.0f, 0x1p-133f, -0x1.fep127f, infinity, 0.333984375f}));
}

TEST(half_precision_scores_are_fused_as_their_float32_values) {
  for (const ScoreType type : {ScoreType::float16, ScoreType::bfloat16})
    for (const Layout layout : {Layout::item_major, Layout::task_major})
      for (std::int64_t tasks = 1; tasks <= 64; tasks += tasks < 20 ? 1 : 11)
        for (const std::int64_t count : {1, 15, 16, 17, 37, 64, 300}) {
          std::vector<std::uint16_t> halves;
          for (const float value : noise(static_cast<std::size_t>(count * tasks)))
            halves.push_back(static_cast<std::uint16_t>(0x3000 + static_cast<int>(value * 0x0f80)));
          std::vector<float> wide(halves.size());
          const auto scores = Scores::dense(halves.data(), type, 1, count, tasks, layout);
          transform_scores(scores, {}, wide);
          const auto same = Scores::dense(wide.data(), ScoreType::float32, 1, count, tasks, layout);
          const auto weights = noise(static_cast<std::size_t>(tasks), 3);
          CHECK_EQUAL(fused_of(scores, weights, 1), fused_of(same, weights, 1));
          for (const Transform transform : {Transform::identity, Transform::log, Transform::log1p}) {
            const auto best = best_of(scores, weights, 1, 10, {}, {transform});
            const auto expected = best_of(same, weights, 1, 10, {}, {transform});
            CHECK(best.values == expected.values && best.indices == expected.indices);
          }
        }
}

TEST(the_short_cut_to_the_best_logarithms_has_the_bits_of_a_full_sort) {
  const std::vector<float> slope = {3.0f, 0.0f, 1.0f, 40.0f, 1.0f, 0.5f, 2.0f, 1.0f, 7.0f};
  for (std::int64_t tasks : {1, 2, 3, 4, 7, 8, 9})
    for (const Transform transform : {Transform::log, Transform::log1p})
      for (const std::int64_t count : {200, 999, 4000}) {
        const auto values = noise(static_cast<std::size_t>(count * tasks), 11);
        const auto weights = noise(static_cast<std::size_t>(tasks), 3);
        const FusionOptions options{.transform = transform, .slope = slope.data()};
        const auto fused = fused_of(dense(values, 1, tasks), weights, 1, options);
        const auto best = best_of(dense(values, 1, tasks), weights, 1, 20, {}, options);
        const auto expected = best_of(dense(fused, 1, 1), {1}, 1, 20);
        CHECK(best.values == expected.values && best.indices == expected.indices);
      }
}

TEST(transforms) {
  const std::vector<float> values = {1, 3, 1, 3};
  std::vector<float> out(4);
  transform_scores(dense(values, 1, 1), {Transform::zscore, 0, 1}, out);
  CHECK_EQUAL(out, (std::vector<float>{-0.5f, 0.5f, -0.5f, 0.5f}));
  transform_scores(dense(values, 1, 1), {Transform::rank}, out);
  CHECK_EQUAL(out, (std::vector<float>{1.0f / 3, 1.0f, 0.0f, 2.0f / 3}));
  transform_scores(dense(values, 1, 1), {Transform::log, 0}, out);
  CHECK_NEAR(out[1], std::log(3.0), 1e-7);
  transform_scores(dense(values, 2, 1), {Transform::zlog, 0, 0}, out);
  CHECK_NEAR(out[0], -1.0, 1e-6);
}

TEST(threads_and_the_split_of_a_batch_change_nothing) {
  const auto values = noise(64 * 500 * 6);
  const auto weights = noise(64 * 8 * 6, 3);
  const auto one = best_of(dense(values, 64, 6), weights, 8, 20, {}, {Transform::zlog});
  const auto many = best_of(dense(values, 64, 6), weights, 8, 20, {}, {Transform::zlog}, 5);
  CHECK(one.values == many.values && one.indices == many.indices);
}

TEST(what_does_not_fit_is_refused) {
  const std::vector<float> values = {1, -2, 3, 4};
  const auto scores = dense(values, 2, 1);
  CHECK_THROWS(std::invalid_argument, "k is 0", best_of(scores, {1, 1}, 1, 0));
  CHECK_THROWS(std::invalid_argument, "weights holds 1 values; want 2", best_of(scores, {1}, 1, 1));
  CHECK_THROWS(std::invalid_argument, "scores has 65 tasks",
               fused_of(Scores::dense(values.data(), ScoreType::float32, 0, 0, 65), {}, 1));
  const std::vector<std::uint8_t> mask = {1};
  CHECK_THROWS(std::invalid_argument, "mask holds 1 values; want 4", best_of(scores, {1, 1}, 1, 1, mask));
  CHECK_THROWS(std::invalid_argument, "scores is negative at request 0, candidate 1, task 0",
               best_of(scores, {1, 1}, 1, 1, {}, {Transform::log}));
  for (const std::vector<std::int64_t>& offsets :
       {std::vector<std::int64_t>{1, 4}, std::vector<std::int64_t>{0, 3, 2, 4}, std::vector<std::int64_t>{0, 3}}) {
    const std::vector<float> weights(offsets.size() - 1);
    CHECK_THROWS(std::invalid_argument, "offsets[",
                 fused_of(Scores::jagged(values.data(), ScoreType::float32, 4, 1, offsets), weights, 1));
  }
}
