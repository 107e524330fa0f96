#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "check.hpp"
#include "correction_parts.hpp"

using namespace pygrade;
using namespace pygrade::tests;

namespace {
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
using Form = Correction::Form;

CorrectionShape any_shape(Draws& random) {
  const std::size_t features = random.below(7);
  return {1 + random.below(12), features, random.below(4), features == 0 ? 0 : random.below(features + 1),
          static_cast<Form>(random.below(3))};
}

std::vector<float> with_gaps(std::vector<float> values, Draws& random) {
  for (float& value : values)
    if (random.below(5) == 0) value = random.below(2) == 0 ? nan_value : -HUGE_VALF;
  return values;
}

std::vector<float> apply(const Correction& correction, std::span<const float> context,
                         std::span<const float> predictions, std::span<const float> items) {
  Correction::Workspace workspace;
  std::vector<float> result(predictions.size(), nan_value);
  correction.apply(context, predictions, items, workspace, result);
  return result;
}

std::uint64_t hash(std::span<const float> values, std::uint64_t state) {
  for (const float value : values) state = (state ^ std::bit_cast<std::uint32_t>(value)) * 0x100000001b3ull;
  return state;
}

Correction::Parts parts_of(Form form = Form::none) {
  Draws random(3);
  return draw_correction({3, 2, 1, 1, form}, random);
}
}  // namespace

TEST(a_request_has_the_same_bits_alone_in_a_batch_in_place_and_with_any_threads) {
  Draws random(5);
  const CorrectionShape shape{6, 5, 2, 3, Form::conditional};
  const auto parts = draw_correction(shape, random);
  const Correction correction(parts);
  const std::vector<std::int64_t> offsets = {0, 1, 1, 40, 72, 73, 500, 531};
  const auto predictions = draw_predictions(parts, 531, random);
  const auto context = random.uniforms(7 * 5, -2, 2), items = random.uniforms(531 * 2, -2, 2);
  std::vector<float> together(predictions.size(), nan_value), threads = together, in_place = predictions;
  correction.apply(context, predictions, offsets, items, together, 1);
  correction.apply(context, predictions, offsets, items, threads, 3);
  correction.apply(context, in_place, offsets, items, in_place, 1);
  CHECK_EQUAL(threads, together);
  CHECK_EQUAL(in_place, together);
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
    const auto first = static_cast<std::size_t>(offsets[r]), count = static_cast<std::size_t>(offsets[r + 1]) - first;
    const auto alone =
        apply(correction, std::span(context).subspan(r * 5, 5), std::span(predictions).subspan(first * 6, count * 6),
              std::span(items).subspan(first * 2, count * 2));
    CHECK_EQUAL(alone, std::vector<float>(together.begin() + static_cast<std::ptrdiff_t>(first * 6),
                                          together.begin() + static_cast<std::ptrdiff_t>((first + count) * 6)));
  }
}

// Each instruction set runs this test.
TEST(bits_are_equal_on_every_instruction_set) {
  Draws random(6);
  std::uint64_t state = 0xcbf29ce484222325ull;
  for (int run = 0; run < 60; ++run) {
    const auto shape = any_shape(random);
    const auto parts = draw_correction(shape, random, 1.0f);
    const std::size_t rows = 1 + random.below(150);
    auto predictions = draw_predictions(parts, rows, random);
    predictions[random.below(predictions.size())] *= -1;
    const auto context = with_gaps(random.uniforms(shape.features, -3, 3), random);
    const auto items = with_gaps(random.uniforms(rows * shape.items, -6, 6), random);
    const auto result = apply(Correction(parts), context, predictions, items);
    CHECK(std::ranges::all_of(result, [](float p) { return std::isfinite(p) && p >= 0.0f; }));
    state = hash(result, state);
  }
  std::vector<std::int64_t> offsets = {0};
  for (int r = 0; r < 600; ++r) offsets.push_back(offsets.back() + static_cast<std::int64_t>(random.below(6)));
  const auto rows = static_cast<std::size_t>(offsets.back());
  const auto doubles = [&](std::size_t count) {
    const auto floats = random.uniforms(count, -1, 1);
    return std::vector<double>(floats.begin(), floats.end());
  };
  const auto z = doubles(600 * 7), u = doubles(rows * 5), h = doubles(rows);
  std::vector<double> gram(35 * 35);
  correction_gram(z, u, h, offsets, gram, 1);
  for (const double value : gram) state = (state ^ std::bit_cast<std::uint64_t>(value)) * 0x100000001b3ull;
  CHECK_EQUAL(state, 1599185690368717594u);
}

// Each instruction set runs this test.
TEST(trees_have_the_same_bits_on_every_instruction_set_and_equal_a_walk_from_the_root) {
  Draws random(11);
  std::uint64_t state = 0xcbf29ce484222325ull;
  for (int run = 0; run < 20; ++run) {
    auto shape = any_shape(random);
    const auto parts = [&] {
      Draws same(static_cast<std::uint64_t>(run));
      shape.trees = 1 + random.below(40);
      return draw_correction(shape, same, 0.5f);
    }();
    const Correction correction(parts);
    auto plain = parts;
    plain.structure.trees = 0;
    for (auto* of_trees : {&plain.tree_inputs, &plain.tree_thresholds, &plain.tree_masks, &plain.tree_leaves})
      of_trees->clear();
    const std::size_t rows = 1 + random.below(150), width = correction.num_tree_inputs();
    const auto predictions = draw_predictions(parts, rows, random);
    const auto context = random.uniforms(shape.features, -3, 3), items = random.uniforms(rows * shape.items, -6, 6);
    const auto found = apply(correction, context, predictions, items);
    const auto before = apply(Correction(plain), context, predictions, items);
    const std::vector<std::int64_t> offsets{0, static_cast<std::int64_t>(rows)};
    std::vector<float> inputs(rows * width);
    correction.tree_inputs(context, predictions, offsets, items, inputs);
    for (std::size_t i = 0; i < rows; ++i) {
      float sum = 0.0f;
      for (std::size_t g = 0; g < shape.trees; ++g) {
        std::size_t leaf = 0;  // of a chain: the first node whose input is not above its threshold
        for (; leaf < 7; ++leaf) {
          const std::size_t node = 7 * g + leaf;
          const float input = inputs[i * width + static_cast<std::size_t>(parts.tree_inputs[node])];
          if (parts.tree_masks[node] == 255.0f || input <= parts.tree_thresholds[node]) break;
        }
        sum += parts.tree_leaves[8 * g + leaf];
      }
      for (std::size_t t = 0; t < shape.tasks; ++t) {
        const float expected = before[i * shape.tasks + t] * std::exp(sum);
        CHECK(std::abs(found[i * shape.tasks + t] - expected) <= 2e-6f * expected);
      }
    }
    state = hash(found, state);
  }
  CHECK_EQUAL(state, 5417505540976767329u);
}

TEST(the_gram_matrix_is_that_of_the_products) {
  Draws random(7);
  for (const auto& [z_count, u_count, requests] :
       {std::array<std::size_t, 3>{1, 1, 3}, {3, 4, 20}, {9, 5, 513}, {2, 13, 700}, {6, 1, 1}}) {
    std::vector<std::int64_t> offsets = {0};
    for (std::size_t r = 0; r < requests; ++r)
      offsets.push_back(offsets.back() + static_cast<std::int64_t>(random.below(5)));
    const auto rows = static_cast<std::size_t>(offsets.back());
    const auto doubles = [&](std::size_t count) {
      const auto floats = random.uniforms(count, -1, 1);
      return std::vector<double>(floats.begin(), floats.end());
    };
    const auto z = doubles(requests * z_count), u = doubles(rows * u_count), h = doubles(rows);
    const std::size_t size = z_count * u_count;
    std::vector<double> expected(size * size), got(size * size, std::nan("")), threads = got;
    for (std::size_t r = 0; r < requests; ++r)
      for (auto row = static_cast<std::size_t>(offsets[r]); row < static_cast<std::size_t>(offsets[r + 1]); ++row)
        for (std::size_t a = 0; a < size; ++a)
          for (std::size_t b = 0; b < size; ++b)
            expected[a * size + b] += h[row] * z[r * z_count + a / u_count] * u[row * u_count + a % u_count] *
                                      z[r * z_count + b / u_count] * u[row * u_count + b % u_count];
    correction_gram(z, u, h, offsets, got, 1);
    correction_gram(z, u, h, offsets, threads, 3);
    CHECK(got == threads);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], expected[i], 1e-10);
  }
  std::vector<double> result(4, 7.0);
  correction_gram({}, {}, {}, std::vector<std::int64_t>{0}, result, 1);
  CHECK_EQUAL(result, std::vector<double>(4));
}

TEST(what_does_not_fit_is_named) {  // and the rest in tests/policy/test_correction.py
  const auto refused = [](const auto& change, const char* reason) {
    auto parts = parts_of(Form::marginal);
    change(parts);
    CHECK_THROWS(std::invalid_argument, reason, Correction(parts));
  };
  refused([](auto& p) { p.structure.parents = {0, -1, -1}; }, "the parent of task 0 is 0");
  refused([](auto& p) { p.structure.parents = {-1, 2, 9}; }, "the parent of task 2 is 9");
  refused([](auto& p) { p.structure.amounts = {false}; }, "amounts");
  refused([](auto& p) { p.structure.indicators = {3}; }, "indicators");
  refused([](auto& p) { p.structure.items.assign(126, "a"); }, "126 items");
  refused([](auto& p) { p.weights.pop_back(); }, "weights has 119");
  refused([](auto& p) { p.l_std[0] = 1e-42f; }, "l_std");
  refused([](auto& p) { p.map_knots.clear(); }, "map_knots has 0");

  const Correction correction(parts_of());
  Correction::Workspace workspace;
  std::vector<float> six(6, 0.5f), four(4), result(6);
  CHECK_THROWS(std::invalid_argument, "context", (correction.apply(six, six, {}, workspace, result), 0));
  CHECK_THROWS(std::invalid_argument, "predictions", (correction.apply({}, four, {}, workspace, result), 0));
  CHECK_THROWS(std::invalid_argument, "items", (correction.apply({}, six, six, workspace, result), 0));
  const std::vector<std::int64_t> reversed = {0, 3, 2};
  CHECK_THROWS(std::invalid_argument, "offsets", (correction.apply({}, six, reversed, {}, result, 1), 0));
}
