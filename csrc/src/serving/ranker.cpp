#include "pygrade/ranker.hpp"

#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "fusion.hpp"
#include "pygrade/dirichlet.hpp"
#include "ranking.hpp"
#include "util/fpenv.hpp"
#include "util/parallel.hpp"

namespace pygrade {

namespace {

constexpr std::uint64_t low_word = 0xffffffff;
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

// Of a child process: how many forks lie between it and the first. None of its parent's other threads runs in it, so
// whatever they had in use stays in use for ever.
std::atomic<std::uint64_t> forks{0};

// Between threads that swap, whatever the ranker. Held over a fork, so that no child begins in the middle of a swap.
std::mutex swapping;

[[maybe_unused]] const int registered = pthread_atfork([] { swapping.lock(); }, [] { swapping.unlock(); },
                                                       [] {
                                                         ++forks;
                                                         swapping.unlock();
                                                       });

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

std::uint64_t first_draw(const RankerOptions& options) {
  if (options.seed && *options.seed >> 31) throw std::invalid_argument("seed must be below 2^31");
  return static_cast<std::uint64_t>(options.seed ? *options.seed : std::random_device{}() >> 1) << 32;
}

std::shared_ptr<const Policy> checked(std::shared_ptr<const Policy> policy) {
  if (policy == nullptr) throw std::invalid_argument("policy is null");
  return policy;
}

Transform transform_of(const Policy& policy) {
  return static_cast<Transform>(std::ranges::find(transform_names, policy.transform()) - transform_names.begin());
}

bool any_missing(std::span<const float> predictions) {
  std::uint32_t count = 0;  // compilers vectorize a count, not an early exit
  for (const float prediction : predictions) count += is_missing(prediction) ? 1u : 0u;
  return count > 0;
}

// What makes the scores of a request.
struct Sources {
  const Baseline* baseline = nullptr;    // null: none
  const Baseline* challenger = nullptr;  // or what alone ranks by the request's values; null: none
  bool network = true;                   // the policy's network
  const Mixture* mixture = nullptr;      // of baseline and the other one; null: there is one source

  Sources(const Policy& policy, const Request& request) {
    const auto& mixed = policy.mixture();
    if (!request.values.empty() && policy.expected_value() != nullptr) {
      challenger = policy.expected_value();
      network = false;
    } else if (mixed) {
      baseline = mixed->counted_baseline();
      challenger = mixed->counted_challenger();
      network = mixed->takes_network();
      if (baseline != nullptr) mixture = &*mixed;
    }
  }

  bool network_alone() const { return baseline == nullptr && challenger == nullptr; }

  template <class Condition>
  bool any(Condition condition) const {
    return (baseline != nullptr && condition(*baseline)) || (challenger != nullptr && condition(*challenger));
  }
  bool take_corrected(const Policy& policy) const {
    return policy.corrected() || any([](const Baseline& entry) { return entry.corrected; });
  }
  bool take_prices(const Policy& policy) const {
    return (network && !policy.priced().empty()) || any([](const Baseline& entry) { return !entry.priced.empty(); });
  }
  // Of predictions that must not be negative: corrected ones never are.
  bool take_logarithms(const Policy& policy) const {
    return (network && !policy.corrected() && detail::takes_logarithm(transform_of(policy))) ||
           any([](const Baseline& entry) { return !entry.corrected && entry.takes_logarithm(); });
  }
};

void check_sizes(const Policy& policy, const Request& request, const PageBuffer& buffer) {
  const std::size_t tasks = policy.tasks().size();
  const auto fits = [](std::size_t size, std::size_t wanted) { return size == 0 || size == wanted; };
  if (!fits(request.context.size(), policy.features().size()))
    throw std::invalid_argument("context must have one value for each feature of the policy, or none");
  if (request.predictions.size() % tasks != 0)
    throw std::invalid_argument("predictions must have one value for each candidate and task of the policy");
  if (buffer.values.empty() || buffer.indices.size() != buffer.values.size())
    throw std::invalid_argument("values and indices must have k >= 1 places each");
  if (!fits(buffer.weights.size(), tasks) || !fits(buffer.concentration.size(), tasks))
    throw std::invalid_argument("weights and concentration must have one place for each task of the policy, or none");
  const std::size_t rows = request.predictions.size() / tasks;
  if (!fits(request.item_values.size(), rows))
    throw std::invalid_argument("item_values must have one value for each candidate, or none");
  if (const auto& correction = policy.correction();
      correction && !fits(request.items.size(), rows * correction->num_items()))
    throw std::invalid_argument("items must have one value for each candidate and each of the " +
                                std::to_string(correction->num_items()) + " item columns of the policy, or none");
  if (Sources(policy, request).take_prices(policy) && request.item_values.empty() && rows > 0)
    throw std::invalid_argument("item_values is missing; the policy or its baseline prices tasks by it");
  for (std::size_t i = 0; i < request.item_values.size(); ++i)
    if (const float value = request.item_values[i]; !(value >= 0.0f && std::isfinite(value)))
      throw std::invalid_argument("item_values is " + std::to_string(value) + " at candidate " + std::to_string(i) +
                                  "; want a finite value >= 0");
}

// Refuses negative predictions under a logarithm. Candidates with a missing prediction are not transformed.
void check_signs(const Policy& policy, const Request& request) {
  if (!Sources(policy, request).take_logarithms(policy)) return;
  std::uint32_t negative = 0;
  for (const float value : request.predictions) negative += value < 0.0f ? 1u : 0u;
  const std::size_t tasks = policy.tasks().size();
  for (std::size_t i = 0; negative > 0 && i < request.predictions.size(); ++i)
    if (request.predictions[i] < 0.0f && !any_missing(request.predictions.subspan(i / tasks * tasks, tasks)))
      throw std::invalid_argument("predictions is negative at candidate " + std::to_string(i / tasks) + ", task " +
                                  std::to_string(i % tasks) + "; want predictions >= 0 under a logarithm");
}

}  // namespace

void Page::set_policy(const Policy& policy) {
  policy.version().copy(policy_version.data(), policy_version.size());
  const auto& mixture = policy.mixture();
  if (!mixture) return;
  trust = static_cast<float>(mixture->trust);
  verdict = mixture->verdict;
  mixture->baseline.name.copy(baseline_name.data(), Baseline::max_name);
}

// The memory that one thread at a time works in. Slots are made as threads need them and live as long as the ranker.
struct alignas(64) Ranker::Slot {
  enum Count { requests, fallback_scenario, fallback_global, explored, missing_predictions, empty_pages, counts };

  std::atomic<const Owner*> policy{nullptr};  // in use; nullptr: the slot is free
  const std::uint64_t process = forks;        // that made the slot; others leave it alone
  std::array<std::atomic<std::uint64_t>, counts> counters{};
  Slot* next = nullptr;

  Policy::Workspace workspace;
  std::vector<float> inputs, context;
  std::vector<float> concentration, weights;        // [T]
  std::vector<float> present;                       // [N', T] rows without a missing prediction
  std::vector<float> items;                         // [N', I] their item columns
  std::vector<float> corrected, priced;             // [N', T] the same, corrected; and times the prices
  std::vector<float> transformed;                   // [N', T], then [N, T]
  std::vector<float> multipliers;                   // [T]
  std::vector<float> prices, scores;                // [N'] and [2, N']
  std::vector<std::optional<std::uint64_t>> draws;  // [B]
  Baseline::Workspace baseline;
  Correction::Workspace correction;

  void add(Count count, std::uint64_t amount) {  // only the owner of the slot writes
    auto& counter = counters[count];
    counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }

  // Keeps no more than 4 MiB of each after a large request.
  void trim() {
    for (auto* values : {&present, &items, &corrected, &priced, &transformed, &prices, &scores, &baseline.predictions,
                         &correction.columns})
      if (values->capacity() > std::size_t{1} << 20) std::vector<float>().swap(*values);
    if (draws.capacity() > std::size_t{1} << 18) decltype(draws)().swap(draws);
  }

  std::span<const float> of_present(const Request& request, std::span<const float> values, std::size_t width,
                                    std::vector<float>& kept) const;
  bool choose_weights(const Policy& used, const Request& request, std::span<const float> rows, bool impute);
  std::span<const float> network_rows(const Policy& used, std::span<const float> rows, std::span<const float> values);
  void rank_with_gaps(const Request& request, std::span<const float> some, const FusionOptions& options,
                      const PageBuffer& buffer);
  void rank_scores(const Sources& sources, const Policy& used, const Request& request, std::span<const float> rows,
                   const FusionOptions& options, const PageBuffer& buffer);
  void spread(const Request& request, std::size_t width, std::size_t rows);
};

Ranker::Lease::Lease(Ranker& ranker) : Lease(ranker, ranker.current_.load()) {
  // The policy may have been swapped before the slot named it: only one that is current afterwards is safe.
  for (const Owner* now = ranker.current_.load(); now != owner_; now = ranker.current_.load()) {
    owner_ = now;
    slot_.policy.store(now);
  }
}

Ranker::Lease::~Lease() {
  slot_.trim();
  slot_.policy.store(nullptr, std::memory_order_release);
}

Ranker::Ranker(std::shared_ptr<const Policy> policy, const RankerOptions& options)
    : stream_(first_draw(options)), id_(next_id()), impute_(options.impute) {
  current_ = new const Owner(checked(std::move(policy)));
}

std::unique_ptr<Ranker> Ranker::load(const std::filesystem::path& directory, const RankerOptions& options) {
  return std::make_unique<Ranker>(Policy::load(directory), options);
}

Ranker::~Ranker() {
  delete current_.load();
  for (Slot* slot = slots_.load(); slot != nullptr;) {
    Slot* next = slot->next;
    // A thread of the parent process may have been writing to a slot that was in use at the fork.
    if (slot->process == forks || slot->policy.load() == nullptr) delete slot;
    slot = next;
  }
}

Ranker::Slot& Ranker::claim(const Owner* policy) const {
  // The slot that this thread used last is most likely free and warm. Ids are never used twice, so a stale entry of a
  // ranker that is gone is not followed.
  static thread_local std::uint64_t last_ranker = 0;
  static thread_local Slot* last_slot = nullptr;
  const std::uint64_t process = forks.load(std::memory_order_relaxed);
  const auto take = [&](Slot* slot) {
    const Owner* nobody = nullptr;
    return slot->process == process && slot->policy.load(std::memory_order_relaxed) == nullptr &&
           slot->policy.compare_exchange_strong(nobody, policy);
  };
  if (last_ranker == id_ && take(last_slot)) return *last_slot;
  Slot* slot = slots_.load();
  while (slot != nullptr && !take(slot)) slot = slot->next;
  if (slot == nullptr) {
    slot = new Slot;
    slot->policy.store(policy);
    slot->next = slots_.load();
    while (!slots_.compare_exchange_weak(slot->next, slot)) {
    }
  }
  last_ranker = id_;
  last_slot = slot;
  return *slot;
}

std::uint64_t Ranker::reserve_draws(std::uint64_t count) {
  std::uint64_t first, before = stream_.load(std::memory_order_relaxed);
  do {
    const bool full = (before & low_word) + count > low_word;  // on with the next seed
    first = full ? ((before >> 32) + 1) % (std::uint64_t{1} << 31) << 32 : before;
  } while (!stream_.compare_exchange_weak(before, first + count, std::memory_order_relaxed));
  return first;
}

// Weights and concentration from the policy; false without candidates or features.
bool Ranker::Slot::choose_weights(const Policy& used, const Request& request, std::span<const float> rows,
                                  bool impute) {
  const std::size_t features = used.features().size();
  if (rows.empty() || (features > 0 && request.context.empty())) return false;
  context.assign(request.context.begin(), request.context.end());
  std::size_t unknown = 0;
  for (float& value : context) {
    if (std::isfinite(value)) continue;
    value = nan;
    ++unknown;
  }
  if (impute ? features > 0 && unknown == features : unknown > 0) return false;
  inputs.resize(used.num_inputs());
  used.request_inputs(context, rows, inputs, used.trade_offs() ? multipliers : std::span<const float>());
  used.evaluate(inputs, request.scenario, workspace, concentration, weights);
  return std::ranges::all_of(concentration, [](float a) { return std::isfinite(a) && a > 0.0f; }) &&
         std::ranges::all_of(weights, [](float w) { return std::isfinite(w); });
}

// Moves the values in `transformed`, a row of `width` for each candidate without a missing prediction, to the places of
// these candidates, and fills the other rows with NaN.
void Ranker::Slot::spread(const Request& request, std::size_t width, std::size_t rows) {
  const std::size_t tasks = request.predictions.size() / rows;
  std::size_t from = present.size() / tasks;
  for (std::size_t row = rows; row-- > 0;) {  // the last one first: no row moves forward
    float* target = transformed.data() + row * width;
    if (any_missing(request.predictions.subspan(row * tasks, tasks))) {
      std::fill_n(target, width, nan);
    } else {
      --from;
      if (from != row) std::copy_n(transformed.data() + from * width, width, target);
    }
  }
}

// The rows of `width` values of the candidates without a missing prediction.
std::span<const float> Ranker::Slot::of_present(const Request& request, std::span<const float> values,
                                                std::size_t width, std::vector<float>& kept) const {
  const std::size_t tasks = weights.size(), rows = request.predictions.size() / tasks;
  if (values.empty()) return values;
  kept.clear();
  for (std::size_t i = 0; i < rows; ++i)
    if (!any_missing(request.predictions.subspan(i * tasks, tasks)))
      kept.insert(kept.end(), values.begin() + static_cast<std::ptrdiff_t>(i * width),
                  values.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
  return kept;
}

// What the policy's weights fuse: the rows, with priced tasks times the prices of the rows.
std::span<const float> Ranker::Slot::network_rows(const Policy& used, std::span<const float> rows,
                                                  std::span<const float> values) {
  if (used.priced().empty()) return rows;
  const std::size_t tasks = weights.size();
  priced.assign(rows.begin(), rows.end());
  for (std::size_t t = 0; t < tasks; ++t)
    for (std::size_t i = 0; used.priced()[t] && i < values.size(); ++i) priced[i * tasks + t] *= values[i];
  return priced;
}

// Missing predictions must not enter the statistics of the others: transforms `some`, the rows without one, then ranks
// them spread over all rows, with NaN in the rest.
void Ranker::Slot::rank_with_gaps(const Request& request, std::span<const float> some, const FusionOptions& options,
                                  const PageBuffer& buffer) {
  const std::size_t tasks = weights.size(), rows = request.predictions.size() / tasks;
  const auto count = [&](std::size_t n) { return static_cast<std::int64_t>(n); };
  transformed.assign(rows * tasks, nan);
  if (!some.empty()) {
    const auto packed = std::span(transformed).first(some.size());
    transform_scores(Scores::dense(some.data(), ScoreType::float32, 1, count(some.size() / tasks), count(tasks)),
                     options, packed);
  }
  spread(request, tasks, rows);
  pygrade::rank(Scores::dense(transformed.data(), ScoreType::float32, 1, count(rows), count(tasks)), weights,
                count(buffer.values.size()), {}, request.rules, buffer.values, buffer.indices);
}

// Ranks by the scores of the sources, which those of `rows`, the candidates without a missing prediction, make.
void Ranker::Slot::rank_scores(const Sources& sources, const Policy& used, const Request& request,
                               std::span<const float> rows, const FusionOptions& options, const PageBuffer& buffer) {
  const std::size_t tasks = weights.size(), all = request.predictions.size() / tasks, some = rows.size() / tasks;
  const auto count = [&](std::size_t n) { return static_cast<std::int64_t>(n); };
  std::span<const float> item_values;
  if (sources.take_prices(used))
    item_values = some < all ? of_present(request, request.item_values, 1, prices) : request.item_values;
  const auto of = [&](const Baseline& entry, std::span<float> to) {
    entry.scores(entry.corrected ? corrected : rows, multipliers, item_values, options, baseline, to);
  };
  scores.resize(2 * some);
  transformed.resize(all);
  if (some > 0) {
    const auto base = std::span(scores).first(some), other = std::span(scores).last(some);
    const auto result = std::span(transformed).first(some);
    if (sources.challenger != nullptr) {
      of(*sources.challenger, other);
    } else if (sources.network) {
      const auto fused = network_rows(used, used.corrected() ? corrected : rows, item_values);
      fuse_scores(Scores::dense(fused.data(), ScoreType::float32, 1, count(some), count(tasks)), weights, 1, options,
                  other);
    } else {
      std::ranges::fill(other, 0.0f);
    }
    if (sources.mixture != nullptr) {
      of(*sources.baseline, base);
      sources.mixture->mix(scores, result);
    } else {
      std::ranges::copy(other, result.begin());
    }
  }
  if (some < all) spread(request, 1, all);
  constexpr float one[] = {1.0f};
  pygrade::rank(Scores::dense(transformed.data(), ScoreType::float32, 1, count(all), 1), one,
                count(buffer.values.size()), {}, request.rules, buffer.values, buffer.indices);
}

Page Ranker::rank(Slot& slot, const Policy& used, const Request& request, const PageBuffer& buffer,
                  std::optional<std::uint64_t> draw) {
  const detail::FloatEnvironment environment;
  check_sizes(used, request, buffer);
  const std::size_t tasks = used.tasks().size();
  const std::size_t rows = request.predictions.size() / tasks;
  const Sources sources(used, request);
  slot.weights.resize(tasks);
  slot.concentration.resize(tasks);
  slot.multipliers.resize(tasks);
  used.multipliers(request.values, request.scenario, slot.multipliers);
  if (!sources.network_alone() || !used.priced().empty()) check_signs(used, request);

  Page page;
  std::span<const float> present = request.predictions;
  const bool gaps = any_missing(present);
  if (gaps) {
    slot.present.clear();
    slot.present.reserve(present.size());
    for (std::size_t row = 0; row < rows; ++row) {
      const auto values = request.predictions.subspan(row * tasks, tasks);
      if (any_missing(values))
        ++page.missing_predictions;
      else
        slot.present.insert(slot.present.end(), values.begin(), values.end());
    }
    present = slot.present;
  }
  if (sources.take_corrected(used)) {
    const auto& correction = *used.correction();
    slot.corrected.resize(present.size());
    const auto items =
        gaps ? slot.of_present(request, request.items, correction.num_items(), slot.items) : request.items;
    correction.apply(request.context, present, items, slot.correction, slot.corrected);
  }
  const auto rows_of_network = used.corrected() ? std::span<const float>(slot.corrected) : present;

  if (!slot.choose_weights(used, request, rows_of_network, impute_ || used.imputes())) {
    const auto fallback = used.fallback(request.scenario);
    page.fallback = fallback.of_scenario ? Fallback::scenario : Fallback::global;
    std::ranges::copy(fallback.weights, slot.weights.begin());
    std::ranges::fill(slot.concentration, nan);
  } else if (request.explore) {
    page.explored = true;
    page.seed = draw ? *draw : reserve_draws(1);
    dirichlet_sample(slot.concentration, {1, 1, static_cast<std::int64_t>(tasks)}, page.seed >> 32,
                     page.seed & low_word, slot.weights, {}, {});
  }

  const FusionOptions options{transform_of(used), used.beta(), used.epsilon(), used.slope().data()};
  if (!sources.network_alone()) {
    slot.rank_scores(sources, used, request, present, options, buffer);
  } else {
    auto item_values = request.item_values;
    if (gaps && !used.priced().empty()) item_values = slot.of_present(request, item_values, 1, slot.prices);
    const auto fused = slot.network_rows(used, rows_of_network, item_values);
    if (gaps)
      slot.rank_with_gaps(request, fused, options, buffer);
    else
      pygrade::rank(Scores::dense(fused.data(), ScoreType::float32, 1, static_cast<std::int64_t>(rows),
                                  static_cast<std::int64_t>(tasks)),
                    slot.weights, static_cast<std::int64_t>(buffer.values.size()), options, request.rules,
                    buffer.values, buffer.indices);
  }

  if (!buffer.weights.empty()) std::ranges::copy(slot.weights, buffer.weights.begin());
  if (!buffer.concentration.empty()) std::ranges::copy(slot.concentration, buffer.concentration.begin());
  const auto end = std::ranges::find(buffer.indices, -1);
  page.filled = static_cast<std::int32_t>(end - buffer.indices.begin());
  page.set_policy(used);

  slot.add(Slot::requests, 1);
  slot.add(Slot::fallback_scenario, page.fallback == Fallback::scenario);
  slot.add(Slot::fallback_global, page.fallback == Fallback::global);
  slot.add(Slot::explored, page.explored);
  slot.add(Slot::missing_predictions, static_cast<std::uint64_t>(page.missing_predictions));
  slot.add(Slot::empty_pages, page.filled == 0);
  return page;
}

Page Ranker::Lease::rank(const Request& request, const PageBuffer& buffer) {
  return ranker_.rank(slot_, **owner_, request, buffer, request.draw);
}

void Ranker::Lease::rank(std::span<const Request> requests, std::span<const PageBuffer> buffers, std::span<Page> pages,
                         int num_threads) {
  if (buffers.size() != requests.size() || pages.size() != requests.size())
    throw std::invalid_argument("buffers and pages must have one entry for each request");
  const Policy& used = **owner_;
  std::size_t values = 0;
  slot_.multipliers.resize(used.tasks().size());
  slot_.draws.clear();
  for (std::size_t b = 0; b < requests.size(); ++b) {
    try {
      check_sizes(used, requests[b], buffers[b]);
      check_signs(used, requests[b]);
      used.multipliers(requests[b].values, requests[b].scenario, slot_.multipliers);
      detail::check_rules(requests[b].rules,
                          static_cast<std::int64_t>(requests[b].predictions.size() / used.tasks().size()));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("request " + std::to_string(b) + ": " + error.what());
    }
    values += requests[b].predictions.size();
    slot_.draws.push_back(requests[b].draw);
  }
  const auto next = [](const Request& request) { return request.explore && !request.draw; };
  if (const auto wanted = static_cast<std::uint64_t>(std::ranges::count_if(requests, next)); wanted > 0) {
    std::uint64_t draw = ranker_.reserve_draws(wanted);
    for (std::size_t b = 0; b < requests.size(); ++b)
      if (next(requests[b])) slot_.draws[b] = draw++;
  }
  const auto count = static_cast<std::int64_t>(requests.size());
  const double mean = static_cast<double>(values) / static_cast<double>(std::max<std::size_t>(1, requests.size()));
  detail::parallel_for(count, num_threads, detail::grain_of(600.0 + 0.2 * mean),
                       [&](std::int64_t begin, std::int64_t end) {
                         const Lease worker(ranker_, owner_);  // the outer lease keeps the policy in service
                         for (auto b = static_cast<std::size_t>(begin); b < static_cast<std::size_t>(end); ++b)
                           pages[b] = ranker_.rank(worker.slot_, used, requests[b], buffers[b], slot_.draws[b]);
                       });
}

Page Ranker::rank(const Request& request, const PageBuffer& buffer) { return Lease(*this).rank(request, buffer); }

void Ranker::rank(std::span<const Request> requests, std::span<const PageBuffer> buffers, std::span<Page> pages,
                  int num_threads) {
  Lease(*this).rank(requests, buffers, pages, num_threads);
}

void Ranker::swap(std::shared_ptr<const Policy> policy) {
  auto next = std::make_unique<const Owner>(checked(std::move(policy)));
  std::unique_ptr<const Owner> old;  // deleted without the lock: the end of a policy may run code of the caller's
  const std::lock_guard lock(swapping);
  const Owner* current = current_.load();
  if ((*next)->tasks() != (*current)->tasks() || (*next)->features() != (*current)->features())
    throw std::invalid_argument("policy has other tasks or features than the one that it replaces");
  const auto after = (*next)->items(), before = (*current)->items();
  if ((*next)->correction() && (*current)->correction() && !std::ranges::equal(after, before))
    throw std::invalid_argument("policy has other item columns than the one that it replaces");
  old.reset(current);
  current_.store(next.release());
  for (const Slot* slot = slots_.load(); slot != nullptr; slot = slot->next)
    while (slot->process == forks && slot->policy.load() == old.get()) std::this_thread::yield();
}

std::shared_ptr<const Policy> Ranker::policy() const {
  return Lease(const_cast<Ranker&>(*this)).policy();  // reads only
}

RankerCounters Ranker::counters() const {
  RankerCounters sum;
  for (const Slot* slot = slots_.load(); slot != nullptr; slot = slot->next) {
    const auto read = [&](Slot::Count count) { return slot->counters[count].load(std::memory_order_relaxed); };
    sum.requests += read(Slot::requests);
    sum.fallback_scenario += read(Slot::fallback_scenario);
    sum.fallback_global += read(Slot::fallback_global);
    sum.explored += read(Slot::explored);
    sum.missing_predictions += read(Slot::missing_predictions);
    sum.empty_pages += read(Slot::empty_pages);
  }
  return sum;
}

}  // namespace pygrade
