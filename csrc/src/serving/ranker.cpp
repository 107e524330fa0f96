#include "pygrade/ranker.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "fusion.hpp"
#include "pygrade/dirichlet.hpp"
#include "ranking.hpp"
#include "serving/draws.hpp"
#include "serving/missing.hpp"
#include "serving/page_places.hpp"
#include "serving/policy.hpp"
#include "serving/prediction_scales.hpp"
#include "serving/request_fields.hpp"
#include "serving/score_sources.hpp"
#include "util/fpenv.hpp"
#include "util/hot_swap.hpp"
#include "util/parallel.hpp"

namespace pygrade::inline v0_2 {
namespace {
using detail::any_missing;
using detail::ScoreSources;

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

std::shared_ptr<const Policy> checked(std::shared_ptr<const Policy> policy) {
  if (policy == nullptr) throw std::invalid_argument("policy is null");
  return policy;
}

bool fits(std::size_t size, std::size_t wanted) { return size == 0 || size == wanted; }

void check_buffer(const Policy& policy, const PageBuffer& buffer) {
  const std::size_t tasks = policy.tasks().size();
  if (buffer.values.empty() || buffer.indices.size() != buffer.values.size())
    throw std::invalid_argument("values and indices must have k >= 1 places each");
  if (!fits(buffer.weights.size(), tasks) || !fits(buffer.concentration.size(), tasks))
    throw std::invalid_argument("weights and concentration must have one place for each task of the policy, or none");
  if (!fits(buffer.effects.size(), buffer.values.size()))
    throw std::invalid_argument("effects must have k places, or none");
}

// A policy that reads history is never served without it: what was learned live does harm where it is missing.
void check_history(const Policy& policy, const ScoreSources& sources, const Request& request) {
  if (!sources.read_history(policy)) return;
  const auto check = [](std::span<const float> values, std::span<const Policy::HistoryColumn> columns,
                        std::size_t width, std::span<const std::string> names, const char* argument) {
    for (const auto& [place, column] : columns)
      for (std::size_t at = place; at < std::max(values.size(), width); at += width)
        if (values.empty() || !std::isfinite(values[at]))
          throw std::invalid_argument(
              std::string(argument) + " lacks " + names[place] +
              ", which is of the user's or item's history; expected the columns of History::read");
  };
  check(request.context, policy.history_features(), policy.features().size(), policy.features(), "context");
  if (!request.predictions.empty() && sources.read_corrected(policy))
    check(request.items, policy.history_items(), policy.correction()->num_items(), policy.items(), "items");
}

// Finds gaps and negatives, by one pass over most predictions; refuses those that their scale can't have.
detail::Found check_predictions(const Policy& policy, const Request& request) {
  if (!request.as_logged && !policy.scales().empty()) return {policy.scales().check(request.predictions), false};
  if (!detail::any_outside(request.predictions, 0.0f)) return {false, true};
  return {detail::any_outside(request.predictions), false};
}

// Refuses negative predictions under a logarithm. Candidates with a missing prediction are not transformed.
void check_signs(const Policy& policy, const Request& request, detail::Found found) {
  if (found.no_negatives || !ScoreSources(policy, request).take_logarithms(policy)) return;
  if (!detail::any_outside(request.predictions, 0.0f)) return;
  const std::size_t tasks = policy.tasks().size();
  for (std::size_t i = 0; i < request.predictions.size(); ++i)
    if (request.predictions[i] < 0.0f && !any_missing(request.predictions.subspan(i / tasks * tasks, tasks)))
      throw std::invalid_argument("predictions is negative at candidate " + std::to_string(i / tasks) + ", task " +
                                  std::to_string(i % tasks) + "; expected predictions >= 0 under a logarithm");
}
}  // namespace

void detail::check_request(const Policy& policy, const pygrade::Request& request, std::size_t places) {
  const ScoreSources sources(policy, request);
  const PageTerms* terms = places > 0 ? sources.page_terms(policy, request) : nullptr;
  // Scores alone have no places, and pins do not count.
  detail::FieldSizes sizes{.places = places > 0 ? places : request.pins.size(),
                           .features = policy.features().size(),
                           .tasks = policy.tasks().size()};
  sizes.candidates = request.predictions.size() / sizes.tasks;
  const std::size_t rows = std::max<std::size_t>(sizes.candidates, 1);
  sizes.embedding_size = terms && terms->dimension > 0 ? terms->dimension : request.embeddings.size() / rows;
  sizes.item_columns = policy.correction() ? policy.correction()->num_items() : request.items.size() / rows;
  detail::check_fields(request, sizes);
  check_history(policy, sources, request);
  if (sources.take_prices(policy) && request.item_values.empty() && sizes.candidates > 0)
    throw std::invalid_argument("item_values is missing; the policy or its baseline prices tasks by it");
  for (std::size_t i = 0; i < request.item_values.size(); ++i)
    if (const float value = request.item_values[i]; !(value >= 0.0f && std::isfinite(value)))
      throw std::invalid_argument("item_values is " + std::to_string(value) + " at candidate " + std::to_string(i) +
                                  "; expected a finite value >= 0");
  if (sources.take_given() && request.production_scores.empty() && sizes.candidates > 0)
    throw std::invalid_argument("production_scores is missing; the ranking is by production's score");
  if (const auto bad = std::ranges::find_if_not(request.production_scores, [](float s) { return std::isfinite(s); });
      bad != request.production_scores.end())
    throw std::invalid_argument("production_scores is " + std::to_string(*bad) + " at candidate " +
                                std::to_string(bad - request.production_scores.begin()) + "; expected a finite number");
}

void detail::check_fields(const pygrade::Request& request, const FieldSizes& sizes) {
  const auto check = [](const char* name, std::size_t size, std::size_t rows, std::size_t width) {
    if (size != 0 && size != rows * width)
      throw std::invalid_argument(std::string(name) + " has " + std::to_string(size) + " values; expected " +
                                  std::to_string(rows) + " × " + std::to_string(width) + ", or none");
  };
#define PYGRADE_FIELD(type, name, rows, width, text) check(#name, request.name.size(), sizes.rows, sizes.width);
#include "pygrade/request.def"
  for (const std::int32_t pin : request.pins)
    if (pin < -1 || (pin >= 0 && static_cast<std::size_t>(pin) >= sizes.candidates))
      throw std::invalid_argument("pins holds " + std::to_string(pin) + "; expected -1 or the place of a candidate");
}

void Page::set_policy(const Policy& policy) {
  policy.version().copy(policy_version.data(), policy_version.size());
  const auto& mixture = policy.mixture();
  if (!mixture) return;
  mixture_weight = static_cast<float>(mixture->mixture_weight);
  verdict = mixture->verdict;
  mixture->baseline.name.copy(baseline_name.data(), Baseline::max_name);
}

struct Ranker::Memory {
  enum Count {
    requests,
    fallback_scenario,
    fallback_global,
    explored,
    missing_predictions,
    empty_pages,
    missing_items,
    counts
  };

  std::array<std::atomic<std::uint64_t>, counts> counters{};

  Policy::Workspace workspace;
  bool has_logs = false;  // the workspace has the logarithms of the request
  std::vector<float> inputs, context;
  std::vector<float> concentration, weights;        // [T]
  std::vector<float> present;                       // [N', T] rows without a missing prediction
  std::vector<float> leveled, items;                // [N, I] item columns with levels; [N', I] of these rows
  std::vector<float> corrected, priced;             // [N', T] the same, corrected; and times the prices
  std::vector<float> transformed;                   // [N', T], then [N, T]
  Policy::RequestValues values;                     // of the tasks
  std::vector<float> prices, scores, part;          // [N'], [2, N'] and [N']
  std::vector<float> counted;                       // [T]
  std::vector<std::optional<std::uint64_t>> draws;  // [B]
  std::vector<detail::Found> found;                 // [B]
  Baseline::Workspace baseline;
  Correction::Workspace correction;
  detail::PageMemory page;
  detail::Reading reading;

  void add(Count count, std::uint64_t amount) {  // only the owner of the slot writes
    auto& counter = counters[count];
    counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }

  // Keeps no more than 4 MiB of each after a large request.
  void trim() {
    for (auto* buffer : {&workspace.logs, &present, &leveled, &items, &corrected, &priced, &transformed, &prices,
                         &scores, &baseline.predictions, &correction.columns, &page.value, &page.root, &page.embeddings,
                         &part, &reading.predictions})
      if (buffer->capacity() > std::size_t{1} << 20) std::vector<float>().swap(*buffer);
    if (draws.capacity() > std::size_t{1} << 18) decltype(draws)().swap(draws);
  }

  std::span<const float> of_present(const Request& request, std::span<const float> all, std::size_t width,
                                    std::vector<float>& kept) const;
  std::span<const float> prices_of(const ScoreSources& sources, const Policy& used, const Request& request, bool gaps);
  bool choose_weights(const Policy& used, const Request& request, std::span<const float> rows);
  std::span<const float> network_rows(const Policy& used, std::span<const float> rows,
                                      std::span<const float> item_values);
  std::span<const float> transform_rows(const Policy& used, std::span<const float> rows,
                                        std::span<const float> item_values, FusionOptions& options);
  void rank_with_gaps(const Request& request, std::span<const float> some, const FusionOptions& options,
                      const PageBuffer& buffer);
  void make_scores(const ScoreSources& sources, const Policy& used, const Request& request, std::span<const float> rows,
                   const FusionOptions& options, const PageTerms* terms);
  void rank_scores(const Request& request, const PageTerms* terms, const PageBuffer& buffer);
  void split(const ScoreSources& sources, const Policy& used, const PageTerms& terms, std::span<const float> rows,
             std::span<const float> item_values, const FusionOptions& options);
  void add_boosts(const Request& request, std::span<const float> boosts);
};

Ranker::Lease::Lease(Ranker& ranker) : ranker_(ranker), slot_(ranker.policies_->hold()) {}

Ranker::Lease::Lease(Ranker& ranker, const Owner* held_by_another)
    : ranker_(ranker), slot_(ranker.policies_->claim(held_by_another)) {}

Ranker::Lease::~Lease() {
  slot_.memory.trim();
  ranker_.policies_->release(slot_);
}

const std::shared_ptr<const Policy>& Ranker::Lease::policy() const {
  return *slot_.value.load(std::memory_order_relaxed);
}

Ranker::Ranker(std::shared_ptr<const Policy> policy, const RankerOptions& options)
    : policies_(
          std::make_unique<detail::HotSwap<Owner, Memory>>(std::make_unique<const Owner>(checked(std::move(policy))))),
      stream_(detail::first_draw(options.seed)) {}

std::unique_ptr<Ranker> Ranker::load(const std::string& directory, const RankerOptions& options) {
  return std::make_unique<Ranker>(Policy::load(directory), options);
}

Ranker::~Ranker() = default;

std::uint64_t Ranker::reserve_draws(std::uint64_t count) { return detail::reserve_draws(stream_, count); }

// Weights and concentration from the policy, which takes means for unknown features; false without candidates or any
// known feature.
bool Ranker::Memory::choose_weights(const Policy& used, const Request& request, std::span<const float> rows) {
  const std::size_t features = used.features().size();
  if (rows.empty() || (features > 0 && request.context.empty())) return false;
  context.assign(request.context.begin(), request.context.end());
  std::size_t unknown = 0;
  for (float& value : context) {
    if (std::isfinite(value)) continue;
    value = nan;
    ++unknown;
  }
  if (features > 0 && unknown == features) return false;
  inputs.resize(used.num_inputs());
  used.request_inputs(context, rows, workspace, inputs, values.multipliers);
  has_logs = !used.context_only();
  used.evaluate(inputs, request.scenario, workspace, concentration, weights);
  return std::ranges::all_of(concentration, [](float a) { return std::isfinite(a) && a > 0.0f; }) &&
         std::ranges::all_of(weights, [](float w) { return std::isfinite(w); });
}

// Moves the values, a row of `width` for each candidate without a missing prediction, to the places of these candidates
// among all, and fills the other rows with NaN.
template <class T>
void spread(const Request& request, std::size_t tasks, std::size_t width, std::vector<T>& values) {
  std::size_t from = values.size() / width;
  const std::size_t rows = request.predictions.size() / tasks;
  if (from == rows) return;
  values.resize(rows * width);
  for (std::size_t row = rows; row-- > 0;) {  // the last one first: no row moves forward
    T* target = values.data() + row * width;
    if (any_missing(request.predictions.subspan(row * tasks, tasks))) {
      std::fill_n(target, width, std::numeric_limits<T>::quiet_NaN());
    } else {
      --from;
      if (from != row) std::copy_n(values.data() + from * width, width, target);
    }
  }
}

// Returns the rows, each of `width` values, of the candidates without a missing prediction.
std::span<const float> Ranker::Memory::of_present(const Request& request, std::span<const float> all, std::size_t width,
                                                  std::vector<float>& kept) const {
  const std::size_t tasks = weights.size(), rows = request.predictions.size() / tasks;
  if (all.empty()) return all;
  kept.clear();
  for (std::size_t i = 0; i < rows; ++i)
    if (!any_missing(request.predictions.subspan(i * tasks, tasks)))
      kept.insert(kept.end(), all.begin() + static_cast<std::ptrdiff_t>(i * width),
                  all.begin() + static_cast<std::ptrdiff_t>((i + 1) * width));
  return kept;
}

// The prices of these candidates; gaps: of not all. None if nothing needs them.
std::span<const float> Ranker::Memory::prices_of(const ScoreSources& sources, const Policy& used,
                                                 const Request& request, bool gaps) {
  if (!sources.take_prices(used)) return {};
  return gaps ? of_present(request, request.item_values, 1, prices) : request.item_values;
}

// Rows that the policy's weights fuse: the rows, with priced tasks times the prices of the rows.
std::span<const float> Ranker::Memory::network_rows(const Policy& used, std::span<const float> rows,
                                                    std::span<const float> item_values) {
  if (used.priced().empty()) return rows;
  const std::size_t tasks = weights.size();
  priced.assign(rows.begin(), rows.end());
  for (std::size_t t = 0; t < tasks; ++t)
    for (std::size_t i = 0; used.priced()[t] && i < item_values.size(); ++i) priced[i * tasks + t] *= item_values[i];
  return priced;
}

// Rows, transformed as far as the logarithms of the network's inputs do it; `options` then has what is left.
std::span<const float> Ranker::Memory::transform_rows(const Policy& used, std::span<const float> rows,
                                                      std::span<const float> item_values, FusionOptions& options) {
  const bool z = options.transform == Transform::zlog;
  if (!has_logs || !used.priced().empty() || !(z || options.transform == Transform::log))
    return network_rows(used, rows, item_values);
  const std::size_t tasks = weights.size();
  options.transform = Transform::identity;
  if (z)
    PYGRADE_KERNELS(policy_kernels)
        .standardize(workspace.logs.data(), static_cast<std::int64_t>(rows.size() / tasks),
                     static_cast<std::int64_t>(tasks), workspace.moments.data(), workspace.moments.data() + tasks,
                     options.epsilon);
  return workspace.logs;
}

// Missing predictions must not enter the statistics of the others: transforms `some`, the rows without one, then ranks
// them spread over all rows, with NaN in the rest.
void Ranker::Memory::rank_with_gaps(const Request& request, std::span<const float> some, const FusionOptions& options,
                                    const PageBuffer& buffer) {
  const std::size_t tasks = weights.size(), rows = request.predictions.size() / tasks;
  const auto count = [&](std::size_t n) { return static_cast<std::int64_t>(n); };
  transformed.resize(some.size());
  if (!some.empty())
    transform_scores(Scores::dense(some.data(), ScoreType::float32, 1, count(some.size() / tasks), count(tasks)),
                     options, transformed);
  spread(request, tasks, tasks, transformed);
  detail::rank_floats(Scores::dense(transformed.data(), ScoreType::float32, 1, count(rows), count(tasks)), weights,
                      count(buffer.values.size()), {}, request.rules, buffer.values, buffer.indices);
}

// Scores of one request less their mean, over their standard deviation; in place.
void standardize(std::span<float> scores) {
  constexpr FusionOptions options{.transform = Transform::zscore, .epsilon = Mixture::epsilon};
  if (scores.empty()) return;
  transform_scores(Scores::dense(scores.data(), ScoreType::float32, 1, static_cast<std::int64_t>(scores.size()), 1),
                   options, scores);
}

// Divisor of `standardize`, in double precision.
double deviation(std::span<const float> scores) {
  const auto count = static_cast<double>(scores.size());
  double mean = 0.0, square = 0.0;
  for (const float score : scores) mean += static_cast<double>(score) / count;
  for (const float score : scores) square += (static_cast<double>(score) - mean) * (static_cast<double>(score) - mean);
  return std::sqrt(square / count) + static_cast<double>(Mixture::epsilon);
}

// Adds boosts[I] times the item columns to `transformed`, the scores of all candidates.
void Ranker::Memory::add_boosts(const Request& request, std::span<const float> boosts) {
  const std::size_t columns = boosts.size();
  for (std::size_t i = 0; columns > 0 && !request.items.empty() && i < transformed.size(); ++i) {
    float sum = 0.0f;
    for (std::size_t c = 0; c < columns; ++c) {
      const float value = request.items[i * columns + c];
      sum += boosts[c] * (std::isfinite(value) ? value : 0.0f);
    }
    transformed[i] += sum;
  }
}

// The scores of the sources of all candidates, in `transformed`; rows: of those without a missing prediction.
void Ranker::Memory::make_scores(const ScoreSources& sources, const Policy& used, const Request& request,
                                 std::span<const float> rows, const FusionOptions& options, const PageTerms* terms) {
  const std::size_t tasks = weights.size(), all = request.predictions.size() / tasks, some = rows.size() / tasks;
  const auto count = [&](std::size_t n) { return static_cast<std::int64_t>(n); };
  const auto item_values = prices_of(sources, used, request, some < all);
  const auto of = [&](const Baseline& entry, std::span<float> to) {
    if (entry.given) {
      const auto given = request.production_scores;
      std::ranges::copy(some < all ? of_present(request, given, 1, part) : given, to.begin());
      return;
    }
    entry.scores(entry.corrected ? corrected : rows, values.change(), item_values, options, baseline, to);
  };
  scores.resize(2 * some);
  transformed.resize(some);
  if (some > 0) {
    const auto base = std::span(scores).first(some), other = std::span(scores).last(some);
    if (sources.challenger != nullptr) {
      of(*sources.challenger, other);
    } else if (sources.network) {
      FusionOptions left = options;
      const auto fused = transform_rows(used, used.corrected() ? corrected : rows, item_values, left);
      detail::fuse_floats(Scores::dense(fused.data(), ScoreType::float32, 1, count(some), count(tasks)), weights, left,
                          other);
    } else {
      std::ranges::fill(other, 0.0f);
    }
    if (sources.mixture != nullptr) {
      of(*sources.baseline, base);
      sources.mixture->mix(scores, transformed);
    } else {
      std::ranges::copy(other, transformed.begin());
    }
  }
  if (terms != nullptr) split(sources, used, *terms, rows, item_values, options);
  if (!sources.boosts.empty()) standardize(transformed);  // never with terms
  spread(request, tasks, 1, transformed);
  add_boosts(request, sources.boosts);
}

// Ranks by the scores in `transformed`.
void Ranker::Memory::rank_scores(const Request& request, const PageTerms* terms, const PageBuffer& buffer) {
  const std::size_t all = transformed.size();
  if (terms != nullptr || detail::has_places(request)) {
    page.value.assign(transformed.begin(), transformed.end());
    if (terms != nullptr) {
      spread(request, weights.size(), 1, page.root);
    }
    return detail::place_candidates(terms, request, page, buffer);
  }
  constexpr float one[] = {1.0f};
  detail::rank_floats(Scores::dense(transformed.data(), ScoreType::float32, 1, static_cast<std::int64_t>(all), 1), one,
                      static_cast<std::int64_t>(buffer.values.size()), {}, request.rules, buffer.values,
                      buffer.indices);
}

// Splits the scores in `transformed` into what needs the root task, page.root[N'], and the rest, which stays there. In
// a mixture both are in its units: a source's root part over the deviation of its scores, times its share.
void Ranker::Memory::split(const ScoreSources& sources, const Policy& used, const PageTerms& terms,
                           std::span<const float> rows, std::span<const float> item_values,
                           const FusionOptions& options) {
  const std::size_t tasks = weights.size(), some = rows.size() / tasks;
  const auto& parents = used.correction()->parts().structure.parents;
  const auto needs_root = [&](std::size_t task) {
    auto at = static_cast<std::int64_t>(task);
    while (at >= 0 && at != static_cast<std::int64_t>(terms.root)) at = parents[static_cast<std::size_t>(at)];
    return at >= 0;
  };
  const auto count_alone = [&](std::span<const float> factors) {
    counted.assign(factors.begin(), factors.end());
    for (std::size_t t = 0; t < tasks; ++t) counted[t] = needs_root(t) ? counted[t] : 0.0f;
    return std::span<const float>(counted);
  };
  const auto unit = [&](std::span<const float> whole, double share) {
    return sources.mixture == nullptr ? 1.0f : static_cast<float>(share / deviation(whole));
  };
  page.root.assign(some, 0.0f);
  part.resize(some);
  const auto add = [&](float factor) {
    for (std::size_t i = 0; i < some; ++i) page.root[i] += factor * part[i];
  };
  const double mixture_weight = sources.share();
  const auto base = std::span(scores).first(some), other = std::span(scores).last(some);
  const auto add_entry = [&](const Baseline* entry, std::span<const float> whole, double share) {
    if (entry == nullptr || !ScoreSources::has_root(*entry)) return;
    baseline.weights.resize(tasks);
    entry->weights_at(values.change(), baseline.weights);
    entry->scores(corrected, {.values = count_alone(baseline.weights)}, item_values, options, baseline, part);
    add(unit(whole, share));
  };
  if (some > 0) {
    add_entry(sources.challenger, other, mixture_weight);
    add_entry(sources.baseline, base, 1.0 - mixture_weight);
  }
  if (some > 0 && sources.network_has_root(used)) {
    const auto fused = network_rows(used, corrected, item_values);
    detail::fuse_floats(Scores::dense(fused.data(), ScoreType::float32, 1, static_cast<std::int64_t>(some),
                                      static_cast<std::int64_t>(tasks)),
                        count_alone(weights), options, part);
    add(unit(other, mixture_weight));
  }
  for (std::size_t i = 0; i < some; ++i) transformed[i] -= page.root[i];
}

// A request as the policy reads it: predictions on the scales of a log, items with their levels, weights chosen.
struct Ranker::Prepared {
  Request request;
  ScoreSources sources;
  FusionOptions options;
  std::span<const float> present;  // predictions [N', T] of the candidates without a missing one
  Page page = {};

  Prepared(const Policy& used, const Request& read)
      : request(read),
        sources(used, read),
        options{find_transform(used.transform()).value(), used.beta(), used.epsilon(), used.slope().data()},
        present(read.predictions) {}
};

Ranker::Prepared Ranker::read(Memory& memory, const Policy& used, const Request& given, detail::Found found) {
  Request read = detail::as_logged(used, given, memory.reading);
  read.items = used.add_levels(given.item_ids, given.items, memory.leveled);
  Prepared prepared(used, read);
  auto& [request, sources, options, present, page] = prepared;
  const std::size_t tasks = used.tasks().size();
  const std::size_t rows = request.predictions.size() / tasks;
  memory.weights.resize(tasks);
  memory.concentration.resize(tasks);
  memory.has_logs = false;
  used.find_values(request.values, request.scenario, memory.values);
  check_signs(used, request, found);
  if (found.gaps) {
    memory.present.clear();
    memory.present.reserve(present.size());
    for (std::size_t row = 0; row < rows; ++row) {
      const auto values = request.predictions.subspan(row * tasks, tasks);
      if (any_missing(values))
        ++page.missing_predictions;
      else
        memory.present.insert(memory.present.end(), values.begin(), values.end());
    }
    present = memory.present;
  }
  if (sources.take_corrected(used)) {
    const auto& correction = *used.correction();
    memory.corrected.resize(present.size());
    const auto items =
        found.gaps ? memory.of_present(request, request.items, correction.num_items(), memory.items) : request.items;
    if (given.items.empty() && rows > 0 && sources.read_corrected(used))  // levels, a column a task, were looked up
      page.missing_items = static_cast<std::int32_t>(correction.num_items() - (request.items.empty() ? 0 : tasks));
    correction.apply(request.context, present, items, memory.correction, memory.corrected);
  }
  return prepared;
}

Ranker::Prepared Ranker::prepare(Memory& memory, const Policy& used, const Request& given,
                                 std::optional<std::uint64_t> draw, detail::Found found) {
  Prepared prepared = read(memory, used, given, found);
  auto& [request, sources, options, present, page] = prepared;
  const std::size_t tasks = used.tasks().size();
  const auto rows_of_network = used.corrected() ? std::span<const float>(memory.corrected) : present;

  if (!memory.choose_weights(used, request, rows_of_network)) {
    const auto fallback = used.fallback(request.scenario);
    page.fallback = fallback.of_scenario ? Fallback::scenario : Fallback::global;
    std::ranges::copy(fallback.weights, memory.weights.begin());
    std::ranges::fill(memory.concentration, nan);
  } else if (request.explore) {
    page.explored = true;
    page.seed = draw ? *draw : reserve_draws(1);
    dirichlet_sample(memory.concentration, {1, 1, static_cast<std::int64_t>(tasks)}, page.seed >> 32,
                     page.seed & detail::max_draw_of_seed, memory.weights, {}, {});
  }

  return prepared;
}

void Ranker::score(Memory& memory, const Policy& used, const Request& given, detail::Found found,
                   std::span<float> scores) {
  const detail::FloatEnvironment environment;
  Request mean = given;
  mean.explore = false;
  auto [request, sources, options, present, page] = prepare(memory, used, mean, {}, found);
  memory.make_scores(sources, used, request, present, options, nullptr);
  std::ranges::copy(memory.transformed, scores.begin());
}

// A share of the standardized scores.
std::vector<double> share_of(double share, std::vector<float> scores) {
  standardize(scores);
  std::vector<double> shares(scores.begin(), scores.end());
  for (double& value : shares) value *= share;
  return shares;
}

// A share of the summands [n, T] that add up to the scores.
std::vector<double> share_of(double share, const std::vector<float>& summands, const std::vector<float>& scores) {
  const std::size_t count = scores.size(), tasks = count == 0 ? 0 : summands.size() / count;
  const double n = static_cast<double>(count), factor = share / deviation(scores);
  std::vector<double> shares(summands.begin(), summands.end());
  for (std::size_t t = 0; t < tasks; ++t) {
    double sum = 0.0;
    for (std::size_t i = 0; i < count; ++i) sum += shares[i * tasks + t];
    for (std::size_t i = 0; i < count; ++i) shares[i * tasks + t] = factor * (shares[i * tasks + t] - sum / n);
  }
  return shares;
}

ScoreParts Ranker::score_parts(const Policy& policy, const Request& given, std::span<const float> weights) {
  const detail::FloatEnvironment environment;
  detail::check_request(policy, given, 0);
  const std::size_t tasks = policy.tasks().size();
  if (weights.size() != tasks) throw std::invalid_argument("weights must have one number for each task of the policy");
  Memory memory;
  const auto [request, sources, options, present, page] = read(memory, policy, given, check_predictions(policy, given));
  std::ranges::copy(weights, memory.weights.begin());
  memory.make_scores(sources, policy, request, present, options, nullptr);

  ScoreParts parts;
  parts.lead = sources.lead();
  const std::size_t some = present.size() / tasks;
  const auto middle = memory.scores.begin() + static_cast<std::ptrdiff_t>(some);
  if (sources.baseline != nullptr) parts.baseline.assign(memory.scores.begin(), middle);
  parts.scores.assign(middle, memory.scores.end());
  if (parts.lead == sources.baseline && parts.lead != nullptr) parts.scores = parts.baseline;
  if (sources.take_corrected(policy)) parts.corrected = memory.corrected;
  for (const float sum : memory.correction.sums) parts.trees.push_back(std::exp(sum));
  if (parts.lead != nullptr) {
    parts.lead->weights_at(memory.values.change(), memory.weights);
    parts.logarithm = parts.lead->takes_logarithm_of(memory.weights);
  }
  if (some > 0) {
    const auto prices = memory.prices_of(sources, policy, request, page.missing_predictions > 0);
    const auto rows = [&](bool corrected) { return corrected ? std::span<const float>(memory.corrected) : present; };
    const auto count = [](std::size_t n) { return static_cast<std::int64_t>(n); };
    const auto amounts = parts.lead != nullptr
                             ? parts.lead->amounts(rows(parts.lead->corrected), prices, memory.baseline)
                             : Scores::dense(memory.network_rows(policy, rows(policy.corrected()), prices).data(),
                                             ScoreType::float32, 1, count(some), count(tasks));
    FusionOptions formula = options;
    if (parts.lead != nullptr) formula.transform = parts.lead->transform;
    std::vector<float> values(present.size());
    transform_scores(amounts, formula, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t t = i % tasks;
      const float value = values[amounts.layout == Layout::task_major ? t * some + i / tasks : i];
      parts.contributions.push_back(memory.weights[t] * value);
    }
  }
  if (sources.mixture != nullptr) {
    parts.share = share_of(sources.share(), parts.scores);
    parts.baseline_share = share_of(1.0 - sources.share(), parts.baseline);
    if (parts.lead == nullptr) parts.task_shares = share_of(sources.share(), parts.contributions, parts.scores);
  }
  spread(request, tasks, tasks, parts.contributions);
  spread(request, tasks, 1, parts.scores);
  if (!parts.corrected.empty()) spread(request, tasks, tasks, parts.corrected);
  if (!parts.trees.empty()) spread(request, tasks, 1, parts.trees);
  if (!parts.task_shares.empty()) spread(request, tasks, tasks, parts.task_shares);
  for (auto* values : {&parts.share, &parts.baseline_share})
    if (!values->empty()) spread(request, tasks, 1, *values);
  if (!parts.baseline.empty()) spread(request, tasks, 1, parts.baseline);
  return parts;
}

Page Ranker::rank(Memory& memory, const Policy& used, const Request& given, const PageBuffer& buffer,
                  std::optional<std::uint64_t> draw, detail::Found found) {
  const detail::FloatEnvironment environment;
  auto [request, sources, options, present, page] = prepare(memory, used, given, draw, found);
  const std::size_t tasks = used.tasks().size();
  const std::size_t rows = request.predictions.size() / tasks;
  const PageTerms* terms = page.explored ? nullptr : sources.page_terms(used, request);  // drawn weights sort
  page.searched = terms != nullptr;
  if (!sources.network_alone() || terms != nullptr || detail::has_places(request)) {
    memory.make_scores(sources, used, request, present, options, terms);
    memory.rank_scores(request, terms, buffer);
  } else {
    const auto item_values = memory.prices_of(sources, used, request, found.gaps);
    const auto rows_of_network = used.corrected() ? std::span<const float>(memory.corrected) : present;
    const auto fused = memory.transform_rows(used, rows_of_network, item_values, options);
    if (found.gaps)
      memory.rank_with_gaps(request, fused, options, buffer);
    else
      detail::rank_floats(Scores::dense(fused.data(), ScoreType::float32, 1, static_cast<std::int64_t>(rows),
                                        static_cast<std::int64_t>(tasks)),
                          memory.weights, static_cast<std::int64_t>(buffer.values.size()), options, request.rules,
                          buffer.values, buffer.indices);
  }

  if (terms == nullptr) std::ranges::fill(buffer.effects, PageEffect{});
  if (!buffer.weights.empty()) std::ranges::copy(memory.weights, buffer.weights.begin());
  if (!buffer.concentration.empty()) std::ranges::copy(memory.concentration, buffer.concentration.begin());
  const auto end = std::ranges::find(buffer.indices, -1);
  page.filled = static_cast<std::int32_t>(end - buffer.indices.begin());
  page.set_policy(used);

  memory.add(Memory::requests, 1);
  memory.add(Memory::fallback_scenario, page.fallback == Fallback::scenario);
  memory.add(Memory::fallback_global, page.fallback == Fallback::global);
  memory.add(Memory::explored, page.explored);
  memory.add(Memory::missing_predictions, static_cast<std::uint64_t>(page.missing_predictions));
  memory.add(Memory::empty_pages, page.filled == 0);
  memory.add(Memory::missing_items, page.missing_items > 0);
  return page;
}

Page Ranker::Lease::rank(const Request& request, const PageBuffer& buffer) {
  const Policy& used = *policy();
  check_buffer(used, buffer);
  detail::check_request(used, request, buffer.values.size());
  return ranker_.rank(slot_.memory, used, request, buffer, request.draw, check_predictions(used, request));
}

void Ranker::Lease::rank(std::span<const Request> requests, std::span<const PageBuffer> buffers, std::span<Page> pages,
                         int num_threads) {
  if (buffers.size() != requests.size() || pages.size() != requests.size())
    throw std::invalid_argument("buffers and pages must have one entry for each request");
  Memory& memory = slot_.memory;
  const Policy& used = *policy();
  std::size_t values = 0;
  memory.draws.clear();
  memory.found.clear();
  for (std::size_t b = 0; b < requests.size(); ++b) {
    try {
      check_buffer(used, buffers[b]);
      detail::check_request(used, requests[b], buffers[b].values.size());
      memory.found.push_back(check_predictions(used, requests[b]));
      check_signs(used, detail::as_logged(used, requests[b], memory.reading), memory.found.back());
      used.find_values(requests[b].values, requests[b].scenario, memory.values);
      detail::check_rules(requests[b].rules,
                          static_cast<std::int64_t>(requests[b].predictions.size() / used.tasks().size()));
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("request " + std::to_string(b) + ": " + error.what());
    }
    values += requests[b].predictions.size();
    memory.draws.push_back(requests[b].draw);
  }
  const auto next = [](const Request& request) { return request.explore && !request.draw; };
  if (const auto wanted = static_cast<std::uint64_t>(std::ranges::count_if(requests, next)); wanted > 0) {
    std::uint64_t draw = ranker_.reserve_draws(wanted);
    for (std::size_t b = 0; b < requests.size(); ++b)
      if (next(requests[b])) memory.draws[b] = draw++;
  }
  const auto count = static_cast<std::int64_t>(requests.size());
  const double mean = static_cast<double>(values) / static_cast<double>(std::max<std::size_t>(1, requests.size()));
  detail::parallel_for(
      count, num_threads, detail::grain_of(600.0 + 0.2 * mean), [&](std::int64_t begin, std::int64_t end) {
        const Lease worker(ranker_, &policy());  // the outer lease keeps it in service
        for (auto b = static_cast<std::size_t>(begin); b < static_cast<std::size_t>(end); ++b)
          pages[b] = ranker_.rank(worker.slot_.memory, used, requests[b], buffers[b], memory.draws[b], memory.found[b]);
      });
}

void Ranker::Lease::score(std::span<const Request> requests, std::span<const std::span<float>> scores,
                          int num_threads) {
  if (scores.size() != requests.size()) throw std::invalid_argument("scores must have one entry for each request");
  Memory& memory = slot_.memory;
  const Policy& used = *policy();
  std::size_t values = 0;
  memory.found.clear();
  for (std::size_t b = 0; b < requests.size(); ++b) {
    try {
      detail::check_request(used, requests[b], 0);
      if (scores[b].size() != requests[b].predictions.size() / used.tasks().size())
        throw std::invalid_argument("scores must have one place for each candidate");
      memory.found.push_back(check_predictions(used, requests[b]));
      check_signs(used, detail::as_logged(used, requests[b], memory.reading), memory.found.back());
      used.find_values(requests[b].values, requests[b].scenario, memory.values);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("request " + std::to_string(b) + ": " + error.what());
    }
    values += requests[b].predictions.size();
  }
  const double mean = static_cast<double>(values) / static_cast<double>(std::max<std::size_t>(1, requests.size()));
  detail::parallel_for(static_cast<std::int64_t>(requests.size()), num_threads, detail::grain_of(600.0 + 0.2 * mean),
                       [&](std::int64_t begin, std::int64_t end) {
                         const Lease worker(ranker_, &policy());  // the outer lease keeps it in service
                         for (auto b = static_cast<std::size_t>(begin); b < static_cast<std::size_t>(end); ++b)
                           ranker_.score(worker.slot_.memory, used, requests[b], memory.found[b], scores[b]);
                       });
}

Page Ranker::rank(const Request& request, const PageBuffer& buffer) { return Lease(*this).rank(request, buffer); }

void Ranker::rank(std::span<const Request> requests, std::span<const PageBuffer> buffers, std::span<Page> pages,
                  int num_threads) {
  Lease(*this).rank(requests, buffers, pages, num_threads);
}

void Ranker::score(std::span<const Request> requests, std::span<const std::span<float>> scores, int num_threads) {
  Lease(*this).score(requests, scores, num_threads);
}

void Ranker::swap(std::shared_ptr<const Policy> policy) {
  auto next = std::make_unique<const Owner>(checked(std::move(policy)));
  {
    const Lease lease(*this);
    const Policy& current = *lease.policy();
    if ((*next)->tasks() != current.tasks() || (*next)->features() != current.features())
      throw std::invalid_argument("policy has other tasks or features than the one that it replaces");
    if ((*next)->correction() && current.correction() && !std::ranges::equal((*next)->items(), current.items()))
      throw std::invalid_argument("policy has other item columns than the one that it replaces");
  }
  policies_->swap(std::move(next));
}

std::shared_ptr<const Policy> Ranker::policy() const {
  return Lease(const_cast<Ranker&>(*this)).policy();  // reads only
}

RankerCounters Ranker::counters() const {
  RankerCounters sum;
  policies_->for_each_slot([&](const auto& slot) {
    const auto read = [&](Memory::Count count) { return slot.memory.counters[count].load(std::memory_order_relaxed); };
    sum.requests += read(Memory::requests);
    sum.fallback_scenario += read(Memory::fallback_scenario);
    sum.fallback_global += read(Memory::fallback_global);
    sum.explored += read(Memory::explored);
    sum.missing_predictions += read(Memory::missing_predictions);
    sum.empty_pages += read(Memory::empty_pages);
    sum.missing_items += read(Memory::missing_items);
  });
  return sum;
}
}  // namespace pygrade::inline v0_2
