#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "prerank/prerank.hpp"
#include "util/fpenv.hpp"
#include "util/scratch.hpp"

namespace pygrade {

namespace {

using detail::item_block;

// Rows of vectors[n, width] from `first` on, as one block [width, item_block]; zeros where there is no row.
void fill_block(std::span<const float> vectors, std::size_t width, std::size_t first, float* block) {
  const std::size_t rows = vectors.size() / width;
  for (std::size_t d = 0; d < width; ++d)
    for (std::size_t i = 0; i < item_block; ++i)
      block[d * item_block + i] = first + i < rows ? vectors[(first + i) * width + d] : 0.0f;
}

void check_vector(std::span<const float> vector, std::size_t width) { detail::check_numbers(vector, width, "vector"); }

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
  const auto fault = std::ranges::find_if(values, [](float v) { return !std::isfinite(v); });
  if (fault != values.end())
    throw std::invalid_argument(std::string(name) + " is not finite at " + std::to_string(fault - values.begin()));
}

}  // namespace detail

struct ItemIndex::Impl {
  Impl(std::span<const std::int64_t> item_ids, std::span<const float> vectors, std::size_t numbers)
      : width(numbers), ids(item_ids.begin(), item_ids.end()), places(item_ids) {
    blocks.resize(detail::whole_blocks(ids.size()) * width + item_block);
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(blocks.data()) / sizeof(float) % item_block;
    start = (item_block - misaligned) % item_block;
    for (std::size_t first = 0; first < ids.size(); first += item_block)
      fill_block(vectors, width, first, blocks.data() + start + first * width);
  }

  std::size_t width;
  std::vector<std::int64_t> ids;
  detail::IdTable places;
  std::vector<float> blocks;  // from `start` on, aligned to a cache line: [m / item_block, width, item_block]
  std::size_t start;
};

ItemIndex::ItemIndex() = default;
ItemIndex::~ItemIndex() = default;

std::shared_ptr<const ItemIndex> ItemIndex::make(std::span<const std::int64_t> item_ids, std::span<const float> vectors,
                                                 std::size_t width) {
  if (width < 1) throw std::invalid_argument("width is 0; want at least 1");
  detail::check_ascending(item_ids, "item_ids");
  if (vectors.size() / width != item_ids.size() || vectors.size() % width != 0)
    throw std::invalid_argument("vectors has " + std::to_string(vectors.size()) + " numbers; want " +
                                std::to_string(item_ids.size()) + " times " + std::to_string(width));
  detail::check_numbers(vectors, vectors.size(), "vectors");
  std::shared_ptr<ItemIndex> made(new ItemIndex);
  made->impl_ = std::make_unique<Impl>(item_ids, vectors, width);
  return made;
}

std::size_t ItemIndex::width() const { return impl_->width; }
std::span<const std::int64_t> ItemIndex::item_ids() const { return impl_->ids; }

void ItemIndex::vectors(std::span<float> out) const {
  const std::size_t width = impl_->width, count = impl_->ids.size();
  if (out.size() != count * width)
    throw std::invalid_argument("out has " + std::to_string(out.size()) + " numbers; want " + std::to_string(count) +
                                " times " + std::to_string(width));
  const float* const blocks = impl_->blocks.data() + impl_->start;
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t d = 0; d < width; ++d)
      out[i * width + d] = blocks[(i / item_block * width + d) * item_block + i % item_block];
}

std::size_t ItemIndex::search(std::span<const float> vector, std::span<const std::int64_t> seen,
                              std::optional<std::span<const std::int64_t>> eligible, std::span<std::int64_t> items,
                              std::span<float> scores) const {
  const Impl& index = *impl_;
  check_vector(vector, index.width);
  if (!scores.empty() && scores.size() < items.size())
    throw std::invalid_argument("scores has room for " + std::to_string(scores.size()) + " numbers; want " +
                                std::to_string(items.size()) + " or none");
  const std::size_t count = index.ids.size();
  if (count == 0 || items.empty()) return 0;
  const detail::FloatEnvironment environment;
  const auto& kernels = PYGRADE_KERNELS(prerank_kernels);
  const std::size_t stride = detail::whole_blocks(count) + detail::select_slack;
  const detail::Scratch scratch((detail::select_rows + 2) * stride);
  float* row = scratch.data();
  kernels.scores(vector.data(), static_cast<std::int64_t>(index.width), index.blocks.data() + index.start,
                 static_cast<std::int64_t>(detail::whole_blocks(count) / item_block), row);
  // NaN marks what is left out: it is no score, and the selection puts it last.
  constexpr float left_out = std::numeric_limits<float>::quiet_NaN();
  std::size_t passing = count;
  if (eligible) {
    float* const allowed = row + stride;
    std::fill_n(allowed, count, left_out);
    passing = 0;
    for (const std::int64_t id : *eligible) {
      const std::int32_t place = index.places.find(id);
      if (place == detail::IdTable::absent || !std::isnan(allowed[place])) continue;
      allowed[place] = row[place];
      ++passing;
    }
    row = allowed;
  }
  for (const std::int64_t id : seen) {
    const std::int32_t place = index.places.find(id);
    if (place == detail::IdTable::absent || std::isnan(row[place])) continue;
    row[place] = left_out;
    --passing;
  }
  const std::size_t found = std::min(items.size(), passing);
  if (found == 0) return 0;
  const std::int32_t* best = kernels.best(row, static_cast<std::int64_t>(count), static_cast<std::int64_t>(found),
                                          scratch.data() + 2 * stride, static_cast<std::int64_t>(stride));
  for (std::size_t i = 0; i < found; ++i) items[i] = index.ids[static_cast<std::size_t>(best[i])];
  if (!scores.empty())
    for (std::size_t i = 0; i < found; ++i) scores[i] = row[best[i]];
  return found;
}

void item_scores(std::span<const float> vector, std::span<const float> vectors, std::span<float> scores) {
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
    fill_block(vectors, width, first, scratch.data());
    kernels.scores(vector.data(), static_cast<std::int64_t>(width), scratch.data(), 1, out);
    std::copy_n(out, std::min(item_block, scores.size() - first), scores.begin() + static_cast<std::ptrdiff_t>(first));
  }
}

}  // namespace pygrade
