// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "../page_search.hpp"

#include "boost.hpp"
#include "dots.hpp"
#include "numerics.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr std::int64_t block = dot_lanes;  // candidates are padded to whole blocks, components too

std::int64_t blocks_of(std::int64_t count) { return (count + block - 1) / block; }

// Gives out parts of the working memory.
struct Memory {
  float* next;
  template <class T = float>
  T* take(std::int64_t floats) {
    auto* const part = reinterpret_cast<T*>(next);
    next += floats;
    return part;
  }
};

// The candidates of one request in whole blocks: all of them, or the eligible ones if these are few. What depends on
// the items above is kept per class: a candidate, or without embeddings a category (the last class: unknown), if they
// are fewer.
class Candidates {
 public:
  Candidates(const PageSearchTask& task, Memory& memory);
  void load(Request request);
  void load(const SortedCandidates& sorted);
  // Whether scores depend on nothing above but by the rules.
  bool sorted() const { return sorted_; }
  bool fixed() const { return task_.objective == PageObjective::page_value && task_.root == nullptr; }
  std::int64_t count() const { return count_; }
  std::int64_t padded() const { return blocks_of(count_) * block; }
  std::int64_t classes() const { return by_category_ ? blocks_of(task_.category_count + 1) * block : padded(); }
  std::int64_t class_of(std::int64_t i) const { return by_category_ ? categories_[i] : i; }
  const std::int32_t* groups(std::int64_t column) const { return groups_ + column * task_.stride; }
  const float* values() const { return value_; }
  // A candidate's row among all requests, and its place in the request; the candidate at a place, or -1.
  std::int64_t row_of(std::int64_t i) const { return first_ + index_of(i); }
  std::int32_t index_of(std::int64_t i) const { return compacted_ ? ids_[i] : static_cast<std::int32_t>(i); }
  std::int32_t at_index(std::int32_t index) const;
  // l(above, i) of every class i.
  void similarity(std::int32_t above, float* row) const;
  // l(i, i).
  void own_similarity(float* row) const;
  // Final scores of every candidate below a prefix of this state and decay (see Prefix).
  void scores(const float* state, const float* decay, float* score) const;

 private:
  void load_embeddings();
  void load_groups();

  const PageSearchTask& task_;
  std::int64_t first_ = 0, count_ = 0;
  bool compacted_ = false, by_category_ = false, sorted_ = false;
  std::int32_t *ids_, *categories_, *groups_;
  float *value_, *root_, *multiply_, *add_, *effect_, *packed_;
  const float* embeddings_ = nullptr;
  std::int64_t components_;  // of a vector, in whole blocks; 0: no embeddings
  std::int64_t vector_stride_ = 0;
};

Candidates::Candidates(const PageSearchTask& task, Memory& memory) : task_(task) {
  ids_ = memory.take<std::int32_t>(task.stride);
  categories_ = memory.take<std::int32_t>(task.stride);
  groups_ = memory.take<std::int32_t>(task.rules.columns * task.stride);
  for (float** part : {&value_, &root_, &multiply_, &add_, &effect_}) *part = memory.take(task.stride);
  components_ = task.embeddings == nullptr ? 0 : blocks_of(task.width) * block;
  packed_ = memory.take(components_ * task.stride);
}

void Candidates::load(Request request) {
  first_ = request.first;
  count_ = request.count;
  compacted_ = false;
  if (task_.rules.mask != nullptr) {
    std::int64_t eligible = 0;
    for (std::int64_t i = 0; i < request.count; ++i) {
      ids_[eligible] = static_cast<std::int32_t>(i);
      eligible += task_.rules.mask[first_ + i] != 0;
    }
    compacted_ = 2 * eligible <= request.count;
    count_ = compacted_ ? eligible : count_;
  }
  const auto copy = [&](const auto* from, auto* to, auto rest) {
    if (from == nullptr) return;
    if (compacted_)
      for (std::int64_t i = 0; i < count_; ++i) to[i] = from[first_ + ids_[i]];
    else if (count_ > 0)
      __builtin_memcpy(to, from + first_, sizeof(*to) * static_cast<std::size_t>(count_));
    for (std::int64_t i = count_; i < padded(); ++i) to[i] = rest;
  };
  copy(task_.value, value_, 0.0f);
  copy(task_.root, root_, 0.0f);
  copy(task_.rules.boost_mul, multiply_, 1.0f);
  copy(task_.rules.boost_add, add_, 0.0f);
  copy(task_.categories, categories_, std::int32_t{-1});
  if (task_.objective != PageObjective::page_value)
    for (std::int64_t i = 0; i < padded(); ++i) value_[i] *= task_.trade_off;
  load_groups();
  if (components_ > 0) load_embeddings();
  by_category_ = components_ == 0 && task_.categories != nullptr && task_.category_count < count_;
  if (!by_category_) return;
  const auto unknown = static_cast<std::int32_t>(task_.category_count);
  for (std::int64_t i = 0; i < padded(); ++i) categories_[i] = categories_[i] < 0 ? unknown : categories_[i];
}

void Candidates::load(const SortedCandidates& sorted) {
  first_ = sorted.first;
  count_ = sorted.count;
  compacted_ = sorted_ = true;
  for (std::int64_t i = 0; i < padded(); ++i) {
    const std::int32_t position = sorted.positions[i < count_ ? i : 0];
    ids_[i] = sorted.ids == nullptr ? position : sorted.ids[position];
    value_[i] = sorted.scores[position];
  }
  load_groups();
}

// A row of memory for each column; padding belongs to no group.
void Candidates::load_groups() {
  const std::int64_t columns = task_.rules.columns;
  for (std::int64_t a = 0; a < columns; ++a) {
    std::int32_t* const row = groups_ + a * task_.stride;
    for (std::int64_t i = 0; i < count_; ++i) row[i] = task_.rules.groups[row_of(i) * columns + a];
    for (std::int64_t i = count_; i < padded(); ++i) row[i] = -1;
  }
}

// Vectors are read where they are if they are whole blocks, all wanted, and enough for a step of dot_rows.
void Candidates::load_embeddings() {
  const std::int64_t width = task_.width;
  vector_stride_ = components_;
  embeddings_ = task_.embeddings + first_ * width;
  if (!compacted_ && width == components_ && count_ >= lanes) return;
  for (std::int64_t i = 0; i < padded(); ++i) {
    float* const to = packed_ + i * components_;
    for (std::int64_t d = 0; d < components_; ++d)
      to[d] = i < count_ && d < width ? task_.embeddings[row_of(i) * width + d] : 0.0f;
  }
  embeddings_ = packed_;
}

std::int32_t Candidates::at_index(std::int32_t index) const {
  if (!compacted_) return index;
  for (std::int64_t i = 0; i < count_; ++i)
    if (ids_[i] == index) return static_cast<std::int32_t>(i);
  return -1;
}

void Candidates::similarity(std::int32_t above, float* row) const {
  const std::int64_t end = classes(), count = task_.category_count;
  const std::int32_t category = task_.categories == nullptr ? -1 : categories_[above];
  for (std::int64_t i = 0; i < end; ++i) row[i] = 0.0f;
  if (by_category_) {
    if (category < count)
      __builtin_memcpy(row, task_.pairs + category * count, sizeof(float) * static_cast<std::size_t>(count));
    return;
  }
  if (components_ > 0) {
    for (std::int64_t i = 0; i < count_; i += lanes) {
      const std::int64_t first = count_ >= lanes && i + lanes > count_ ? count_ - lanes : i;
      dot_rows(embeddings_ + first * components_, components_, embeddings_ + above * components_, components_ / block,
               row + first);
    }
    if (task_.objective != PageObjective::log_det)
      for (std::int64_t i = 0; i < end; ++i) row[i] = row[i] > 0.0f ? row[i] : 0.0f;
  }
  const float cosine = task_.cosine;
  if (category < 0) {
    for (std::int64_t i = 0; i < end; ++i) row[i] = fma(cosine, row[i], 0.0f);
    return;
  }
  const float* const pairs = task_.pairs + category * count;
  const std::int32_t* const below = categories_;
  for (std::int64_t i = 0; i < end; ++i) {
    const float pair = pairs[below[i] < 0 ? 0 : below[i]];
    row[i] = fma(cosine, row[i], below[i] < 0 ? 0.0f : pair);
  }
}

void Candidates::own_similarity(float* row) const {
  const std::int64_t count = by_category_ ? task_.category_count : count_;
  for (std::int64_t i = 0; i < count; ++i) {
    const float* const vector = embeddings_ + i * components_;
    const auto own = by_category_ ? static_cast<std::int32_t>(i) : task_.categories == nullptr ? -1 : categories_[i];
    const float pair = own < 0 ? 0.0f : task_.pairs[own * task_.category_count + own];
    row[i] = fma(task_.cosine, components_ > 0 ? dot(vector, vector, components_ / block) : 0.0f, pair);
  }
}

void Candidates::scores(const float* state, const float* decay, float* score) const {
  const std::int64_t end = padded(), states = classes();
  const float *const value = value_, *const root = root_;
  float* const effect = effect_;
  if (fixed()) {
    for (std::int64_t i = 0; i < end; ++i) score[i] = value[i];
    return boost(decay, nullptr, end, score);
  }
  if (task_.objective == PageObjective::page_value)
    for (std::int64_t i = 0; i < states; ++i) effect[i] = exp(state[i]);
  else if (task_.objective == PageObjective::mmr)
    for (std::int64_t i = 0; i < states; ++i) effect[i] = -state[i];
  else
    for (std::int64_t i = 0; i < states; ++i) effect[i] = log(state[i] > least_variance ? state[i] : least_variance);
  const float* spread = effect;
  if (by_category_) {
    for (std::int64_t i = 0; i < end; ++i) score[i] = effect[categories_[i]];
    spread = score;
  }
  const float rest = 1.0f - task_.trade_off;
  if (task_.objective == PageObjective::page_value)
    for (std::int64_t i = 0; i < end; ++i) score[i] = fma(root[i], spread[i], value[i]) + 0.0f;  // never -0
  else
    for (std::int64_t i = 0; i < end; ++i) score[i] = fma(rest, spread[i], value[i]) + 0.0f;
  if (task_.rules.boost_mul == nullptr && task_.rules.boost_add == nullptr && decay == nullptr) return;
  const auto read = [](const float* given, const float* own) { return given == nullptr ? nullptr : own; };
  boost(read(task_.rules.boost_mul, multiply_), read(task_.rules.boost_add, add_), end, score);
  boost(decay, nullptr, end, score);
  for (std::int64_t i = 0; i < end; ++i) score[i] += 0.0f;
}

// State of a prefix that the objective needs, a number per class: the page's effect (page_value), the similarity of
// the closest item above (mmr), the variance given the items above (log_det). A prefix also has a factor per candidate
// (null without decay), a byte, whether it may take it, its items and their scores, and [columns, k] the groups of its
// items and, in later slots, of the pins that the column's cap counts.
struct Prefix {
  float *state, *decay;
  std::uint8_t* open;
  std::int32_t* items;
  float* scores;
  std::int32_t* groups;
};

// A prefix (by its rank among those that are kept) with one more candidate, or with an empty slot (-1).
struct Extension {
  std::int32_t key;  // of the total
  std::int32_t rank, item;
  float score, total;
};

class Search {
 public:
  Search(const PageSearchTask& task, Memory memory);
  void run(std::int64_t b);
  bool fill(std::int64_t b, const SortedCandidates& sorted);

 private:
  void walk(std::int64_t b);
  bool holds(std::int64_t column, std::int64_t above) const;
  bool is_full(std::int64_t column, std::int32_t group, const Prefix& prefix, std::int64_t slots) const;
  void close(const Prefix& prefix, std::int64_t slots, std::int64_t above, std::int32_t item) const;
  void open(const Prefix& prefix, std::int64_t slots) const;
  void take(const Prefix& prefix, std::int64_t slots, std::int32_t item) const;
  std::int64_t filled(const Prefix& prefix, std::int64_t slots) const;
  Prefix prefix(int side, std::int64_t rank) const;
  void start(std::int64_t b);
  const float* similarity(std::int32_t above);
  void update(const float* from, std::int32_t item, std::int64_t slot, float* to);
  void insert(const Extension& extension);
  bool extend(const Prefix& prefix, std::int32_t rank, std::int64_t slot);
  void extend_all(int side, std::int64_t slot);
  void follow(const Extension& extension, int from, int to, std::int64_t rank, std::int64_t slot);

  const PageSearchTask& task_;
  Candidates candidates_;
  std::int32_t *pins_, *items_, *page_groups_, *cached_, *place_;  // place_: of a candidate's row in the cache, or -1
  float *states_, *decays_, *scores_, *rows_, *factor_, *score_;
  std::uint8_t* open_;
  std::int64_t cached_count_ = 0, taken_ = 0;  // rows given out; columns of the Cholesky factor
  std::int64_t kept_ = 1, found_ = 0;          // prefixes, and extensions
  std::int64_t last_pin_ = -1;                 // slot
  Extension best_[max_beam];
  float totals_[max_beam];
};

Search::Search(const PageSearchTask& task, Memory memory) : task_(task), candidates_(task, memory) {
  const std::int64_t stride = task.stride, beam = task.beam;
  pins_ = memory.take<std::int32_t>(task.k);
  items_ = memory.take<std::int32_t>(2 * beam * task.k);
  page_groups_ = memory.take<std::int32_t>(2 * beam * task.k * task.rules.columns);
  scores_ = memory.take(2 * beam * task.k);
  cached_ = memory.take<std::int32_t>(cached_rows);
  place_ = memory.take<std::int32_t>(stride);
  score_ = memory.take(stride);
  states_ = memory.take(2 * beam * stride);
  decays_ = task.rules.decay == nullptr ? nullptr : memory.take(2 * beam * stride);
  open_ = memory.take<std::uint8_t>(beam * stride / 2);
  rows_ = memory.take((beam > 1 ? cached_rows : 1) * stride);
  factor_ = memory.take(task.objective == PageObjective::log_det ? task.k * stride : 0);
}

Prefix Search::prefix(int side, std::int64_t rank) const {
  const std::int64_t place = side * task_.beam + rank, at = place * task_.stride;
  return {states_ + at,
          decays_ == nullptr ? nullptr : decays_ + at,
          open_ + at,
          items_ + place * task_.k,
          scores_ + place * task_.k,
          page_groups_ + place * task_.k * task_.rules.columns};
}

// The empty prefix: eligible candidates without pins, which count for the caps.
void Search::start(std::int64_t b) {
  const Prefix empty = prefix(0, 0);
  const std::int64_t end = candidates_.padded(), columns = task_.rules.columns;
  if (!candidates_.fixed()) {
    for (std::int64_t i = 0; i < candidates_.classes(); ++i) empty.state[i] = 0.0f;
    for (std::int64_t i = 0; i < end; ++i) place_[i] = -1;
  }
  for (std::int64_t i = 0; decays_ != nullptr && i < end; ++i) empty.decay[i] = 1.0f;
  for (std::int64_t slot = 0; slot < task_.k; ++slot) pins_[slot] = -1;
  for (std::int64_t i = 0; i < columns * task_.k; ++i) empty.groups[i] = -1;
  last_pin_ = -1;
  for (std::int64_t slot = 0; task_.pins != nullptr && slot < task_.k; ++slot) {
    const std::int32_t pin = task_.pins[b * task_.k + slot];
    const std::int32_t place = pin < 0 ? -1 : candidates_.at_index(pin);
    const auto* const mask = task_.rules.mask;
    bool free = place >= 0 && (mask == nullptr || mask[candidates_.row_of(place)] != 0);
    for (std::int64_t other = 0; free && other < slot; ++other) free = pins_[other] != place;
    for (std::int64_t a = 0; free && a < columns; ++a)
      free = !holds(a, slot) || !is_full(a, candidates_.groups(a)[place], empty, 0);
    if (!free) continue;
    pins_[slot] = place;
    last_pin_ = slot;
    for (std::int64_t a = 0; a < columns; ++a)
      if (holds(a, slot)) empty.groups[a * task_.k + slot] = candidates_.groups(a)[place];
  }
  open(empty, 0);
  kept_ = 1;
  totals_[0] = 0.0f;
  cached_count_ = taken_ = 0;
  if (task_.objective != PageObjective::log_det) return;
  candidates_.own_similarity(empty.state);
}

// Whether a cap holds for an item below so many others.
bool Search::holds(std::int64_t column, std::int64_t above) const {
  const RulesTask& rules = task_.rules;
  if (rules.caps == nullptr || rules.caps[column] < 0) return false;
  return rules.cap_slots == nullptr || rules.cap_slots[column] < 0 || above < rules.cap_slots[column];
}

// Whether the first `slots` of a prefix and the pins of later ones leave no room for one more of a group.
bool Search::is_full(std::int64_t column, std::int32_t group, const Prefix& prefix, std::int64_t slots) const {
  const std::int32_t* const groups = prefix.groups + column * task_.k;
  const std::int64_t end = slots > last_pin_ ? slots : last_pin_ + 1;
  std::int32_t count = 0;
  for (std::int64_t slot = 0; slot < end; ++slot) count += groups[slot] == group;
  return group >= 0 && count >= task_.rules.caps[column];
}

// The number of items in the first `slots`.
std::int64_t Search::filled(const Prefix& prefix, std::int64_t slots) const {
  std::int64_t count = 0;
  for (std::int64_t slot = 0; slot < slots; ++slot) count += prefix.items[slot] >= 0;
  return count;
}

// Finds all candidates that may follow the first `slots` of a prefix.
void Search::open(const Prefix& prefix, std::int64_t slots) const {
  const std::int64_t count = candidates_.count(), end = candidates_.padded(), above = filled(prefix, slots);
  const auto* const mask = task_.rules.mask;
  for (std::int64_t i = 0; i < count; ++i) prefix.open[i] = 1;
  for (std::int64_t i = 0; mask != nullptr && i < count; ++i) prefix.open[i] = mask[candidates_.row_of(i)] != 0;
  for (std::int64_t i = count; i < end; ++i) prefix.open[i] = 0;
  for (std::int64_t a = 0; a < task_.rules.columns; ++a) {
    if (!holds(a, above) || task_.rules.caps[a] > 0) continue;
    for (std::int64_t i = 0; i < count; ++i) prefix.open[i] &= candidates_.groups(a)[i] < 0;
  }
  for (std::int64_t slot = 0; slot <= last_pin_ || slot < slots; ++slot)
    if (const std::int32_t item = slot < slots ? prefix.items[slot] : pins_[slot]; item >= 0)
      close(prefix, slots, above, item);
}

// Closes an item of the first `slots` of a prefix, of which `above` are filled, or a pin, and the groups that it fills.
void Search::close(const Prefix& prefix, std::int64_t slots, std::int64_t above, std::int32_t item) const {
  prefix.open[item] = 0;
  for (std::int64_t a = 0; a < task_.rules.columns; ++a) {
    const std::int32_t* const groups = candidates_.groups(a);
    const std::int32_t group = groups[item];
    if (!holds(a, above) || !is_full(a, group, prefix, slots)) continue;
    for (std::int64_t i = 0; i < candidates_.padded(); ++i) prefix.open[i] &= groups[i] != group;
  }
}

// The rules after the item in the last of the first `slots`.
void Search::take(const Prefix& prefix, std::int64_t slots, std::int32_t item) const {
  const RulesTask& rules = task_.rules;
  const std::int64_t above = rules.cap_slots == nullptr ? slots : filled(prefix, slots);
  bool ends = false;  // a cap, with this item
  for (std::int64_t a = 0; a < rules.columns; ++a) {
    prefix.groups[a * task_.k + slots - 1] = candidates_.groups(a)[item];
    ends |= rules.cap_slots != nullptr && rules.cap_slots[a] == above;
  }
  if (ends)
    open(prefix, slots);
  else
    close(prefix, slots, above, item);
  for (std::int64_t a = 0; rules.decay != nullptr && a < rules.columns; ++a) {
    const std::int32_t* const groups = candidates_.groups(a);
    const std::int32_t group = groups[item];
    const float factor = rules.decay[a];
    if (group < 0 || factor == 1.0f) continue;
    for (std::int64_t i = 0; i < candidates_.padded(); ++i)
      prefix.decay[i] = groups[i] == group ? prefix.decay[i] * factor : prefix.decay[i];
  }
}

// Prefixes of a beam share items, so rows are kept.
const float* Search::similarity(std::int32_t above) {
  if (task_.beam == 1) {
    candidates_.similarity(above, rows_);
    return rows_;
  }
  if (place_[above] < 0) {
    const std::int64_t place = cached_count_ % cached_rows;
    if (cached_count_++ >= cached_rows) place_[cached_[place]] = -1;
    cached_[place] = above;
    place_[above] = static_cast<std::int32_t>(place);
    candidates_.similarity(above, rows_ + place * task_.stride);
  }
  return rows_ + place_[above] * task_.stride;
}

// The state of a prefix with one more item.
void Search::update(const float* from, std::int32_t item, std::int64_t slot, float* to) {
  const std::int64_t end = candidates_.classes(), own = candidates_.class_of(item);
  const float* const row = similarity(item);
  if (task_.objective == PageObjective::page_value) {
    const float attention = task_.attention == nullptr ? 1.0f : task_.attention[slot];
    for (std::int64_t i = 0; i < end; ++i) to[i] = fma(attention, row[i], from[i]);
  } else if (task_.objective == PageObjective::mmr) {
    for (std::int64_t i = 0; i < end; ++i) to[i] = row[i] > from[i] ? row[i] : from[i];
  } else {
    float* const column = factor_ + taken_ * task_.stride;
    const float rest = from[own] > least_variance ? from[own] : least_variance;
    const float deviation = __builtin_sqrtf(rest);
    for (std::int64_t i = 0; i < end; ++i) column[i] = row[i];
    for (std::int64_t t = 0; t < taken_; ++t) {
      const float* const before = factor_ + t * task_.stride;
      const float factor = -before[own];
      for (std::int64_t i = 0; i < end; ++i) column[i] = fma(factor, before[i], column[i]);
    }
    for (std::int64_t i = 0; i < end; ++i) {
      column[i] /= deviation;
      to[i] = fma(-column[i], column[i], from[i]);
    }
    ++taken_;
  }
}

// Keeps the best extensions, best first. They come in the order that breaks ties, but of sorted candidates.
void Search::insert(const Extension& extension) {
  const auto before = [&](const Extension& other) {
    if (extension.key != other.key || !candidates_.sorted()) return extension.key > other.key;
    return candidates_.index_of(extension.item) < candidates_.index_of(other.item);
  };
  if (found_ == task_.beam && !before(best_[found_ - 1])) return;
  std::int64_t at = found_ < task_.beam ? found_++ : found_ - 1;
  for (; at > 0 && before(best_[at - 1]); --at) best_[at] = best_[at - 1];
  best_[at] = extension;
}

// Offers the extensions of a prefix; returns whether there are any.
bool Search::extend(const Prefix& prefix, std::int32_t rank, std::int64_t slot) {
  const bool greedy = task_.beam == 1;
  candidates_.scores(prefix.state, prefix.decay, score_);
  const float examined = task_.examination == nullptr ? 1.0f : task_.examination[slot];
  const Floats weight = broadcast(examined), total = broadcast(totals_[rank]);
  const auto offer = [&](std::int64_t vector, unsigned mask) {
    const Floats scores = load(score_ + vector);
    const Floats sums = greedy ? scores : fma(weight, scores, total);
    const Ints keys = order_key(sums);
    const std::int32_t bound = found_ == task_.beam ? best_[found_ - 1].key - candidates_.sorted() : key_none;
    unsigned better = greater(keys, broadcast(bound)) & mask;
    if (better == 0) return;
    std::int32_t key[lanes];
    float sum[lanes];
    store(key, keys);
    store(sum, sums);
    for (; better != 0; better &= better - 1) {
      const int lane = __builtin_ctz(better);
      insert({key[lane], rank, static_cast<std::int32_t>(vector + lane), score_[vector + lane], sum[lane]});
    }
  };
  if (const std::int32_t pin = pins_[slot]; pin >= 0) {
    offer(pin / lanes * lanes, 1u << pin % lanes);
    return true;
  }
  bool any = false;
  for (std::int64_t i = 0; i < candidates_.padded(); i += lanes) {
    const unsigned mask = nonzero(prefix.open + i);
    any |= mask != 0;
    offer(i, mask);
  }
  return any;
}

// The best extensions of all prefixes; those that leave the slot empty come last, in the order of their prefixes.
void Search::extend_all(int side, std::int64_t slot) {
  found_ = 0;
  std::int32_t stuck[max_beam];
  std::int64_t stuck_count = 0;
  for (std::int32_t rank = 0; rank < kept_; ++rank)
    if (!extend(prefix(side, rank), rank, slot)) stuck[stuck_count++] = rank;
  for (std::int64_t i = 0; i < stuck_count && found_ < task_.beam; ++i)
    best_[found_++] = {key_none, stuck[i], -1, -__builtin_inff(), totals_[stuck[i]]};
}

// Makes an extension the prefix of a rank on the other side, or in place if there is one side.
void Search::follow(const Extension& extension, int from, int to, std::int64_t rank, std::int64_t slot) {
  const Prefix old = prefix(from, extension.rank), made = prefix(to, rank);
  const std::int64_t end = candidates_.padded();
  const std::int32_t item = extension.item;
  if (from != to) {
    __builtin_memcpy(made.items, old.items, sizeof(std::int32_t) * static_cast<std::size_t>(slot));
    __builtin_memcpy(made.scores, old.scores, sizeof(float) * static_cast<std::size_t>(slot));
    __builtin_memcpy(made.open, old.open, static_cast<std::size_t>(end));
    __builtin_memcpy(made.groups, old.groups,
                     sizeof(std::int32_t) * static_cast<std::size_t>(task_.rules.columns * task_.k));
    if (decays_ != nullptr) __builtin_memcpy(made.decay, old.decay, sizeof(float) * static_cast<std::size_t>(end));
  }
  made.items[slot] = item;
  made.scores[slot] = extension.score;
  if (slot + 1 == task_.k) return;
  if (item >= 0) {
    if (!candidates_.fixed()) update(old.state, item, slot, made.state);
    take(made, slot + 1, item);
  } else if (from != to) {
    __builtin_memcpy(made.state, old.state, sizeof(float) * static_cast<std::size_t>(candidates_.classes()));
  }
}

void Search::run(std::int64_t b) {
  candidates_.load(request_of(task_.requests, b));
  walk(b);
}

bool Search::fill(std::int64_t b, const SortedCandidates& sorted) {
  candidates_.load(sorted);
  walk(b);
  const Prefix page = prefix(0, 0);
  for (std::int64_t slot = 0; slot < task_.k; ++slot) {
    if (page.items[slot] < 0) return false;
    if (decays_ == nullptr) continue;
    // A score that fell to the last candidate's might be below that of one after it.
    const float own = candidates_.values()[page.items[slot]], least = candidates_.values()[sorted.count - 1];
    if (page.scores[slot] != own && !(page.scores[slot] > least)) return false;
  }
  return true;
}

void Search::walk(std::int64_t b) {
  start(b);
  int side = 0;
  std::int64_t slot = 0;
  for (; slot < task_.k; ++slot) {
    extend_all(side, slot);
    if (best_[0].item < 0 && slot > last_pin_) break;  // no prefix has a candidate for this slot, nor for a later one
    const int next = task_.beam > 1 ? 1 - side : side;
    for (std::int64_t rank = 0; rank < found_; ++rank) follow(best_[rank], side, next, rank, slot);
    for (std::int64_t rank = 0; rank < found_; ++rank) totals_[rank] = best_[rank].total;
    kept_ = found_;
    side = next;
  }
  const Prefix best = prefix(side, 0);
  for (; slot < task_.k; ++slot) {
    best.items[slot] = -1;
    best.scores[slot] = -__builtin_inff();
  }
  for (slot = 0; slot < task_.k; ++slot) {
    task_.values[b * task_.k + slot] = best.scores[slot];
    task_.indices[b * task_.k + slot] = best.items[slot] < 0 ? -1 : candidates_.index_of(best.items[slot]);
  }
}

void search(const PageSearchTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
  Search search(task, {scratch});
  for (std::int64_t b = begin; b < end; ++b) search.run(b);
}

// Caps of whole pages turn away for good, so sorted candidates fill the slots in their order. Memory has for each
// column the groups [k] of the page, and those that it has enough of, in whole steps: none is -1.
bool fill_in_order(const PageSearchTask& task, std::int64_t b, const SortedCandidates& sorted, FilledSlots& filled,
                   std::int32_t* memory) {
  constexpr std::int64_t step = 8;
  const RulesTask& rules = task.rules;
  const std::int64_t end = (task.k + step - 1) / step * step, size = task.k + end;
  float* const values = task.values + b * task.k;
  std::int32_t* const indices = task.indices + b * task.k;
  if (filled.seen == 0)
    for (std::int64_t i = 0; i < rules.columns * size; ++i) memory[i] = -1;
  const auto is_full = [&](const std::int32_t* groups) {
    for (std::int64_t a = 0; a < rules.columns; ++a) {
      if (rules.caps[a] < 0 || groups[a] < 0) continue;
      if (rules.caps[a] == 0) return true;
      const std::int32_t* const full = memory + a * size + task.k;
      const std::int32_t group = groups[a];
      for (std::int64_t i = 0; i < end && full[i] >= 0; i += step) {
        std::int32_t same = 0;
        for (std::int64_t j = 0; j < step; ++j) same |= full[i + j] == group;
        if (same != 0) return true;
      }
    }
    return false;
  };
  for (; filled.seen < sorted.count && filled.slots < task.k; ++filled.seen) {
    const std::int32_t position = sorted.positions[filled.seen];
    const std::int32_t index = sorted.ids == nullptr ? position : sorted.ids[position];
    const std::int32_t* const groups = rules.groups + (sorted.first + index) * rules.columns;
    if (is_full(groups)) continue;
    values[filled.slots] = sorted.scores[position];
    indices[filled.slots] = index;
    for (std::int64_t a = 0; a < rules.columns; ++a) {
      std::int32_t *const page = memory + a * size, *full = page + task.k, count = 0;
      page[filled.slots] = groups[a];
      for (std::int64_t slot = 0; slot <= filled.slots; ++slot) count += page[slot] == groups[a];
      if (groups[a] < 0 || count != rules.caps[a]) continue;
      while (*full >= 0) ++full;
      *full = groups[a];
    }
    ++filled.slots;
  }
  for (std::int64_t slot = filled.slots; slot < task.k; ++slot) {
    values[slot] = -__builtin_inff();
    indices[slot] = -1;
  }
  return filled.slots == task.k;
}

bool fill(const PageSearchTask& task, std::int64_t b, const SortedCandidates& sorted, FilledSlots& filled,
          float* scratch) {
  if (task.rules.decay == nullptr && task.rules.cap_slots == nullptr)
    return fill_in_order(task, b, sorted, filled, reinterpret_cast<std::int32_t*>(scratch));
  return Search(task, {scratch}).fill(b, sorted);
}

std::int64_t find_unscaled(const float* embeddings, std::int64_t width, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* const vector = embeddings + row * width;
    float square = dot(vector, vector, width / block);
    for (std::int64_t d = width / block * block; d < width; ++d) square = fma(vector[d], vector[d], square);
    if (!(square == 0.0f || (square >= 0.99f && square <= 1.01f))) return row;
  }
  return -1;
}
}  // namespace

const PageSearchKernels page_search_kernels{&search, &fill, &find_unscaled};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
