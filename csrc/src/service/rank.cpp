// A page: from the body of a request to the body of the answer.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "service/impl.hpp"

namespace pygrade {

using namespace detail;

namespace {

constexpr int tries = 4;                 // of a request during reloads
constexpr std::size_t drift_stride = 8;  // every such candidate's predictions are counted
constexpr std::size_t max_request_id = 256;

bool is_plain(char c) { return c >= 0x20 && c < 0x7f; }

// The argument that an error of the pipeline is about, by its first word.
InputError translated(const std::invalid_argument& error) {
  std::string message = error.what();
  constexpr std::string_view item_ids = "item_ids";
  if (message.starts_with(item_ids)) message.replace(0, item_ids.size(), "items");
  const std::string word = message.substr(0, message.find(' '));
  for (const std::string_view known : {"items", "item_values", "values", "context", "candidates"})
    if (word == known) return {known, message};
  if (message.starts_with("no candidate is left"))
    return {"items", "no candidate is left: items is empty, or every eligible item is among those seen"};
  return {"body", message};
}

std::string hexadecimal(std::uint64_t value) {
  char text[17] = "0000000000000000";
  char digits[16];
  const auto end = std::to_chars(digits, digits + sizeof digits, value, 16).ptr;
  std::copy(digits, end, text + 16 - (end - digits));
  return text;
}

std::uint64_t mixed(std::uint64_t z) {  // splitmix64's finalizer
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

}  // namespace

// Whether to draw weights: what is asked, or the arm's share, within max_explore of the pages so far.
bool Service::Impl::explores(const Context& context, std::size_t arm, bool& capped) {
  const double limit = config.max_explore * static_cast<double>(pages.fetch_add(1, std::memory_order_relaxed) + 1);
  const double share = config.arms[arm].explore;
  const bool wanted = context.input.explore
                          ? *context.input.explore
                          : share > 0.0 && stable_fraction(config.salt + " explore", context.request_id) < share;
  if (!wanted) return false;
  std::uint64_t before = explored.load(std::memory_order_relaxed);
  while (static_cast<double>(before + 1) <= limit)
    if (explored.compare_exchange_weak(before, before + 1, std::memory_order_relaxed)) return true;
  capped = true;
  return false;
}

// shown: the page counts for exploration.
Ranked Service::Impl::rank(const ServiceRequest& given, Context& context, bool shown) {
  if (given.request_id.size() > max_request_id || !std::ranges::all_of(given.request_id, is_plain))
    throw InputError("x-request-id", "the header X-Request-Id has " + std::to_string(given.request_id.size()) +
                                         " bytes; want at most " + std::to_string(max_request_id) +
                                         " printable ASCII characters");
  Ranked ranked;
  RankInput& input = context.input;
  bool explore = false, capped = false;
  for (int attempt = 1;; ++attempt) {
    const Models& models = pipeline->models(context.workspace);
    const bool is_first = ranked.release == nullptr;
    ranked.owner = models.attached;
    ranked.release = &Release::of(models);
    const std::size_t tasks = ranked.release->tasks.size();
    input.parse(given.body, config, naming, ranked.release->tasks);
    ranked.arm = input.arm ? *input.arm : arm_of(config, input.user);
    if (is_first) {
      if (input.request_id)
        context.request_id = *input.request_id;
      else if (!given.request_id.empty())
        context.request_id = given.request_id;
      else
        context.request_id = hexadecimal(mixed(next_request++));
      explore = shown ? explores(context, ranked.arm, capped) : input.explore.value_or(false);
    }
    const Served& arm = ranked.release->arms[ranked.arm];
    context.values = input.values.empty() ? arm.values : input.values;
    if (!arm.values.empty())
      for (std::size_t t = 0; t < tasks; ++t)
        if (std::isnan(context.values[t])) context.values[t] = arm.values[t];

    PipelineRequest request;
    request.user = {input.user, input.timestamp, input.scenario, input.context};
    request.candidates = input.candidates;
    request.seen = input.seen;
    if (input.eligible) request.eligible = *input.eligible;
    if (input.items) request.item_ids = *input.items;
    const auto prices = [&](std::span<const std::int64_t>) { return std::span<const float>(*input.item_values); };
    if (input.item_values) request.item_values = prices;
    request.explore = explore;
    request.values = context.values;
    request.policy = 1 + ranked.arm;
    request.deadline = input.deadline;
    if (input.deadline && given.arrival) {
      const auto waited = std::chrono::steady_clock::now() - *given.arrival;
      request.deadline = std::max(*input.deadline - std::chrono::duration_cast<std::chrono::microseconds>(waited),
                                  std::chrono::microseconds(0));
    }
    context.items.resize(input.k);
    context.scores.resize(input.k);
    context.weights.resize(tasks);
    context.concentration.resize(tasks);
    try {
      ranked.page = pipeline->rank(request, {context.items, context.scores, context.weights, context.concentration},
                                   context.workspace);
    } catch (const std::invalid_argument& error) {
      if (attempt < tries && pipeline->models(context.workspace).attached != ranked.owner) continue;
      throw translated(error);
    }
    if (context.workspace.models().attached == ranked.owner || attempt == tries) break;
  }
  if (context.workspace.models().attached != ranked.owner)
    throw std::runtime_error("the models changed " + std::to_string(tries) + " times during one request");
  if (capped) metrics.arms[ranked.arm].capped.add();
  return ranked;
}

void Service::Impl::count(const Ranked& ranked, Context& context) {
  const ServedPage& page = ranked.page;
  for (std::size_t s = 0; s < steps; ++s)
    if (page.seconds[s] > 0.0f) metrics.step[s].observe(static_cast<double>(page.seconds[s]));
  metrics.degraded[static_cast<std::size_t>(page.degraded)].add();
  metrics.fallback[static_cast<std::size_t>(page.page.fallback)].add();
  ArmCells& arm = metrics.arms[ranked.arm];
  arm.pages.add();
  if (page.page.explored) arm.explored.add();
  const ScenarioCells& scenario = ranked.release->scenario(context.input.scenario);
  scenario.pages.add();
  for (std::size_t t = 0; t < context.weights.size(); ++t) {
    const auto weight = static_cast<double>(context.weights[t]);
    scenario.sum[t].add_real(weight);
    scenario.square[t].add_real(weight * weight);
  }
  // Candidates of the search alone: items that a caller names have another distribution than the reference's.
  const auto& references = ranked.release->references;
  if (references.empty() || context.input.items || page.degraded != Degraded::none) return;
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
  context.user_text = std::to_string(context.input.user);
  exposures[ranked.arm]->append(
      context.workspace.policy(), context.workspace.request(), context.workspace.buffer(), ranked.page.page,
      {context.request_id, context.user_text, context.workspace.item_ids(), context.input.timestamp});
}

void detail::write_weights(std::span<const std::string> tasks, std::span<const float> weights, JsonWriter& out) {
  out.begin_object();
  for (std::size_t t = 0; t < tasks.size(); ++t) out.key(tasks[t]).value(weights[t]);
  out.end_object();
}

void detail::write_names(const ItemNames& names, std::span<const std::int64_t> items, JsonWriter& out) {
  out.begin_list();
  for (const std::int64_t item : items)
    if (const auto name = names.of(item))
      out.value(*name);
    else
      out.null();
  out.end_list();
}

void detail::write_page(const Ranked& ranked, const Context& context, JsonWriter& out) {
  constexpr std::string_view reasons[] = {"", "store", "deadline"}, fallbacks[] = {"", "scenario", "global"};
  const auto name = [&](std::string_view key, std::string_view text) {
    out.known_key(key);
    if (text.empty())
      out.null();
    else
      out.value(text);
  };
  const ServedPage& page = ranked.page;
  const Release& release = *ranked.release;
  const auto filled = static_cast<std::size_t>(page.filled);
  out.field("request_id", std::string_view(context.request_id));
  out.field("arm", std::string_view(release.arms[ranked.arm].name));
  out.known_key("items").begin_list();
  for (std::size_t i = 0; i < filled; ++i) out.value(context.items[i]);
  out.end_list();
  if (release.names) write_names(*release.names, std::span(context.items).first(filled), out.known_key("names"));
  out.known_key("scores").begin_list();
  for (std::size_t i = 0; i < filled; ++i) out.value(context.scores[i]);
  out.end_list();
  write_weights(release.tasks, context.weights, out.known_key("weights"));
  out.field("artifact", std::string_view(release.artifact)).field("policy", page.page.version());
  out.field("trust", page.page.trust);
  name("degraded", reasons[static_cast<std::size_t>(page.degraded)]);
  name("fallback", fallbacks[static_cast<std::size_t>(page.page.fallback)]);
  out.field("explored", page.page.explored).field("seed", page.page.seed);
  out.known_key("seconds").begin_object();
  for (std::size_t s = 0; s < steps; ++s) out.field(step_names[s], page.seconds[s]);
  out.end_object();
}

std::string Service::Impl::rank_body(const ServiceRequest& given, Context& context) {
  const Ranked ranked = rank(given, context, true);
  count(ranked, context);
  log_exposure(ranked, context);
  compare(ranked, context);
  JsonWriter out;
  out.reserve(512 + 40 * context.input.k);
  out.begin_object();
  write_page(ranked, context, out);
  out.end_object();
  return out.take();
}

}  // namespace pygrade
