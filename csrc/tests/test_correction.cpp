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

double cut(double x, double low, double high) { return std::isnan(x) ? x : std::min(std::max(x, low), high); }
double logit(double p) { return std::log(p) - std::log(1 - p); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// The formula of pygrade/reference/correction.py in plain double.
class Expected {
 public:
  explicit Expected(const Correction::Parts& parts) : parts_(parts), tasks_(parts.structure.parents.size()) {}

  std::vector<double> corrected(std::span<const float> context, std::span<const float> predictions,
                                std::span<const float> items) const {
    const Correction::Structure& s = parts_.structure;
    const std::size_t rows = predictions.size() / tasks_, columns = s.items.size(), variables = tasks_ + columns;
    std::vector<double> p(predictions.begin(), predictions.end()), base(p.size()), result(p.size());
    for (std::size_t row = 0; row < rows; ++row) {
      const auto raw = predictions.subspan(row * tasks_, tasks_);
      for (std::size_t t = 0; t < tasks_ && s.form != Form::none; ++t) p[row * tasks_ + t] = mapped(raw, t);
      for (std::size_t t = 0; t < tasks_; ++t)
        base[row * tasks_ + t] =
            s.parents[t] < 0 ? log_odds(p[row * tasks_ + t], t)
                             : logit(cut(p[row * tasks_ + t] / (p[row * tasks_ + parent(t)] + 1e-7), 1e-4, 0.95));
    }
    std::vector<double> l(rows * variables), z = {1.0}, mean(variables);
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t v = 0; v < variables; ++v) {
        double value = std::nan("");
        if (v < tasks_) value = base[row * tasks_ + v];
        if (v >= tasks_ && !items.empty()) value = items[row * columns + v - tasks_];
        if (!std::isfinite(value)) continue;
        value = cut((value - parts_.l_mean[v]) / parts_.l_std[v], -4, 4);
        l[row * variables + v] = value;
        mean[v] += l[row * variables + v] / static_cast<double>(rows);
      }
    const bool known = std::ranges::any_of(context, [](float v) { return std::isfinite(v); });
    for (std::size_t i = 0; i < parts_.x_mean.size(); ++i) {
      const std::size_t f =
          i < parts_.median.size() ? i : static_cast<std::size_t>(s.indicators[i - parts_.median.size()]);
      double value = 0.0;
      if (known && i < parts_.median.size()) value = std::isfinite(context[f]) ? context[f] : parts_.median[f];
      if (known && i >= parts_.median.size()) value = std::isfinite(context[f]) ? 0.0 : 1.0;
      z.push_back(known ? cut((value - parts_.x_mean[i]) / parts_.x_std[i], -4, 4) : 0.0);
    }
    z.insert(z.end(), mean.begin(), mean.end());
    std::vector<double> shift(p.size());
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t t = 0; t < tasks_; ++t)
        for (std::size_t i = 0; i < z.size(); ++i) {
          const float* w = parts_.weights.data() + (t * z.size() + i) * (1 + variables);
          double sum = w[0];
          for (std::size_t v = 0; v < variables; ++v) sum += w[1 + v] * (l[row * variables + v] - mean[v]);
          shift[row * tasks_ + t] += z[i] * sum;
        }
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t t = 0; t < tasks_; ++t) result[row * tasks_ + t] = given(p, base, shift, row, t);
    return result;
  }

 private:
  std::size_t parent(std::size_t t) const { return static_cast<std::size_t>(parts_.structure.parents[t]); }
  double log_odds(double p, std::size_t t) const {
    return parts_.structure.amounts[t] ? std::log(std::max(p, 1e-6)) : logit(cut(p, 1e-6, 1 - 1e-6));
  }
  double bent(double odds, std::size_t t) const {
    const double z = cut((odds - parts_.map_mean[t]) / parts_.map_std[t], -6, 6);
    const float* w = parts_.map_weights.data() + 7 * t;
    double sum = odds + w[0] + w[1] * z;
    for (std::size_t k = 0; k < 5; ++k) sum += w[2 + k] * std::max(z - parts_.map_knots[5 * t + k], 0.0);
    return sum;
  }
  double mapped(std::span<const float> raw, std::size_t t) const {
    const Correction::Structure& s = parts_.structure;
    if (s.amounts[t]) return std::exp(bent(log_odds(raw[t], t), t));
    if (s.form == Form::marginal) return std::min(sigmoid(bent(log_odds(raw[t], t), t)), std::exp(-1e-3));
    if (s.parents[t] < 0) return sigmoid(bent(log_odds(raw[t], t), t));
    const double share = cut(raw[t] / std::max<double>(raw[parent(t)], 1e-9), 1e-4, 0.95);
    return mapped(raw, parent(t)) * sigmoid(bent(logit(share), t));
  }
  double given(const std::vector<double>& p, const std::vector<double>& base, const std::vector<double>& shift,
               std::size_t row, std::size_t t) const {
    const std::size_t at = row * tasks_ + t;
    if (parts_.structure.parents[t] >= 0) return sigmoid(base[at] + shift[at]) * given(p, base, shift, row, parent(t));
    if (parts_.structure.amounts[t]) return std::max(p[at], 1e-6) * std::exp(shift[at]);
    return std::min(cut(p[at], 1e-6, 1 - 1e-6) * std::exp(shift[at]), 1.0);
  }

  const Correction::Parts& parts_;
  const std::size_t tasks_;
};

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

TEST(corrected_predictions_are_those_of_plain_double) {
  Draws random(1);
  for (int run = 0; run < 200; ++run) {
    const auto shape = any_shape(random);
    const auto parts = draw_correction(shape, random);
    const Correction correction(parts);
    const std::size_t rows = 1 + random.below(run % 2 == 0 ? 9 : 100);
    const auto predictions = draw_predictions(parts, rows, random);
    auto context = with_gaps(random.uniforms(shape.features, -3, 3), random);
    auto items = with_gaps(random.uniforms(rows * shape.items, -6, 6), random);
    if (run % 7 == 0) context.clear();
    if (run % 5 == 0) items.clear();
    const auto result = apply(correction, context, predictions, items);
    const auto expected = Expected(parts).corrected(context, predictions, items);
    for (std::size_t i = 0; i < result.size(); ++i) CHECK_NEAR(result[i], expected[i], 3e-5 * expected[i]);
  }
}

TEST(without_weights_and_maps_predictions_stay) {
  Draws random(2);
  auto parts = draw_correction({6, 3, 2, 1, Form::none}, random, 0.0f);
  const Correction correction(parts);
  std::vector<float> predictions;
  for (int i = 0; i < 50; ++i) {
    const float p = random.uniform(0.1f, 1.0f);
    for (std::size_t t = 0; t < 6; ++t) predictions.push_back(p);
    for (std::size_t t = 0; t < 6; ++t)  // 0.4 to 0.9 of the parent, three generations at most
      for (std::size_t c = 0; c < 6; ++c)
        if (auto s = parts.structure.parents[c]; s >= 0)
          predictions[static_cast<std::size_t>(i) * 6 + c] =
              predictions[static_cast<std::size_t>(i) * 6 + static_cast<std::size_t>(s)] * 0.6f;
  }
  const auto result = apply(correction, std::vector<float>{1, 2, 3}, predictions, {});
  for (std::size_t i = 0; i < result.size(); ++i) CHECK_NEAR(result[i], predictions[i], 1e-5 * predictions[i]);
}

TEST(an_unknown_context_and_unknown_items_are_the_mean) {
  Draws random(4);
  const auto parts = draw_correction({4, 3, 2, 2, Form::marginal}, random);
  const Correction correction(parts);
  const auto predictions = draw_predictions(parts, 30, random);
  const std::vector<float> nothing(3, nan_value), gap = {0.5f, nan_value, nan_value}, no_items(60, nan_value);
  const auto without = apply(correction, {}, predictions, {});
  CHECK_EQUAL(apply(correction, nothing, predictions, no_items), without);
  CHECK(apply(correction, gap, predictions, {}) != without);
}

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

TEST(what_does_not_fit_is_named) {
  const auto refused = [](const auto& change, const char* reason) {
    auto parts = parts_of(Form::marginal);
    change(parts);
    CHECK_THROWS(std::invalid_argument, reason, Correction(parts));
  };
  refused([](auto& p) { p.structure.parents = {0, -1, -1}; },
          "the parent of task 0 is 0, one of its own descendants; want no cycle");
  refused([](auto& p) { p.structure.parents = {5, -1, -1}; },
          "the parent of task 0 is 5, no task; want the place of one");
  refused([](auto& p) { p.structure.parents = {-1, 2, 9}; }, "the parent of task 2 is 9, no task");
  refused([](auto& p) { p.structure.amounts = {false}; }, "parents and amounts must have one entry");
  refused([](auto& p) { p.structure.indicators = {3}; }, "indicators must be rising places");
  refused([](auto& p) { p.structure.items.assign(126, "a"); }, "there are 3 tasks and 126 items; want at most 128");
  refused([](auto& p) { p.weights.pop_back(); }, "weights has 119 numbers; want 120");
  refused([](auto& p) { p.x_mean[0] = nan_value; }, "x_mean holds NaN");
  refused([](auto& p) { p.map_std[0] = 0; }, "map_std is 0.0");
  refused([](auto& p) { p.l_std[0] = 1e-42f; }, "l_std is 0.0");
  refused([](auto& p) { p.map_knots.clear(); }, "map_knots has 0 numbers; want 15");
  auto plain = parts_of();
  plain.map_std.clear();
  const Correction correction(plain);  // without maps their numbers may be any

  Correction::Workspace workspace;
  std::vector<float> six(6, 0.5f), two(2), four(4), result(6);
  const auto wrong = [&](std::span<const float> context, std::span<const float> predictions,
                         std::span<const float> items, std::span<float> to, const char* reason) {
    CHECK_THROWS(std::invalid_argument, reason, (correction.apply(context, predictions, items, workspace, to), 0));
  };
  wrong(six, six, {}, result, "context must have");
  wrong({}, four, {}, result, "predictions must have");
  wrong({}, six, six, result, "items must have");
  wrong({}, six, {}, std::span(result).first(3), "result must have");
  const std::vector<std::int64_t> offsets = {0, 2}, reversed = {0, 3, 2};
  const auto batch = [&](std::span<const float> context, std::span<const std::int64_t> bounds, const char* reason) {
    CHECK_THROWS(std::invalid_argument, reason, (correction.apply(context, six, bounds, {}, result, 1), 0));
  };
  batch({}, reversed, "offsets must ascend");
  batch({}, {}, "offsets must ascend");
  batch(six, offsets, "context must have");
  six[4] = nan_value;
  batch({}, offsets, "predictions is nan in row 1, column 1");
}
