#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
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
std::size_t block_of(std::int32_t slot) { return static_cast<std::size_t>(slot) / item_block; }
std::size_t whole_blocks_of(std::int64_t items) {
  return detail::whole_blocks(static_cast<std::size_t>(items)) / item_block;
}

void check_vector(Numbers vector, std::size_t width) { detail::check_numbers(vector, width, "vector"); }

void check_rows(Ids item_ids, Numbers vectors, std::size_t width) {
  if (width < 1) throw std::invalid_argument("width is 0; want at least 1");
  detail::check_ascending(item_ids, "item_ids");
  if (vectors.size() / width != item_ids.size() || vectors.size() % width != 0)
    throw std::invalid_argument("vectors has " + std::to_string(vectors.size()) + " numbers; want " +
                                std::to_string(item_ids.size()) + " times " + std::to_string(width));
  detail::check_numbers(vectors, vectors.size(), "vectors");
}

void check_lists(Numbers centroids, std::size_t width, std::size_t nprobe) {
  const std::size_t nlist = centroids.size() / width;
  detail::check_numbers(centroids, nlist * width, "centroids");
  if (nlist > std::size_t{1} << 24)
    throw std::invalid_argument("centroids has " + std::to_string(nlist) + " rows; want at most 2^24");
  if (nprobe < std::min<std::size_t>(nlist, 1) || nprobe > nlist)
    throw std::invalid_argument("nprobe is " + std::to_string(nprobe) + "; want 1 to " + std::to_string(nlist) +
                                ", the number of lists, or 0 without lists");
}

// Which slots of an index may be returned: a bit for each.
struct Mask {
  std::vector<std::uint32_t> words;
  std::size_t passing = 0;

  std::uint32_t block(std::size_t number) const { return words[number / 2] >> (number % 2 * item_block) & 0xffffu; }
  bool has(std::int32_t slot) const { return (words[static_cast<std::size_t>(slot) / 32] >> (slot % 32) & 1u) != 0; }
  void flip(std::int32_t slot) { words[static_cast<std::size_t>(slot) / 32] ^= 1u << (slot % 32); }
};

}  // namespace

namespace detail {

void check_ascending(std::span<const std::int64_t> ids, const char* name) {
  if (ids.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(ids.size()) + " ids; want below 2^31");
  if (!ids.empty() && ids[0] < 0)
    throw std::invalid_argument(std::string(name) + " holds " + std::to_string(ids[0]) + "; want ids >= 0");
  const auto fault = std::ranges::adjacent_find(ids, std::greater_equal());
  if (fault != ids.end())
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(fault[1]) + " after " +
                                std::to_string(fault[0]) + "; want ascending ids");
}

void check_numbers(std::span<const float> values, std::size_t wanted, const char* name) {
  if (values.size() != wanted)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(values.size()) + " numbers; want " +
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

}  // namespace detail

// Slot s is place s % 16 of block s / 16.
struct ItemIndex::Impl {
  // Items in ascending order, each with the number of its list.
  Impl(Ids item_ids, Numbers rows, std::span<const std::int32_t> lists, ItemIndexLayout settings)
      : width(settings.width),
        nprobe(settings.nprobe),
        centroids(settings.centroids.begin(), settings.centroids.end()),
        list_size(std::max<std::size_t>(1, centroids.size() / width)) {
    for (const std::int32_t list : lists) ++list_size[static_cast<std::size_t>(list)];
    place_lists();
    const auto memory = std::make_shared<detail::AlignedFloats>(num_blocks() * width * item_block);
    const auto numbers = std::make_shared<std::vector<std::int64_t>>(num_blocks() * item_block, -1);
    std::vector<std::size_t> next(list_size.size());
    for (std::size_t l = 0; l < next.size(); ++l) next[l] = first_block[l] * item_block;
    for (std::size_t i = 0; i < item_ids.size(); ++i) {
      const std::size_t slot = next[static_cast<std::size_t>(lists[i])]++;
      (*numbers)[slot] = item_ids[i];
      float* const to = memory->data() + slot / item_block * width * item_block + slot % item_block;
      for (std::size_t d = 0; d < width; ++d) to[d * item_block] = rows[i * width + d];
    }
    blocks = memory->data();
    ids = *numbers;
    owners = {memory, numbers};
    index_items();
  }

  // What another index laid out. The caller has checked the sizes.
  Impl(const ItemIndexLayout& layout, std::shared_ptr<const void> owner)
      : width(layout.width),
        nprobe(layout.nprobe),
        centroids(layout.centroids.begin(), layout.centroids.end()),
        list_size(layout.list_size.begin(), layout.list_size.end()),
        ids(layout.item_ids),
        blocks(layout.vectors.data()) {
    place_lists();
    owners = {std::move(owner)};
    if (owners[0] == nullptr || reinterpret_cast<std::uintptr_t>(blocks) % 64 != 0 ||
        reinterpret_cast<std::uintptr_t>(ids.data()) % alignof(std::int64_t) != 0) {
      const auto memory = std::make_shared<detail::AlignedFloats>(layout.vectors.size());
      const auto numbers = std::make_shared<std::vector<std::int64_t>>(layout.item_ids.size());
      if (!numbers->empty()) {
        std::memcpy(memory->data(), layout.vectors.data(), layout.vectors.size_bytes());
        std::memcpy(numbers->data(), layout.item_ids.data(), layout.item_ids.size_bytes());
      }
      blocks = memory->data();
      ids = *numbers;
      owners = {memory, numbers};
    }
    for (std::size_t l = 0; l < list_size.size(); ++l) {
      const auto size = static_cast<std::size_t>(list_size[l]), first = first_block[l] * item_block;
      detail::check_ascending(ids.subspan(first, size), "item_ids");
      const Ids rest = ids.subspan(first + size, first_block[l + 1] * item_block - first - size);
      if (std::ranges::any_of(rest, [](std::int64_t id) { return id != -1; }))
        throw std::invalid_argument("item_ids has ids past the end of list " + std::to_string(l) + "; want -1");
    }
    index_items();
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  std::size_t num_blocks() const { return first_block.back(); }
  std::size_t nlist() const { return list_size.size(); }

  void place_lists() {
    first_block.assign(1, 0);
    most_blocks.assign(1, 0);
    for (const std::int64_t size : list_size) {
      first_block.push_back(first_block.back() + whole_blocks_of(size));
      list_of.resize(first_block.back(), static_cast<std::int32_t>(first_block.size() - 2));
      most_blocks.push_back(whole_blocks_of(size));
      count += static_cast<std::size_t>(size);
    }
    std::ranges::sort(most_blocks.begin() + 1, most_blocks.end(), std::greater());
    std::partial_sum(most_blocks.begin(), most_blocks.end(), most_blocks.begin());
  }

  void index_items() {
    places = detail::IdTable(ids);
    if (places.twice >= 0)
      throw std::invalid_argument("item_ids holds " + std::to_string(places.twice) + " more than once");
    for (std::size_t first = 0; first < nlist() && !centroids.empty(); first += item_block)
      detail::fill_block(centroids, width, first, centroid_blocks.data() + first * width);
  }

  Mask& mask_of(Ids eligible) const {
    static thread_local Mask mask;
    mask.words.assign((num_blocks() + 1) / 2, 0);
    mask.passing = 0;
    for (const std::int64_t id : eligible) {
      const std::int32_t slot = places.find(id);
      if (slot == detail::IdTable::absent || mask.has(slot)) continue;
      mask.flip(slot);
      ++mask.passing;
    }
    return mask;
  }

  std::size_t search(Numbers vector, Ids seen, Mask* mask, std::span<std::int64_t> items,
                     std::span<float> scores) const {
    if (count == 0 || items.empty() || (mask != nullptr && mask->passing == 0)) return 0;
    std::size_t lists = centroids.empty() ? nlist() : nprobe;
    if (mask != nullptr && lists < nlist())  // as many eligible items as otherwise of all
      lists = std::min(nlist(), (nprobe * count + mask->passing - 1) / mask->passing);
    if (mask != nullptr && (mask->passing <= items.size() || mask->passing * nlist() <= lists * num_blocks()))
      return search_mask(vector, seen, *mask, items, scores);
    for (;; lists = std::min(nlist(), 2 * lists))
      if (const auto found = search_lists(vector, seen, mask, lists, items, scores)) return *found;
  }

  // Scores all items of the mask: the blocks that have some.
  std::size_t search_mask(Numbers vector, Ids seen, Mask& mask, std::span<std::int64_t> items,
                          std::span<float> scores) const {
    std::size_t passing = mask.passing;
    static thread_local std::vector<std::int32_t> dropped;  // to put them back: the mask serves other searches, too
    dropped.clear();
    for (const std::int64_t id : seen) {
      const std::int32_t slot = places.find(id);
      if (slot == detail::IdTable::absent || !mask.has(slot)) continue;
      mask.flip(slot);
      dropped.push_back(slot);
      --passing;
    }
    Row row(*this, std::min(passing, num_blocks()), 0);
    for (std::size_t b = 0; b < num_blocks(); ++b) {
      if (mask.block(b) == 0) continue;
      std::size_t end = b + 1;
      while (end < num_blocks() && mask.block(end) != 0) ++end;
      row.add(vector, b, end);
      b = end;
    }
    row.leave_out(mask);
    for (const std::int32_t slot : dropped) mask.flip(slot);
    return row.take(passing, items, scores);
  }

  // Scores the items of so many lists; nothing if fewer pass than are asked for and there are other lists.
  std::optional<std::size_t> search_lists(Numbers vector, Ids seen, const Mask* mask, std::size_t lists,
                                          std::span<std::int64_t> items, std::span<float> scores) const {
    Row row(*this, most_blocks[lists], nlist());
    std::size_t passing = row.add_lists(vector, lists);
    if (mask != nullptr) passing = row.leave_out(*mask);
    for (const std::int64_t id : seen)
      if (const std::int32_t slot = places.find(id); slot != detail::IdTable::absent) passing -= row.leave_out(slot);
    if (passing < items.size() && lists < nlist()) return {};
    return row.take(passing, items, scores);
  }

  // The scores of some blocks side by side, in the scratch memory of the thread.
  class Row {
   public:
    // Of at most so many blocks; `num_lists`: of the index, if lists are added.
    Row(const Impl& of, std::size_t most, std::size_t num_lists)
        : index_(of),
          stride_(std::max(most * item_block, detail::whole_blocks(num_lists)) + select_slack),
          scratch_((select_rows + 3) * stride_ + most + num_lists) {
      scores_ = scratch_.data();
      memory_ = scores_ + stride_;
      best_ = reinterpret_cast<std::int32_t*>(memory_ + select_rows * stride_);
      tied_ = best_ + stride_;
      block_ = tied_ + stride_;
      begin_ = block_ + most;
      std::fill_n(begin_, num_lists, detail::IdTable::absent);
    }

    // The blocks from `first` on, before `end`.
    void add(Numbers vector, std::size_t first, std::size_t end) {
      kernels_.scores(vector.data(), signed_size(vector.size()), index_.blocks + first * vector.size() * item_block,
                      signed_size(end - first), scores_ + blocks_ * item_block);
      for (std::size_t b = first; b < end; ++b) block_[blocks_++] = static_cast<std::int32_t>(b);
    }

    // The lists whose centroids have the best scores; returns how many items they have.
    std::size_t add_lists(Numbers vector, std::size_t lists) {
      const std::size_t nlist = index_.nlist();
      if (lists < nlist) {
        kernels_.scores(vector.data(), signed_size(index_.width), index_.centroid_blocks.data(),
                        signed_size(detail::whole_blocks(nlist) / item_block), scores_);
        std::copy_n(select(nlist, lists), lists, best_);
        std::sort(best_, best_ + lists);  // in the order of the memory
      } else {
        std::iota(best_, best_ + lists, 0);
      }
      std::size_t items = 0;
      for (std::size_t i = 0; i < lists; ++i) {
        const auto list = static_cast<std::size_t>(best_[i]);
        const auto size = static_cast<std::size_t>(index_.list_size[list]);
        const std::size_t start = blocks_ * item_block;
        begin_[list] = static_cast<std::int32_t>(blocks_);
        add(vector, index_.first_block[list], index_.first_block[list + 1]);
        std::fill(scores_ + start + size, scores_ + blocks_ * item_block, left_out);
        items += size;
      }
      return items;
    }

    // All slots but those of the mask; returns how many are left.
    std::size_t leave_out(const Mask& mask) {
      std::size_t passing = 0;
      for (std::size_t b = 0; b < blocks_; ++b) {
        const std::uint32_t bits = mask.block(static_cast<std::size_t>(block_[b]));
        passing += static_cast<std::size_t>(std::popcount(bits));
        for (std::size_t i = 0; i < item_block; ++i)
          scores_[b * item_block + i] = (bits >> i & 1u) != 0 ? scores_[b * item_block + i] : left_out;
      }
      return passing;
    }

    // A slot; returns whether it was there. Only after add_lists.
    bool leave_out(std::int32_t slot) {
      const std::size_t block = block_of(slot);
      const auto list = static_cast<std::size_t>(index_.list_of[block]);
      if (begin_[list] == detail::IdTable::absent) return false;
      const std::size_t at = static_cast<std::size_t>(begin_[list]) + block - index_.first_block[list];
      float& score = scores_[at * item_block + static_cast<std::size_t>(slot) % item_block];
      return !std::isnan(std::exchange(score, left_out));
    }

    // The best of the items that pass, of which there are so many; ties by id.
    std::size_t take(std::size_t passing, std::span<std::int64_t> items, std::span<float> scores) {
      const std::size_t found = std::min(items.size(), passing), row = blocks_ * item_block;
      if (found == 0) return 0;
      // One more shows whether others tie with the last one.
      std::copy_n(select(row, std::min(found + 1, passing)), std::min(found + 1, passing), best_);
      if (index_.nlist() > 1) order_ties(found, passing > found, row);  // else slots are in the order of ids
      for (std::size_t i = 0; i < found; ++i) items[i] = id_at(best_[i]);
      if (!scores.empty())
        for (std::size_t i = 0; i < found; ++i) scores[i] = scores_[best_[i]];
      return found;
    }

   private:
    std::int64_t id_at(std::int32_t at) const {
      return index_
          .ids[static_cast<std::size_t>(block_[block_of(at)]) * item_block + static_cast<std::size_t>(at) % item_block];
    }

    const std::int32_t* select(std::size_t row, std::size_t k) {
      return kernels_.best(scores_, signed_size(row), signed_size(k), memory_, signed_size(stride_));
    }

    // The selection has equal scores in the order of their places; ids don't ascend from list to list.
    void order_ties(std::size_t found, bool more, std::size_t row) {
      const auto by_id = [&](std::int32_t a, std::int32_t b) { return id_at(a) < id_at(b); };
      const float last = scores_[best_[found - 1]];
      if (more && scores_[best_[found]] == last) {
        std::size_t first = found - 1, tied = 0;
        while (first > 0 && scores_[best_[first - 1]] == last) --first;
        for (std::size_t i = 0; i < row; ++i)
          if (scores_[i] == last) tied_[tied++] = static_cast<std::int32_t>(i);
        std::partial_sort(tied_, tied_ + (found - first), tied_ + tied, by_id);
        std::copy_n(tied_, found - first, best_ + first);
      }
      for (std::size_t i = 0, end = 0; i < found; i = end) {
        for (end = i + 1; end < found && scores_[best_[end]] == scores_[best_[i]];) ++end;
        if (end > i + 1) std::sort(best_ + i, best_ + end, by_id);
      }
    }

    const Impl& index_;
    const detail::PrerankKernels& kernels_ = PYGRADE_KERNELS(prerank_kernels);
    std::size_t stride_, blocks_ = 0;
    detail::Scratch scratch_;
    float *scores_, *memory_;              // [blocks, 16]; select_rows rows of the selection
    std::int32_t *best_, *tied_, *block_;  // places in scores_, the same, [blocks] of the index
    std::int32_t* begin_;                  // [nlist] the first block of each list in the row
  };

  std::size_t width, nprobe, count = 0;
  std::vector<float> centroids;
  std::vector<std::int64_t> list_size;
  detail::AlignedFloats centroid_blocks{centroids.empty() ? 0 : detail::whole_blocks(nlist()) * width};
  std::vector<std::size_t> first_block, most_blocks;  // of each list and the end; of the largest lists together
  std::vector<std::int32_t> list_of;                  // of each block
  Ids ids;                                            // of each slot, -1: none
  const float* blocks = nullptr;                      // [blocks, width, 16]
  std::vector<std::shared_ptr<const void>> owners;
  detail::IdTable places;
};

ItemIndex::ItemIndex() = default;
ItemIndex::~ItemIndex() = default;

std::shared_ptr<const ItemIndex> ItemIndex::make(Ids item_ids, Numbers vectors, std::size_t width) {
  return make(item_ids, vectors, width, {}, 0);
}

std::shared_ptr<const ItemIndex> ItemIndex::make(Ids item_ids, Numbers vectors, std::size_t width, Numbers centroids,
                                                 std::size_t nprobe, int threads) {
  check_rows(item_ids, vectors, width);
  check_lists(centroids, width, nprobe);
  std::vector<std::int32_t> lists(item_ids.size(), 0);
  if (!centroids.empty()) detail::Centroids(centroids, width).assign(vectors, lists, threads);
  std::shared_ptr<ItemIndex> made(new ItemIndex);
  made->impl_ = std::make_unique<Impl>(item_ids, vectors, lists, ItemIndexLayout{width, {}, {}, {}, centroids, nprobe});
  return made;
}

std::shared_ptr<const ItemIndex> ItemIndex::make(const ItemIndexLayout& layout, std::shared_ptr<const void> owner) {
  if (layout.width < 1) throw std::invalid_argument("width is 0; want at least 1");
  check_lists(layout.centroids, layout.width, layout.nprobe);
  const std::size_t lists = std::max<std::size_t>(1, layout.centroids.size() / layout.width);
  if (layout.list_size.size() != lists)
    throw std::invalid_argument("list_size has " + std::to_string(layout.list_size.size()) + " numbers; want " +
                                std::to_string(lists) + ", one for each list");
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() - item_block;
  std::size_t blocks = 0;
  for (const std::int64_t size : layout.list_size) {
    if (size < 0 || size > most)
      throw std::invalid_argument("list_size holds " + std::to_string(size) + "; want 0 to 2^31");
    blocks += whole_blocks_of(size);
  }
  if (blocks * item_block > static_cast<std::size_t>(most) || layout.item_ids.size() != blocks * item_block)
    throw std::invalid_argument("item_ids has " + std::to_string(layout.item_ids.size()) + " places; want " +
                                std::to_string(blocks * item_block) + ", as list_size says, below 2^31");
  detail::check_numbers(layout.vectors, blocks * item_block * layout.width, "vectors");
  std::shared_ptr<ItemIndex> made(new ItemIndex);
  made->impl_ = std::make_unique<Impl>(layout, std::move(owner));
  return made;
}

std::size_t ItemIndex::width() const { return impl_->width; }
std::size_t ItemIndex::size() const { return impl_->count; }
bool ItemIndex::has(std::int64_t item_id) const { return impl_->places.find(item_id) != detail::IdTable::absent; }

ItemIndexLayout ItemIndex::layout() const {
  const Impl& index = *impl_;
  return {index.width,     index.list_size, index.ids, {index.blocks, index.ids.size() * index.width},
          index.centroids, index.nprobe};
}

void ItemIndex::read_items(std::span<std::int64_t> item_ids, std::span<float> vectors) const {
  const Impl& index = *impl_;
  if (item_ids.size() != index.count || (!vectors.empty() && vectors.size() != index.count * index.width))
    throw std::invalid_argument("item_ids and vectors have " + std::to_string(item_ids.size()) + " and " +
                                std::to_string(vectors.size()) + " numbers; want " + std::to_string(index.count) +
                                " and " + std::to_string(index.count) + " times " + std::to_string(index.width) +
                                ", or none");
  std::ranges::copy_if(index.ids, item_ids.begin(), [](std::int64_t id) { return id >= 0; });
  std::ranges::sort(item_ids);
  for (std::size_t i = 0; i < item_ids.size() && !vectors.empty(); ++i) {
    const std::int32_t slot = index.places.find(item_ids[i]);
    const float* const from = index.blocks + block_of(slot) * index.width * item_block + slot % item_block;
    for (std::size_t d = 0; d < index.width; ++d) vectors[i * index.width + d] = from[d * item_block];
  }
}

std::size_t ItemIndex::search(Numbers vector, Ids seen, std::optional<Ids> eligible, std::span<std::int64_t> items,
                              std::span<float> scores) const {
  const Impl& index = *impl_;
  check_vector(vector, index.width);
  if (!scores.empty() && scores.size() < items.size())
    throw std::invalid_argument("scores has room for " + std::to_string(scores.size()) + " numbers; want " +
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
  Mask* const mask = eligible ? &index.mask_of(*eligible) : nullptr;
  for (std::size_t r = 0; r < rows; ++r) {
    const auto to = items.subspan(r * n, n);
    const auto values = scores.subspan(r * n, n);
    const std::size_t found = index.search(vectors.subspan(r * index.width, index.width), seen[r], mask, to, values);
    std::ranges::fill(to.subspan(found), -1);
    std::ranges::fill(values.subspan(found), -std::numeric_limits<float>::infinity());
  }
}

void item_scores(Numbers vector, Numbers vectors, std::span<float> scores) {
  const std::size_t width = vector.size();
  check_vector(vector, width);
  if (width == 0 || vectors.size() / width != scores.size() || vectors.size() % width != 0)
    throw std::invalid_argument("vectors has " + std::to_string(vectors.size()) + " numbers; want " +
                                std::to_string(scores.size()) + " times " + std::to_string(width));
  const detail::FloatEnvironment environment;
  const auto& kernels = PYGRADE_KERNELS(prerank_kernels);
  const detail::Scratch scratch(item_block * (width + 1));
  float* const out = scratch.data() + item_block * width;
  for (std::size_t first = 0; first < scores.size(); first += item_block) {
    detail::fill_block(vectors, width, first, scratch.data());
    kernels.scores(vector.data(), signed_size(width), scratch.data(), 1, out);
    std::copy_n(out, std::min(item_block, scores.size() - first), scores.begin() + static_cast<std::ptrdiff_t>(first));
  }
}

}  // namespace pygrade::inline v0_2
