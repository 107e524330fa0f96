// Records that were read from an LMDB file, by name, as one commit has them: checked, and without their frame.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "util/seed.hpp"

namespace pygrade::inline v0_2::detail {
using LmdbName = std::array<char, 20>;  // of a record: version, table, key

// A full cache starts anew. Ids that requests chose are hashed in a way that nobody can foresee.
class RecordCache {
 public:
  // `room`: bytes that may still be taken by all caches of a file.
  explicit RecordCache(std::atomic<std::ptrdiff_t>& room) : room_(room) {}
  RecordCache(const RecordCache&) = delete;
  RecordCache& operator=(const RecordCache&) = delete;
  ~RecordCache() { clear(); }

  // The values of the names that are known, data() null if there is none or its time is over at `now`; the places of
  // the others go to `missing`. Values are valid until the cache is changed.
  void find(std::span<const LmdbName> names, std::uint64_t now, std::span<std::string_view> values,
            std::vector<std::uint32_t>& missing) const {
    missing.clear();
    if (slots_.empty()) {
      missing.resize(names.size());
      return std::iota(missing.begin(), missing.end(), 0u);
    }
    std::uint64_t hashes[batch];
    for (std::size_t first = 0; first < names.size(); first += batch) {
      const auto some = names.subspan(first, std::min(batch, names.size() - first));
      for (std::size_t i = 0; i < some.size(); ++i) {
        hashes[i] = hash(some[i]);
        __builtin_prefetch(&slots_[hashes[i] & mask()]);
      }
      for (std::size_t i = 0; i < some.size(); ++i)
        for (std::size_t line = 0; line < ahead; line += 64)
          __builtin_prefetch(slots_[hashes[i] & mask()].bytes.get() + line);
      for (std::size_t i = 0; i < some.size(); ++i) {
        const Slot& slot = slots_[place(some[i], hashes[i])];
        if (slot.state == State::known)
          values[first + i] = slot.end != 0 && slot.end <= now ? std::string_view()
                                                               : std::string_view(slot.bytes.get() + start, slot.size);
        else if (slot.state == State::none)
          values[first + i] = {};
        else
          missing.push_back(static_cast<std::uint32_t>(first + i));
      }
    }
  }

  // The record that a commit has under a name, data() null: none. `end`: milliseconds, 0: never.
  void add(const LmdbName& name, std::string_view value, std::uint64_t end) {
    const auto bytes = static_cast<std::ptrdiff_t>(value.size() + overhead);
    if (room_.fetch_sub(bytes) < bytes) {
      room_ += bytes;
      return clear();
    }
    taken_ += bytes;
    if (2 * used_ >= slots_.size()) grow();
    Slot& slot = slots_[place(name, hash(name))];
    used_ += slot.state == State::free;
    slot.bytes = std::make_unique_for_overwrite<char[]>(start + value.size());
    std::ranges::copy(name, slot.bytes.get());
    std::ranges::copy(value, slot.bytes.get() + start);
    slot.size = static_cast<std::uint32_t>(value.size());
    slot.end = end;
    slot.state = value.data() == nullptr ? State::none : State::known;
    const std::string_view version(name.data(), version_bytes);
    if (!holds(version)) versions_.emplace_back(version);
  }

  void forget(const LmdbName& name) {
    if (slots_.empty()) return;
    Slot& slot = slots_[place(name, hash(name))];
    if (slot.state != State::free) slot.state = State::forgotten;
  }

  void clear() {
    slots_.clear();
    used_ = 0;
    versions_.clear();
    room_ += taken_;
    taken_ = 0;
  }

  // Whether a record of the version may be known.
  bool holds(std::string_view version) const { return std::ranges::find(versions_, version) != versions_.end(); }

 private:
  enum class State : std::uint8_t { free, known, none, forgotten };
  struct Slot {
    std::unique_ptr<char[]> bytes;  // the name, and from `start` on the value
    std::uint64_t end = 0;
    std::uint32_t size = 0;
    State state = State::free;
  };
  static constexpr std::size_t version_bytes = 4, start = 24, batch = 32;
  static constexpr std::size_t ahead = 256;     // bytes of a record on their way from memory
  static constexpr std::size_t overhead = 100;  // of a record, for its slots and its name

  static std::uint64_t hash(const LmdbName& name) {
    std::uint64_t table, key;
    std::memcpy(&table, name.data() + version_bytes, sizeof table);
    std::memcpy(&key, name.data() + name.size() - sizeof key, sizeof key);
    return splitmix64((table ^ static_cast<unsigned char>(name[3]) ^ process_seed) * 0x9e3779b97f4a7c15 + key);
  }
  std::size_t mask() const { return slots_.size() - 1; }
  // Place of the name's slot, or of the free one that it would get.
  std::size_t place(const LmdbName& name, std::uint64_t hashed) const {
    std::size_t at = hashed & mask();
    while (slots_[at].state != State::free && std::memcmp(slots_[at].bytes.get(), name.data(), name.size()) != 0)
      at = (at + 1) & mask();
    return at;
  }
  void grow() {
    std::vector<Slot> old(std::max<std::size_t>(64, 2 * slots_.size()));
    old.swap(slots_);
    for (Slot& slot : old) {
      if (slot.state == State::free) continue;
      LmdbName name;
      std::copy_n(slot.bytes.get(), name.size(), name.begin());
      slots_[place(name, hash(name))] = std::move(slot);
    }
  }

  std::atomic<std::ptrdiff_t>& room_;
  std::ptrdiff_t taken_ = 0;
  std::vector<Slot> slots_;  // a power of two, at most half full; linear probing
  std::size_t used_ = 0;
  std::vector<std::string> versions_;
};
}  // namespace pygrade::inline v0_2::detail
