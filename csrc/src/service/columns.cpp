#include "service/columns.hpp"

#include <algorithm>
#include <limits>
#include <map>

namespace pygrade::inline v0_2::detail {
Columns::Columns(std::span<const std::string> names) : names_(names.begin(), names.end()) {
  std::map<std::string, Column> found;
  const auto column = [&](const std::string& name) -> Column& {
    Column& entry = found[name];
    entry.name = name;
    return entry;
  };
  for (std::size_t place = 0; place < names.size(); ++place) {
    const std::string& name = names[place];
    const auto equals = name.find('=');
    column(name).number = static_cast<std::ptrdiff_t>(place);
    if (equals != name.npos) column(name.substr(0, equals)).levels.emplace_back(name.substr(equals + 1), place);
    unknown_.push_back(equals == name.npos ? std::numeric_limits<float>::quiet_NaN() : 0.0f);
  }
  for (auto& [name, entry] : found) columns_.push_back(std::move(entry));
}

std::size_t Columns::Column::level_of(std::string_view text) const {
  if (text.find_first_not_of(" \t\n\v\f\r") == text.npos) return blank;
  const auto place = [&](std::string_view sought) {
    return static_cast<std::size_t>(
        std::ranges::find(levels, sought, [](const auto& level) -> std::string_view { return level.first; }) -
        levels.begin());
  };
  const std::size_t own = place(text);
  return own < levels.size() ? own : place("(other)");
}

const Columns::Column* Columns::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(columns_, name, {}, &Column::name);
  return found == columns_.end() || found->name != name ? nullptr : &*found;
}
}  // namespace pygrade::inline v0_2::detail
