// Where a table's records keep what, and how events change them; pygrade/features/state.py documents a record.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "features/schema.hpp"

namespace pygrade::inline v0_2::detail {

// Columns of feedback events.
struct EventColumns {
  std::span<const std::int64_t> time, item;           // [e] ms; items
  std::vector<std::span<const std::int64_t>> values;  // [outcomes][e] in the order of Schema::outcomes, fixed point
  std::vector<std::span<const std::int64_t>> known;   // [outcomes][e] 1 if a measure is known; of others empty
};

class RecordLayout {
 public:
  RecordLayout(const Schema& schema, const Table& table);

  std::size_t width() const { return empty_.size(); }  // int64 of a record
  std::span<const std::int64_t> empty() const { return empty_; }

  // Adds one event. The record then depends on the set of its events, not on their order.
  void add(const EventColumns& events, std::size_t event, std::int64_t* record) const;

  // Adds the events of another record of the same key.
  void merge(const std::int64_t* other, std::int64_t* record) const;

 private:
  struct Sum {
    std::size_t outcome;
    bool measure;  // it may be unknown
  };
  struct Ring {
    std::int64_t step;  // ms of a slot
    std::vector<Sum> sums;
    std::size_t place, width;  // of the first slot; of a slot
  };
  struct Recent {
    std::int64_t outcome;  // -1: every event
    std::size_t length, place;
  };

  static void add_sums(const std::vector<Sum>& sums, const EventColumns& events, std::size_t event,
                       std::int64_t* fields);
  static void add_to_ring(const Ring& ring, const EventColumns& events, std::size_t event, std::int64_t* slots);
  static void merge_ring(const Ring& ring, const std::int64_t* other, std::int64_t* slots);

  std::vector<std::int64_t> empty_;
  std::vector<Sum> sums_;
  std::vector<std::int64_t> lasts_;  // outcome, -1: every event
  std::vector<Ring> rings_;
  std::vector<Recent> recents_;
  std::size_t added_;
};

}  // namespace pygrade::inline v0_2::detail
