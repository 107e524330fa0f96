// /v1/weights: what a page's scores are made of, for engines that score by themselves.
#include <algorithm>
#include <cmath>

#include "service/impl.hpp"

namespace pygrade::inline v0_2 {

using namespace detail;

namespace {

void write_numbers(std::span<const float> numbers, JsonWriter& out) {
  out.begin_list();
  for (const float number : numbers) out.value(number);
  out.end_list();
}

void write_flagged(const std::vector<std::string>& tasks, const std::vector<bool>& flags, JsonWriter& out) {
  out.begin_list();
  for (std::size_t t = 0; t < flags.size(); ++t)
    if (flags[t]) out.value(tasks[t]);
  out.end_list();
}

// One of the scores that add up: its share, and its weights with the multipliers in force.
void write_score(const Policy& policy, const Baseline& part, double share, std::span<const float> multipliers,
                 JsonWriter& out) {
  std::vector<float> weights = part.weights;
  for (std::size_t t = 0; t < multipliers.size(); ++t) weights[t] *= multipliers[t];
  out.begin_object().field("name", std::string_view(part.name)).field("share", share);
  out.field("transform", transform_names[static_cast<std::size_t>(part.transform)]);
  write_weights(policy.tasks(), weights, out.known_key("weights"));
  write_flagged(policy.tasks(), part.priced, out.known_key("priced"));
  out.field("corrected", part.corrected).field("logarithm", part.logarithm).known_key("calibration").begin_object();
  for (std::size_t t = 0; t < part.calibration.size(); ++t) {
    const PiecewiseLinear& map = part.calibration[t];
    out.key(policy.tasks()[t]).begin_object();
    write_numbers(map.x, out.known_key("x"));
    write_numbers(map.y, out.known_key("y"));
    write_numbers(map.slope, out.known_key("slope"));
    out.end_object();
  }
  out.end_object().end_object();
}

// The log odds of a task given its parent become l + shift + Σ_v slope_v u_v, with u_v = (l_v - mean_v) / std_v, cut to
// ±4.
void write_correction(const Policy& policy, const Request& request, JsonWriter& out) {
  const Correction& correction = *policy.correction();
  const Correction::Parts& parts = correction.parts();
  const auto& tasks = policy.tasks();
  const std::size_t variables = parts.l_mean.size();
  const auto shifts = correction.shifts(request.context, request.predictions, request.items);
  const auto name = [&](std::size_t v) -> std::string_view {
    return v < tasks.size() ? tasks[v] : parts.structure.items[v - tasks.size()];
  };
  out.begin_object().field("maps", Correction::form_names[static_cast<std::size_t>(parts.structure.form)]);
  out.known_key("variables").begin_list();
  for (std::size_t v = 0; v < variables; ++v)
    out.begin_object().field("name", name(v)).field("mean", parts.l_mean[v]).field("std", parts.l_std[v]).end_object();
  out.end_list().known_key("tasks").begin_object();
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const std::int64_t parent = parts.structure.parents[t];
    out.key(tasks[t]).begin_object().known_key("parent");
    if (parent < 0)
      out.null();
    else
      out.value(tasks[static_cast<std::size_t>(parent)]);
    const auto row = std::span(shifts).subspan(t * (1 + variables), 1 + variables);
    out.field("amount", static_cast<bool>(parts.structure.amounts[t])).field("shift", row[0]);
    out.field("multiplier", std::exp(row[0])).known_key("slopes").begin_list();
    for (const double slope : row.subspan(1)) out.value(slope);
    out.end_list().known_key("map");
    if (parts.structure.form == Correction::Form::none) {
      out.null();
    } else {
      constexpr std::size_t knots = Correction::knots;
      out.begin_object().field("mean", parts.map_mean[t]).field("std", parts.map_std[t]);
      write_numbers(std::span(parts.map_knots).subspan(t * knots, knots), out.known_key("knots"));
      write_numbers(std::span(parts.map_weights).subspan(t * (knots + 2), knots + 2), out.known_key("weights"));
      out.end_object();
    }
    out.end_object();
  }
  out.end_object().end_object();
}

}  // namespace

std::string Service::Impl::weights_body(const ServiceRequest& given, Context& context) {
  const auto served = release(context);
  const RankInput& input = context.input;
  parse(given, context, *served, false);
  if (input.unknown_keys > 0) metrics.unknown_keys.add(input.unknown_keys);
  if (input.explore.value_or(false))
    throw InputError("explore", "explore is true; want a page for drawn weights: these are their mean");
  const std::size_t arm = arm_for(config, *served, input);
  const Policy& policy = *served->arms[arm].policy;
  const auto& tasks = policy.tasks();
  set_values(served->arms[arm], context);
  if (!policy.context_only() && !input.has_predictions)
    throw InputError("predictions",
                     "predictions is missing; this policy reads mean and spread of the candidates' "
                     "predictions: want a list for each task");
  Request request;
  request.predictions = input.predictions;
  request.scenario = input.scenario;
  request.values = context.values;
  bool known = input.has_context;
  if (pipeline) {
    if (!input.user) throw InputError("user", "user is missing");
    pipeline->center()->read_user({*input.user, input.timestamp, input.scenario, input.context}, context.user);
    if (!context.user.defaults) request.context = context.user.request_dense;
    known = context.user.user_known;
  } else if (known) {
    request.context = input.features;
  }
  // Of any candidate, if the context alone decides.
  const std::vector<float> one(tasks.size(), 0.5f);
  Request ranked = request;
  if (ranked.predictions.empty()) ranked.predictions = one;
  const std::vector<float> prices(policy.takes_prices() ? ranked.predictions.size() / tasks.size() : 0, 1.0f);
  ranked.item_values = prices;
  float score;
  std::int32_t index;
  context.weights.resize(tasks.size());
  context.concentration.resize(tasks.size());
  Page page;
  try {
    page = served->rankers[arm]->rank(ranked, {{&score, 1}, {&index, 1}, context.weights, context.concentration});
  } catch (const std::invalid_argument& error) {
    throw InputError(std::string_view(error.what()).starts_with("values") ? "values" : "predictions", error.what());
  }
  std::vector<float> multipliers(tasks.size(), 1.0f);
  policy.multipliers(request.values, request.scenario, multipliers);

  JsonWriter out;
  out.begin_object().known_key("request_id");
  if (context.request_id.empty())
    out.null();
  else
    out.value(std::string_view(context.request_id));
  out.field("arm", std::string_view(served->arms[arm].name)).known_key("artifact");
  if (served->artifact.empty())
    out.null();
  else
    out.value(std::string_view(served->artifact));
  out.field("policy", page.version()).field("user", known ? "known" : "unknown").known_key("fallback");
  if (page.fallback == Fallback::none)
    out.null();
  else
    out.value(fallback_names[static_cast<std::size_t>(page.fallback)]);
  out.field("trust", page.trust);
  write_weights(tasks, context.weights, out.known_key("weights"));
  out.known_key("concentration");
  if (page.fallback == Fallback::none)
    write_weights(tasks, context.concentration, out);
  else
    out.null();
  write_weights(tasks, multipliers, out.known_key("multipliers"));

  // What is added up, as the ranker does: what alone ranks by a request's values; or shares of z-scores.
  const auto transform = std::ranges::find(transform_names, policy.transform()) - transform_names.begin();
  const Baseline network{.name = "policy",
                         .transform = static_cast<Transform>(transform),
                         .weights = context.weights,
                         .logarithm = false,
                         .priced = policy.priced(),
                         .calibration = {},
                         .corrected = policy.corrected()};
  const auto& mixture = policy.mixture();
  const Baseline* alone = request.values.empty() ? nullptr : policy.expected_value();
  const double trust = mixture ? mixture->trust : 1.0;
  out.known_key("scores").begin_list();
  if (alone != nullptr) {
    write_score(policy, *alone, 1.0, multipliers, out);
  } else {
    const Baseline* challenger = mixture ? mixture->counted_challenger() : nullptr;
    if (challenger != nullptr)
      write_score(policy, *challenger, trust, multipliers, out);
    else if (!mixture || mixture->takes_network())
      write_score(policy, network, trust, {}, out);
    if (mixture && mixture->counted_baseline() != nullptr)
      write_score(policy, mixture->baseline, 1.0 - trust, multipliers, out);
  }
  out.end_list().field("beta", policy.beta()).field("epsilon", policy.epsilon());
  write_weights(tasks, policy.slope(), out.known_key("slope"));
  if (policy.correction()) write_correction(policy, request, out.known_key("correction"));
  out.end_object();
  return out.take();
}

}  // namespace pygrade::inline v0_2
