#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "util/hash.hpp"

namespace pygrade::inline v0_2::detail {
// Finds the place of an id among `ids`: linear probing. A slot holds a part of the hash beside the place, so that ids
// are compared only where they are likely equal. Two thirds of the slots are taken, 12 bytes an id in all; of the few
// ids of a request a quarter, so that the processor guesses right that a slot is free.
class IdTable {
 public:
  static constexpr std::int32_t absent = -1;
  static constexpr std::size_t few = 2048;

  IdTable() = default;
  // Fewer than 2^31 ids, which must outlive this; negative ones are left out. `twice`: an id that is there twice.
  explicit IdTable(std::span<const std::int64_t> ids)
      : ids_(ids), slots_((ids.size() < few ? 4 * ids.size() : ids.size() + ids.size() / 2) + 1) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0) continue;
      const std::uint64_t hash = hash_of(ids[i]);
      std::size_t at = start(hash);
      for (; slots_[at].place != absent; at = next(at))
        if (is(slots_[at], hash, ids[i])) twice = ids[i];
      slots_[at] = {static_cast<std::uint32_t>(hash), static_cast<std::int32_t>(i)};
    }
  }

  std::int32_t find(std::int64_t id) const {
    const std::uint64_t hash = hash_of(id);
    for (std::size_t at = start(hash);; at = next(at)) {
      if (slots_[at].place == absent || is(slots_[at], hash, id)) return slots_[at].place;
    }
  }

  std::int64_t twice = -1;

 private:
  struct Slot {
    std::uint32_t tag = 0;
    std::int32_t place = absent;
  };

  // No common pattern of ids collides.
  static std::uint64_t hash_of(std::int64_t id) { return splitmix64(static_cast<std::uint64_t>(id)); }
  std::size_t start(std::uint64_t hash) const { return static_cast<std::size_t>((hash >> 32) * slots_.size() >> 32); }
  std::size_t next(std::size_t at) const { return at + 1 < slots_.size() ? at + 1 : 0; }
  bool is(const Slot& slot, std::uint64_t hash, std::int64_t id) const {
    return slot.tag == static_cast<std::uint32_t>(hash) && ids_[static_cast<std::size_t>(slot.place)] == id;
  }

  std::span<const std::int64_t> ids_;
  std::vector<Slot> slots_ = std::vector<Slot>(1);
};
}  // namespace pygrade::inline v0_2::detail
