#include "pygrade/history_store.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <limits>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "checks.hpp"
#include "serving/history_record.hpp"
#include "serving/missing.hpp"
#include "serving/prediction_scales.hpp"
#include "stores/record.hpp"
#include "util/blake2b.hpp"
#include "util/forks.hpp"
#include "util/fpenv.hpp"
#include "util/hash.hpp"
#include "util/row_memory.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
using Clock = std::chrono::steady_clock;

constexpr std::string_view version_name = "history";  // of the store
constexpr std::string_view layout_table = "history";  // key 0: all layouts that were written, 8 digits each
constexpr std::size_t layout_digits = 8;
constexpr std::size_t batch_rows = 5'000;  // exposures of one update of the store
constexpr std::size_t prefetched = 32;     // candidates ahead of the one that is read
constexpr auto sweep_time = std::chrono::hours(1);
constexpr double removed_ttl = 1.0;  // seconds until a record that was emptied is gone
constexpr std::int64_t never = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t layout_key = 0;

std::string layout_of(const History::Spec& spec) {
  std::string text = std::to_string(spec.half_life) + "," + std::to_string(spec.feedback_delay_ms);
  text += spec.categories ? ",categories" : ",";
  for (const std::string& task : spec.tasks) text.append(1, '\0').append(task);
  const std::uint64_t bits = digest_bits(text);
  std::string digits;
  for (std::size_t i = 0; i < layout_digits; ++i) digits += "0123456789abcdef"[bits >> 4 * i & 15];
  return digits;
}

std::string user_table_of(std::string_view layout) { return "history_user_" + std::string(layout); }

void insert_once(std::vector<std::int64_t>& keys) {
  std::ranges::sort(keys);
  keys.erase(std::ranges::unique(keys).begin(), keys.end());
}

std::size_t place_of(const std::vector<std::int64_t>& keys, std::int64_t key) {
  return static_cast<std::size_t>(std::ranges::lower_bound(keys, key) - keys.begin());
}

// Adds a page to a user's record and calls `added` with each row that is new. A client that asks again with an id is
// served again; the first page counts, as in pygrade join.
template <class Added>
void add_page(const History& history, History::User& user, std::span<const History::Exposure> rows, Added&& added) {
  if (std::ranges::find(user.shown, rows.front().request, &History::Exposure::request) != user.shown.end()) return;
  for (const auto& row : rows)
    if (history.add_exposure(user, row)) added(row);
}

// Somebody who waits until something is written.
struct Waiter {
  bool done = false;
  std::size_t count = 0;  // events that counted
  std::string error;      // "": none
};

// An entry of the queue: a page of a user, or events, or nothing, to wait for what comes before.
struct Entry {
  std::shared_ptr<const StoredHistory> history;
  std::int64_t user = 0;  // as it is stored
  std::vector<History::Exposure> shown;
  std::vector<HistoryEvent> events;
  Waiter* waiter = nullptr;

  std::int64_t first() const {
    std::int64_t time = never;
    for (const auto& row : shown) time = std::min(time, row.time);
    return time;
  }
};
}  // namespace

std::int64_t history_key(std::int64_t id) {
  return static_cast<std::int64_t>(splitmix64(static_cast<std::uint64_t>(id)));
}

std::int64_t history_key(std::string_view name) { return history_key(stable_id(name)); }
std::int64_t category_key(std::string_view name) { return name.empty() ? 0 : history_key(name); }

std::vector<History::Exposure> exposures_of(const History& history, const Policy& policy, const Request& request,
                                            std::span<const std::int32_t> shown, const LogIds& ids) {
  Reading reading;
  const auto predictions = as_logged(policy, request, reading).predictions;
  const auto &names = policy.tasks(), &counted = history.spec().tasks;
  const std::size_t width = names.size(), candidates = predictions.size() / width;
  require(ids.timestamp.has_value(), "timestamp is missing; expected that of the page");
  require(ids.item_id.size() == candidates, "item_id must have one entry for each candidate");
  require(request.categories.empty() || request.categories.size() == candidates,
          "categories must have one name for each candidate, or none");
  std::vector<std::size_t> tasks;
  for (const std::string& task : counted) {
    tasks.push_back(static_cast<std::size_t>(std::ranges::find(names, task) - names.begin()));
    require(tasks.back() < width, "a task of the history is none of the policy's");
  }
  std::vector<History::Exposure> rows;
  std::vector<float> of_row(tasks.size());
  for (std::size_t slot = 0; slot < shown.size(); ++slot) {
    const auto row = static_cast<std::size_t>(shown[slot]);
    require(shown[slot] >= 0 && row < candidates, "shown holds an index that is none of the candidates");
    for (std::size_t t = 0; t < tasks.size(); ++t) {
      const float prediction = predictions[row * width + tasks[t]];
      of_row[t] = is_missing(prediction) ? smallest(predictions, width, tasks[t]) : prediction;
    }
    const bool categorized = history.spec().categories && !request.categories.empty();
    rows.push_back(history.exposure(*ids.timestamp, history_key(ids.request_id), history_key(ids.item_id[row]),
                                    categorized ? category_key(request.categories[row]) : 0,
                                    static_cast<std::int32_t>(slot), of_row));
  }
  return rows;
}

struct StoredHistory::Impl {
  Impl(History given, std::size_t items)
      : history(std::move(given)),
        layout(layout_of(history.spec())),
        user_table(user_table_of(layout)),
        item_table("history_item_" + layout),
        words(1 + history.own_columns() / 2),
        columns(words, items) {}

  // Copies the columns of items that are known at a step; the others are missing.
  [[gnu::noinline]] void recall(std::span<const std::int64_t> items, std::int64_t step, float* out,
                                std::vector<std::size_t>& missing) const {
    const std::size_t width = history.item_columns().size(), size = words;
    std::array<RowMemory::Place, prefetched> places;
    for (std::size_t i = 0; i < std::min(prefetched, items.size()); ++i) places[i] = columns.prefetch(items[i]);
    for (std::size_t i = 0; i < items.size(); ++i, out += width) {
      const RowMemory::Place place = places[i % prefetched];
      if (i + prefetched < items.size()) places[i % prefetched] = columns.prefetch(items[i + prefetched]);
      const bool known = columns.recall(items[i], place, [=](RowMemory::Place row) {
        if (static_cast<std::int64_t>(row[0].load(std::memory_order_acquire)) != step) return false;
#pragma GCC unroll 2
        for (std::size_t w = 1; w < size; ++w) {
          const std::uint64_t two = row[w].load(std::memory_order_acquire);
          std::memcpy(out + 2 * (w - 1), &two, sizeof two);  // an even number of columns
        }
        return true;
      });
      if (!known) missing.push_back(i);
    }
  }

  const History history;
  const std::string layout, user_table, item_table;
  const std::size_t words;  // of a row: the step, then floats
  RowMemory columns;
};

StoredHistory::StoredHistory(History history, std::size_t items)
    : impl_(std::make_unique<Impl>(std::move(history), items)) {}
StoredHistory::~StoredHistory() = default;
const History& StoredHistory::history() const { return impl_->history; }
const std::string& StoredHistory::layout() const { return impl_->layout; }

struct HistoryBuffer::Work {
  History::Workspace workspace;
  History::User user;
  History::Item item;
  std::vector<std::int64_t> row, missing_keys;
  std::vector<std::size_t> missing;                       // places of candidates
  std::vector<std::vector<History::Exposure>> unwritten;  // pages of the user
};

HistoryBuffer::HistoryBuffer() : work(std::make_unique<Work>()) {}
HistoryBuffer::~HistoryBuffer() = default;
HistoryBuffer::HistoryBuffer(HistoryBuffer&&) noexcept = default;
HistoryBuffer& HistoryBuffer::operator=(HistoryBuffer&&) noexcept = default;

struct HistoryStore::Impl {
  Impl(std::shared_ptr<Store> given, const HistoryStoreOptions& chosen)
      : store(std::move(given)), options(chosen), forks(fork_count()) {
    if (store == nullptr) throw std::invalid_argument("store is null");
    if (options.ttl && !(*options.ttl > 0.0)) throw std::invalid_argument("ttl is not positive");
    thread = std::thread([this] { run(); });
  }

  std::int64_t stored_key(std::int64_t user) const {
    return static_cast<std::int64_t>(digest_bits(options.salt + '\0' + std::to_string(user)));
  }
  void prepare();
  void await(std::int64_t until, std::optional<Clock::time_point> deadline);
  void find_unwritten(const StoredHistory& history, std::int64_t user,
                      std::vector<std::vector<History::Exposure>>& pages) const;
  bool push(Entry entry, bool bounded);
  std::size_t finish(Entry entry);
  void run();
  void take();
  void write_each();
  void write(std::span<Entry> entries);
  void settle(const std::string& failure);
  void sweep();

  const std::shared_ptr<Store> store;
  const HistoryStoreOptions options;
  const int forks;                          // of the process that started the thread
  std::atomic<bool> ready{false};           // a version is current
  std::atomic<std::int64_t> oldest{never};  // exposure that is not written yet, ms since 1970
  std::atomic<std::uint64_t> read_errors{0};

  mutable std::mutex mutex;  // guards the following
  std::condition_variable wake, done;
  std::deque<Entry> queue;
  std::vector<Entry> batch;         // that is being written: the thread reads it without the lock
  std::size_t rows = 0, pages = 0;  // exposures and pages that are not written yet
  bool urgent = false, closing = false, failing = false;
  std::uint64_t rounds = 0;  // of writing
  HistoryCounters counters;
  std::string error;

  std::set<std::string, std::less<>> written_layouts;  // of the thread
  Clock::time_point next_sweep = Clock::now() + sweep_time;
  std::thread thread;
};

// Begins a version in a store that has none. Another process may do so at once.
void HistoryStore::Impl::prepare() {
  if (ready.load(std::memory_order_acquire)) return;
  if (!store->current()) {
    try {
      store->begin(std::string(version_name));
      store->switch_to(std::string(version_name));
    } catch (const StoreError&) {
      if (!store->current()) throw;
    }
  }
  ready.store(true, std::memory_order_release);
}

// Returns when every exposure up to a time is written.
void HistoryStore::Impl::await(std::int64_t until, std::optional<Clock::time_point> deadline) {
  if (oldest.load(std::memory_order_acquire) > until) return;
  std::unique_lock lock(mutex);
  urgent = true;
  wake.notify_one();
  if (!failing)
    done.wait_until(lock, deadline.value_or(Clock::now() + options.wait),
                    [&] { return oldest.load(std::memory_order_relaxed) > until || failing; });
  if (oldest.load(std::memory_order_relaxed) <= until)
    throw StoreUnreachableError(store->url() + ": exposures that count are not written yet" +
                                (error.empty() ? "" : ": " + error));
}

// Pages of a user that are not written. They do not count yet, but push old ones out of the user's record.
void HistoryStore::Impl::find_unwritten(const StoredHistory& history, std::int64_t user,
                                        std::vector<std::vector<History::Exposure>>& found) const {
  found.clear();
  if (oldest.load(std::memory_order_acquire) == never) return;
  const auto look = [&](const auto& entries) {
    for (const Entry& entry : entries)
      if (entry.user == user && !entry.shown.empty() && entry.history->layout() == history.layout())
        found.push_back(entry.shown);
  };
  const std::lock_guard lock(mutex);
  look(batch);
  look(queue);
}

// False if there is no room.
bool HistoryStore::Impl::push(Entry entry, bool bounded) {
  const std::lock_guard lock(mutex);
  const bool is_page = entry.waiter == nullptr;
  if (closing || forks != fork_count() || (bounded && rows + entry.shown.size() > options.queue_rows)) {
    if (is_page) ++counters.dropped;
    return false;
  }
  rows += entry.shown.size();
  pages += is_page;
  urgent = urgent || !is_page || 2 * rows > options.queue_rows;
  oldest.store(std::min(oldest.load(std::memory_order_relaxed), entry.first()), std::memory_order_release);
  queue.push_back(std::move(entry));
  if (urgent || queue.size() == 1) wake.notify_one();
  return true;
}

// Waits until an entry is written; how many of its events count.
std::size_t HistoryStore::Impl::finish(Entry entry) {
  Waiter waiter;
  entry.waiter = &waiter;
  if (!push(std::move(entry), false)) throw StoreError(store->url() + " is being closed");
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return waiter.done; });
  if (!waiter.error.empty()) throw StoreError(waiter.error);
  return waiter.count;
}

// --- the thread ---

void HistoryStore::Impl::take() {
  std::size_t taken = 0;
  for (const Entry& entry : batch) taken += entry.shown.size();
  while (!queue.empty() && (batch.empty() || taken + queue.front().shown.size() <= batch_rows)) {
    taken += queue.front().shown.size();
    batch.push_back(std::move(queue.front()));
    queue.pop_front();
  }
}

void HistoryStore::Impl::run() {
  std::unique_lock lock(mutex);
  for (;;) {
    if (batch.empty()) wake.wait(lock, [&] { return !queue.empty() || closing; });
    if (!urgent && !closing)
      wake.wait_for(lock, failing ? options.retry : options.gather, [&] { return urgent || closing; });
    urgent = false;
    take();
    if (batch.empty() && closing) return;
    lock.unlock();
    std::string failure;
    try {
      prepare();
      write_each();
    } catch (const std::exception& caught) {
      failure = caught.what();
    }
    sweep();
    lock.lock();
    settle(failure);
    if (closing && failing) {
      counters.dropped += pages;
      queue.clear();
      return;
    }
  }
}

// After a try: what is written, or failed those who wait, leaves the batch. Holds the lock.
void HistoryStore::Impl::settle(const std::string& failure) {
  failing = !failure.empty();
  error = failure;
  if (failing) ++counters.errors;
  std::vector<Entry> kept;
  for (Entry& entry : batch) {
    if (entry.waiter != nullptr) {
      if (failing && entry.waiter->error.empty()) entry.waiter->error = failure;
      entry.waiter->done = true;
    } else if (failing) {
      kept.push_back(std::move(entry));
      continue;
    } else {
      --pages;
    }
    rows -= entry.shown.size();
  }
  batch = std::move(kept);
  std::int64_t first = never;
  for (const Entry& entry : batch) first = std::min(first, entry.first());
  for (const Entry& entry : queue) first = std::min(first, entry.first());
  oldest.store(first, std::memory_order_release);
  if (!queue.empty() && !failing) urgent = urgent || queue.front().waiter != nullptr;
  done.notify_all();
}

// All at once; or, if one record keeps the others from being written, those that can be. StoreError if none can.
void HistoryStore::Impl::write_each() {
  try {
    return write(batch);
  } catch (const StoreUnreachableError&) {
    throw;
  } catch (const StoreError&) {
    if (batch.size() == 1) throw;
  }
  std::vector<std::string> errors(batch.size());
  for (std::size_t i = 0; i < batch.size(); ++i) try {
      write(std::span(batch).subspan(i, 1));
    } catch (const StoreError& failure) {
      errors[i] = failure.what();
    }
  if (std::ranges::none_of(errors, &std::string::empty)) throw StoreError(errors.front());
  const std::lock_guard lock(mutex);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (errors[i].empty()) continue;
    ++counters.errors;
    if (batch[i].waiter != nullptr)
      batch[i].waiter->error = errors[i];
    else
      ++counters.dropped;
  }
}

// Writes entries in one update of the store.
void HistoryStore::Impl::write(std::span<Entry> entries) {
  struct Part {
    const StoredHistory::Impl* history;
    std::vector<std::int64_t> users, items;
    std::vector<History::User> of_users;
    std::vector<History::Item> of_items;
    std::int64_t latest = std::numeric_limits<std::int64_t>::min();
  };
  std::vector<Part> parts;
  const auto part_of = [&](const Entry& entry) -> Part& {
    const StoredHistory::Impl* history = entry.history->impl_.get();
    for (Part& part : parts)
      if (part.history->layout == history->layout) return part;
    return parts.emplace_back(Part{.history = history, .users = {}, .items = {}, .of_users = {}, .of_items = {}});
  };
  for (const Entry& entry : entries) {
    if (entry.history == nullptr) continue;
    Part& part = part_of(entry);
    if (!entry.shown.empty()) part.users.push_back(entry.user);
    for (const auto& row : entry.shown) {
      part.items.push_back(row.item);
      part.latest = std::max(part.latest, row.time);
    }
    for (const auto& event : entry.events) {
      part.users.push_back(event.user);
      part.items.push_back(event.item);
      part.latest = std::max(part.latest, event.time);
    }
  }
  std::erase_if(parts, [](const Part& part) { return part.users.empty(); });
  if (parts.empty()) return;
  std::vector<StoreQuery> queries;
  bool new_layout = false;
  for (Part& part : parts) {
    insert_once(part.users);
    insert_once(part.items);
    part.of_users.resize(part.users.size());
    part.of_items.resize(part.items.size());
    queries.push_back({part.history->user_table, part.users});
    queries.push_back({part.history->item_table, part.items});
    new_layout = new_layout || !written_layouts.contains(part.history->layout);
  }
  if (new_layout) queries.push_back({layout_table, std::span(&layout_key, 1)});
  const auto wall = static_cast<std::int64_t>(now_ms());
  std::uint64_t num_pages = 0, counted = 0, given = 0;
  std::vector<std::size_t> counts(entries.size());
  store->update(
      queries,
      [&](StoreValues values, std::span<std::string> changed) {
        std::size_t at = 0;
        for (Part& part : parts) {
          const std::size_t tasks = part.history->history.spec().tasks.size();
          for (auto& user : part.of_users) read_record(values[at++], part.history->user_table, tasks, user);
          for (auto& item : part.of_items) read_record(values[at++], part.history->item_table, tasks, item);
        }
        std::ranges::fill(counts, 0);
        num_pages = counted = given = 0;
        for (std::size_t e = 0; e < entries.size(); ++e) {
          const Entry& entry = entries[e];
          if (entry.history == nullptr) continue;
          Part& part = part_of(entry);
          const History& history = part.history->history;
          num_pages += entry.waiter == nullptr;
          if (!entry.shown.empty())
            add_page(history, part.of_users[place_of(part.users, entry.user)], entry.shown,
                     [&](const History::Exposure& row) {
                       history.add_exposure(part.of_items[place_of(part.items, row.item)], row);
                     });
          for (const auto& event : entry.events) {
            History::Exposure row;
            if (!history.add_feedback(part.of_users[place_of(part.users, event.user)], event.request, event.item,
                                      event.task, event.time, row))
              continue;
            history.add_feedback(part.of_items[place_of(part.items, event.item)], row, event.task);
            ++counts[e];
          }
          counted += counts[e];
          given += entry.events.size();
        }
        at = 0;
        for (Part& part : parts) {
          const std::size_t tasks = part.history->history.spec().tasks.size();
          for (const auto& user : part.of_users) write_record(user, tasks, changed[at++]);
          for (auto& item : part.of_items) {
            // A client whose clock is ahead must not end steps that others still read.
            part.history->history.compact(item, std::min(part.latest, wall));
            write_record(item, tasks, changed[at++]);
          }
        }
        if (!new_layout) return;
        changed[at].assign(values[at].data() == nullptr ? std::string_view() : values[at]);
        for (const Part& part : parts) {
          bool known = false;
          for (std::size_t i = 0; i < changed[at].size(); i += layout_digits)
            known = known || changed[at].compare(i, layout_digits, part.history->layout) == 0;
          if (!known) changed[at] += part.history->layout;
        }
      },
      options.ttl);
  for (const Part& part : parts) written_layouts.insert(part.history->layout);
  const std::lock_guard lock(mutex);
  for (std::size_t e = 0; e < entries.size(); ++e)
    if (entries[e].waiter != nullptr) entries[e].waiter->count = counts[e];
  counters.pages += num_pages;
  counters.events += counted;
  counters.ignored += given - counted;
}

// Records whose time is over leave the store now and then.
void HistoryStore::Impl::sweep() {
  if (Clock::now() < next_sweep) return;
  next_sweep = Clock::now() + sweep_time;
  try {
    store->sweep();
  } catch (const StoreError&) {  // the next one will do it
  }
}

// --- the callers ---

HistoryStore::HistoryStore(std::shared_ptr<Store> store, const HistoryStoreOptions& options)
    : impl_(std::make_unique<Impl>(std::move(store), options)) {}

HistoryStore::~HistoryStore() {
  if (impl_->forks != fork_count()) {
    static_cast<void>(impl_.release());  // the thread is the parent's
    return;
  }
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->closing = true;
    impl_->wake.notify_one();
  }
  impl_->thread.join();
}

void HistoryStore::read(StoredHistory& stored, std::int64_t user, std::int64_t now, std::span<const std::int64_t> items,
                        std::span<const std::int64_t> categories, HistoryBuffer& buffer,
                        std::optional<Clock::time_point> deadline) {
  StoredHistory::Impl& known = *stored.impl_;
  const History& history = known.history;
  if (!categories.empty() && categories.size() != items.size())
    throw std::invalid_argument("categories has " + std::to_string(categories.size()) + " keys; expected " +
                                std::to_string(items.size()) + ", one for each of items");
  if (history.spec().categories && categories.empty() && !items.empty())
    throw std::invalid_argument("categories is missing; the history counts what a user did with them");
  HistoryBuffer::Work& work = *buffer.work;
  const std::size_t width = history.item_columns().size(), own = history.own_columns();
  const std::size_t tasks = history.spec().tasks.size();
  const std::int64_t step = history.last_step(now);
  const FloatEnvironment environment;
  buffer.context.resize(history.context_columns().size());
  buffer.columns.resize(items.size() * width);
  work.row.resize(known.words);
  work.missing.clear();
  work.missing_keys.clear();
  try {
    impl_->await(now - history.spec().exposure_delay_ms, deadline);
    impl_->prepare();
    known.recall(items, step, buffer.columns.data(), work.missing);
    for (const std::size_t i : work.missing) work.missing_keys.push_back(items[i]);
    const std::int64_t key = impl_->stored_key(user);
    impl_->find_unwritten(stored, key, work.unwritten);  // before the store is read: what is written meanwhile is there
    const StoreQuery queries[] = {{known.user_table, std::span(&key, 1)}, {known.item_table, work.missing_keys}};
    impl_->store->get(
        std::span(queries).first(work.missing.empty() ? 1 : 2),
        [&](StoreValues values) {
          read_record(values[0], known.user_table, tasks, work.user);
          for (std::size_t m = 0; m < work.missing.size(); ++m) {
            const auto columns = std::span(buffer.columns).subspan(work.missing[m] * width, own);
            const std::string_view record = values[1 + m];
            if (record.data() != nullptr) read_record(record, known.item_table, tasks, work.item);
            history.read(record.data() == nullptr ? nullptr : &work.item, step, columns);
            work.row[0] = step;
            std::memcpy(work.row.data() + 1, columns.data(), columns.size_bytes());
            known.columns.remember(work.missing_keys[m], work.row.data());
          }
        },
        deadline);
  } catch (const StoreError&) {
    impl_->read_errors.fetch_add(1, std::memory_order_relaxed);
    throw;
  }
  for (const auto& page : work.unwritten) add_page(history, work.user, page, [](const History::Exposure&) {});
  history.read(&work.user, now, items, categories, work.workspace, buffer.context, buffer.columns);
  buffer.user_known = !work.user.shown.empty();
}

bool HistoryStore::add_exposures(std::shared_ptr<const StoredHistory> history, std::int64_t user,
                                 std::vector<History::Exposure> exposures) {
  if (exposures.empty()) return true;
  // In the order of a user's record: then each of a long page enters it, if only to leave it again.
  std::ranges::sort(exposures, {}, [](const History::Exposure& e) { return std::tuple(e.time, e.request, e.item); });
  return impl_->push(
      {.history = std::move(history), .user = impl_->stored_key(user), .shown = std::move(exposures), .events = {}},
      true);
}

std::size_t HistoryStore::add_feedback(const std::shared_ptr<const StoredHistory>& history,
                                       std::span<const HistoryEvent> events) {
  if (events.empty()) return 0;
  Entry entry{.history = history, .user = 0, .shown = {}, .events = {events.begin(), events.end()}};
  for (HistoryEvent& event : entry.events) {
    if (event.task >= history->history().spec().tasks.size())
      throw std::invalid_argument("task is " + std::to_string(event.task) + "; the history has " +
                                  std::to_string(history->history().spec().tasks.size()));
    event.user = impl_->stored_key(event.user);
  }
  return impl_->finish(std::move(entry));
}

void HistoryStore::remove_user(std::int64_t user) {
  flush();
  std::string layouts;
  impl_->prepare();
  const StoreQuery query{layout_table, std::span(&layout_key, 1)};
  impl_->store->get(std::span(&query, 1), [&](StoreValues values) { layouts = std::string(values[0]); });
  const std::int64_t key = impl_->stored_key(user);
  std::vector<std::string> tables;
  for (std::size_t i = 0; i < layouts.size(); i += layout_digits)
    tables.push_back(user_table_of(std::string_view(layouts).substr(i, layout_digits)));
  std::vector<StoreQuery> queries;
  for (const std::string& table : tables) queries.push_back({table, std::span(&key, 1)});
  if (queries.empty()) return;
  impl_->store->update(queries, [](StoreValues, std::span<std::string>) {}, removed_ttl);
}

void HistoryStore::flush() { impl_->finish({}); }

HistoryCounters HistoryStore::counters() const {
  const std::lock_guard lock(impl_->mutex);
  HistoryCounters counters = impl_->counters;
  counters.errors += impl_->read_errors.load(std::memory_order_relaxed);
  return counters;
}

std::size_t HistoryStore::waiting() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->pages;
}

std::string HistoryStore::last_error() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->error;
}

const std::string& HistoryStore::url() const { return impl_->store->url(); }
}  // namespace pygrade::inline v0_2
