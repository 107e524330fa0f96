#include "service/registry.hpp"

#include <algorithm>
#include <stdexcept>

namespace pygrade::inline v0_2::detail {
namespace {
std::size_t place_of(std::string_view family) {
  const auto families = all_families();
  const auto found = std::ranges::find(families, family, &Family::name);
  if (found == families.end()) throw std::logic_error("no family of metrics is named " + std::string(family));
  return static_cast<std::size_t>(found - families.begin());
}
}  // namespace

std::string labels_of(std::initializer_list<Label> labels) {
  std::string text;
  for (const auto& [name, value] : labels) {
    text.append(text.empty() ? "{" : ",").append(name).append("=\"");
    for (const char c : value) {
      if (c == '"' || c == '\\') text += '\\';
      if (c == '\n')
        text += "\\n";
      else
        text += c;
    }
    text += '"';
  }
  return text.empty() ? text : text + "}";
}

std::size_t own_shard() {
  static std::atomic<std::size_t> next{0};
  thread_local const std::size_t shard = next.fetch_add(1, std::memory_order_relaxed) % shards;
  return shard;
}

void Histogram::observe(double seconds) const {
  const auto bin = std::ranges::lower_bound(duration_bounds, seconds) - duration_bounds.begin();
  first_.after(static_cast<std::size_t>(bin)).add();
  first_.after(duration_bins).add_real(seconds);
}

Cell Registry::cell(std::string_view family, const std::string& labels, bool is_real) {
  const std::lock_guard lock(mutex_);
  const Cell made = make(family, labels, 1);
  if (made.index_ < chunks_.size() * chunk_cells)
    chunks_[made.index_ / chunk_cells]->is_real[made.index_ % chunk_cells] = is_real;
  return made;
}

Histogram Registry::histogram(std::string_view family, const std::string& labels) {
  const std::lock_guard lock(mutex_);
  const Histogram made(make(family, labels, Histogram::cells));
  const std::size_t sum = made.index() + duration_bins;
  if (sum < chunks_.size() * chunk_cells) chunks_[sum / chunk_cells]->is_real[sum % chunk_cells] = true;
  return made;
}

// Cells that follow one another, in one chunk.
Cell Registry::make(std::string_view family, const std::string& labels, std::size_t cells) {
  const Key key{place_of(family), labels};
  if (const auto known = series_.find(key); known != series_.end()) return known->second;
  if (chunks_.empty() || chunks_.back()->used + cells > chunk_cells) {
    if (chunks_.size() == max_chunks) {
      left_out_.fetch_add(1, std::memory_order_relaxed);
      return {nowhere_.bits.data(), max_chunks * chunk_cells};
    }
    chunks_.push_back(std::make_unique<Chunk>());
  }
  Chunk& chunk = *chunks_.back();
  const Cell made(chunk.bits.data() + chunk.used, (chunks_.size() - 1) * chunk_cells + chunk.used);
  chunk.used += cells;
  series_.emplace(key, made);
  return made;
}

std::vector<double> Registry::read() const {
  const std::lock_guard lock(mutex_);
  std::vector<double> numbers;
  numbers.reserve(chunks_.size() * chunk_cells);
  for (const auto& chunk : chunks_)
    for (std::size_t cell = 0; cell < chunk_cells; ++cell) {
      double sum = 0.0;
      for (std::size_t shard = 0; shard < shards; ++shard) {
        const std::uint64_t bits = chunk->bits[shard * chunk_cells + cell].load(std::memory_order_relaxed);
        sum += chunk->is_real[cell] ? std::bit_cast<double>(bits) : static_cast<double>(bits);
      }
      numbers.push_back(sum);
    }
  return numbers;
}

std::map<Registry::Key, std::size_t> Registry::series() const {
  const std::lock_guard lock(mutex_);
  std::map<Key, std::size_t> places;
  for (const auto& [key, cell] : series_) places.emplace_hint(places.end(), key, cell.index_);
  return places;
}

void Figures::set(std::string_view family, double value, std::initializer_list<Label> labels) {
  values_[{place_of(family), labels_of(labels)}] = value;
}
}  // namespace pygrade::inline v0_2::detail
