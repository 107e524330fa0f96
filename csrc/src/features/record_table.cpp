#include "features/record_table.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace pygrade::inline v0_2::detail {
namespace {
constexpr std::size_t batch = 32;          // keys whose slots are on their way from memory
constexpr std::size_t records_ahead = 12;  // records on their way
}  // namespace

const KeyIndex::Slot& KeyIndex::probe(std::int64_t key) const {
  std::size_t at = place_of(key);
  while (slots_[at].number != none && slots_[at].key != key) at = (at + 1) & (slots_.size() - 1);
  return slots_[at];
}

void KeyIndex::reserve(std::size_t keys) {
  const std::size_t wanted = std::bit_ceil(std::max<std::size_t>(keys * 8 / 5 + 1, 64));
  if (wanted <= slots_.size()) return;
  if (keys >= none) throw std::length_error("a table has 2^32 keys or more; expected fewer in one shard");
  slots_.assign(wanted, {0, none});
  shift_ = 64 - std::countr_zero(wanted);
  for (std::uint32_t number = 0; number < keys_.size(); ++number)
    const_cast<Slot&>(probe(keys_[number])) = {keys_[number], number};
}

void KeyIndex::add(std::span<const std::int64_t> keys, std::uint32_t* numbers) {
  for (std::size_t first = 0; first < keys.size(); first += batch) {
    const auto some = keys.subspan(first, std::min(batch, keys.size() - first));
    reserve(keys_.size() + some.size());
    for (const std::int64_t key : some) __builtin_prefetch(&slots_[place_of(key)]);
    for (const std::int64_t key : some) {
      if (key == null_code) {
        *numbers++ = none;
        continue;
      }
      auto& slot = const_cast<Slot&>(probe(key));
      if (slot.number == none) {
        slot = {key, static_cast<std::uint32_t>(keys_.size())};
        keys_.push_back(key);
      }
      *numbers++ = slot.number;
    }
  }
}

void KeyIndex::find(std::span<const std::int64_t> keys, std::uint32_t* numbers) const {
  if (slots_.empty()) {
    std::fill_n(numbers, keys.size(), none);
    return;
  }
  for (std::size_t first = 0; first < keys.size(); first += batch) {
    const auto some = keys.subspan(first, std::min(batch, keys.size() - first));
    for (const std::int64_t key : some) __builtin_prefetch(&slots_[place_of(key)]);
    for (const std::int64_t key : some) *numbers++ = probe(key).number;
  }
}

std::vector<std::uint32_t> RecordTable::places_for(std::span<const std::int64_t> keys) {
  std::vector<std::uint32_t> rows(keys.size());
  std::size_t known = index_.keys().size();
  index_.add(keys, rows.data());
  for (; known < index_.keys().size(); ++known) {
    if (known % block_rows == 0)
      blocks_.push_back(std::make_unique_for_overwrite<std::int64_t[]>(block_rows * width()));
    std::ranges::copy(table_.empty, row(static_cast<std::uint32_t>(known)));
  }
  return rows;
}

void RecordTable::prefetch(std::uint32_t number) const {
  if (number == KeyIndex::none) return;
  const std::int64_t* record = row(number);
  for (std::size_t at = 0; at < width(); at += 8) __builtin_prefetch(record + at, 1);
}

void RecordTable::apply(std::span<const std::int64_t> keys, const EventColumns& events) {
  const auto rows = places_for(keys);
  for (std::size_t e = 0; e < rows.size(); ++e) {
    if (e + records_ahead < rows.size()) prefetch(rows[e + records_ahead]);
    add(events, e, rows[e]);
  }
}

void RecordTable::merge(std::span<const std::int64_t> keys, const std::int64_t* records) {
  const auto rows = places_for(keys);
  for (std::size_t i = 0; i < rows.size(); ++i, records += width()) {
    if (i + records_ahead < rows.size()) prefetch(rows[i + records_ahead]);
    if (rows[i] != KeyIndex::none) merge_records(table_, records, row(rows[i]));
  }
}

void RecordTable::get(std::span<const std::int64_t> keys, std::int64_t* records, bool* known) const {
  const auto rows = find(keys);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i + records_ahead < rows.size()) prefetch(rows[i + records_ahead]);
    known[i] = rows[i] != KeyIndex::none;
    records = std::copy_n(record(rows[i]), width(), records);
  }
}

std::vector<std::uint32_t> RecordTable::find(std::span<const std::int64_t> keys) const {
  std::vector<std::uint32_t> rows(keys.size());
  index_.find(keys, rows.data());
  return rows;
}
}  // namespace pygrade::inline v0_2::detail
