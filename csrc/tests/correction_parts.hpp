// Corrections for tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "pygrade/correction.hpp"

namespace pygrade::inline v0_2::tests {
// Numbers that are the same everywhere.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : state_(seed * 2 + 1) {}
  std::uint64_t next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return state_ >> 33;
  }
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(next() % count); }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(next() >> 7) * 0x1p-24f; }
  std::vector<float> uniforms(std::size_t count, float low, float high) {
    std::vector<float> result(count);
    for (float& value : result) value = uniform(low, high);
    return result;
  }

 private:
  std::uint64_t state_;
};

struct CorrectionShape {
  std::size_t tasks, features, items, indicators;
  Correction::Form form;
  std::size_t trees = 0;
};

// Task 0 is a child of the last one; others are roots, amounts or children of earlier tasks.
inline Correction::Parts draw_correction(const CorrectionShape& shape, Draws& random, float scale = 0.3f) {
  const auto [tasks, features, items, indicators, form, trees] = shape;
  Correction::Parts parts;
  parts.structure.form = form;
  for (std::size_t i = 0; i < items; ++i) parts.structure.items.push_back("item " + std::to_string(i));
  for (std::size_t k = 0; k < indicators; ++k)
    parts.structure.indicators.push_back(static_cast<std::int64_t>(k * features / indicators));
  for (std::size_t t = 0; t < tasks; ++t) {
    const bool root = t == 0 || t + 1 == tasks || random.below(2) == 0;
    parts.structure.parents.push_back(root ? -1 : static_cast<std::int64_t>(random.below(t)));
  }
  if (tasks > 1) parts.structure.parents[0] = static_cast<std::int64_t>(tasks) - 1;
  for (std::size_t t = 0; t < tasks; ++t) {
    const auto place = static_cast<std::int64_t>(t);
    const bool leaf = std::ranges::find(parts.structure.parents, place) == parts.structure.parents.end();
    parts.structure.amounts.push_back(parts.structure.parents[t] < 0 && leaf && random.below(2) == 0);
  }
  const std::size_t x = features + indicators, v = tasks + items;
  parts.median = random.uniforms(features, -1, 1);
  parts.x_mean = random.uniforms(x, -1, 1);
  parts.x_std = random.uniforms(x, 0.25f, 2);
  parts.l_mean = random.uniforms(v, -4, 1);
  parts.l_std = random.uniforms(v, 0.25f, 2);
  parts.weights = random.uniforms(tasks * (1 + x + v) * (1 + v), -scale, scale);
  parts.map_mean = random.uniforms(tasks, -4, 1);
  parts.map_std = random.uniforms(tasks, 0.25f, 2);
  parts.map_knots = random.uniforms(tasks * 5, -2, 2);
  parts.map_weights = random.uniforms(tasks * 7, -0.4f, 0.4f);
  parts.structure.trees = static_cast<std::int64_t>(trees);
  parts.tree_thresholds = random.uniforms(trees * 7, -1, 1);
  parts.tree_leaves = random.uniforms(trees * 8, -0.2f, 0.2f);
  for (std::size_t i = 0; i < trees * 7; ++i) {  // node k of a chain: smaller inputs end in leaf k
    const bool missing = i % 7 >= 4 + i / 7 % 4;
    parts.tree_inputs.push_back(static_cast<float>(random.below(3 * v + x)));
    parts.tree_masks.push_back(missing ? 255.0f : static_cast<float>(255u & ~(1u << i % 7)));
  }
  return parts;
}

// Predictions of [N, T], with the ends 0 and 1 and children that are sometimes likelier than their parents.
inline std::vector<float> draw_predictions(const Correction::Parts& parts, std::size_t rows, Draws& random) {
  const std::size_t tasks = parts.structure.parents.size();
  std::vector<float> result(rows * tasks);
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = std::exp2(-random.uniform(0, 16));
    if (parts.structure.amounts[i % tasks]) result[i] *= 100;
    if (random.below(40) == 0) result[i] = random.below(2) == 0 ? 0.0f : 1.0f;
  }
  return result;
}
}  // namespace pygrade::inline v0_2::tests
