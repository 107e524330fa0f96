#include "pygrade/history.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "checks.hpp"
#include "features/numbers.hpp"
#include "util/fpenv.hpp"
#include "util/hash.hpp"

namespace pygrade::inline v0_2 {

namespace {

using detail::fixed_scale;
using detail::floor_divide;
using detail::hour;
using detail::log1p_of;
using detail::require;

constexpr std::int64_t steps_of_half = 8, epoch_steps = 64;  // a step is an eighth of a half-life
constexpr int fine = 4;                                      // bits of expected events that recent sums leave out
constexpr double minute = 60'000.0;                          // ms
constexpr std::size_t table_size = 512;                      // above max_shown, a power of 2

// round(2^(k / 8) · 2^10): weights of the steps of an epoch, the last ones the largest.
constexpr std::array<std::int64_t, steps_of_half> eighths{1024, 1117, 1218, 1328, 1448, 1579, 1722, 1878};
std::int64_t weight_of(std::int64_t step) {
  const std::int64_t k = detail::floor_modulo(step, epoch_steps);
  return eighths[static_cast<std::size_t>(k % steps_of_half)] << (k / steps_of_half);
}
std::int64_t epoch_of(std::int64_t step) { return floor_divide(step, epoch_steps); }

constexpr std::int64_t largest_sum = std::numeric_limits<std::int64_t>::max();  // of sums, which are not negative
std::int64_t saturating_add(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? largest_sum : sum;
}

auto key_of(const History::Exposure& e) { return std::tuple(e.time, e.request, e.item); }

using Counts = History::Workspace::Counts;
using Table = History::Workspace::Table;

Table::Entry& entry_of(Table& table, std::int64_t key, std::uint32_t round) {
  std::size_t at = detail::splitmix64(static_cast<std::uint64_t>(key)) % table_size;
  while (table.entries[at].round == round && table.entries[at].key != key) at = (at + 1) % table_size;
  return table.entries[at];
}

// Null: nothing of the key was shown.
Counts* find(Table& table, std::int64_t key, std::uint32_t round) {
  const Table::Entry& entry = entry_of(table, key, round);
  return entry.round == round ? &table.counts[entry.place] : nullptr;
}

Counts& find_or_add(Table& table, std::int64_t key, std::uint32_t round, std::size_t tasks) {
  Table::Entry& entry = entry_of(table, key, round);
  if (entry.round != round) {
    entry = {key, round, static_cast<std::uint32_t>(table.used)};
    Counts& counts = table.counts[table.used++];
    counts.shown = 0;
    counts.made = false;
    std::fill_n(counts.events.data(), tasks, 0);
    std::fill_n(counts.expected.data(), tasks, 0);
  }
  return table.counts[entry.place];
}

// Those that ratios count: an event without a prediction has nothing to be compared with.
std::uint32_t predicted_events(const History::Exposure& exposure) {
  std::uint32_t events = exposure.events;
  for (std::size_t t = 0; t < exposure.predicted.size(); ++t)
    if (!(exposure.predicted[t] > 0.0f)) events &= ~(1u << t);
  return events;
}

// Adds a user's exposure to the counts of a key, with some of its events.
void count(Counts& counts, const History::Exposure& exposure, std::uint32_t events,
           std::span<const std::int64_t> expected) {
  counts.last = exposure.time;
  ++counts.shown;
  for (std::size_t t = 0; t < expected.size(); ++t) {
    counts.events[t] += static_cast<std::int32_t>(events >> t & 1u);
    counts.expected[t] += expected[t];
  }
}

// log(1 + events / κ) - log(1 + expected / κ)
float log_ratio(double events, double expected, float weight) {
  const auto prior = static_cast<double>(weight);
  return static_cast<float>(log1p_of(events / prior) - log1p_of(expected / prior));
}

void add(History::Sums& to, const History::Sums& sums, std::int64_t factor, std::size_t first_fine) {
  to.resize(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) {
    std::int64_t product = 0;
    if (__builtin_mul_overflow(i < first_fine ? sums[i] : sums[i] >> fine, factor, &product)) product = largest_sum;
    to[i] = saturating_add(to[i], product);
  }
}

}  // namespace

History::History(Spec spec) : spec_(std::move(spec)) {
  const std::size_t tasks = num_tasks();
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  if (tasks == 0 || tasks > max_tasks)
    fail("tasks has " + std::to_string(tasks) + " names; want 1 to " + std::to_string(max_tasks));
  if (spec_.expected.size() != groups * tasks)
    fail("expected has " + std::to_string(spec_.expected.size()) + " numbers; want " + std::to_string(groups) +
         " for each task");
  const std::pair<const char*, const std::vector<float>&> numbers[] = {
      {"expected", spec_.expected}, {"user", spec_.user}, {"item", spec_.item}, {"category", spec_.category}};
  for (const auto& [name, values] : numbers) {
    if (&values != &spec_.expected && values.size() != tasks)
      fail(std::string(name) + " has " + std::to_string(values.size()) + " numbers; want " + std::to_string(tasks));
    if (!std::ranges::all_of(values, [](float v) { return v > 0.0f && std::isfinite(v); }))
      fail(std::string(name) + " holds a number that is not positive");
  }
  if (spec_.shown_after < 1 || spec_.feedback_after < spec_.shown_after)
    fail("shown_after is " + std::to_string(spec_.shown_after) + " and feedback_after " +
         std::to_string(spec_.feedback_after) + " ms; want 1 ≤ shown_after ≤ feedback_after");
  if (spec_.half_life < steps_of_half) fail("half_life is " + std::to_string(spec_.half_life) + " ms; want 8 or more");
  step_ = spec_.half_life / steps_of_half;
  for (const char* of : {"user_", "item_", "item_recent_", "seen_", "category_"})
    for (const std::string& task : spec_.tasks) {
      if (of == std::string_view("category_") && !spec_.categories) continue;
      (of == std::string_view("user_") ? context_columns_ : item_columns_).push_back(of + task);
    }
  context_columns_.insert(context_columns_.end(), {"user_shown", "user_pause"});
  const auto behind = [&](std::size_t place, std::initializer_list<std::string> names) {
    item_columns_.insert(item_columns_.begin() + static_cast<std::ptrdiff_t>(place), names);
  };
  behind(2 * tasks, {"item_shown", "item_age", "seen", "seen_recently"});
  if (spec_.categories) item_columns_.push_back("category_seen");
}

std::int64_t History::step_of(std::int64_t time) const { return floor_divide(time, step_); }

// (step + 1) · step_ms + feedback_after ≤ now
std::int64_t History::last_step(std::int64_t now) const { return floor_divide(now - spec_.feedback_after, step_) - 1; }

History::Exposure History::exposure(std::int64_t time, std::int64_t request, std::int64_t item, std::int64_t category,
                                    std::int32_t slot, std::span<const float> predictions) const {
  Exposure result{.time = time, .request = request, .item = item, .category = category};
  result.group = std::min<std::uint32_t>(std::bit_width(static_cast<std::uint32_t>(slot)), groups - 1);
  for (std::size_t t = 0; t < num_tasks(); ++t)
    if (std::isfinite(predictions[t]) && predictions[t] > 0.0f) result.predicted[t] = predictions[t];
  return result;
}

bool History::add_exposure(User& user, const Exposure& exposure) const {
  auto& shown = user.shown;
  auto at = shown.end();
  while (at != shown.begin() && key_of(exposure) < key_of(*(at - 1))) --at;
  if (at != shown.begin() && key_of(exposure) == key_of(*(at - 1))) return false;
  if (shown.size() == max_shown) {
    if (at == shown.begin()) return false;
    std::move(shown.begin() + 1, at, shown.begin());
    *(at - 1) = exposure;
  } else {
    shown.insert(at, exposure);
  }
  return true;
}

History::Sums& History::sums_of(Item& item, std::int64_t step) const {
  for (auto& entry : item.steps)
    if (entry.number == step) return entry.sums;
  return item.steps.emplace_back(Item::Step{step, Sums(num_sums())}).sums;
}

void History::add_exposure(Item& item, const Exposure& exposure) const {
  const std::size_t tasks = num_tasks();
  item.first = std::min(item.first, exposure.time);
  Sums& sums = sums_of(item, step_of(exposure.time));
  ++sums[0];
  const std::uint32_t events = predicted_events(exposure);
  for (std::size_t t = 0; t < tasks; ++t) {
    sums[1 + t] += events >> t & 1u;
    std::int64_t& predicted = sums[1 + tasks + exposure.group * tasks + t];
    predicted = saturating_add(predicted, detail::to_fixed(static_cast<double>(exposure.predicted[t])));
  }
}

bool History::add_feedback(User& user, std::int64_t request, std::int64_t item, std::size_t task, std::int64_t now,
                           Exposure& found) const {
  for (auto& exposure : user.shown) {
    if (exposure.request != request || exposure.item != item) continue;
    if (exposure.events >> task & 1u || exposure.time + spec_.feedback_after < now) return false;
    exposure.events |= 1u << task;
    found = exposure;
    return true;
  }
  return false;
}

void History::add_feedback(Item& item, const Exposure& exposure, std::size_t task) const {
  sums_of(item, step_of(exposure.time))[1 + task] += exposure.predicted[task] > 0.0f;
}

// Recent sums are in units of the weight of an epoch's first step, 2^10; of predicted events without `fine` bits.
void History::compact(Item& item, std::int64_t now) const {
  const std::int64_t last = last_step(now) - 1;
  std::erase_if(item.steps, [&](const Item::Step& step) {
    if (step.number > last) return false;
    add(item.total, step.sums, 1, num_sums());
    const std::int64_t epoch = epoch_of(step.number);
    if (epoch > item.epoch) {
      item.recent[1] = epoch == item.epoch + 1 ? std::move(item.recent[0]) : Sums{};
      item.recent[0] = {};
      item.epoch = epoch;
    }
    if (epoch >= item.epoch - 1)
      add(item.recent[epoch == item.epoch ? 0 : 1], step.sums, weight_of(step.number), 1 + num_tasks());
    return true;
  });
}

void History::read(const Item* item, std::int64_t step, std::span<float> out) const {
  const std::size_t tasks = num_tasks();
  std::ranges::fill(out, 0.0f);
  const std::int64_t end = (step + 1) * step_;
  if (item == nullptr || item->first >= end) return;
  const std::int64_t epoch = epoch_of(step);
  Sums total = item->total, now{}, before{};
  if (item->epoch == epoch) now = item->recent[0], before = item->recent[1];
  if (item->epoch == epoch - 1) before = item->recent[0];
  for (const auto& entry : item->steps) {
    if (entry.number > step) continue;
    add(total, entry.sums, 1, num_sums());
    const std::int64_t of = epoch_of(entry.number);
    if (of >= epoch - 1) add(of == epoch ? now : before, entry.sums, weight_of(entry.number), 1 + tasks);
  }
  for (Sums* sums : {&total, &now, &before}) sums->resize(num_sums());
  const auto weight = static_cast<double>(weight_of(step));
  // 64 steps are 8 half-lives.
  const auto recent = [&](std::size_t place) {
    return (static_cast<double>(now[place]) + static_cast<double>(before[place]) / 256.0) / weight;
  };
  for (std::size_t t = 0; t < tasks; ++t) {
    double expected = 0.0, lately = 0.0;
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t place = 1 + tasks + g * tasks + t;
      const auto level = static_cast<double>(spec_.expected[g * tasks + t]);
      expected += level * (static_cast<double>(total[place]) / fixed_scale);
      lately += level * (recent(place) * (1 << fine) / fixed_scale);
    }
    out[t] = log_ratio(static_cast<double>(total[1 + t]), expected, spec_.item[t]);
    out[tasks + t] = log_ratio(recent(1 + t), lately, spec_.item[t]);
  }
  out[2 * tasks] = static_cast<float>(log1p_of(static_cast<double>(total[0])));
  out[2 * tasks + 1] = static_cast<float>(log1p_of(static_cast<double>(end - item->first) / hour));
}

void History::read(const User* user, std::int64_t now, std::span<const std::int64_t> items,
                   std::span<const std::int64_t> categories, Workspace& workspace, std::span<float> context,
                   std::span<float> columns) const {
  const std::size_t tasks = num_tasks(), width = item_columns_.size(), own = own_columns();
  std::ranges::fill(context, 0.0f);
  for (std::size_t i = 0; i < items.size(); ++i) std::fill_n(columns.data() + i * width + own, width - own, 0.0f);
  if (user == nullptr) return;
  // After 2^32 requests marks of old rounds would look new.
  const bool afresh = workspace.items.entries.empty() || ++workspace.round == 0;
  if (afresh) workspace.round = 1;
  for (Table* table : {&workspace.items, &workspace.categories}) {
    if (afresh) table->entries.assign(table_size, {}), table->counts.resize(max_shown);
    table->used = 0;
  }
  const std::uint32_t round = workspace.round;
  Counts all;
  for (const Exposure& exposure : user->shown) {
    if (exposure.time > now - spec_.shown_after) break;
    std::array<std::int64_t, max_tasks> expected{};
    const bool settled = exposure.time <= now - spec_.feedback_after;
    for (std::size_t t = 0; settled && t < tasks; ++t)
      expected[t] = detail::to_fixed(static_cast<double>(exposure.predicted[t]) *
                                     static_cast<double>(spec_.expected[exposure.group * tasks + t]));
    const auto counted = std::span<const std::int64_t>(expected).first(settled ? tasks : 0);
    const std::uint32_t predicted = predicted_events(exposure);
    count(all, exposure, predicted, counted);
    count(find_or_add(workspace.items, exposure.item, round, tasks), exposure, exposure.events, counted);
    if (spec_.categories && exposure.category != 0)
      count(find_or_add(workspace.categories, exposure.category, round, tasks), exposure, predicted, counted);
  }
  if (all.shown == 0) return;
  const auto ratios = [&](const Counts& counts, std::span<const float> weights, float* out) {
    for (std::size_t t = 0; t < tasks; ++t)
      out[t] = log_ratio(counts.events[t], static_cast<double>(counts.expected[t]) / fixed_scale, weights[t]);
  };
  ratios(all, spec_.user, context.data());
  context[tasks] = static_cast<float>(log1p_of(all.shown));
  context[tasks + 1] = static_cast<float>(log1p_of(static_cast<double>(now - all.last) / minute));
  for (std::size_t i = 0; i < items.size(); ++i) {
    float* const row = columns.data() + i * width + own;
    if (const Counts* of_item = find(workspace.items, items[i], round)) {
      row[0] = static_cast<float>(log1p_of(of_item->shown));
      row[1] = static_cast<float>(1.0 / (1.0 + static_cast<double>(now - of_item->last) / hour));
      for (std::size_t t = 0; t < tasks; ++t) row[2 + t] = static_cast<float>(log1p_of(of_item->events[t]));
    }
    if (!spec_.categories || categories[i] == 0) continue;
    Counts* const counts = find(workspace.categories, categories[i], round);
    if (counts == nullptr) continue;
    if (!counts->made) {
      ratios(*counts, spec_.category, counts->columns.data());
      counts->columns[tasks] = static_cast<float>(log1p_of(counts->shown));
      counts->made = true;
    }
    std::copy_n(counts->columns.data(), tasks + 1, row + 2 + tasks);
  }
}

struct HistoryPass::Impl {
  explicit Impl(History given) : history(std::move(given)) {}

  struct Known {
    History::Item item;
    std::int64_t step = std::numeric_limits<std::int64_t>::min();  // of `columns`
    std::vector<float> columns;
  };

  History history;
  std::unordered_map<std::int64_t, History::User> users;
  std::unordered_map<std::int64_t, Known> items;
  History::Workspace workspace;
  std::int64_t last = std::numeric_limits<std::int64_t>::min();
};

HistoryPass::HistoryPass(History history) : impl_(std::make_unique<Impl>(std::move(history)).release()) {}
HistoryPass::~HistoryPass() { delete impl_; }
const History& HistoryPass::history() const { return impl_->history; }

void HistoryPass::read(const HistoryLog& log, std::span<float> context, std::span<float> columns) {
  const History& history = impl_->history;
  const std::size_t requests = log.time.size(), rows = log.item.size(), tasks = history.spec().tasks.size();
  const std::size_t width = history.item_columns().size(), own = history.own_columns();
  const auto fits = [](bool condition, const char* name) {
    require(condition, (std::string(name) + " does not have the size of the log").c_str());
  };
  fits(log.user.size() == requests && log.request.size() == requests, "user or request");
  fits(log.offsets.size() == requests + 1 && log.offsets.front() == 0 && std::ranges::is_sorted(log.offsets) &&
           log.offsets.back() == static_cast<std::int64_t>(rows),
       "offsets");
  fits(log.category.empty() || log.category.size() == rows, "category");
  require(!history.spec().categories || !log.category.empty() || rows == 0,
          "category is missing; want that of each row");
  fits(log.slot.size() == rows && log.predictions.size() == rows * tasks && log.feedback.size() == rows * tasks,
       "slot, predictions or feedback");
  fits(context.size() == requests * history.context_columns().size() && columns.size() == rows * width, "a result");
  std::int64_t before = impl_->last;
  for (const std::int64_t time : log.time) {
    require(time >= before, "time goes back; want requests in order of time");
    before = time;
  }
  impl_->last = before;
  const detail::FloatEnvironment environment;
  for (std::size_t r = 0; r < requests; ++r) {
    const auto begin = static_cast<std::size_t>(log.offsets[r]), end = static_cast<std::size_t>(log.offsets[r + 1]);
    const auto items = log.item.subspan(begin, end - begin);
    const auto categories = log.category.empty() ? log.category : log.category.subspan(begin, end - begin);
    const std::int64_t now = log.time[r], step = history.last_step(now);
    History::User& user = impl_->users[log.user[r]];
    const std::size_t per_request = history.context_columns().size();
    history.read(&user, now, items, categories, impl_->workspace, context.subspan(r * per_request, per_request),
                 columns.subspan(begin * width, (end - begin) * width));
    for (std::size_t m = begin; m < end; ++m) {
      auto& [item, at, cached] = impl_->items[log.item[m]];
      if (at != step) {
        history.compact(item, now);
        cached.resize(own);
        history.read(&item, step, cached);
        at = step;
      }
      std::ranges::copy(cached, columns.begin() + static_cast<std::ptrdiff_t>(m * width));
    }
    for (std::size_t m = begin; m < end; ++m) {
      if (log.slot[m] < 0) continue;
      auto exposure = history.exposure(now, log.request[r], log.item[m], log.category.empty() ? 0 : log.category[m],
                                       log.slot[m], log.predictions.subspan(m * tasks, tasks));
      for (std::size_t t = 0; t < tasks; ++t)
        if (log.feedback[m * tasks + t] > 0.0f) exposure.events |= 1u << t;
      history.add_exposure(user, exposure);
      history.add_exposure(impl_->items[log.item[m]].item, exposure);
    }
  }
}

}  // namespace pygrade::inline v0_2
