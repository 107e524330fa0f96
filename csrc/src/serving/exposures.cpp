#include "pygrade/exposures.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "serving/exposures_queue.hpp"
#include "serving/exposures_writer.hpp"
#include "serving/missing.hpp"
#include "serving/prediction_scales.hpp"
#include "util/forks.hpp"
#include "util/hash.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
using Clock = std::chrono::steady_clock;

constexpr auto poll_time = std::chrono::milliseconds(20);     // of the thread, while the queue is less than half full
constexpr auto wait_step = std::chrono::microseconds(50);     // of a caller that waits for room
constexpr auto rest_time = std::chrono::milliseconds(1'000);  // after an error of the disk; what comes is lost

// FNV-1a, then a finalizer, since the upper bits of FNV mix little.
std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return splitmix64(hash);
}

template <class T>
void copy_to(std::span<const T> from, std::span<T> to) {
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size_bytes());
}

// Part of a request that is logged; kept by the thread.
struct Chosen {
  bool all = false;                  // every candidate
  std::vector<std::uint32_t> rows;   // else these
  std::vector<std::int32_t> row_of;  // [N] candidates among them, -1: it is not
  Policy::RequestValues in_force;    // of the tasks
};

void check_options(const ExposureOptions& options) {
  const auto require = [](bool good, const std::string& message) {
    if (!good) throw std::invalid_argument(message);
  };
  require(options.share >= 0.0 && options.share <= 1.0,
          "share is " + std::to_string(options.share) + "; expected a number from 0 to 1");
  require(!options.name.empty() && options.name.find_first_of("/.") != 0 && options.name.find('/') == options.name.npos,
          "name is '" + options.name + "'; expected the start of a file's name, without '/' and a dot in front");
  require(options.queue_bytes >= 1 << 16,
          "queue_bytes is " + std::to_string(options.queue_bytes) + "; expected at least 65536");
  require(options.group_rows > 0 && options.group_bytes > 0 && options.file_bytes > 0,
          "group_rows, group_bytes or file_bytes is 0; expected at least 1");
  for (std::size_t a = 0; a < options.arms.size(); ++a) {
    const auto& [name, share] = options.arms[a];
    require(!name.empty() && std::ranges::count(options.arms, name, &ExposureArm::name) == 1,
            "arms[" + std::to_string(a) + "] is '" + name + "'; expected distinct names");
    require(share >= 0.0f && share <= 1.0f,
            "the share of arm '" + name + "' is " + std::to_string(share) + "; expected a number from 0 to 1");
  }
  require(options.file_time.count() > 0 && options.group_time.count() > 0, "file_time or group_time is not above 0");
}
}  // namespace

struct ExposureLog::Impl {
  Impl(const std::filesystem::path& directory, const ExposureOptions& given)
      : options(given), queue(given.queue_bytes), writer(directory, given), forks(fork_count()) {}

  const ExposureSchema* schema_of(const Policy& policy, const Request& request, std::span<const ExposurePage> arms);
  std::byte* reserve(std::size_t bytes, std::chrono::microseconds wait);
  void fill(std::byte* memory, const ExposureHead& head, const Request& request, const PageBuffer& buffer,
            const LogIds& ids, const Chosen& chosen, std::span<const ExposurePage> arms);
  void run();
  void drain(std::uint64_t mark);
  template <class Work>
  void attempt(Work&& work);

  const ExposureOptions options;
  RecordQueue queue;
  ExposureWriter writer;  // of the thread
  const int forks;        // of the process that started the thread

  std::atomic<const ExposureSchema*> last_schema{nullptr};
  std::atomic<bool> scored{false};                       // a request had production's scores
  std::vector<std::unique_ptr<ExposureSchema>> schemas;  // guarded by mutex; records point to them

  std::atomic<std::uint64_t> requests{0}, complete{0}, dropped{0}, waited{0};
  std::atomic<bool> asleep{false}, ended{false};

  mutable std::mutex mutex;
  std::condition_variable wake, done;
  std::uint64_t flushes_wanted = 0, flushes_done = 0;  // guarded by mutex, as the following
  bool closing = false, closed = false;
  ExposureCounters counters;
  std::string error;
  Clock::time_point rest_until{};  // of the thread
  std::thread thread;
};

ExposureLog::ExposureLog(const std::string& directory, const ExposureOptions& options) {
  check_options(options);
  std::filesystem::create_directories(directory);
  impl_ = std::make_unique<Impl>(directory, options);
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

ExposureLog::~ExposureLog() {
  if (impl_->forks != fork_count()) {
    static_cast<void>(impl_.release());  // the thread is the parent's, and so is the file
    return;
  }
  close();
}

bool ExposureLog::in_full(std::string_view request_id) const {
  constexpr double scale = 0x1p-64;
  const double share = impl_->options.share;
  return share >= 1.0 || static_cast<double>(hash_of(request_id)) * scale < share;
}

// --- the request's thread ---

const ExposureSchema* ExposureLog::Impl::schema_of(const Policy& policy, const Request& request,
                                                   std::span<const ExposurePage> arms) {
  if (!request.production_scores.empty() && !scored) scored = true;
  const bool with_scores = scored;
  const ExposureSchema* last = last_schema.load(std::memory_order_acquire);
  if (last != nullptr && last->is_of(policy, with_scores, arms)) return last;
  const std::lock_guard lock(mutex);
  auto found =
      std::ranges::find_if(schemas, [&](const auto& schema) { return schema->is_of(policy, with_scores, arms); });
  if (found == schemas.end())
    found = schemas.insert(found, std::make_unique<ExposureSchema>(policy, with_scores, arms));
  last_schema.store(found->get(), std::memory_order_release);
  return found->get();
}

// The name of a candidate up to a 0 in it; "": unknown.
std::string_view category_of(const Request& request, std::size_t candidate) {
  if (request.categories.empty()) return {};
  const std::string_view name = request.categories[candidate];
  return name.substr(0, name.find('\0'));
}

// Throws nothing, since the memory must be published.
void ExposureLog::Impl::fill(std::byte* memory, const ExposureHead& head, const Request& request,
                             const PageBuffer& buffer, const LogIds& ids, const Chosen& chosen,
                             std::span<const ExposurePage> arms) {
  std::memcpy(memory, &head, sizeof head);
  const ExposureRecord record(memory, head);
  const std::size_t tasks = head.schema->tasks.size();
  const auto& [all, rows, row_of, in_force] = chosen;
  const auto candidate = [&](std::size_t row) { return all ? row : rows[row]; };
  const auto row_at = [&](std::int32_t place) { return all ? place : row_of[static_cast<std::size_t>(place)]; };
  if (all) {
    copy_to(request.predictions, record.predictions);
    if (!record.prices.empty()) copy_to(request.item_values, record.prices);
    copy_to(ids.item_id, record.items);
  }
  for (std::size_t row = 0; !all && row < rows.size(); ++row) {
    const auto from = request.predictions.subspan(candidate(row) * tasks, tasks);
    const auto to = record.predictions.subspan(row * tasks, tasks);
    std::ranges::copy(from, to.begin());
    for (std::size_t t = 0; t < tasks; ++t)
      if (is_missing(to[t])) to[t] = smallest(request.predictions, tasks, t);
    if (!record.prices.empty()) record.prices[row] = request.item_values[candidate(row)];
    if (!ids.item_id.empty()) record.items[row] = ids.item_id[candidate(row)];
  }
  if (ids.item_id.empty())
    for (std::size_t row = 0; row < record.items.size(); ++row)
      record.items[row] = static_cast<std::int64_t>(candidate(row));
  for (std::size_t p = 0; p < record.shown.size(); ++p) record.shown[p] = row_at(buffer.indices[p]);
  for (std::size_t i = 0; i < record.scores.size(); ++i) record.scores[i] = request.production_scores[candidate(i)];
  std::ranges::fill(record.slots, -1);
  for (std::size_t a = 0; a < arms.size(); ++a) {
    record.shares[a] =
        arms[a].indices.data() == nullptr ? std::numeric_limits<float>::quiet_NaN() : options.arms[a].share;
    for (std::size_t slot = 0; slot < arms[a].indices.size(); ++slot)
      record.slots[a * head.rows + static_cast<std::size_t>(row_at(arms[a].indices[slot]))] =
          static_cast<std::int32_t>(slot);
  }
  const std::size_t columns = head.schema->item_columns.size();
  const std::size_t candidates = std::max<std::size_t>(request.predictions.size() / tasks, 1);
  for (std::size_t c = 0; c < columns; ++c) {
    const auto [source, place] = head.schema->sources[c];
    const auto items = source == 0 ? request.items : arms[source - 1].items;
    const std::size_t width = items.size() / candidates;
    for (std::size_t i = 0; i < head.rows; ++i) {
      const float value = items.empty() ? std::numeric_limits<float>::quiet_NaN() : items[candidate(i) * width + place];
      record.item_columns[i * columns + c] = std::isfinite(value) ? value : std::numeric_limits<float>::quiet_NaN();
    }
  }
  for (std::size_t f = 0; f < record.context.size(); ++f) {
    const bool known = f < request.context.size() && std::isfinite(request.context[f]);
    record.context[f] = known ? request.context[f] : std::numeric_limits<float>::quiet_NaN();
  }
  copy_to(std::span<const float>(buffer.weights), record.weights);
  if (head.explored) copy_to(std::span<const float>(buffer.concentration), record.concentration);
  copy_to(std::span<const float>(in_force.values), record.values);
  copy_to(std::span<const char>(ids.request_id), record.request_id);
  copy_to(std::span<const char>(ids.user_id), record.user_id);
  copy_to(std::span<const char>(request.scenario.value_or("")), record.scenario);
  char* at = record.categories.data();
  for (std::size_t row = 0; !record.categories.empty() && row < head.rows; ++row) {
    const std::string_view name = category_of(request, candidate(row));
    at = std::ranges::copy(name, at).out;
    *at++ = '\0';
  }
}

namespace {
void check_page(const Policy& policy, const Request& request, const PageBuffer& buffer, const Page& page,
                const LogIds& ids, std::span<const ExposurePage> arms, std::size_t num_arms) {
  const auto require = [](bool good, const char* message) {
    if (!good) throw std::invalid_argument(message);
  };
  const std::size_t tasks = policy.tasks().size(), columns = policy.items().size();
  const std::size_t candidates = request.predictions.size() / tasks, filled = static_cast<std::size_t>(page.filled);
  require(!ids.request_id.empty(), "request_id is empty; expected the id that feedback has");
  require(buffer.weights.size() == tasks && buffer.concentration.size() == tasks,
          "the log needs the weights and the concentration of the page");
  const auto is_candidate = [&](std::int32_t index) {
    return index >= 0 && static_cast<std::size_t>(index) < candidates;
  };
  require(filled <= buffer.indices.size() && std::ranges::all_of(buffer.indices.first(filled), is_candidate),
          "the page is not of the request: an index is not one of its candidates");
  require(arms.size() == num_arms, "arms must have a page for each of the arms that the log was opened with");
  for (const ExposurePage& arm : arms) {
    require(std::ranges::all_of(arm.indices, is_candidate),
            "an arm's page holds an index that is not one of the candidates");
    require(arm.items.empty() || (arm.policy != nullptr && arm.items.size() == candidates * arm.policy->items().size()),
            "an arm's items must have one value for each candidate and item column of its policy, or none");
  }
  require(request.production_scores.empty() || request.production_scores.size() == candidates,
          "production_scores must have one score for each candidate, or none");
  require(ids.item_id.empty() || ids.item_id.size() == candidates, "item_id must have one entry for each candidate");
  require(request.item_values.size() == candidates || (!policy.takes_prices() && request.item_values.empty()),
          "item_values must have one value for each candidate, if the policy needs them");
  require(request.categories.empty() || request.categories.size() == candidates,
          "categories must have one name for each candidate, or none");
  require(columns == 0 || request.items.empty() || request.items.size() == candidates * columns,
          "items must have one value for each candidate and item column, or none");
}

// Chooses what is logged; returns the number of candidates that a complete log has: those that all predictions are
// known of, or that are on a page.
std::size_t choose(const Policy& policy, const ExposureSchema& schema, const Request& request,
                   std::span<const std::int32_t> shown, std::span<const ExposurePage> arms, bool complete,
                   Chosen& chosen) {
  const std::size_t tasks = policy.tasks().size(), count = request.predictions.size() / tasks;
  const bool gaps = any_missing(request.predictions);
  auto& [all, rows, row_of, in_force] = chosen;
  all = complete && !gaps;
  rows.clear();
  std::size_t logged = count;
  if (!all) {
    row_of.assign(count, -1);
    const auto add = [&](std::span<const std::int32_t> page) {
      for (const std::int32_t index : page) {
        if (row_of[static_cast<std::size_t>(index)] >= 0) continue;
        row_of[static_cast<std::size_t>(index)] = static_cast<std::int32_t>(rows.size());
        rows.push_back(static_cast<std::uint32_t>(index));
      }
    };
    add(shown);
    for (const ExposurePage& arm : arms) add(arm.indices);
  }
  if (gaps) {
    if (complete) rows.clear();
    logged = 0;
    for (std::size_t row = 0; row < count; ++row) {
      if (row_of[row] < 0 && any_missing(request.predictions.subspan(row * tasks, tasks))) continue;
      ++logged;
      if (!complete) continue;
      row_of[row] = static_cast<std::int32_t>(rows.size());
      rows.push_back(static_cast<std::uint32_t>(row));
    }
  }
  policy.find_values(request.values, request.scenario, chosen.in_force);
  chosen.in_force.values.resize(schema.takes_values ? tasks : 0, std::numeric_limits<float>::quiet_NaN());
  return logged;
}

ExposureHead head_of(const ExposureSchema& schema, const Request& request, const Page& page, const LogIds& ids,
                     std::size_t rows, std::size_t logged) {
  ExposureHead head{};
  head.schema = &schema;
  head.seed = page.seed;
  head.timestamp = ids.timestamp.value_or(0);
  head.rows = static_cast<std::uint32_t>(rows);
  head.shown = static_cast<std::uint32_t>(page.filled);
  head.candidates = static_cast<std::uint32_t>(logged);
  head.request_id = static_cast<std::uint32_t>(ids.request_id.size());
  head.user_id = static_cast<std::uint32_t>(ids.user_id.size());
  head.scenario = static_cast<std::uint32_t>(request.scenario.value_or("").size());
  head.mixture_weight = page.mixture_weight;
  head.verdict = page.verdict;
  head.has_timestamp = ids.timestamp.has_value();
  head.explored = page.explored;
  head.exploration = page.exploration();
  head.priced = schema.priced && !request.item_values.empty();
  head.scored = !request.production_scores.empty();
  head.version = page.policy_version;
  head.baseline = page.baseline_name;
  return head;
}
}  // namespace

// Memory of the queue for a record; null if there was none in time, or nobody takes it.
std::byte* ExposureLog::Impl::reserve(std::size_t bytes, std::chrono::microseconds wait) {
  if (ended.load(std::memory_order_acquire) || forks != fork_count()) return nullptr;  // no thread, or the parent's
  std::byte* memory = queue.reserve(bytes);
  if (memory != nullptr || wait.count() <= 0 || bytes > queue.largest()) return memory;
  ++waited;
  for (const auto end = Clock::now() + wait; memory == nullptr && Clock::now() < end;) {
    wake.notify_one();
    std::this_thread::sleep_for(wait_step);
    memory = queue.reserve(bytes);
  }
  return memory;
}

bool ExposureLog::append(const Policy& policy, const Request& given, const PageBuffer& buffer, const Page& page,
                         const LogIds& ids, std::chrono::microseconds wait, std::span<const ExposurePage> arms) {
  Impl& impl = *impl_;
  check_page(policy, given, buffer, page, ids, arms, impl.options.arms.size());
  const ExposureSchema& schema = *impl.schema_of(policy, given, arms);
  thread_local Reading reading;
  const Request& request = as_logged(policy, given, reading);
  const bool complete = in_full(ids.request_id);
  thread_local Chosen chosen;
  const auto shown = buffer.indices.first(static_cast<std::size_t>(page.filled));
  const std::size_t logged = choose(policy, schema, request, shown, arms, complete, chosen);
  ExposureHead head = head_of(schema, request, page, ids, chosen.all ? logged : chosen.rows.size(), logged);
  for (std::size_t row = 0; schema.categorized && row < head.rows; ++row)
    head.categories += static_cast<std::uint32_t>(
        category_of(request, chosen.all ? row : static_cast<std::size_t>(chosen.rows[row])).size() + 1);
  std::byte* const memory = impl.reserve(ExposureRecord::bytes(head), wait);
  if (memory == nullptr) {
    ++impl.dropped;
    return false;
  }
  impl.fill(memory, head, request, buffer, ids, chosen, arms);
  impl.queue.publish(memory);
  impl.requests.fetch_add(1, std::memory_order_relaxed);
  if (complete) impl.complete.fetch_add(1, std::memory_order_relaxed);
  if (impl.queue.is_half_full() && impl.asleep.exchange(false)) impl.wake.notify_one();
  return true;
}

// --- the thread that writes ---

template <class Work>
void ExposureLog::Impl::attempt(Work&& work) {
  std::string text;
  try {
    work();
  } catch (const std::exception& failure) {
    text = failure.what();
  }
  const std::uint64_t lost = text.empty() ? 0 : writer.give_up();
  if (!text.empty()) rest_until = Clock::now() + rest_time;
  const std::lock_guard lock(mutex);
  counters.rows = writer.written().rows;
  counters.files = writer.written().files;
  counters.bytes = writer.written().bytes;
  if (text.empty()) return;
  counters.lost += lost;
  ++counters.errors;
  error = text;
}

// Takes what was reserved before the mark.
void ExposureLog::Impl::drain(std::uint64_t mark) {
  while (!queue.passed(mark)) {
    const auto record = queue.front();
    if (record.empty()) {  // it is being written
      std::this_thread::yield();
      continue;
    }
    if (Clock::now() < rest_until) {
      const std::lock_guard lock(mutex);
      ++counters.lost;
    } else {
      attempt([&] { writer.add(record.data()); });
    }
    queue.pop();
  }
}

void ExposureLog::Impl::run() {
  for (;;) {
    std::uint64_t wanted;
    bool last;
    {
      std::unique_lock lock(mutex);
      asleep = true;
      if (!queue.is_half_full())
        wake.wait_for(lock, poll_time, [&] { return closing || flushes_wanted > flushes_done || !asleep; });
      asleep = false;
      wanted = flushes_wanted;
      last = closing;
    }
    drain(queue.mark());
    if (last || wanted > flushes_done)
      attempt([&] { writer.finish_file(); });
    else
      attempt([&] { writer.check_time(); });
    const std::lock_guard lock(mutex);
    flushes_done = wanted;
    closed = last;
    done.notify_all();
    if (last) return;
  }
}

void ExposureLog::flush() {
  Impl& impl = *impl_;
  if (impl.forks != fork_count()) return;
  std::unique_lock lock(impl.mutex);
  const std::uint64_t wanted = ++impl.flushes_wanted;
  impl.wake.notify_one();
  impl.done.wait(lock, [&] { return impl.flushes_done >= wanted || impl.closed; });
}

void ExposureLog::close() {
  Impl& impl = *impl_;
  if (impl.forks != fork_count()) return;
  {
    const std::lock_guard lock(impl.mutex);
    impl.closing = true;
    impl.wake.notify_one();
  }
  if (!impl.thread.joinable()) return;
  impl.ended.store(true, std::memory_order_release);
  impl.thread.join();
  const std::lock_guard lock(impl.mutex);
  for (; !impl.queue.front().empty(); impl.queue.pop()) ++impl.counters.lost;  // came while the thread ended
}

ExposureCounters ExposureLog::counters() const {
  const std::lock_guard lock(impl_->mutex);
  ExposureCounters counters = impl_->counters;
  counters.requests = impl_->requests;
  counters.complete = impl_->complete;
  counters.dropped = impl_->dropped;
  counters.waited = impl_->waited;
  return counters;
}

std::string ExposureLog::last_error() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->error;
}
}  // namespace pygrade::inline v0_2
