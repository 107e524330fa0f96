#include "serving/item_levels.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "pygrade/policy.hpp"
#include "util/blake2b.hpp"
#include "util/hash.hpp"
#include "util/json.hpp"

namespace pygrade::inline v0_2 {
namespace detail {
namespace {
// The elements that a text of base64 holds.
template <class T>
std::vector<T> decode(std::string_view text, const char* name) {
  constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const std::string fault = "'levels' holds " + std::string(name) + " that are no base64 of whole numbers";
  while (text.size() % 4 == 0 && text.ends_with('=')) text.remove_suffix(text.ends_with("==") ? 2 : 1);
  const std::size_t size = text.size() * 6 / 8;
  if (text.size() % 4 == 1 || size % sizeof(T) != 0) throw JsonError(fault);
  std::string bytes;
  bytes.reserve(size);
  std::uint32_t bits = 0;
  int held = 0;
  for (const char c : text) {
    const std::size_t digit = alphabet.find(c);
    if (digit == alphabet.npos) throw JsonError(fault);
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    if ((held += 6) < 8) continue;
    held -= 8;
    bytes += static_cast<char>(bits >> held & 0xff);
  }
  static_assert(std::endian::native == std::endian::little);
  std::vector<T> result(size / sizeof(T));
  if (!result.empty()) std::memcpy(result.data(), bytes.data(), size);
  return result;
}
}  // namespace

ItemLevels::ItemLevels(std::string_view keys, std::string_view values, std::size_t tasks)
    : tasks_(tasks), keys_(decode<std::uint64_t>(keys, "keys")), values_(decode<float>(values, "values")) {
  if (values_.size() != keys_.size() * tasks || keys_.size() > std::numeric_limits<std::uint32_t>::max() ||
      std::ranges::adjacent_find(keys_, std::greater_equal()) != keys_.end() ||
      !std::ranges::all_of(values_, [](float v) { return std::isfinite(v); }))
    throw JsonError("'levels' has " + std::to_string(keys_.size()) + " keys and " + std::to_string(values_.size()) +
                    " values; expected rising keys with " + std::to_string(tasks) + " finite values each");
  shift_ = 64 - std::max(1, static_cast<int>(std::bit_width(keys_.size())));
  starts_.assign((std::size_t{1} << (64 - shift_)) + 1, 0);
  for (const std::uint64_t key : keys_) ++starts_[bucket_of(key) + 1];
  for (std::size_t b = 1; b < starts_.size(); ++b) starts_[b] += starts_[b - 1];
}

std::span<const float> ItemLevels::of(std::int64_t item) const {
  const std::uint64_t key = splitmix64(static_cast<std::uint64_t>(item));
  const std::size_t end = starts_[bucket_of(key) + 1];
  for (std::size_t at = starts_[bucket_of(key)]; at < end; ++at)
    if (keys_[at] == key) return std::span(values_).subspan(at * tasks_, tasks_);
  return {};
}
}  // namespace detail

std::int64_t stable_id(std::string_view name) {
  std::int64_t number = 0;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
  const bool plain = parsed.ec == std::errc{} && parsed.ptr == name.data() + name.size() && name[0] != '-' &&
                     (name[0] != '0' || name.size() == 1);
  return plain ? number : static_cast<std::int64_t>(detail::digest_bits(name) >> 1);
}

// Fills levels in rows[N, I] that are NaN. Returns how many items have none.
std::size_t Policy::fill_levels(std::span<const std::int64_t> item_ids, std::span<float> rows) const {
  const std::size_t width = items().size(), tasks = tasks_.size();
  std::size_t unknown = 0;
  for (std::size_t i = 0; i < item_ids.size(); ++i) {
    const auto levels = levels_->of(item_ids[i]);
    unknown += levels.empty();
    const auto last = rows.subspan(i * width + width - tasks, tasks);
    for (std::size_t t = 0; t < tasks; ++t)
      if (std::isnan(last[t])) last[t] = levels.empty() ? 0.0f : levels[t];
  }
  return unknown;
}

std::size_t Policy::item_columns(std::span<const std::int64_t> item_ids, std::span<const ItemColumn> given,
                                 std::vector<float>& rows) const {
  rows.clear();
  const auto names = items();
  const auto known = [&](const std::string& name) { return std::ranges::find(given, name, &ItemColumn::name); };
  if (levels_ == nullptr && std::ranges::none_of(names, [&](const auto& name) { return known(name) != given.end(); }))
    return 0;
  const std::size_t width = names.size(), count = item_ids.size();
  rows.assign(count * width, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t c = 0; c < width; ++c)
    if (const auto column = known(names[c]); column != given.end())
      for (std::size_t i = 0; i < count; ++i) rows[i * width + c] = column->values[i];
  return levels_ == nullptr ? 0 : fill_levels(item_ids, rows);
}

std::span<const float> Policy::add_levels(std::span<const std::int64_t> item_ids, std::span<const float> columns,
                                          std::vector<float>& memory) const {
  if (levels_ == nullptr || item_ids.empty()) return columns;
  memory.assign(columns.begin(), columns.end());
  memory.resize(item_ids.size() * items().size(), std::numeric_limits<float>::quiet_NaN());
  fill_levels(item_ids, memory);
  return memory;
}
}  // namespace pygrade::inline v0_2
