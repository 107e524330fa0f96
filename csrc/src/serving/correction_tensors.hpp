// The arrays of a correction, for its files, its checks and Python alike.
#pragma once

#include <vector>

#include "pygrade/correction.hpp"

namespace pygrade::inline v0_2::detail {
struct CorrectionTensor {
  const char* name;
  std::vector<float> Correction::Parts::* values;
  bool of_maps;  // it may be anything if there are none
  bool of_trees = false;
};

inline constexpr CorrectionTensor correction_tensors[] = {
    {"median", &Correction::Parts::median, false},
    {"x_mean", &Correction::Parts::x_mean, false},
    {"x_std", &Correction::Parts::x_std, false},
    {"l_mean", &Correction::Parts::l_mean, false},
    {"l_std", &Correction::Parts::l_std, false},
    {"weights", &Correction::Parts::weights, false},
    {"map_mean", &Correction::Parts::map_mean, true},
    {"map_std", &Correction::Parts::map_std, true},
    {"map_knots", &Correction::Parts::map_knots, true},
    {"map_weights", &Correction::Parts::map_weights, true},
    {"tree_inputs", &Correction::Parts::tree_inputs, false, true},
    {"tree_thresholds", &Correction::Parts::tree_thresholds, false, true},
    {"tree_masks", &Correction::Parts::tree_masks, false, true},
    {"tree_leaves", &Correction::Parts::tree_leaves, false, true},
};

// As pygrade.policy.Correction documents it.
inline std::vector<std::int64_t> shape_of(const CorrectionTensor& tensor, const Correction::Structure& structure,
                                          std::size_t features) {
  using Parts = Correction::Parts;
  const auto number = [](std::size_t n) { return static_cast<std::int64_t>(n); };
  const std::int64_t f = number(features), t = number(structure.parents.size()), knots = number(Correction::knots);
  const std::int64_t x = f + number(structure.indicators.size()), v = t + number(structure.items.size());
  if (tensor.of_trees)
    return {structure.trees, number(Correction::tree_nodes) + (tensor.values == &Parts::tree_leaves ? 1 : 0)};
  if (tensor.values == &Parts::median) return {f};
  if (tensor.values == &Parts::x_mean || tensor.values == &Parts::x_std) return {x};
  if (tensor.values == &Parts::l_mean || tensor.values == &Parts::l_std) return {v};
  if (tensor.values == &Parts::weights) return {t, 1 + x + v, 1 + v};
  if (tensor.values == &Parts::map_knots) return {t, knots};
  if (tensor.values == &Parts::map_weights) return {t, knots + 2};
  return {t};
}
}  // namespace pygrade::inline v0_2::detail
