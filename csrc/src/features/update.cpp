// Writes feedback into the current version of a store.
#include <algorithm>
#include <numeric>

#include "features/center.hpp"
#include "features/feedback.hpp"
#include "features/record_layout.hpp"
#include "util/fpenv.hpp"

namespace pygrade::inline v0_2 {

namespace {

using detail::Plan;
using Column = std::vector<std::int64_t>;

Column sorted_distinct(std::span<const std::int64_t> ids) {
  Column distinct(ids.begin(), ids.end());
  std::ranges::sort(distinct);
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  return distinct;
}

// Attributes of the users or items of some events.
struct Known {
  Column ids;   // ascending, each once
  Column rows;  // [ids, width]
  std::size_t width;
  Column unknown;  // ids that are not remembered

  Known(std::span<const std::int64_t> of_events, std::size_t row_width)
      : ids(sorted_distinct(of_events)), rows(ids.size() * row_width), width(row_width) {}

  void recall(const detail::RowMemory& memory) {
    unknown.clear();
    for (const std::int64_t id : ids)
      if (!memory.recall(id, row(id).data())) unknown.push_back(id);
  }
  std::span<std::int64_t> row(std::int64_t id) {
    const auto place = static_cast<std::size_t>(std::ranges::lower_bound(ids, id) - ids.begin());
    return std::span(rows).subspan(place * width, width);
  }
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
    if (count >= std::size_t{1} << 32) throw SchemaError("feedback has 2^32 events or more; want fewer at once");
  }

  void write(const detail::Outcomes& outcomes) {
    Known users(events_.user_id, plan_.schema.user_width), items(events_.item_id, plan_.items.width());
    ask(users, items);
    std::vector<std::uint32_t> in_time(events_.user_id.size());
    if (in_time.empty()) return;
    std::iota(in_time.begin(), in_time.end(), 0u);
    std::ranges::stable_sort(in_time, [&](std::uint32_t a, std::uint32_t b) {
      return std::pair(events_.event_time[a], events_.item_id[a]) <
             std::pair(events_.event_time[b], events_.item_id[b]);
    });
    struct Run {
      const detail::Table* table;
      detail::KeyedEvents keyed;
      detail::RecordLayout layout;
    };
    const detail::EventColumns columns{events_.event_time,
                                       events_.item_id,
                                       {outcomes.values.begin(), outcomes.values.end()},
                                       {outcomes.known.begin(), outcomes.known.end()}};
    std::vector<Run> runs;
    std::vector<StoreQuery> queries;
    runs.reserve(plan_.tables.size());
    for (const auto& table : plan_.tables) {
      auto keyed = detail::group(keys_of(table, users, items), in_time);
      if (keyed.keys.empty()) continue;
      runs.push_back({table.table, std::move(keyed), detail::RecordLayout(plan_.schema, *table.table)});
      queries.push_back({table.stored_name, runs.back().keyed.keys});
    }
    center_.store->update(
        queries,
        [&](StoreValues stored, std::span<std::string> changed) {
          std::size_t at = 0;
          Column record;
          for (const Run& run : runs) {
            record.resize(run.table->empty.size());
            for (std::size_t k = 0; k < run.keyed.keys.size(); ++k, ++at) {
              std::memcpy(record.data(), center_.record(*run.table, stored[at]), 8 * record.size());
              for (std::size_t e = run.keyed.start[k]; e < run.keyed.start[k + 1]; ++e)
                run.layout.add(columns, run.keyed.events[e], record.data());
              changed[at].assign(reinterpret_cast<const char*>(record.data()), 8 * record.size());
            }
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
      if (ask_users) queries.push_back({plan_.user_table_name, users.unknown});
      if (ask_items) queries.push_back({plan_.item_table_name, items.unknown});
      bool current = false;
      center_.get(*center_.store, queries, {}, [&](StoreValues values) {
        current = center_.is_current(center_.writing, values[0], *seen);
        values = values.subspan(1);
        if (!current) return;
        for (std::size_t i = 0; ask_users && i < users.unknown.size(); ++i) {
          const auto row = users.row(users.unknown[i]);
          center_.read_attributes(values[i], plan_.empty_user, row.data());
          seen->users.remember(users.unknown[i], row.data());
        }
        values = values.last(ask_items ? items.unknown.size() : 0);
        Column stored(plan_.schema.item_width);
        for (std::size_t i = 0; i < values.size(); ++i) {
          const auto row = items.row(items.unknown[i]);
          center_.read_attributes(values[i], plan_.empty_item, stored.data());
          plan_.remember(items.unknown[i], stored, row);
          seen->items.remember(items.unknown[i], row.data());
        }
      });
      if (current) return;
    }
    center_.fail_restless("one update");
  }

  Column keys_of(const detail::TablePlan& table, Known& users, Known& items) const {
    const bool scenario = !events_.scenario.empty() && plan_.schema.counts_over("scenario");
    Column keys(events_.user_id.size());
    for (std::size_t e = 0; e < keys.size(); ++e) {
      detail::Codes codes{events_.user_id[e], events_.item_id[e]};
      if (scenario) codes.scenario = detail::scenario_code(events_.scenario[e]);
      if (plan_.keys_need_users) codes.user = users.row(codes.user_id).data();
      if (plan_.keys_need_items) codes.item = items.row(codes.item_id).data();
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
