// Comparison of what shadows would have served, and estimates of other policies from the draws of exploration.
#include <math.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "service/impl.hpp"
#include "serving/score_sources.hpp"

namespace pygrade::inline v0_2 {

using namespace detail;

namespace {

double log_gamma(double x) {
  int sign;
  return ::lgamma_r(x, &sign);
}

// log of the Dirichlet density of `weights`, with every concentration times `factor`.
double log_density(std::span<const float> concentration, std::span<const float> weights, double factor) {
  constexpr double smallest = 1e-30;
  double sum = 0.0, log = 0.0;
  for (std::size_t t = 0; t < weights.size(); ++t) {
    const double a = factor * static_cast<double>(concentration[t]);
    sum += a;
    log += (a - 1.0) * std::log(std::max(static_cast<double>(weights[t]), smallest)) - log_gamma(a);
  }
  return log + log_gamma(sum);
}

struct Comparison {
  double replaced = 0.0, overlap = 0.0, correlation = NAN, own_score = NAN, served_score = NAN;
};

// Compares the served page with the order of a shadow, which holds all candidates. `place` is scratch memory.
Comparison compared(std::span<const std::int32_t> served, std::span<const std::int32_t> order,
                    std::span<const float> scores, std::vector<std::int32_t>& place) {
  Comparison result;
  const std::size_t length = std::min(served.size(), order.size());
  if (length == 0) return result;
  place.assign(order.size(), -1);
  for (std::size_t i = 0; i < length; ++i) place[static_cast<std::size_t>(served[i])] = static_cast<std::int32_t>(i);
  // Common items by the depth from which both pages have them, and their places.
  std::vector<double> depths(length, 0.0);
  std::vector<std::int32_t> common;  // places on the served page, in the shadow's order
  for (std::size_t i = 0; i < length; ++i) {
    const std::int32_t other = place[static_cast<std::size_t>(order[i])];
    if (other < 0) continue;
    depths[std::max(i, static_cast<std::size_t>(other))] += 1.0;
    common.push_back(other);
  }
  double both = 0.0;
  for (std::size_t depth = 0; depth < length; ++depth) {
    both += depths[depth];
    result.overlap += both / static_cast<double>(depth + 1);
  }
  const auto count = static_cast<double>(length);
  result.overlap /= count;
  result.replaced = 1.0 - both / count;
  if (common.size() > 1) {  // Spearman's correlation
    std::vector<std::int32_t> sorted = common;
    std::ranges::sort(sorted);
    double squares = 0.0;
    for (std::size_t i = 0; i < common.size(); ++i) {
      const auto rank = std::ranges::lower_bound(sorted, common[i]) - sorted.begin();
      const double distance = static_cast<double>(rank) - static_cast<double>(i);
      squares += distance * distance;
    }
    const auto n = static_cast<double>(common.size());
    result.correlation = 1.0 - 6.0 * squares / (n * (n * n - 1.0));
  }
  double own = 0.0, of_served = 0.0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto score = static_cast<double>(scores[i]);
    if (i < length) own += score;
    if (place[static_cast<std::size_t>(order[i])] >= 0) of_served += score;
  }
  result.own_score = own / count;
  result.served_score = of_served / count;
  return result;
}

}  // namespace

// The ratio of densities of a draw is what an estimate of the other policy weighs its page with. "narrower": the same
// policy with half the variance of its draws (twice the concentration).
void Service::Impl::compare(const Ranked& ranked, Context& context, const ServiceRequest& given) {
  const bool drawn = ranked.page.page.explored;
  ArmCells& arm = metrics.arms[ranked.arm];
  const auto add_ratio = [&](std::size_t target, double log_ratio) {
    const double ratio = std::exp(std::min(log_ratio, 50.0));
    if (!std::isfinite(ratio)) return;
    arm.effective_sum[target].add_real(ratio);
    arm.effective_square[target].add_real(ratio * ratio);
  };
  const double density = drawn ? log_density(context.concentration, context.weights, 1.0) : 0.0;
  if (drawn) add_ratio(0, log_density(context.concentration, context.weights, 2.0) - density);
  if (config.shadows.empty()) return;

  const std::size_t rows = ranked.item_ids.size(), tasks = context.weights.size();
  const auto served = ranked.indices.first(static_cast<std::size_t>(ranked.page.filled));
  context.other_scores.resize(rows);
  context.other_indices.resize(rows);
  context.other_weights.resize(tasks);
  context.other_concentration.resize(tasks);
  context.lines.clear();
  for (std::size_t s = 0; s < config.shadows.size(); ++s) {
    const Served& shadow = ranked.release->shadows[s];
    Request request = ranked.request;
    request.explore = false;
    request.page_terms = false;  // the order of all candidates is compared, not the page that is searched
    request.pins = {};
    request.demoted = {};
    if (!shadow.values.empty() || !shadow.policy->takes_values()) request.values = shadow.values;
    if (shadow.policy->correction()) {  // its columns and levels are its own
      if (pipeline)
        context.workspace.item_columns(*shadow.policy, context.other_columns);
      else
        shadow.policy->item_columns(ranked.item_ids, context.input.item_features, context.other_columns);
      request.items = context.other_columns;
    }
    if (shadow.history != nullptr && ScoreSources(*shadow.policy, request).read_history(*shadow.policy)) {
      auto& features = context.other_context;
      features.assign(shadow.policy->features().size(), NAN);
      std::ranges::copy(request.context, features.begin());
      if (shadow.policy->correction() && context.other_columns.empty())
        context.other_columns.assign(rows * shadow.policy->items().size(), NAN);
      if (!add_history(*ranked.release, shadow, ranked.item_ids, given, context, features, context.other_columns))
        continue;
      request.context = features;
      if (shadow.policy->correction()) request.items = context.other_columns;
    }
    try {
      ranked.release->rankers[config.arms.size() + s]->rank(
          request, {context.other_scores, context.other_indices, context.other_weights, context.other_concentration});
    } catch (const std::invalid_argument&) {
      continue;  // it needs what the request does not have, such as prices
    }
    if (drawn && std::isfinite(context.other_concentration[0]))
      add_ratio(1 + s, log_density(context.other_concentration, context.weights, 1.0) - density);
    const Comparison found = compared(served, context.other_indices, context.other_scores, context.place);
    const ShadowCells& cells = metrics.shadows[s];
    cells.pages.add();
    cells.replaced.add_real(found.replaced);
    cells.overlap.add_real(found.overlap);
    if (std::isfinite(found.correlation)) {
      cells.correlated.add();
      cells.correlation.add_real(found.correlation);
    }
    if (std::isfinite(found.own_score) && std::isfinite(found.served_score)) {
      cells.own_score.add_real(found.own_score);
      cells.served_score.add_real(found.served_score);
    }
    if (!shadow_log) continue;
    JsonWriter line;
    line.begin_object().field("request_id", context.request_id);
    line.field("timestamp", context.input.timestamp).field("arm", config.arms[ranked.arm].name);
    line.field("shadow", shadow.name).field("policy", shadow.policy->version());
    line.field("shadow_replaced", found.replaced).field("shadow_overlap", found.overlap);
    line.field("shadow_correlation", found.correlation).field("shadow_own_score", found.own_score);
    line.field("shadow_served_score", found.served_score).end_object();
    context.lines += line.text();
    context.lines += '\n';
  }
  if (context.lines.empty()) return;
  try {
    shadow_log->append(context.lines);
  } catch (const std::system_error&) {  // costs the comparison, not the page
    metrics.feedback_errors.add();
  }
}

}  // namespace pygrade::inline v0_2
