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
  std::int64_t count() const { return count_; }
  std::int64_t padded() const { return blocks_of(count_) * block; }
  std::int64_t classes() const { return by_category_ ? blocks_of(task_.category_count + 1) * block : padded(); }
  std::int64_t class_of(std::int64_t i) const { return by_category_ ? categories_[i] : i; }
  // A candidate's row among all requests, and its place in the request; the candidate at a place, or -1.
  std::int64_t row_of(std::int64_t i) const { return first_ + index_of(i); }
  std::int32_t index_of(std::int64_t i) const { return compacted_ ? ids_[i] : static_cast<std::int32_t>(i); }
  std::int32_t at_index(std::int32_t index) const;
  // l(above, i) of every class i.
  void likeness(std::int32_t above, float* row) const;
  // l(i, i).
  void own_likeness(float* row) const;
  // Final scores of every candidate below a prefix of this state (see State).
  void scores(const float* state, float* score) const;

 private:
  void load_embeddings();

  const PageSearchTask& task_;
  std::int64_t first_ = 0, count_ = 0;
  bool compacted_ = false, by_category_ = false;
  std::int32_t *ids_, *categories_;
  float *value_, *root_, *multiply_, *add_, *effect_, *packed_;
  const float* embeddings_ = nullptr;
  std::int64_t components_;  // of a vector, in whole blocks; 0: no embeddings
  std::int64_t vector_stride_ = 0;
};

Candidates::Candidates(const PageSearchTask& task, Memory& memory) : task_(task) {
  ids_ = memory.take<std::int32_t>(task.stride);
  categories_ = memory.take<std::int32_t>(task.stride);
  for (float** part : {&value_, &root_, &multiply_, &add_, &effect_}) *part = memory.take(task.stride);
  components_ = task.embeddings == nullptr ? 0 : blocks_of(task.width) * block;
  packed_ = memory.take(components_ * task.stride);
}

void Candidates::load(Request request) {
  first_ = request.first;
  count_ = request.count;
  compacted_ = false;
  if (task_.mask != nullptr) {
    std::int64_t eligible = 0;
    for (std::int64_t i = 0; i < request.count; ++i) {
      ids_[eligible] = static_cast<std::int32_t>(i);
      eligible += task_.mask[first_ + i] != 0;
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
  copy(task_.boost_mul, multiply_, 1.0f);
  copy(task_.boost_add, add_, 0.0f);
  copy(task_.categories, categories_, std::int32_t{-1});
  if (task_.objective != PageObjective::page_value)
    for (std::int64_t i = 0; i < padded(); ++i) value_[i] *= task_.trade_off;
  if (components_ > 0) load_embeddings();
  by_category_ = components_ == 0 && task_.categories != nullptr && task_.category_count < count_;
  if (!by_category_) return;
  const auto unknown = static_cast<std::int32_t>(task_.category_count);
  for (std::int64_t i = 0; i < padded(); ++i) categories_[i] = categories_[i] < 0 ? unknown : categories_[i];
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

void Candidates::likeness(std::int32_t above, float* row) const {
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

void Candidates::own_likeness(float* row) const {
  const std::int64_t count = by_category_ ? task_.category_count : count_;
  for (std::int64_t i = 0; i < count; ++i) {
    const float* const vector = embeddings_ + i * components_;
    const auto own = by_category_ ? static_cast<std::int32_t>(i) : task_.categories == nullptr ? -1 : categories_[i];
    const float pair = own < 0 ? 0.0f : task_.pairs[own * task_.category_count + own];
    row[i] = fma(task_.cosine, components_ > 0 ? dot(vector, vector, components_ / block) : 0.0f, pair);
  }
}

void Candidates::scores(const float* state, float* score) const {
  const std::int64_t end = padded(), states = classes();
  const float *const value = value_, *const root = root_;
  float* const effect = effect_;
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
  if (task_.boost_mul == nullptr && task_.boost_add == nullptr) return;
  boost(task_.boost_mul == nullptr ? nullptr : multiply_, task_.boost_add == nullptr ? nullptr : add_, end, score);
  for (std::int64_t i = 0; i < end; ++i) score[i] += 0.0f;
}

// What the objective needs to know of a prefix, a number per class: the page's effect (page_value), the likeness of
// the closest item above (mmr), the variance given the items above (log_det). A prefix also has a byte per candidate,
// whether it may take it, its items and their scores.
struct Prefix {
  float* state;
  std::uint8_t* open;
  std::int32_t* items;
  float* scores;
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

 private:
  Prefix prefix(int side, std::int64_t rank) const;
  void start(std::int64_t b);
  void close(const Prefix& prefix, std::int64_t slots, std::int32_t item) const;
  const float* likeness(std::int32_t above);
  void update(const float* from, std::int32_t item, std::int64_t slot, float* to);
  void insert(const Extension& extension);
  bool extend(const Prefix& prefix, std::int32_t rank, std::int64_t slot);
  void extend_all(int side, std::int64_t slot);
  void follow(const Extension& extension, int from, int to, std::int64_t rank, std::int64_t slot);

  const PageSearchTask& task_;
  Candidates candidates_;
  std::int32_t *pins_, *items_, *cached_, *place_;  // place_: of a candidate's row in the cache, or -1
  float *states_, *scores_, *rows_, *factor_, *score_;
  std::uint8_t* open_;
  std::int64_t cached_count_ = 0, taken_ = 0;  // rows given out; columns of the Cholesky factor
  std::int64_t kept_ = 1, found_ = 0;          // prefixes, and extensions
  Extension best_[max_beam];
  float totals_[max_beam];
};

Search::Search(const PageSearchTask& task, Memory memory) : task_(task), candidates_(task, memory) {
  const std::int64_t stride = task.stride, beam = task.beam;
  pins_ = memory.take<std::int32_t>(task.k);
  items_ = memory.take<std::int32_t>(2 * beam * task.k);
  scores_ = memory.take(2 * beam * task.k);
  cached_ = memory.take<std::int32_t>(cached_rows);
  place_ = memory.take<std::int32_t>(stride);
  score_ = memory.take(stride);
  states_ = memory.take(2 * beam * stride);
  open_ = memory.take<std::uint8_t>(beam * stride / 2);
  rows_ = memory.take((beam > 1 ? cached_rows : 1) * stride);
  factor_ = memory.take(task.objective == PageObjective::log_det ? task.k * stride : 0);
}

Prefix Search::prefix(int side, std::int64_t rank) const {
  const std::int64_t place = side * task_.beam + rank;
  return {states_ + place * task_.stride, open_ + place * task_.stride, items_ + place * task_.k,
          scores_ + place * task_.k};
}

// The empty prefix: eligible candidates without pins, which count for the caps.
void Search::start(std::int64_t b) {
  const Prefix empty = prefix(0, 0);
  const std::int64_t end = candidates_.padded(), count = candidates_.count();
  for (std::int64_t i = 0; i < candidates_.classes(); ++i) empty.state[i] = 0.0f;
  for (std::int64_t i = 0; i < end; ++i) {
    empty.open[i] = i < count && (task_.mask == nullptr || task_.mask[candidates_.row_of(i)] != 0);
    place_[i] = -1;
  }
  for (std::int64_t a = 0; a < task_.columns; ++a)
    for (std::int64_t i = 0; task_.caps[a] == 0 && i < count; ++i)
      if (task_.groups[candidates_.row_of(i) * task_.columns + a] >= 0) empty.open[i] = 0;
  for (std::int64_t slot = 0; slot < task_.k; ++slot) pins_[slot] = -1;
  for (std::int64_t slot = 0; task_.pins != nullptr && slot < task_.k; ++slot) {
    const std::int32_t pin = task_.pins[b * task_.k + slot];
    const std::int32_t place = pin < 0 ? -1 : candidates_.at_index(pin);
    if (place < 0 || empty.open[place] == 0) continue;
    pins_[slot] = place;
    close(empty, 0, place);
  }
  kept_ = 1;
  totals_[0] = 0.0f;
  cached_count_ = taken_ = 0;
  if (task_.objective != PageObjective::log_det) return;
  candidates_.own_likeness(empty.state);
}

// Takes an item to the first `slots` of a prefix: closes it, and the candidates of every group that it fills. Pins of
// later slots count.
void Search::close(const Prefix& prefix, std::int64_t slots, std::int32_t item) const {
  const std::int32_t* const groups = task_.groups;
  const std::int64_t columns = task_.columns;
  prefix.open[item] = 0;
  for (std::int64_t a = 0; a < columns; ++a) {
    const std::int32_t value = groups[candidates_.row_of(item) * columns + a];
    if (task_.caps[a] < 0 || value < 0) continue;
    std::int64_t count = 0;
    for (std::int64_t slot = 0; slot < task_.k; ++slot) {
      const std::int32_t other = slot < slots ? prefix.items[slot] : pins_[slot];
      count += other >= 0 && groups[candidates_.row_of(other) * columns + a] == value;
    }
    for (std::int64_t i = 0; count >= task_.caps[a] && i < candidates_.count(); ++i)
      if (groups[candidates_.row_of(i) * columns + a] == value) prefix.open[i] = 0;
  }
}

// Prefixes of a beam share items, so rows are kept.
const float* Search::likeness(std::int32_t above) {
  if (task_.beam == 1) {
    candidates_.likeness(above, rows_);
    return rows_;
  }
  if (place_[above] < 0) {
    const std::int64_t place = cached_count_ % cached_rows;
    if (cached_count_++ >= cached_rows) place_[cached_[place]] = -1;
    cached_[place] = above;
    place_[above] = static_cast<std::int32_t>(place);
    candidates_.likeness(above, rows_ + place * task_.stride);
  }
  return rows_ + place_[above] * task_.stride;
}

// The state of a prefix with one more item.
void Search::update(const float* from, std::int32_t item, std::int64_t slot, float* to) {
  const std::int64_t end = candidates_.classes(), own = candidates_.class_of(item);
  const float* const row = likeness(item);
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

// Keeps the best extensions, best first. They come in the order that breaks ties.
void Search::insert(const Extension& extension) {
  if (found_ == task_.beam && extension.key <= best_[found_ - 1].key) return;
  std::int64_t at = found_ < task_.beam ? found_++ : found_ - 1;
  for (; at > 0 && best_[at - 1].key < extension.key; --at) best_[at] = best_[at - 1];
  best_[at] = extension;
}

// Offers the extensions of a prefix; returns whether there are any.
bool Search::extend(const Prefix& prefix, std::int32_t rank, std::int64_t slot) {
  candidates_.scores(prefix.state, score_);
  const bool greedy = task_.beam == 1;
  const float examined = task_.examination == nullptr ? 1.0f : task_.examination[slot];
  const Floats weight = broadcast(examined), total = broadcast(totals_[rank]);
  const auto offer = [&](std::int64_t vector, unsigned mask) {
    const Floats scores = load(score_ + vector);
    const Floats sums = greedy ? scores : fma(weight, scores, total);
    const Ints keys = order_key(sums);
    const std::int32_t bound = found_ == task_.beam ? best_[found_ - 1].key : key_none;
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
  }
  made.items[slot] = item;
  made.scores[slot] = extension.score;
  if (slot + 1 == task_.k) return;
  if (item >= 0) {
    update(old.state, item, slot, made.state);
    close(made, slot + 1, item);
  } else if (from != to) {
    __builtin_memcpy(made.state, old.state, sizeof(float) * static_cast<std::size_t>(candidates_.classes()));
  }
}

void Search::run(std::int64_t b) {
  candidates_.load(request_of(task_.requests, b));
  start(b);
  int side = 0;
  for (std::int64_t slot = 0; slot < task_.k; ++slot) {
    extend_all(side, slot);
    const int next = task_.beam > 1 ? 1 - side : side;
    for (std::int64_t rank = 0; rank < found_; ++rank) follow(best_[rank], side, next, rank, slot);
    for (std::int64_t rank = 0; rank < found_; ++rank) totals_[rank] = best_[rank].total;
    kept_ = found_;
    side = next;
  }
  const Prefix best = prefix(side, 0);
  for (std::int64_t slot = 0; slot < task_.k; ++slot) {
    task_.values[b * task_.k + slot] = best.scores[slot];
    task_.indices[b * task_.k + slot] = best.items[slot] < 0 ? -1 : candidates_.index_of(best.items[slot]);
  }
}

void search(const PageSearchTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
  Search search(task, {scratch});
  for (std::int64_t b = begin; b < end; ++b) search.run(b);
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

const PageSearchKernels page_search_kernels{&search, &find_unscaled};

}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
