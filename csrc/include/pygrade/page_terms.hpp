// Page terms of a correction: how what stands above an item on a page moves its root probability.
// pygrade/policy/page_terms.py has the formula.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
// C categories, K slots.
struct PYGRADE_API PageTerms {
  static constexpr std::size_t max_categories = 1024, max_dimension = 256;
  static constexpr float max_coefficient = 8.0f;  // of absolute value

  // Makes `code` ready, once the categories are there.
  void index_categories();

  // std::invalid_argument for anything that is not as below; `parents` and `amounts` are those of the correction.
  void check(const std::vector<std::int64_t>& parents, const std::vector<bool>& amounts) const;

  // The place of a category; -1: unknown, without a term.
  std::int32_t code(std::string_view category) const;

  std::size_t root = 0;                 // task whose probability they move: without a parent, no amount
  std::vector<float> attention;         // [K] of the slots, ≥ 0, relative to slot 0; later slots: that of the last one
  std::vector<std::string> categories;  // distinct names
  std::vector<float> pairs;             // [C, C] category above × category below
  float cosine = 0.0f;                  // of similarity by embedding; 0: embeddings do not count
  std::size_t beam = 1;                 // 1: greedy; 8: a search of so many pages at once
  std::size_t dimension = 0;            // of the embeddings; 0: none are read
  std::vector<std::int32_t> by_name;    // places of the categories in the order of their names
};
}  // namespace pygrade::inline v0_2
