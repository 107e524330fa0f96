// A page: from the body of a request to the body of the answer.
#include <algorithm>
#include <cmath>
#include <limits>

#include "service/impl.hpp"
#include "serving/draws.hpp"
#include "serving/missing.hpp"
#include "serving/score_sources.hpp"
#include "util/hash.hpp"
#include "util/id_table.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
constexpr std::size_t drift_stride = 8;  // every such candidate's predictions are counted
constexpr std::size_t max_request_id = 256;

std::string hexadecimal(std::uint64_t value) {
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[value >> shift & 15];
  return text;
}

// Unbiased below 2^64: a number below `count`.
std::uint64_t below(std::uint64_t count, std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15ull;
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(splitmix64(state)) * count >> 64);
}

// Pins and demotions as places of the candidates.
void take_places(const RankInput& input, Context& context) {
  context.pins.clear();
  context.demoted_rows.clear();
  if (!input.has_places()) return;
  const IdTable places(input.items);
  context.pins.assign(input.k, -1);
  for (const RankInput::Pin& pin : input.pins)
    context.pins[pin.position] = static_cast<std::int32_t>(places.find(pin.item));
  if (input.demoted.empty()) return;
  context.demoted_rows.assign(input.items.size(), 0);
  for (const std::int64_t item : input.demoted) context.demoted_rows[static_cast<std::size_t>(places.find(item))] = 1;
}

// Request to a ranker without what describes the user and the candidates.
Request asked(const Context& context, bool explore) {
  const RankInput& input = context.input;
  Request request{.rules = input.rules(),
                  .scenario = input.scenario,
                  .explore = explore,
                  .values = context.values,
                  .page_terms = input.page_terms,
                  .pins = context.pins,
                  .demoted = context.demoted_rows};
#define PYGRADE_COLUMN(type, name, rows, width, json, text) request.name = input.name;
#include "pygrade/request.def"
  return request;
}

// The pins that were placed, in the order of their positions, and the demoted items that the page holds all the same.
void name_places(std::span<const std::int32_t> page, Context& context) {
  context.pinned.clear();
  context.demoted.clear();
  for (const std::int32_t pin : context.pins)
    if (pin >= 0 && std::ranges::find(page, pin) != page.end()) context.pinned.push_back(pin);
  for (const std::int32_t candidate : page)
    if (!context.demoted_rows.empty() && context.demoted_rows[static_cast<std::size_t>(candidate)] != 0 &&
        std::ranges::find(context.pins, candidate) == context.pins.end())
      context.demoted.push_back(candidate);
}
}  // namespace

// Exploration to use: by drawn weights if asked for, else by a random order or drawn weights as the shares say, within
// max_explore of the pages so far.
Exploration Service::Impl::explores(const Context& context, std::size_t arm, bool& capped) {
  const double limit = config.max_explore * static_cast<double>(pages.fetch_add(1, std::memory_order_relaxed) + 1);
  const double share = config.arms[arm].explore;
  const auto falls_below = [&](double wanted, const char* salt) {
    return wanted > 0.0 && stable_fraction(config.salt + salt, context.request_id) < wanted;
  };
  Exploration how = Exploration::none;
  if (context.input.explore)
    how = *context.input.explore ? Exploration::drawn : Exploration::none;
  else if (!context.input.has_places() && falls_below(config.shuffle, " shuffle"))  // a pin keeps its place
    how = Exploration::shuffled;
  else if (falls_below(share, " explore"))
    how = Exploration::drawn;
  if (how == Exploration::none) return how;
  std::uint64_t before = explored.load(std::memory_order_relaxed);
  while (static_cast<double>(before + 1) <= limit)
    if (explored.compare_exchange_weak(before, before + 1, std::memory_order_relaxed)) return how;
  capped = true;
  return Exploration::none;
}

void Service::Impl::rank_pipeline(Ranked& ranked, Context& context, bool explore, const ServiceRequest& given) {
  const RankInput& input = context.input;
  PipelineRequest request;
  request.user = {*input.user, input.timestamp, input.scenario, input.context};
  request.candidates = input.candidates;
  request.seen = input.seen;
  if (input.has_eligible) request.eligible = input.eligible;
  if (input.has_items) request.item_ids = input.items;
  if (input.has_predictions) request.predictions = input.predictions;
  request.item_features = input.item_features;
  request.page = asked(context, explore);
  request.policy = 1 + ranked.arm;
  request.compared = config.test;
  request.deadline = input.deadline;
  request.arrival = given.arrival;
  const Served& arm = ranked.release->arms[ranked.arm];
  const auto fill = [&](std::span<const std::int64_t> items, std::span<float> features, std::span<float> columns) {
    return add_history(*ranked.release, arm, items, given, context, features, columns);
  };
  if (arm.history != nullptr && ScoreSources(*arm.policy, request.page).read_history(*arm.policy)) {
    request.history = fill;
    request.without_history = arm.plain_place;
  }
  context.items.resize(input.k);
  context.scores.resize(input.k);
  ranked.page =
      pipeline->rank(request, {context.items, context.scores, context.weights, context.concentration, context.effects},
                     context.workspace);
  const PageWorkspace& workspace = context.workspace;
  ranked.policy = &workspace.policy();
  ranked.request = workspace.request();
  ranked.item_ids = workspace.item_ids();
  ranked.unknown_items = workspace.unknown_items();
  const auto indices = workspace.buffer().indices;
  context.indices.assign(indices.begin(), indices.end());
  ranked.user_known = ranked.page.degraded == Degraded::none && workspace.features().user_known;
}

// A request that comes too late gets the page of an unknown user: by the static weights.
void Service::Impl::rank_policy(Ranked& ranked, Context& context, bool explore, const ServiceRequest& given) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const RankInput& input = context.input;
  const Release& release = *ranked.release;
  const Served& arm = release.arms[ranked.arm];
  ranked.policy = arm.policy.get();
  ranked.item_ids = input.items;
  if (input.items.empty()) throw InputError("items", "no candidate is left: items is empty");
  if (input.deadline && start >= given.arrival.value_or(start) + *input.deadline)
    ranked.page.degraded = Degraded::deadline;
  Request& request = ranked.request;
  request = asked(context, explore);
  request.predictions = input.predictions;
  if (ranked.page.degraded == Degraded::none) request.context = input.features;
  if (explore) request.draw = reserve_draws(stream, 1);
  if (ranked.policy->correction()) {
    ranked.unknown_items = ranked.policy->item_columns(input.items, input.item_features, context.item_columns);
    request.items = context.item_columns;
  }
  const bool reads = arm.history != nullptr && ScoreSources(*arm.policy, request).read_history(*arm.policy);
  if (reads && ranked.page.degraded == Degraded::none) {
    auto& features = context.policy_context;
    features = input.features.empty()
                   ? std::vector<float>(release.context->unknown().begin(), release.context->unknown().end())
                   : input.features;
    if (ranked.policy->correction() && context.item_columns.empty()) {
      context.item_columns.assign(input.items.size() * ranked.policy->items().size(),
                                  std::numeric_limits<float>::quiet_NaN());
      request.items = context.item_columns;
    }
    if (add_history(release, arm, input.items, given, context, features, context.item_columns))
      request.context = features;
    else
      ranked.page.degraded = Degraded::history;
  }
  const bool plain = reads && ranked.page.degraded != Degraded::none;
  if (plain) {
    ranked.policy = arm.plain.get();
    if (!arm.plain->takes_values()) request.values = {};
  }
  context.scores.resize(input.k);
  context.indices.resize(input.k);
  Ranker& ranker = *(plain ? release.plain_rankers : release.rankers)[ranked.arm];
  ranked.page.page =
      ranker.rank(request, {context.scores, context.indices, context.weights, context.concentration, context.effects});
  ranked.page.filled = ranked.page.page.filled;
  ranked.page.candidates = static_cast<std::int32_t>(input.items.size());
  ranked.page.seconds[step_ranking] = std::chrono::duration<float>(Clock::now() - start).count();
  ranked.user_known = input.has_context || (reads && !plain && context.history.user_known);
}

// The request, of JSON or of tensors, and its id; "": of weights alone, that do not depend on it.
void Service::Impl::parse(const ServiceRequest& given, Context& context, const Release& release, bool page) {
  const auto is_plain = [](char c) { return c >= 0x20 && c < 0x7f; };
  if (given.request_id.size() > max_request_id || !std::ranges::all_of(given.request_id, is_plain))
    throw InputError("x-request-id", "the header X-Request-Id has " + std::to_string(given.request_id.size()) +
                                         " bytes; expected at most " + std::to_string(max_request_id) +
                                         " printable ASCII characters");
  if (names_tensors(given.content_type))
    context.input.parse_tensors(given.body, config, naming, release, page);
  else
    context.input.parse(given.body, config, naming, release, page);
  context.request_id = context.input.request_id.value_or(given.request_id);
  if (context.request_id.empty() && (page || config.by_request))
    context.request_id = hexadecimal(splitmix64(next_request++));
}

// The arm that is asked for, or the user's or the request's.
std::size_t detail::arm_for(const ServiceConfig& config, const Release& release, const Context& context) {
  const RankInput& input = context.input;
  if (input.arm) return *input.arm;
  if (config.arms.size() == 1) return 0;
  if (config.by_request) return arm_of(config, context.request_id);
  if (input.user && release.is_policy() && input.user_name.data() != nullptr) return arm_of(config, input.user_name);
  if (input.user) return arm_of(config, *input.user);
  throw InputError("user", "user is missing; there are several arms: expected user or arm");
}

namespace {
// `first`, and `second` where it has none.
void complete(std::span<const float> first, std::span<const float> second, std::vector<float>& result) {
  const auto start = first.empty() ? second : first;
  result.assign(start.begin(), start.end());
  for (std::size_t t = 0; t < second.size(); ++t)
    if (std::isnan(result[t])) result[t] = second[t];
}

// Who the user is in the log; "" without one.
std::string_view user_text(const Release& release, Context& context) {
  const RankInput& input = context.input;
  if (!input.user) return {};
  if (release.is_policy() && input.user_name.data() != nullptr) return input.user_name;
  return context.user_text = std::to_string(*input.user);
}
}  // namespace

void detail::set_values(const Served& arm, const RankInput& input, std::vector<float>& values) {
  complete(input.values, arm.values, values);
}

// shown: the page counts for exploration.
Ranked Service::Impl::rank(const ServiceRequest& given, Context& context, bool shown) {
  Ranked ranked;
  RankInput& input = context.input;
  auto how = Exploration::none;
  bool capped = false;
  if (pipeline) {
    ranked.release = Release::of(ranked.lease.emplace(*pipeline, context.workspace).models());
    context.generation = contexts.generation();
  } else {
    ranked.release = release(context);
  }
  const Release& release = *ranked.release;
  const std::size_t tasks = release.tasks.size();
  parse(given, context, release, true);
  ranked.arm = arm_for(config, release, context);
  how = shown                           ? explores(context, ranked.arm, capped)
        : input.explore.value_or(false) ? Exploration::drawn
                                        : Exploration::none;
  set_values(release.arms[ranked.arm], input, context.values);
  context.weights.resize(tasks);
  context.concentration.resize(tasks);
  take_places(input, context);
  context.effects.resize(shown ? 0 : input.k);  // of a page that is explained
  const bool explore = how == Exploration::drawn;
  if (pipeline)
    rank_pipeline(ranked, context, explore, given);
  else
    rank_policy(ranked, context, explore, given);
  name_places(std::span(context.indices).first(static_cast<std::size_t>(ranked.page.filled)), context);
  if (how == Exploration::shuffled) {
    std::uint64_t state = stable_bits(config.salt + " order", context.request_id);
    for (auto left = static_cast<std::size_t>(ranked.page.filled); left > 1; --left) {
      const auto place = static_cast<std::size_t>(below(left, state));
      std::swap(context.indices[left - 1], context.indices[place]);
      std::swap(context.scores[left - 1], context.scores[place]);
    }
    ranked.page.page.shuffled = true;
  }
  ranked.indices = context.indices;
  context.items.resize(input.k);
  for (std::size_t i = 0; i < input.k; ++i)
    context.items[i] = context.indices[i] < 0 ? -1 : ranked.item_ids[static_cast<std::size_t>(context.indices[i])];
  if (capped) metrics.arms[ranked.arm].capped.add();
  return ranked;
}

void Service::Impl::count(const Ranked& ranked, Context& context) {
  const ServedPage& page = ranked.page;
  if (!pipeline)
    missing_predictions.fetch_add(static_cast<std::uint64_t>(page.page.missing_predictions), std::memory_order_relaxed);
  for (std::size_t s = 0; s < steps; ++s)
    if (page.seconds[s] > 0.0f) metrics.step[s].observe(static_cast<double>(page.seconds[s]));
  metrics.degraded[static_cast<std::size_t>(page.degraded)].add();
  metrics.fallback[static_cast<std::size_t>(page.page.fallback)].add();
  if (ranked.unknown_items > 0) metrics.unknown_effects.add(ranked.unknown_items);
  ArmCells& arm = metrics.arms[ranked.arm];
  arm.pages.add();
  if (page.page.explored || page.page.shuffled) arm.explored.add();
  const ScenarioCells& scenario = ranked.release->scenario(context.input.scenario);
  scenario.pages.add();
  for (std::size_t t = 0; t < context.weights.size(); ++t) {
    const auto weight = static_cast<double>(context.weights[t]);
    scenario.sum[t].add_real(weight);
    scenario.square[t].add_real(weight * weight);
  }
  // Candidates of the search alone: items that a caller names have another distribution than the reference's.
  const auto& references = ranked.release->references;
  if (references.empty() || context.input.has_items || page.degraded != Degraded::none) return;
  const auto predictions = context.workspace.predictions();
  const std::size_t tasks = references.size(), rows = predictions.size() / tasks;
  const std::size_t first = arm.pages.own_count() % drift_stride;
  for (std::size_t t = 0; t < tasks; ++t) {
    std::array<std::uint64_t, drift_bins> counts{};
    for (std::size_t row = first; row < rows; row += drift_stride)
      ++counts[references[t].bin_of(predictions[row * tasks + t])];
    for (std::size_t bin = 0; bin < drift_bins; ++bin)
      if (counts[bin] > 0) ranked.release->drift.bins[t][bin].add(counts[bin]);
  }
}

void Service::Impl::log_exposure(const Ranked& ranked, Context& context) {
  if (exposures.empty()) return;
  const RankInput& input = context.input;
  const std::string_view user = user_text(*ranked.release, context);
  exposures[ranked.arm]->append(
      *ranked.policy, ranked.request, {context.scores, context.indices, context.weights, context.concentration},
      ranked.page.page, {context.request_id, user, ranked.item_ids, input.timestamp}, {}, context.arm_pages);
}

std::string_view detail::unless_none(std::string_view name) { return name == "none" ? std::string_view() : name; }

std::variant<std::int64_t, std::string_view> detail::item_of(const Ranked& ranked, const Context& context,
                                                             std::int32_t candidate) {
  const auto at = static_cast<std::size_t>(candidate);
  const std::int64_t id = ranked.item_ids[at];
  if (const auto& given = context.input.names; !given.empty()) {
    if (given[at].data() != nullptr) return given[at];
  } else if (ranked.release->names) {
    if (const auto name = ranked.release->names->of(id)) return *name;
  }
  return id;
}

// Writes what ranks and, where the policy's weights or its share do not count, null in their places.
void detail::write_policy_share(const Policy& policy, const Request& request, const Page& page,
                                std::span<const float> weights, JsonWriter& out) {
  const ScoreSources sources(policy, request);
  out.known_key("ranked_by").list(sources.names()).known_key("weights");
  sources.lead() == nullptr ? out.object(policy.tasks(), weights) : out.null();
  out.field("mixture_weight",
            sources.by_values || page.mixture_weight == 0.0f ? std::nullopt : std::optional(page.mixture_weight));
}

void detail::write_unknown_keys(const UnknownKeys& unknown, JsonWriter& out) {
  if (unknown.count > 0) out.known_key("unknown_keys").list(unknown.names);
}

namespace {
// Writes how many candidates lack a prediction, by task.
void write_missing(const Policy& policy, std::span<const float> predictions, JsonWriter& out) {
  const auto& tasks = policy.tasks();
  out.known_key("missing_predictions").begin_object();
  std::vector<std::size_t> counts(tasks.size());
  for (std::size_t at = 0; at < predictions.size(); ++at) counts[at % tasks.size()] += is_missing(predictions[at]);
  for (std::size_t t = 0; t < tasks.size(); ++t)
    if (counts[t] > 0) out.key(tasks[t]).value(counts[t]);
  out.end_object();
}
}  // namespace

void detail::write_page(const Ranked& ranked, const Context& context, JsonWriter& out, bool lists) {
  const ServedPage& page = ranked.page;
  const Release& release = *ranked.release;
  const auto filled = static_cast<std::size_t>(page.filled);
  const auto list = [&](std::string_view key, std::span<const std::int32_t> candidates) {
    out.known_key(key).list(candidates, [&](std::int32_t at) { return item_of(ranked, context, at); });
  };
  out.field("request_id", context.request_id).field("arm", release.arms[ranked.arm].name);
  if (lists || !context.input.names.empty() || release.names)
    list(lists ? "items" : "names", ranked.indices.first(filled));
  if (lists) out.known_key("scores").list(std::span(context.scores).first(filled));
  write_policy_share(*ranked.policy, ranked.request, page.page, context.weights, out);
  if (ranked.policy->takes_values()) {
    Policy::RequestValues in_force;
    ranked.policy->find_values(ranked.request.values, ranked.request.scenario, in_force);
    if (!in_force.values.empty()) out.known_key("values").object(release.tasks, in_force.values);
  }
  out.text_field("artifact", release.artifact).field("policy", page.page.version());
  out.field("user", ranked.user_known ? "known" : "unknown");
  write_unknown_keys(context.input.unknown_keys, out);
  if (page.page.missing_predictions > 0) write_missing(*ranked.policy, ranked.request.predictions, out);
  out.text_field("degraded", unless_none(degraded_names[static_cast<std::size_t>(page.degraded)]));
  out.text_field("fallback", unless_none(fallback_names[static_cast<std::size_t>(page.page.fallback)]));
  out.field("explored", page.page.explored).field("seed", page.page.seed);
  out.field("exploration", page.page.exploration()).field("searched", page.page.searched);
  if (!context.input.pins.empty()) list("pinned", context.pinned);
  if (!context.input.demoted.empty()) list("demoted", context.demoted);
  out.known_key("seconds").object(step_names, page.seconds);
}

// A page that is counted and logged.
Ranked Service::Impl::serve(const ServiceRequest& given, Context& context) {
  Ranked ranked = rank(given, context, true);
  metrics.unknown_keys.add(context.input.unknown_keys.count);
  count(ranked, context);
  rank_arms(ranked, context, given, true);
  log_exposure(ranked, context);
  add_exposures(ranked, context);
  compare(ranked, context, given);
  return ranked;
}

std::string Service::Impl::rank_body(const ServiceRequest& given, Context& context) {
  const Ranked ranked = serve(given, context);
  JsonWriter out;
  out.reserve(1024 + 40 * static_cast<std::size_t>(ranked.page.filled));
  out.begin_object();
  write_page(ranked, context, out);
  out.end_object();
  return out.take();
}

// The page as tensors: items, scores and weights, and the rest as JSON in the metadata "page".
std::string Service::Impl::rank_tensors(const ServiceRequest& given, Context& context) {
  const Ranked ranked = serve(given, context);
  const auto filled = static_cast<std::size_t>(ranked.page.filled);
  JsonWriter page;
  page.begin_object();
  write_page(ranked, context, page, false);
  page.end_object();
  std::string data;
  JsonWriter header;
  header.begin_object().known_key("__metadata__").begin_object().field("page", page.text());
  header.end_object();
  const auto add = [&](std::string_view name, std::string_view type, const auto& values, std::size_t size) {
    const std::size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(values.data()), size * sizeof values[0]);
    header.known_key(name).begin_object().field("dtype", type).known_key("shape").list(std::array{size});
    header.known_key("data_offsets").list(std::array{begin, data.size()}).end_object();
  };
  add("items", "I64", context.items, filled);
  add("scores", "F32", context.scores, filled);
  add("weights", "F32", context.weights, context.weights.size());
  header.end_object();
  std::string text = header.take();
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size();
  std::string out(reinterpret_cast<const char*>(&length), sizeof length);
  return out.append(text).append(data);
}
}  // namespace pygrade::inline v0_2
