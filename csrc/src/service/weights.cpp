// /v1/weights: what a page's scores are made of, for engines that score by themselves.
#include <algorithm>
#include <cmath>

#include "service/impl.hpp"
#include "serving/prediction_scales.hpp"
#include "serving/score_sources.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
// One of the scores that add up: its share, and its weights at the tasks' values in force.
void write_score(const Policy& policy, const Baseline& part, double share, const WeightChange& change,
                 JsonWriter& out) {
  std::vector<float> weights(part.weights.size());
  part.weights_at(change, weights);
  out.begin_object().field("name", part.name).field("share", share);
  out.field("transform", traits_of(part.transform).name);
  out.known_key("weights").object(policy.tasks(), weights).known_key("priced").begin_list();
  for (std::size_t t = 0; t < part.priced.size(); ++t)
    if (part.priced[t]) out.value(policy.tasks()[t]);
  out.end_list()
      .field("corrected", part.corrected)
      .field("logarithm", part.takes_logarithm_of(weights))
      .known_key("calibration")
      .begin_object();
  for (std::size_t t = 0; t < part.calibration.size(); ++t) {
    const PiecewiseLinear& map = part.calibration[t];
    out.key(policy.tasks()[t]).begin_object().known_key("x").list(map.x).known_key("y").list(map.y);
    out.known_key("slope").list(map.slope).end_object();
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
    out.key(tasks[t]).begin_object();
    out.text_field("parent", parent < 0 ? std::string_view() : tasks[static_cast<std::size_t>(parent)]);
    const auto row = std::span(shifts).subspan(t * (1 + variables), 1 + variables);
    out.field("amount", static_cast<bool>(parts.structure.amounts[t])).field("shift", row[0]);
    out.field("multiplier", std::exp(row[0])).known_key("slopes").list(row.subspan(1)).known_key("map");
    if (parts.structure.form == Correction::Form::none) {
      out.null();
    } else {
      constexpr std::size_t knots = Correction::knots;
      out.begin_object().field("mean", parts.map_mean[t]).field("std", parts.map_std[t]);
      out.known_key("knots").list(std::span(parts.map_knots).subspan(t * knots, knots));
      out.known_key("weights").list(std::span(parts.map_weights).subspan(t * (knots + 2), knots + 2)).end_object();
    }
    out.end_object();
  }
  out.end_object().end_object();
}

// Writes what is added up, as the ranker does: what alone ranks by a request's values, or shares of z-scores.
void write_scores(const Policy& policy, const Request& request, std::span<const float> weights,
                  const WeightChange& change, JsonWriter& out) {
  const ScoreSources sources(policy, request);
  out.begin_list();
  if (sources.challenger != nullptr) {
    write_score(policy, *sources.challenger, sources.share(), change, out);
  } else if (sources.network) {
    const Baseline network{.name = "policy",
                           .transform = find_transform(policy.transform()).value(),
                           .weights = {weights.begin(), weights.end()},
                           .logarithm = false,
                           .priced = policy.priced(),
                           .calibration = {},
                           .corrected = policy.corrected()};
    write_score(policy, network, sources.share(), {}, out);
  }
  if (sources.baseline != nullptr) write_score(policy, *sources.baseline, 1.0 - sources.share(), change, out);
  out.end_list();
}

// The weights of a page of any candidates, if none are given: the context alone decides then.
Page weigh(Ranker& ranker, const Policy& policy, Request request, Context& context) {
  const std::size_t tasks = policy.tasks().size();
  const std::vector<float> one(tasks, 0.5f);
  if (request.predictions.empty()) {
    request.predictions = one;
    request.as_logged = true;
  }
  const std::vector<float> prices(policy.takes_prices() ? request.predictions.size() / tasks : 0, 1.0f);
  request.item_values = prices;
  float score;
  std::int32_t index;
  context.weights.resize(tasks);
  context.concentration.resize(tasks);
  return ranker.rank(request, {{&score, 1}, {&index, 1}, context.weights, context.concentration});
}
}  // namespace

std::string Service::Impl::weights_body(const ServiceRequest& given, Context& context) {
  const auto served = release(context);
  const RankInput& input = context.input;
  parse(given, context, *served, false);
  metrics.unknown_keys.add(input.unknown_keys.count);
  if (input.explore.value_or(false))
    throw InputError("explore", "explore is true; expected a page for drawn weights: these are their mean");
  const std::size_t arm = arm_for(config, *served, context);
  const Policy& policy = *served->arms[arm].policy;
  const auto& tasks = policy.tasks();
  set_values(served->arms[arm], input, context.values);
  if (!policy.context_only() && !input.has_predictions)
    throw InputError("predictions",
                     "predictions is missing; this policy reads mean and spread of the candidates' "
                     "predictions: expected a list for each task");
  Request request;
  request.predictions = input.predictions;
  request.scenario = input.scenario;
  request.values = context.values;
  bool known = input.has_context;
  if (pipeline) {
    if (!input.user) throw InputError("user", "user is missing");
    pipeline->center()->read_user({*input.user, input.timestamp, input.scenario, input.context}, context.user);
    if (!context.user.defaults) {
      context.policy_context.resize(policy.features().size());
      FeatureInputs(*pipeline->center()->features(), policy.features(), true)
          .take_all(context.user.request_dense, context.user.request_ids, context.policy_context);
      request.context = context.policy_context;
    }
    known = context.user.user_known;
  } else if (known) {
    request.context = input.features;
  }
  if (served->arms[arm].history != nullptr && ScoreSources(policy, request).read_history(policy))
    throw InputError("arm",
                     "arm '" + served->arms[arm].name +
                         "' reads the history of users and items, which weights alone do not hold; expected /v1/rank");
  if (policy.correction() && policy.correction()->parts().structure.trees > 0)
    throw InputError("arm", "arm '" + served->arms[arm].name +
                                "' has trees on top of its correction, which weights do not hold; expected /v1/rank");
  const Page page = weigh(*served->rankers[arm], policy, request, context);
  Reading reading;
  request = as_logged(policy, request, reading);
  Policy::RequestValues in_force;
  policy.find_values(request.values, request.scenario, in_force);

  JsonWriter out;
  out.begin_object().text_field("request_id", context.request_id).field("arm", served->arms[arm].name);
  out.text_field("artifact", served->artifact).field("policy", page.version());
  out.field("user", known ? "known" : "unknown");
  out.text_field("fallback", unless_none(fallback_names[static_cast<std::size_t>(page.fallback)]));
  write_policy_share(policy, request, page, context.weights, out);
  write_unknown_keys(input.unknown_keys, out);
  out.known_key("concentration");
  if (page.fallback == Fallback::none)
    out.object(tasks, context.concentration);
  else
    out.null();
  if (!in_force.values.empty()) out.known_key("values").object(tasks, in_force.values);
  write_scores(policy, request, context.weights, in_force.change(), out.known_key("scores"));
  out.field("beta", policy.beta()).field("epsilon", policy.epsilon()).known_key("slope").object(tasks, policy.slope());
  if (policy.correction()) write_correction(policy, request, out.known_key("correction"));
  out.end_object();
  return out.take();
}
}  // namespace pygrade::inline v0_2
