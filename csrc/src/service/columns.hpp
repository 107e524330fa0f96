// Columns by name: numbers, and texts that stand for 0/1 columns `column=level`, as pygrade.logs.categories.encode.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pygrade::inline v0_2::detail {
class Columns {
 public:
  Columns() = default;
  // Names of features, or of item columns, in their order.
  explicit Columns(std::span<const std::string> names);

  struct Column {
    std::string name;
    std::ptrdiff_t number = -1;                                 // the place of a number
    std::vector<std::pair<std::string, std::size_t>> levels{};  // the places of a text

    static constexpr std::size_t blank = static_cast<std::size_t>(-1);
    // The level of a text, or that of rarer values; levels.size(): there is neither; blank: no text.
    std::size_t level_of(std::string_view text) const;
  };
  // Null: there is none. A 0/1 column has its own name, too.
  const Column* find(std::string_view name) const;

  std::size_t size() const { return names_.size(); }
  const std::string& name(std::size_t place) const { return names_[place]; }
  // Values put where nothing is given: NaN for numbers, 0 for levels.
  std::span<const float> unknown() const { return unknown_; }

 private:
  std::vector<std::string> names_;
  std::vector<Column> columns_;  // by name
  std::vector<float> unknown_;
};
}  // namespace pygrade::inline v0_2::detail
