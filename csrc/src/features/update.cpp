// Writes feedback into the current version of a store.
#include <algorithm>

#include "features/center.hpp"
#include "features/record_table.hpp"
#include "util/fpenv.hpp"

namespace pygrade::inline v0_2 {
namespace {
using detail::Plan;
using Column = std::vector<std::int64_t>;

// Attributes of the users or items of some events, each once.
struct Known {
  detail::KeyIndex index;              // of the ids
  std::vector<std::uint32_t> numbers;  // of each event's
  Column rows;                         // [ids, width]
  std::size_t width;
  std::vector<std::uint32_t> unknown;  // numbers of those that are not remembered
  Column unknown_ids;

  // `nothing`: the row of an id that none can have.
  Known(std::span<const std::int64_t> of_events, const Column& nothing)
      : numbers(of_events.size()), width(nothing.size()) {
    index.add(of_events, numbers.data());
    const std::size_t ids = index.keys().size();
    rows.resize(ids * width);
    rows.insert(rows.end(), nothing.begin(), nothing.end());
    std::ranges::replace(numbers, detail::KeyIndex::none, static_cast<std::uint32_t>(ids));
  }

  void recall(const detail::RowMemory& memory) {
    unknown.clear();
    unknown_ids.clear();
    for (std::uint32_t number = 0; number < index.keys().size(); ++number) {
      if (memory.recall(index.keys()[number], row(number).data())) continue;
      unknown.push_back(number);
      unknown_ids.push_back(index.keys()[number]);
    }
  }
  std::span<std::int64_t> row(std::uint32_t number) { return std::span(rows).subspan(number * width, width); }
  const std::int64_t* of_event(std::size_t event) const { return rows.data() + numbers[event] * width; }
};

class Writer {
 public:
  Writer(FeatureCenter::Impl& center, const FeedbackEvents& events)
      : center_(center), plan_(center.plan), events_(events) {}

  std::size_t run() {
    check();
    const detail::Outcomes outcomes = detail::outcomes_of(plan_.schema, events_);
    try {
      write(outcomes);
    } catch (const StoreError&) {
      center_.counts.store_errors.fetch_add(1, std::memory_order_relaxed);
      throw;
    }
    center_.counts.updates.fetch_add(events_.user_id.size(), std::memory_order_relaxed);
    return events_.user_id.size();
  }

 private:
  void check() const {
    const std::size_t count = events_.user_id.size();
    if (events_.item_id.size() != count || events_.event_time.size() != count)
      throw SchemaError("feedback has columns of different lengths");
    if (!events_.scenario.empty() && events_.scenario.size() != count)
      throw SchemaError("feedback scenario has another length than user_id");
    if (count > 0 && events_.scenario.empty() && plan_.schema.counts_over("scenario"))
      throw SchemaError("feedback lacks scenario, which histories are kept over");
    if (count >= std::size_t{1} << 32) throw SchemaError("feedback has 2^32 events or more; expected fewer at once");
  }

  void write(const detail::Outcomes& outcomes) {
    Column no_item(plan_.items.width());
    plan_.remember(detail::null_code, plan_.empty_item, no_item);
    Known users(events_.user_id, plan_.empty_user), items(events_.item_id, no_item);
    ask(users, items);
    struct Run {
      const detail::Table& table;
      detail::KeyIndex keys;
      std::vector<std::uint32_t> numbers;  // of each event's key
    };
    const detail::EventColumns columns{events_.event_time,
                                       events_.item_id,
                                       {outcomes.values.begin(), outcomes.values.end()},
                                       {outcomes.known.begin(), outcomes.known.end()}};
    std::vector<Run> runs;
    std::vector<StoreQuery> queries;
    runs.reserve(plan_.tables.size());
    for (const auto& table : plan_.tables) {
      Run run{*table.table, {}, std::vector<std::uint32_t>(events_.user_id.size())};
      run.keys.add(keys_of(table, users, items), run.numbers.data());
      if (run.keys.keys().empty()) continue;
      runs.push_back(std::move(run));
      queries.push_back({table.stored_name, runs.back().keys.keys()});
    }
    if (runs.empty()) return;
    center_.store->update(
        queries,
        [&](StoreValues stored, std::span<std::string> changed) {
          std::size_t at = 0;
          Column records;
          for (const auto& [table, keys, numbers] : runs) {
            const std::size_t width = table.width(), count = keys.keys().size();
            records.resize(count * width);
            for (std::size_t k = 0; k < count; ++k)
              std::memcpy(records.data() + k * width, center_.record(table, stored[at + k]), 8 * width);
            for (std::size_t e = 0; e < numbers.size(); ++e)
              if (numbers[e] != detail::KeyIndex::none)
                detail::add_event(table, columns, e, records.data() + numbers[e] * width);
            for (std::size_t k = 0; k < count; ++k)
              changed[at++].assign(reinterpret_cast<const char*>(records.data() + k * width), 8 * width);
          }
        },
        center_.ttl);
  }

  // Finds the attributes that keys depend on, in the current version.
  void ask(Known& users, Known& items) {
    for (int attempt = 0; attempt < version_tries; ++attempt) {
      const auto seen = center_.writing.version();
      users.recall(seen->users);
      items.recall(seen->items);
      // The version even if nothing else is asked: one that only writes would not notice another.
      const bool ask_users = plan_.keys_need_users && !users.unknown.empty(),
                 ask_items = plan_.keys_need_items && !items.unknown.empty();
      std::vector<StoreQuery> queries = {{meta_table, meta_key}};
      if (ask_users) queries.push_back({plan_.user_table_name, users.unknown_ids});
      if (ask_items) queries.push_back({plan_.item_table_name, items.unknown_ids});
      bool current = false;
      center_.get(*center_.store, queries, {}, [&](StoreValues values) {
        current = center_.is_current(center_.writing, values[0], *seen);
        values = values.subspan(1);
        if (!current) return;
        for (std::size_t i = 0; ask_users && i < users.unknown.size(); ++i) {
          const auto row = users.row(users.unknown[i]);
          center_.read_attributes(values[i], plan_.empty_user, row.data());
          seen->users.remember(users.unknown_ids[i], row.data());
        }
        values = values.last(ask_items ? items.unknown.size() : 0);
        Column stored(plan_.schema.item_width);
        for (std::size_t i = 0; i < values.size(); ++i) {
          const auto row = items.row(items.unknown[i]);
          center_.read_attributes(values[i], plan_.empty_item, stored.data());
          plan_.remember(items.unknown_ids[i], stored, row);
          seen->items.remember(items.unknown_ids[i], row.data());
        }
      });
      if (current) return;
    }
    center_.fail_restless("one update");
  }

  Column keys_of(const detail::TablePlan& table, const Known& users, const Known& items) const {
    const bool scenario = !events_.scenario.empty() && plan_.schema.counts_over("scenario");
    Column keys(events_.user_id.size());
    for (std::size_t e = 0; e < keys.size(); ++e) {
      detail::Codes codes{events_.user_id[e], events_.item_id[e]};
      if (scenario) codes.scenario = detail::scenario_code(events_.scenario[e]);
      if (plan_.keys_need_users) codes.user = users.of_event(e);
      if (plan_.keys_need_items) codes.item = items.of_event(e);
      keys[e] = table.key_of(codes);
    }
    return keys;
  }

  FeatureCenter::Impl& center_;
  const Plan& plan_;
  const FeedbackEvents& events_;
  const detail::FloatEnvironment environment_;
};
}  // namespace

std::size_t FeatureCenter::update(const FeedbackEvents& events) { return Writer(*impl_, events).run(); }
}  // namespace pygrade::inline v0_2
