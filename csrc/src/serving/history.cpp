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

namespace pygrade::inline v0_2 {
namespace {
using detail::fixed_scale;
using detail::floor_divide;
using detail::hour;
using detail::log1p_of;
using detail::log_ratio;
using detail::require;

constexpr std::int64_t steps_of_half = 8, epoch_steps = 64;  // a step is an eighth of a half-life
constexpr int fine = 4;                                      // bits of expected events that recent sums leave out
constexpr double minute = 60'000.0;                          // ms

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

using Table = History::Workspace::Table;
static_assert(History::max_shown < 256);  // numbers and events of a key are bytes

constexpr auto log1p_of_whole = [] {
  std::array<float, 1 + History::max_shown> logs{};
  for (std::size_t n = 0; n < logs.size(); ++n) logs[n] = static_cast<float>(log1p_of(static_cast<double>(n)));
  return logs;
}();

// The number of a key where it stands in a table, or would; 0: nothing of it was shown.
std::uint8_t& number_of(Table& table, std::int64_t key) {
  std::size_t at = static_cast<std::uint64_t>(key) * 0x9e3779b97f4a7c15 >> (64 - Table::bits);
  for (;; at = (at + 1) % table.numbers.size()) {
    std::uint8_t& number = table.numbers[at];
    if (number == 0 || table.counts[number].key == key) return number;
  }
}

std::size_t find_or_add(Table& table, std::int64_t key) {
  std::uint8_t& number = number_of(table, key);
  if (number == 0) table.counts[number = static_cast<std::uint8_t>(++table.used)] = {.key = key};
  return number;
}

// An event without a prediction has nothing to be compared with.
bool counts_in_ratios(const History::Exposure& exposure, std::size_t task) { return exposure.predicted[task] > 0.0f; }

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
    fail("tasks has " + std::to_string(tasks) + " names; expected 1 to " + std::to_string(max_tasks));
  if (spec_.expected.size() != groups * tasks)
    fail("expected has " + std::to_string(spec_.expected.size()) + " numbers; expected " + std::to_string(groups) +
         " for each task");
  const std::pair<const char*, const std::vector<float>&> numbers[] = {
      {"expected", spec_.expected}, {"user", spec_.user}, {"item", spec_.item}, {"category", spec_.category}};
  for (const auto& [name, values] : numbers) {
    if (&values != &spec_.expected && values.size() != tasks)
      fail(std::string(name) + " has " + std::to_string(values.size()) + " numbers; expected " + std::to_string(tasks));
    if (!std::ranges::all_of(values, [](float v) { return v > 0.0f && std::isfinite(v); }))
      fail(std::string(name) + " holds a number that is not positive");
  }
  if (spec_.exposure_delay_ms < 1 || spec_.feedback_delay_ms < spec_.exposure_delay_ms)
    fail("exposure_delay_ms is " + std::to_string(spec_.exposure_delay_ms) + " and feedback_delay_ms " +
         std::to_string(spec_.feedback_delay_ms) + " ms; expected 1 ≤ exposure_delay_ms ≤ feedback_delay_ms");
  if (spec_.half_life < steps_of_half)
    fail("half_life is " + std::to_string(spec_.half_life) + " ms; expected 8 or more");
  for (std::size_t g = 0; g < groups; ++g) std::copy_n(spec_.expected.data() + g * tasks, tasks, expected_[g].data());
  std::ranges::copy(spec_.user, user_.data()), std::ranges::copy(spec_.category, category_.data());
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

// (step + 1) · step_ms + feedback_delay_ms ≤ now
std::int64_t History::last_step(std::int64_t now) const {
  return floor_divide(now - spec_.feedback_delay_ms, step_) - 1;
}

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
  for (std::size_t t = 0; t < tasks; ++t) {
    sums[1 + t] += static_cast<std::int64_t>((exposure.events >> t & 1u) != 0 && counts_in_ratios(exposure, t));
    std::int64_t& predicted = sums[1 + tasks + exposure.group * tasks + t];
    predicted = saturating_add(predicted, detail::to_fixed(static_cast<double>(exposure.predicted[t])));
  }
}

bool History::add_feedback(User& user, std::int64_t request, std::int64_t item, std::size_t task, std::int64_t now,
                           Exposure& found) const {
  for (auto& exposure : user.shown) {
    if (exposure.request != request || exposure.item != item) continue;
    if (exposure.events >> task & 1u || exposure.time + spec_.feedback_delay_ms < now) return false;
    exposure.events |= 1u << task;
    found = exposure;
    return true;
  }
  return false;
}

void History::add_feedback(Item& item, const Exposure& exposure, std::size_t task) const {
  sums_of(item, step_of(exposure.time))[1 + task] += static_cast<std::int64_t>(counts_in_ratios(exposure, task));
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
  const std::size_t tasks = num_tasks(), width = item_columns_.size(), own = own_columns(), rest = width - own;
  const std::size_t stride = rest + max_tasks;  // of columns of categories, where whole lanes are written
  const auto count = static_cast<std::int64_t>(tasks);
  Table &seen = workspace.items, &known = workspace.categories;
  std::span<const Exposure> shown;
  if (user != nullptr) shown = user->shown;
  while (!shown.empty() && shown.back().time > now - spec_.exposure_delay_ms) shown = shown.first(shown.size() - 1);
  for (Table* table : {&seen, &known}) table->numbers.fill(0), table->used = 0;
  workspace.columns.resize((1 + max_shown) * stride);
  workspace.has_columns.fill(false);
  const auto& kernels = PYGRADE_KERNELS(history_kernels);
  for (const Exposure& exposure : shown) {
    auto& of_item = seen.counts[find_or_add(seen, exposure.item)];
    const std::size_t number = find_or_add(known, spec_.categories ? exposure.category : 0);
    auto& of_category = known.counts[number];
    auto& expected = workspace.expected[number];
    if (of_category.shown == 0) expected.fill(0);
    ++of_item.shown, ++of_category.shown;
    of_item.last = exposure.time;
    if (exposure.time > now - spec_.feedback_delay_ms) continue;
    for (std::uint32_t left = exposure.events & ((1u << tasks) - 1); left != 0; left &= left - 1) {
      const auto t = static_cast<std::size_t>(std::countr_zero(left));
      ++of_item.events[t];
      of_category.events[t] += static_cast<std::uint8_t>(counts_in_ratios(exposure, t));
    }
    kernels.add_expected(exposure.predicted.data(), expected_[exposure.group].data(), count, expected.data());
  }
  std::ranges::fill(context, 0.0f);
  if (!shown.empty()) {
    std::array<std::uint8_t, max_tasks> events{};
    std::array<std::int64_t, max_tasks> expected{};
    for (std::size_t number = 1; number <= known.used; ++number)
      for (std::size_t t = 0; t < max_tasks; ++t) {
        events[t] += known.counts[number].events[t];
        expected[t] += workspace.expected[number][t];
      }
    Tasks ratios;
    kernels.log_ratios(events.data(), expected.data(), user_.data(), count, ratios.data());
    std::copy_n(ratios.data(), tasks, context.data());
    context[tasks] = log1p_of_whole[shown.size()];
    context[tasks + 1] = static_cast<float>(log1p_of(static_cast<double>(now - shown.back().time) / minute));
  }
  float *row = columns.data() + own, *const of_categories = workspace.columns.data();
  for (std::size_t i = 0; i < items.size(); ++i, row += width) {
    const std::size_t category = spec_.categories ? number_of(known, categories[i]) : 0;
    float* const of_category = of_categories + category * stride;
    if (!workspace.has_columns[category]) {
      std::fill_n(of_category, rest, 0.0f);
      if (category != 0 && categories[i] != 0) {
        kernels.log_ratios(known.counts[category].events.data(), workspace.expected[category].data(), category_.data(),
                           count, of_category + 2 + tasks);
        of_category[rest - 1] = log1p_of_whole[known.counts[category].shown];
      }
      workspace.has_columns[category] = true;
    }
    std::copy_n(of_category, rest, row);
    const std::size_t number = number_of(seen, items[i]);
    if (number == 0) continue;
    const auto& of_item = seen.counts[number];
    row[0] = log1p_of_whole[of_item.shown];
    row[1] = static_cast<float>(1.0 / (1.0 + static_cast<double>(now - of_item.last) / hour));
    for (std::size_t t = 0; t < tasks; ++t) row[2 + t] = log1p_of_whole[of_item.events[t]];
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
          "category is missing; expected that of each row");
  fits(log.slot.size() == rows && log.predictions.size() == rows * tasks && log.feedback.size() == rows * tasks,
       "slot, predictions or feedback");
  fits(context.size() == requests * history.context_columns().size() && columns.size() == rows * width, "a result");
  std::int64_t before = impl_->last;
  for (const std::int64_t time : log.time) {
    require(time >= before, "time goes back; expected requests in order of time");
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
