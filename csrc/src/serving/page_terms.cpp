#include "pygrade/page_terms.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "checks.hpp"

namespace pygrade::inline v0_2 {
using detail::require;

void PageTerms::check(const std::vector<std::int64_t>& parents, const std::vector<bool>& amounts) const {
  const std::size_t count = categories.size();
  const auto within = [](float value) { return std::fabs(value) <= max_coefficient; };
  require(root < parents.size() && parents[root] < 0 && !amounts[root],
          "root of the page terms must be a probability without a parent");
  require(!attention.empty() && attention[0] == 1.0f &&
              std::ranges::all_of(attention, [](float a) { return a >= 0.0f && std::isfinite(a); }),
          "attention must have one number >= 0 for each slot, 1 of the first");
  const auto name = [this](std::int32_t c) -> const std::string& { return categories[static_cast<std::size_t>(c)]; };
  require(count <= max_categories && by_name.size() == count &&
              std::ranges::adjacent_find(by_name, {}, name) == by_name.end() &&
              (by_name.empty() || !name(by_name.front()).empty()),
          "categories must be at most 1024 distinct names");
  require(pairs.size() == count * count && std::ranges::all_of(pairs, within),
          "pairs must have a number from -8 to 8 for each two categories");
  require(within(cosine) && dimension <= max_dimension && (cosine != 0.0f) == (dimension > 0),
          "cosine must be from -8 to 8 with a dimension of 1 to 256, or both 0");
  require(beam == 1 || beam == 8, "beam must be 1 or 8");
}

void PageTerms::index_categories() {
  const auto name = [this](std::int32_t c) -> const std::string& { return categories[static_cast<std::size_t>(c)]; };
  by_name.resize(categories.size());
  for (std::size_t c = 0; c < by_name.size(); ++c) by_name[c] = static_cast<std::int32_t>(c);
  std::ranges::sort(by_name, {}, name);
}

std::int32_t PageTerms::code(std::string_view category) const {
  const auto name = [this](std::int32_t c) -> std::string_view { return categories[static_cast<std::size_t>(c)]; };
  const auto found = std::ranges::lower_bound(by_name, category, {}, name);
  return found == by_name.end() || name(*found) != category ? -1 : *found;
}
}  // namespace pygrade::inline v0_2
