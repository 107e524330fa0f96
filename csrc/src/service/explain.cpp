// Why a page is as it is.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "pygrade/fusion.hpp"
#include "service/impl.hpp"
#include "serving/prediction_scales.hpp"

namespace pygrade::inline v0_2 {

using namespace detail;

namespace {

// z-scores as Mixture::mix makes them, with the same bits.
std::vector<float> standardized(std::span<const float> values) {
  std::vector<float> scores(values.size());
  FusionOptions options;
  options.transform = Transform::zscore;
  options.epsilon = Mixture::epsilon;
  transform_scores(Scores::dense(values.data(), ScoreType::float32, 1, static_cast<std::int64_t>(values.size()), 1),
                   options, scores);
  return scores;
}

// What the scores of the candidates without a missing prediction are made of.
struct Parts {
  std::vector<std::int64_t> row_of;    // [N] place among these, -1: a prediction is missing
  std::vector<float> inputs;           // [n, T] predictions that the network reads
  std::vector<float> contributions;    // [n, T] that add up to `fused`, or to what it is the logarithm of
  std::vector<float> fused, base;      // [n] of `leading`; of the mixture's baseline, or none
  std::vector<float> fused_z, base_z;  // standardized
};

// The rows of `width` values of the candidates whose place is known.
std::vector<float> rows_of(std::span<const std::int64_t> places, std::span<const float> values, std::size_t width) {
  std::vector<float> rows;
  for (std::size_t i = 0; i < places.size() && !values.empty(); ++i)
    if (places[i] >= 0) {
      const auto row = values.subspan(i * width, width);
      rows.insert(rows.end(), row.begin(), row.end());
    }
  return rows;
}

Parts parts_of(const Policy& policy, const Request& request, std::span<const float> weights) {
  Parts parts;
  const std::size_t tasks = policy.tasks().size(), rows = request.predictions.size() / tasks;
  std::int64_t count = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    const bool missing = std::ranges::any_of(request.predictions.subspan(row * tasks, tasks), is_missing);
    parts.row_of.push_back(missing ? -1 : count++);
  }
  if (count == 0) return parts;
  const auto present = rows_of(parts.row_of, request.predictions, tasks);
  const auto prices = rows_of(parts.row_of, request.item_values, 1);
  auto corrected = present;
  if (policy.correction()) {
    Correction::Workspace workspace;
    const auto items = rows_of(parts.row_of, request.items, policy.items().size());
    policy.correction()->apply(request.context, present, items, workspace, corrected);
  }
  parts.inputs = policy.corrected() ? corrected : present;
  FusionOptions options;
  options.beta = policy.beta();
  options.epsilon = policy.epsilon();
  options.slope = policy.slope().data();
  Policy::RequestValues in_force;
  policy.find_values(request.values, request.scenario, in_force);

  Baseline network = network_part(policy, weights);
  if (prices.empty()) network.priced.clear();
  options.transform = network.transform;
  const Baseline* replaced = leading(policy, request);
  const Baseline& ranking = replaced != nullptr ? *replaced : network;
  const auto given = [&](const Baseline& entry) -> const std::vector<float>& {
    return entry.corrected ? corrected : present;
  };
  Baseline::Workspace workspace;
  const Scores amounts = ranking.amounts(given(ranking), prices, workspace);
  FusionOptions of_ranking = options;
  of_ranking.transform = ranking.transform;
  std::vector<float> transformed(present.size());
  transform_scores(amounts, of_ranking, transformed);
  parts.contributions.resize(present.size());
  const WeightChange of_values = replaced != nullptr ? in_force.change() : WeightChange();
  std::vector<float> factors(tasks);
  ranking.weights_at(of_values, factors);
  const auto n = static_cast<std::size_t>(count);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t t = 0; t < tasks; ++t) {
      const float value = transformed[amounts.layout == Layout::task_major ? t * n + i : i * tasks + t];
      parts.contributions[i * tasks + t] = factors[t] * value;
    }
  parts.fused.resize(n);
  ranking.scores(given(ranking), of_values, prices, options, workspace, parts.fused);
  const auto& mixture = policy.mixture();
  if (alone_by_values(policy, request) || !mixture || mixture->counted_baseline() == nullptr) return parts;
  parts.base.resize(n);
  mixture->baseline.scores(given(mixture->baseline), in_force.change(), prices, options, workspace, parts.base);
  parts.fused_z = standardized(parts.fused);
  parts.base_z = standardized(parts.base);
  return parts;
}

std::vector<std::string> input_names(const Policy& policy) {
  std::vector<std::string> names = policy.features();
  for (const std::size_t feature : policy.indicators()) names.push_back("missing " + policy.features()[feature]);
  if (!policy.context_only())
    for (const char* figure : {"mean log p_", "sd log p_"})
      for (const auto& task : policy.tasks()) names.push_back(figure + task);
  if (policy.trade_offs())
    for (const auto& task : policy.tasks()) names.push_back("log u_" + task);
  return names;
}

// The inputs that the policy read; none in a fallback.
void write_inputs(const Policy& policy, const Request& request, std::span<const float> predictions, JsonWriter& out) {
  if (request.context.empty() || predictions.empty()) {
    out.null();
    return;
  }
  std::vector<float> inputs(policy.num_inputs());
  Policy::RequestValues in_force;
  if (policy.trade_offs()) policy.find_values(request.values, request.scenario, in_force);
  policy.request_inputs(request.context, predictions, inputs, in_force.multipliers);
  out.object(input_names(policy), inputs);
}

// What ranks, how contributions make the score, and why it is so.
void write_ranking(const Policy& policy, const Request& request, Fallback fallback, JsonWriter& out) {
  const Baseline* lead = leading(policy, request);
  const auto& mixture = policy.mixture();
  const bool by_values = alone_by_values(policy, request);
  const bool standardized = mixture && !by_values && mixture->counted_baseline() != nullptr;
  const bool mixed = mixed_in(policy, request) != nullptr;
  const auto names = ranked_by(policy, request);
  const std::string& first = names[0];
  bool logarithm = false;
  if (lead != nullptr) {
    Policy::RequestValues in_force;
    policy.find_values(request.values, request.scenario, in_force);
    std::vector<float> weights(policy.tasks().size());
    lead->weights_at(in_force.change(), weights);
    logarithm = lead->takes_logarithm_of(weights);
  }
  std::string score = logarithm ? "the logarithm of the sum" : "the sum";
  score += " of the contributions";
  std::string why = first + " ranks alone";
  const bool boosted = !policy.boosts(request.scenario).empty();
  if (standardized || boosted) score += ", standardized over the candidates";
  if (mixed) {
    const long percent = std::lround(100.0 * mixture->trust);
    score += ", times " + plain_number(mixture->trust) + ", plus the share of " + mixture->baseline.name;
    why = std::to_string(percent) + " % " + first + " and " + std::to_string(100 - percent) + " % " +
          mixture->baseline.name + " rank";
  }
  if (boosted) score += ", plus the policy's boosts of item columns";
  if (by_values) why += request.values.empty() ? ", by the policy's own values" : ", by the values of the request";
  if (lead != nullptr) why += "; the weights do not count";
  if (lead == nullptr && fallback != Fallback::none) why += "; static weights, for want of features";
  if (!by_values && mixture && !mixture->sentence.empty()) why += ": " + mixture->sentence;
  out.begin_object()
      .known_key("by")
      .list(names)
      .field("weighs", lead == nullptr)
      .field("score", score)
      .field("why", why)
      .end_object();
}

// An item of the page.
void write_item(const Parts& parts, const Ranked& ranked, const Context& context, std::size_t place, JsonWriter& out) {
  const Policy& policy = *ranked.policy;
  const Request& request = ranked.request;
  const Page& page = ranked.page.page;
  const auto row = static_cast<std::size_t>(ranked.indices[place]);
  const std::size_t tasks = policy.tasks().size();
  out.known_key("predictions").object(policy.tasks(), request.predictions.subspan(row * tasks, tasks));
  out.known_key("contributions");
  if (parts.row_of[row] < 0) {
    out.null().known_key("mixture").null();
    return;
  }
  const auto at = static_cast<std::size_t>(parts.row_of[row]);
  out.object(policy.tasks(), std::span(parts.contributions).subspan(at * tasks, tasks));
  out.field("fused", parts.fused[at]).known_key("mixture");
  if (parts.base.empty()) {
    out.null();
  } else {
    const double trust = policy.mixture()->trust;
    out.begin_object().field("policy", trust * static_cast<double>(parts.fused_z[at]));
    out.field("baseline", (1.0 - trust) * static_cast<double>(parts.base_z[at]));
    out.field("baseline_score", parts.base[at]).end_object();
  }
  if (page.searched) {
    const PageEffect& moved = context.effects[place];
    out.known_key("page").begin_object().field("effect", moved.effect).field("above", moved.above);
    out.field("sorted_position", moved.sorted_place);
    const std::string& root = policy.tasks()[policy.page_terms()->root];
    out.field("why", describe(moved, static_cast<std::int32_t>(place), root)).end_object();
  }
  const auto& [mul, add] = std::tie(request.rules.boost_mul, request.rules.boost_add);
  if (mul.empty() && add.empty()) return;
  out.known_key("boost").begin_object().field("mul", mul.empty() ? 1.0f : mul[row]);
  out.field("add", add.empty() ? 0.0f : add[row]).end_object();
}

// The same candidates by the static weights: without features a policy falls back to them.
void write_static(const Ranked& ranked, std::span<const std::int32_t> shown, Context& context, JsonWriter& out) {
  const auto& tasks = ranked.policy->tasks();
  const std::size_t k = context.items.size();
  context.other_scores.resize(k);
  context.other_indices.resize(k);
  context.other_weights.resize(tasks.size());
  Request unknown = ranked.request;
  unknown.context = {};
  unknown.explore = false;
  const Page page = ranked.release->rankers[ranked.arm]->rank(
      unknown, {context.other_scores, context.other_indices, context.other_weights, {}});
  const auto others = std::span(context.other_indices).first(static_cast<std::size_t>(page.filled));
  double kept = 0.0;
  for (const std::int32_t index : others) kept += std::ranges::find(shown, index) != shown.end();
  out.begin_object().known_key("items").list(
      others, [&](std::int32_t candidate) { return item_of(ranked, context, candidate); });
  out.known_key("weights").object(tasks, context.other_weights);
  out.field("replaced", 1.0 - kept / static_cast<double>(std::max<std::size_t>(others.size(), 1))).end_object();
}

}  // namespace

std::string Service::Impl::explain_body(const ServiceRequest& given, Context& context) {
  Ranked ranked = rank(given, context, false);  // nobody sees this page: it is not counted or logged
  const Policy& policy = *ranked.policy;
  Reading reading;
  ranked.request = as_logged(policy, ranked.request, reading);
  const Request& request = ranked.request;
  const Parts parts = parts_of(policy, request, context.weights);
  const auto shown = ranked.indices.first(static_cast<std::size_t>(ranked.page.filled));

  JsonWriter out;
  out.begin_object();
  write_page(ranked, context, out);
  out.field("candidates", ranked.page.candidates).field("transform", policy.transform());
  write_ranking(policy, request, ranked.page.page.fallback, out.known_key("ranking"));
  out.known_key("explanation").begin_list();
  for (std::size_t i = 0; i < shown.size(); ++i) {
    out.begin_object().field("item", item_of(ranked, context, shown[i])).field("score", context.scores[i]);
    write_item(parts, ranked, context, i, out);
    out.end_object();
  }
  out.end_list().known_key("concentration");
  if (ranked.page.page.fallback == Fallback::none)
    out.object(policy.tasks(), context.concentration);
  else
    out.null();
  write_inputs(policy, request, parts.inputs, out.known_key("inputs"));
  out.known_key("mixture");
  if (const auto& mixture = policy.mixture()) {
    out.begin_object().field("trust", mixture->trust).field("baseline", mixture->baseline.name);
    out.field("verdict", verdict_names[static_cast<std::size_t>(mixture->verdict)]);
    out.field("sentence", mixture->sentence).end_object();
  } else {
    out.null();
  }
  write_static(ranked, shown, context, out.known_key("static"));
  out.end_object();
  return out.take();
}

}  // namespace pygrade::inline v0_2
