// Records of one table in memory.
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
  // Finds numbers[i] of keys[i]; none of an unknown key.
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
  explicit RecordTable(Table table) : table_(std::move(table)) {}

  std::size_t width() const { return table_.width(); }                  // int64 of a record
  std::span<const std::int64_t> keys() const { return index_.keys(); }  // as they came

  // Adds events, in any order; those without a key (null_code) count nowhere.
  void apply(std::span<const std::int64_t> keys, const EventColumns& events);

  // Adds records, of distinct keys, that have the events of other places.
  void merge(std::span<const std::int64_t> keys, const std::int64_t* records);

  // records[i] of keys[i]; the empty record of an unknown key. Sets known[i].
  void get(std::span<const std::int64_t> keys, std::int64_t* records, bool* known) const;

  // Places of the records of keys, which are made if there are none; KeyIndex::none of null_code.
  std::vector<std::uint32_t> places_for(std::span<const std::int64_t> keys);
  // Places of the records of keys; KeyIndex::none of an unknown key.
  std::vector<std::uint32_t> find(std::span<const std::int64_t> keys) const;

  // The record at a place; the empty one at KeyIndex::none.
  const std::int64_t* record(std::uint32_t place) const {
    return place == KeyIndex::none ? table_.empty.data() : row(place);
  }
  // Adds event number `event` to the record at a place.
  void add(const EventColumns& events, std::size_t event, std::uint32_t place) {
    if (place != KeyIndex::none) add_event(table_, events, event, row(place));
  }
  void prefetch(std::uint32_t place) const;

 private:
  static constexpr std::size_t block_rows = 1 << 12;

  std::int64_t* row(std::uint32_t number) const {
    return blocks_[number / block_rows].get() + number % block_rows * width();
  }

  Table table_;
  KeyIndex index_;
  std::vector<std::unique_ptr<std::int64_t[]>> blocks_;  // of block_rows records each: growth moves none
};
}  // namespace pygrade::inline v0_2::detail
