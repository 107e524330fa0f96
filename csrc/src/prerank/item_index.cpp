#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "prerank/prerank.hpp"
#include "util/fpenv.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace {
using detail::item_block;
using detail::select_rows;
using detail::select_slack;
using Ids = std::span<const std::int64_t>;
using Numbers = std::span<const float>;

// NaN marks what is left out of a row of scores: it is no score, and the selection puts it last.
constexpr float left_out = std::numeric_limits<float>::quiet_NaN();

std::int64_t signed_size(std::size_t size) { return static_cast<std::int64_t>(size); }
std::size_t size_of(std::int32_t place) { return static_cast<std::size_t>(place); }

void check_vector(Numbers vector, std::size_t width) { detail::check_numbers(vector, width, "vector"); }

void check_rows(Ids item_ids, Numbers vectors, std::size_t width) {
  if (width < 1) throw std::invalid_argument("width is 0; expected at least 1");
  detail::check_ascending(item_ids, "item_ids");
  if (vectors.size() / width != item_ids.size() || vectors.size() % width != 0)
    throw std::invalid_argument("vectors has " + std::to_string(vectors.size()) + " numbers; expected " +
                                std::to_string(item_ids.size()) + " times " + std::to_string(width));
  detail::check_numbers(vectors, vectors.size(), "vectors");
}

// The slots of an index that may be returned, a bit for each.
struct Mask {
  std::vector<std::uint32_t> words;
  std::size_t passing = 0;

  std::uint32_t block(std::size_t number) const { return words[number / 2] >> (number % 2 * item_block) & 0xffffu; }
  void add(std::int32_t slot) {
    std::uint32_t& word = words[size_of(slot) / 32];
    passing += (word >> (slot % 32) & 1u) == 0;
    word |= 1u << (slot % 32);
  }
};
}  // namespace

namespace detail {
void check_ascending(std::span<const std::int64_t> ids, const char* name) {
  if (ids.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(ids.size()) + " ids; expected below 2^31");
  if (!ids.empty() && ids[0] < 0)
    throw std::invalid_argument(std::string(name) + " holds " + std::to_string(ids[0]) + "; expected ids >= 0");
  const auto fault = std::ranges::adjacent_find(ids, std::greater_equal());
  if (fault != ids.end())
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(fault[1]) + " after " +
                                std::to_string(fault[0]) + "; expected ascending ids");
}

void check_numbers(std::span<const float> values, std::size_t wanted, const char* name) {
  if (values.size() != wanted)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(values.size()) + " numbers; expected " +
                                std::to_string(wanted));
  constexpr std::size_t step = 1024;  // counted without an early end, so that the compiler can vectorize it
  for (std::size_t at = 0; at < values.size(); at += step) {
    const auto part = values.subspan(at, std::min(step, values.size() - at));
    unsigned wrong = 0;
    for (const float v : part) wrong += (std::bit_cast<std::uint32_t>(v) & 0x7f800000u) == 0x7f800000u;
    if (wrong == 0) continue;
    const auto fault = std::ranges::find_if(part, [](float v) { return !std::isfinite(v); });
    throw std::invalid_argument(std::string(name) + " is not finite at " +
                                std::to_string(at + static_cast<std::size_t>(fault - part.begin())));
  }
}

void fill_block(std::span<const float> vectors, std::size_t width, std::size_t first, float* block) {
  const std::size_t rows = vectors.size() / width;
  for (std::size_t d = 0; d < width; ++d)
    for (std::size_t i = 0; i < item_block; ++i)
      block[d * item_block + i] = first + i < rows ? vectors[(first + i) * width + d] : 0.0f;
}
}  // namespace detail

// Slot s is place s % 16 of block s / 16.
struct ItemIndex::Impl {
  // Copies the items, in ascending order, and their vectors[m, width].
  Impl(Ids item_ids, Numbers rows, std::size_t width_given)
      : Impl(width_given, item_ids.size(), detail::whole_blocks(item_ids.size())) {
    std::ranges::copy(item_ids, own_ids->begin());
    for (std::size_t first = 0; first < ids.size(); first += item_block)
      detail::fill_block(rows, width, first, own_blocks->data() + first * width);
    places = detail::IdTable(ids);
  }

  // Takes what another index laid out, in place if it has an owner and is aligned. The caller has checked it.
  Impl(const ItemIndexLayout& layout, std::size_t items, std::shared_ptr<const void> owner_given)
      : Impl(layout.width, items, layout.item_ids.size()) {
    if (owner_given == nullptr || reinterpret_cast<std::uintptr_t>(layout.vectors.data()) % 64 != 0 ||
        reinterpret_cast<std::uintptr_t>(layout.item_ids.data()) % alignof(std::int64_t) != 0) {
      if (!own_ids->empty()) {
        std::memcpy(own_ids->data(), layout.item_ids.data(), layout.item_ids.size_bytes());
        std::memcpy(own_blocks->data(), layout.vectors.data(), layout.vectors.size_bytes());
      }
    } else {
      owner = std::move(owner_given);
      ids = layout.item_ids;
      blocks = layout.vectors.data();
      own_ids.reset();
      own_blocks.reset();
    }
    places = detail::IdTable(ids);
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Mask& mask_of(Ids eligible) const {
    static thread_local Mask mask;
    mask.words.assign((num_blocks() + 1) / 2, 0);
    mask.passing = 0;
    for (const std::int64_t id : eligible)
      if (const std::int32_t slot = places.find(id); slot != detail::IdTable::absent) mask.add(slot);
    return mask;
  }

  // Scores the blocks that have items of the mask, side by side in a row, and takes the best of what passes.
  std::size_t search(Numbers vector, Ids seen, const Mask* mask, std::span<std::int64_t> items,
                     std::span<float> out) const {
    std::size_t passing = mask != nullptr ? mask->passing : count;
    if (passing == 0 || items.empty()) return 0;
    const auto& kernels = PYGRADE_KERNELS(prerank_kernels);
    const std::size_t most = std::min(passing, num_blocks()), stride = most * item_block + select_slack;
    const detail::Scratch scratch((select_rows + 1) * stride + most);
    float *const scores = scratch.data(), *const memory = scores + stride;
    auto* const block = reinterpret_cast<std::int32_t*>(memory + select_rows * stride);  // [row] of the index
    std::size_t row = 0;
    for (std::size_t first = 0, end = 0; first < num_blocks(); first = end + 1) {
      for (end = first; end < num_blocks() && (mask == nullptr || mask->block(end) != 0);) ++end;
      if (end == first) continue;
      kernels.scores(vector.data(), signed_size(width), blocks + first * width * item_block, signed_size(end - first),
                     scores + row * item_block);
      for (std::size_t b = first; b < end; ++b) block[row++] = static_cast<std::int32_t>(b);
    }
    for (std::size_t b = 0; mask != nullptr && b < row; ++b)
      for (std::size_t i = 0; i < item_block; ++i)
        if ((mask->block(size_of(block[b])) >> i & 1u) == 0) scores[b * item_block + i] = left_out;
    if (mask == nullptr) std::fill(scores + count, scores + row * item_block, left_out);
    for (const std::int64_t id : seen) {
      const std::int32_t slot = places.find(id);
      const auto own = std::lower_bound(block, block + row, slot / static_cast<std::int32_t>(item_block));
      if (slot == detail::IdTable::absent || own == block + row || size_of(*own) != size_of(slot) / item_block)
        continue;
      float& score = scores[static_cast<std::size_t>(own - block) * item_block + size_of(slot) % item_block];
      passing -= !std::isnan(std::exchange(score, left_out));
    }
    const std::size_t found = std::min(items.size(), passing);
    if (found == 0) return 0;
    // Slots are in the order of ids, so that ties by place are ties by id.
    const std::int32_t* const best =
        kernels.best(scores, signed_size(row * item_block), signed_size(found), memory, signed_size(stride));
    for (std::size_t i = 0; i < found; ++i)
      items[i] = ids[size_of(block[size_of(best[i]) / item_block]) * item_block + size_of(best[i]) % item_block];
    for (std::size_t i = 0; i < found && !out.empty(); ++i) out[i] = scores[best[i]];
    return found;
  }

  std::size_t num_blocks() const { return ids.size() / item_block; }

  std::size_t width, count;
  std::shared_ptr<const void> owner;  // of what is used in place
  std::shared_ptr<std::vector<std::int64_t>> own_ids;
  std::shared_ptr<detail::AlignedFloats> own_blocks;
  Ids ids;              // of each slot, -1: none
  const float* blocks;  // [blocks, width, 16]
  detail::IdTable places;

 private:
  Impl(std::size_t width_given, std::size_t items, std::size_t slots)
      : width(width_given),
        count(items),
        own_ids(std::make_shared<std::vector<std::int64_t>>(slots, -1)),
        own_blocks(std::make_shared<detail::AlignedFloats>(slots * width)),
        ids(*own_ids),
        blocks(own_blocks->data()) {}
};

ItemIndex::ItemIndex() = default;
ItemIndex::~ItemIndex() = default;

std::shared_ptr<const ItemIndex> ItemIndex::make(Ids item_ids, Numbers vectors, std::size_t width) {
  check_rows(item_ids, vectors, width);
  std::shared_ptr<ItemIndex> made(new ItemIndex);
  made->impl_ = std::make_unique<Impl>(item_ids, vectors, width);
  return made;
}

std::shared_ptr<const ItemIndex> ItemIndex::make(const ItemIndexLayout& layout, std::shared_ptr<const void> owner) {
  if (layout.width < 1) throw std::invalid_argument("width is 0; expected at least 1");
  const auto end = std::ranges::find(layout.item_ids, -1);
  const auto items = static_cast<std::size_t>(end - layout.item_ids.begin()), slots = detail::whole_blocks(items);
  if (layout.item_ids.size() != slots || !std::all_of(end, layout.item_ids.end(), [](auto id) { return id == -1; }))
    throw std::invalid_argument("item_ids has " + std::to_string(layout.item_ids.size()) + " places for " +
                                std::to_string(items) +
                                " ids; expected whole blocks, of which the last is filled with -1");
  detail::check_ascending(layout.item_ids.first(items), "item_ids");
  detail::check_numbers(layout.vectors, slots * layout.width, "vectors");
  std::shared_ptr<ItemIndex> made(new ItemIndex);
  made->impl_ = std::make_unique<Impl>(layout, items, std::move(owner));
  return made;
}

std::size_t ItemIndex::width() const { return impl_->width; }
std::size_t ItemIndex::size() const { return impl_->count; }
bool ItemIndex::has(std::int64_t item_id) const { return impl_->places.find(item_id) != detail::IdTable::absent; }

ItemIndexLayout ItemIndex::layout() const {
  const Impl& index = *impl_;
  return {index.width, index.ids, {index.blocks, index.ids.size() * index.width}};
}

std::size_t ItemIndex::search(Numbers vector, Ids seen, std::optional<Ids> eligible, std::span<std::int64_t> items,
                              std::span<float> scores) const {
  const Impl& index = *impl_;
  check_vector(vector, index.width);
  if (!scores.empty() && scores.size() < items.size())
    throw std::invalid_argument("scores has room for " + std::to_string(scores.size()) + " numbers; expected " +
                                std::to_string(items.size()) + " or none");
  const detail::FloatEnvironment environment;
  return index.search(vector, seen, eligible ? &index.mask_of(*eligible) : nullptr, items, scores);
}

void ItemIndex::search_all(Numbers vectors, std::span<const Ids> seen, std::optional<Ids> eligible,
                           std::span<std::int64_t> items, std::span<float> scores) const {
  const Impl& index = *impl_;
  const std::size_t rows = seen.size(), n = rows == 0 ? 0 : items.size() / rows;
  detail::check_numbers(vectors, rows * index.width, "vectors");
  if (items.size() != rows * n || scores.size() != items.size())
    throw std::invalid_argument("items and scores must have the same number of places for each of " +
                                std::to_string(rows) + " vectors");
  const detail::FloatEnvironment environment;
  const Mask* const mask = eligible ? &index.mask_of(*eligible) : nullptr;
  for (std::size_t r = 0; r < rows; ++r) {
    const auto to = items.subspan(r * n, n);
    const auto values = scores.subspan(r * n, n);
    const std::size_t found = index.search(vectors.subspan(r * index.width, index.width), seen[r], mask, to, values);
    std::ranges::fill(to.subspan(found), -1);
    std::ranges::fill(values.subspan(found), -std::numeric_limits<float>::infinity());
  }
}
}  // namespace pygrade::inline v0_2
