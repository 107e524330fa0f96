// Inputs that a log holds of itself: what a user was shown before and did, and what an item earned, both beside what
// was predicted. Training passes over a log, serving reads a store; both call `History`, so columns have the same bits.
// pygrade/reference/history.py has the formulas.
//
// Nothing depends on the order in which exposures and feedback arrive, but for what comes too late to count:
//
// - An exposure counts from `exposure_delay_ms` after it on, its feedback from `feedback_delay_ms` on. Feedback that
//   comes later than that never counts.
// - A user's history is their last `max_shown` exposures: in these the events with an item, with a category and in all
//   are counted.
// - An item's history is sums of whole numbers by steps of an eighth of the half-life. A step counts when the feedback
//   of all of it does, so an item's columns change once a step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
// Immutable: any number of threads may use one at once. T tasks, C context and I item columns.
class PYGRADE_API History {
 public:
  static constexpr std::size_t max_tasks = 16, max_shown = 200, groups = 6;

  // Whose past a column counts: the user's with the item, with its category, the item's, the user's.
  enum class Group : std::uint8_t { seen, category, item, user };
  static constexpr std::array<std::string_view, 4> group_names{"seen", "category", "item", "user"};

  struct Spec {
    std::vector<std::string> tasks;  // [T]
    bool categories = false;         // counts what a user did with categories, too
    std::int64_t exposure_delay_ms = 60'000, feedback_delay_ms = 3'600'000, half_life = 86'400'000;  // ms
    std::vector<float> expected;              // [groups, T] events for each predicted one, by group of slots
    std::vector<float> user, item, category;  // [T] events that the prior weighs
  };

  // A row that was shown. What is stored does not depend on the numbers of the spec, so that a policy trained anew goes
  // on with it.
  struct Exposure {
    std::int64_t time = 0, request = 0, item = 0, category = 0;  // ms since 1970; keys, of no category 0
    std::uint32_t group = 0;                                     // of the slot
    std::uint32_t events = 0;                                    // a bit for each task that happened
    std::array<float, max_tasks> predicted{};                    // [T] >= 0
  };

  struct User {
    std::vector<Exposure> shown;  // by time, request and item
  };

  // [1 + T + groups T] exposures, events, and events predicted in each group in units of 2^-20.
  using Sums = std::vector<std::int64_t>;

  struct Item {
    std::int64_t first = std::numeric_limits<std::int64_t>::max();  // shown, ms since 1970
    std::int64_t epoch = 0;                                         // of recent[0]; recent[1]: the one before
    Sums total;                                                     // empty: nothing yet
    std::array<Sums, 2> recent;                                     // with weights, see history.cpp
    struct Step {
      std::int64_t number;
      Sums sums;
    };
    std::vector<Step> steps;  // that are not in the sums yet
  };

  // Memory that `read` works in, reused. Keys of items and categories are numbered from 1 as they are found.
  struct Workspace {
    // Exposures of a key that count.
    struct Counts {
      std::int64_t key = 0, last = 0;
      std::array<std::uint8_t, max_tasks> events{};
      std::size_t shown = 0;
    };
    struct Table {
      static constexpr int bits = 12;
      std::array<std::uint8_t, 1 << bits> numbers{};  // by hash, 0: none; sparse: most candidates are new to a user
      std::array<Counts, 1 + max_shown> counts{};     // by number
      std::size_t used = 0;
    };
    Table items, categories;
    // By number of the category.
    std::array<std::array<std::int64_t, max_tasks>, 1 + max_shown> expected{};  // in 2^-20
    std::vector<float> columns;                                                 // of items that are not seen, made once
    std::array<bool, 1 + max_shown> has_columns{};
  };

  // std::invalid_argument that names the member, for more than `max_tasks` tasks, sizes that do not fit, numbers that
  // are not positive, or feedback that would count before its exposure.
  explicit History(Spec spec);

  const Spec& spec() const { return spec_; }
  const std::vector<std::string>& context_columns() const { return context_columns_; }  // [C] names
  const std::vector<std::string>& item_columns() const { return item_columns_; }        // [I] names
  std::size_t own_columns() const { return 2 * num_tasks() + 2; }                       // of an item, whoever asks
  Group item_group(std::size_t column) const {
    return column < own_columns()                     ? Group::item
           : column < own_columns() + 2 + num_tasks() ? Group::seen
                                                      : Group::category;
  }
  std::int64_t step_of(std::int64_t time) const;   // that it belongs to
  std::int64_t last_step(std::int64_t now) const;  // that counts at `now`

  // The exposure of a row by its predictions[T] in a slot; those that are not finite count as 0, none: events of such a
  // task are in the user's counts of the item and in no ratio.
  Exposure exposure(std::int64_t time, std::int64_t request, std::int64_t item, std::int64_t category,
                    std::int32_t slot, std::span<const float> predictions) const;

  // Adds an exposure, once: again, it changes nothing. False if it is too old to be among the last.
  bool add_exposure(User& user, const Exposure& exposure) const;
  void add_exposure(Item& item, const Exposure& exposure) const;
  // An event of a task at `now`; false if there was one, the exposure is not there, or its feedback counts already.
  bool add_feedback(User& user, std::int64_t request, std::int64_t item, std::size_t task, std::int64_t now,
                    Exposure& found) const;
  void add_feedback(Item& item, const Exposure& exposure, std::size_t task) const;
  // Takes steps that count at `now` into the sums, but for the last, so that clocks may differ by a step.
  void compact(Item& item, std::int64_t now) const;

  // Columns of an item at a step, out[2 T + 2]; `item` null: never shown.
  void read(const Item* item, std::int64_t step, std::span<float> out) const;
  // Columns of a request: context[C], and of candidates by their keys, columns[N, I] behind the first `own_columns()`
  // of each row. categories[N], or none. `user` null: never seen.
  void read(const User* user, std::int64_t now, std::span<const std::int64_t> items,
            std::span<const std::int64_t> categories, Workspace& workspace, std::span<float> context,
            std::span<float> columns) const;

 private:
  std::size_t num_tasks() const { return spec_.tasks.size(); }
  std::size_t num_sums() const { return 1 + num_tasks() + groups * num_tasks(); }
  Sums& sums_of(Item& item, std::int64_t step) const;

  using Tasks = std::array<float, max_tasks>;

  Spec spec_;
  std::array<Tasks, groups> expected_{};  // of the spec, for kernels
  Tasks user_{}, category_{};
  std::int64_t step_ = 1;  // ms
  std::vector<std::string> context_columns_, item_columns_;
};

// A log, request by request in order of time; what it has of requests and rows.
struct HistoryLog {
  std::span<const std::int64_t> user, time, request;  // [R] keys; ms since 1970
  std::span<const std::int64_t> offsets;              // [R + 1]
  std::span<const std::int64_t> item, category;       // [M] keys; category may be empty
  std::span<const std::int32_t> slot;                 // [M], -1: not shown
  std::span<const float> predictions, feedback;       // [M, T]
};

// The state of a pass over a log, which may come in parts.
class PYGRADE_API HistoryPass {
 public:
  explicit HistoryPass(History history);
  ~HistoryPass();
  HistoryPass(const HistoryPass&) = delete;
  HistoryPass& operator=(const HistoryPass&) = delete;

  const History& history() const;

  // Columns of each request by what was before it: context[R, C] and columns[M, I]. std::invalid_argument, before
  // anything is read, for sizes that do not fit or time that goes back.
  void read(const HistoryLog& log, std::span<float> context, std::span<float> columns);

 private:
  struct Impl;
  Impl* impl_;
};
}  // namespace pygrade::inline v0_2
