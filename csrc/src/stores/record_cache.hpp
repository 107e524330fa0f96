// Records that were read from an LMDB file, by name, as one commit has them: checked, and without their frame.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace pygrade::inline v0_2::detail {

using LmdbName = std::array<char, 20>;  // of a record: version, table, key

// A table of pointers into blocks of memory. A full cache starts anew.
class RecordCache {
 public:
  // `room`: bytes that may still be taken by all caches of a file.
  explicit RecordCache(std::atomic<std::ptrdiff_t>& room) : room_(room) {}
  RecordCache(const RecordCache&) = delete;
  RecordCache& operator=(const RecordCache&) = delete;
  ~RecordCache();

  // The values of the names that are known, data() null if there is none or its time is over at `now`; the places of
  // the others go to `missing`. Values are valid until the cache is changed.
  void find(std::span<const LmdbName> names, std::uint64_t now, std::span<std::string_view> values,
            std::vector<std::uint32_t>& missing);

  // The record that a commit has under a name, data() null: none. `end`: milliseconds, 0: never.
  void add(const LmdbName& name, std::string_view value, std::uint64_t end);

  void forget(const LmdbName& name);
  void clear();

  // Whether a record of the version may be known.
  bool holds(std::string_view version) const;

 private:
  struct Record;

  Record** place_of(const LmdbName& name, std::uint64_t hash);
  bool take(std::size_t bytes);
  bool grow();
  char* allocate(std::size_t bytes);

  static constexpr std::size_t block_bytes = std::size_t{1} << 20, first_places = 1 << 12;

  std::atomic<std::ptrdiff_t>& room_;
  std::size_t taken_ = 0;
  std::vector<Record*> places_;  // 2^n; a record lies at its hash, or after it
  std::vector<std::unique_ptr<char[]>> blocks_;
  std::size_t count_ = 0, block_ = 0, used_ = 0;
  std::vector<std::array<char, 4>> versions_;
};

}  // namespace pygrade::inline v0_2::detail
