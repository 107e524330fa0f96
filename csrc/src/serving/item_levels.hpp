// Levels that items get beyond the correction, by their ids: Levels of pygrade/policy/correction.py.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace pygrade::inline v0_2::detail {
class ItemLevels {
 public:
  // Base64 of rising uint64 keys (splitmix64 of the ids, `stable_id` of those with names) and of float32 values [n,
  // tasks], little-endian. JsonError if they are not that.
  ItemLevels(std::string_view keys, std::string_view values, std::size_t tasks);

  // [tasks] of an item; empty: it has none.
  std::span<const float> of(std::int64_t item) const;

 private:
  std::size_t bucket_of(std::uint64_t key) const { return static_cast<std::size_t>(key >> shift_); }

  std::size_t tasks_;
  int shift_ = 63;
  std::vector<std::uint64_t> keys_;
  std::vector<float> values_;          // [n, tasks]
  std::vector<std::uint32_t> starts_;  // of the keys by their highest bits: hashes are spread evenly
};
}  // namespace pygrade::inline v0_2::detail
