// Records of one table in memory, while a log streams by in order of time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "features/numbers.hpp"
#include "features/record_layout.hpp"

namespace pygrade::inline v0_2::detail {

// Keys and their numbers 0, 1, … in the order in which they came.
class KeyIndex {
 public:
  static constexpr std::uint32_t none = 0xffffffff;

  std::span<const std::int64_t> keys() const { return keys_; }

  // numbers[i] of keys[i], new ones included; none of null_code.
  void add(std::span<const std::int64_t> keys, std::uint32_t* numbers);
  // The same; none of an unknown key.
  void find(std::span<const std::int64_t> keys, std::uint32_t* numbers) const;

 private:
  struct Slot {
    std::int64_t key;
    std::uint32_t number;
  };
  std::size_t place_of(std::int64_t key) const {
    return (static_cast<std::uint64_t>(key) * 0x9e3779b97f4a7c15ull) >> shift_;
  }
  const Slot& probe(std::int64_t key) const;
  void reserve(std::size_t keys);

  std::vector<std::int64_t> keys_;
  std::vector<Slot> slots_;  // a power of two, at most 5/8 full; linear probing
  int shift_ = 64;
};

class RecordTable {
 public:
  RecordTable(const Schema& schema, const Table& table) : layout_(schema, table) {}

  const RecordLayout& layout() const { return layout_; }
  std::span<const std::int64_t> keys() const { return index_.keys(); }  // as they came

  // Adds events, in any order; those without a key (null_code) count nowhere.
  void apply(std::span<const std::int64_t> keys, const EventColumns& events);

  // Adds records, of distinct keys, that have the events of other places.
  void merge(std::span<const std::int64_t> keys, const std::int64_t* records);

  // records[i] of keys[i]; the empty record of an unknown key. Sets known[i].
  void get(std::span<const std::int64_t> keys, std::int64_t* records, bool* known) const;

  // values[i] and items[i] that key asked[i] shows at times[i].
  void view(std::span<const std::int64_t> asked, std::span<const std::int64_t> times, std::int64_t* values,
            std::int64_t* items) const;

  // The same, with the events before times[i] added; in the end all of them are. std::invalid_argument if the times of
  // events or questions do not ascend.
  void stream(std::span<const std::int64_t> asked, std::span<const std::int64_t> times,
              std::span<const std::int64_t> keys, const EventColumns& events, std::int64_t* values,
              std::int64_t* items);

 private:
  static constexpr std::size_t block_rows = 1 << 12;

  std::int64_t* row(std::uint32_t number) const {
    return blocks_[number / block_rows].get() + number % block_rows * layout_.width();
  }
  std::vector<std::uint32_t> rows_for(std::span<const std::int64_t> keys);
  void prefetch(std::uint32_t number) const;

  RecordLayout layout_;
  KeyIndex index_;
  std::vector<std::unique_ptr<std::int64_t[]>> blocks_;  // of block_rows records each: growth moves none
};

}  // namespace pygrade::inline v0_2::detail
