// Pages that other arms and shadows would have served, and estimates of other policies from the draws of exploration.
#include <math.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

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

// Ranks the candidates of a page without exploration by the arm or shadow of a place in the release's rankers: with its
// own item columns and history, the rest as in `request`. Nothing if it cannot.
std::optional<Page> Service::Impl::rank_by(std::size_t place, const Ranked& ranked, Request request, Context& context,
                                           const ServiceRequest& given, const PageBuffer& buffer) {
  const Release& release = *ranked.release;
  const Served &own = release.arms[ranked.arm], &served = release.served(place);
  const Policy& policy = *served.policy;
  const auto reads = [](const Served& one, const Request& asked) {
    return one.history != nullptr && ScoreSources(*one.policy, asked).read_history(*one.policy);
  };
  request.explore = false;
  try {
    const bool with_history = reads(served, request);
    const bool same = policy.version() == own.policy->version() && (!with_history || reads(own, ranked.request));
    auto& columns = context.other_columns;
    columns.clear();
    if (policy.correction() && !same) {  // its columns and levels are its own
      if (pipeline)
        context.workspace.item_columns(policy, columns);
      else
        policy.item_columns(ranked.item_ids, context.input.item_features, columns);
      if (columns.empty() && with_history) columns.assign(ranked.item_ids.size() * policy.items().size(), NAN);
      request.items = columns;
    }
    if (with_history && !same) {
      auto& features = context.other_context;
      features.assign(policy.features().size(), NAN);
      std::ranges::copy(request.context, features.begin());
      // Columns of the same names that are of another history.
      if (release.history_store != nullptr && served.history != own.history && reads(own, ranked.request))
        for (const auto& [at, column] : own.policy->history_features()) features[at] = NAN;
      if (!add_history(release, served, ranked.item_ids, given, context, features, columns)) return {};
      request.context = features;
    }
    return release.rankers[place]->rank(request, buffer);
  } catch (const std::invalid_argument&) {
    return {};  // it needs what the request does not have, such as prices
  }
}

// Pages of all arms of a test. An arm that served a degraded page has none: that is not how it ranks.
void Service::Impl::rank_arms(const Ranked& ranked, Context& context, const ServiceRequest& given, bool shown) {
  auto& arm_pages = context.arm_pages;
  arm_pages.assign(config.test ? config.arms.size() : 0, {});
  context.arm_columns.resize(arm_pages.size());
  for (std::size_t a = 0; a < arm_pages.size(); ++a) arm_pages[a].policy = ranked.release->arms[a].policy.get();
  const std::size_t k = context.items.size();
  context.arm_indices.resize(arm_pages.size() * k);
  context.other_scores.resize(std::max(k, context.other_scores.size()));
  const Degraded degraded = ranked.page.degraded;
  const bool ready = degraded == Degraded::none || degraded == Degraded::version || degraded == Degraded::history;
  for (std::size_t a = 0; ready && a < arm_pages.size(); ++a) {
    const auto indices = std::span(context.arm_indices).subspan(a * k, k);
    if (a == ranked.arm && degraded == Degraded::history) continue;
    if (a == ranked.arm && !ranked.page.page.explored && !ranked.page.page.shuffled) {
      arm_pages[a].indices = ranked.indices.first(static_cast<std::size_t>(ranked.page.filled));
      continue;
    }
    Request request = ranked.request;
    set_values(ranked.release->arms[a], context.input, context.other_values);
    request.values = context.other_values;
    if (pipeline && context.input.has_predictions) {  // on the scales of the policy that ranks
      request.predictions = context.input.predictions;
      request.as_logged = false;
    }
    const auto page = rank_by(a, ranked, request, context, given,
                              {.values = std::span(context.other_scores).first(k), .indices = indices});
    if (!page) continue;
    context.arm_columns[a].swap(context.other_columns);
    arm_pages[a].indices = indices.first(static_cast<std::size_t>(page->filled));
    arm_pages[a].items = context.arm_columns[a];
  }
  for (std::size_t a = 0; shown && a < arm_pages.size(); ++a) {
    const bool known = arm_pages[a].indices.data() != nullptr;
    (known ? metrics.arms[a].ranked : metrics.arms[a].unranked).add();
    if (known && arm_pages[0].indices.data() != nullptr &&
        !std::ranges::equal(arm_pages[0].indices, arm_pages[a].indices))
      metrics.arms[a].different.add();
  }
}

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
    request.page_terms = false;  // the order of all candidates is compared, not the page that is searched
    request.pins = {};
    request.demoted = {};
    if (!shadow.values.empty() || !shadow.policy->takes_values()) request.values = shadow.values;
    const PageBuffer buffer{context.other_scores, context.other_indices, context.other_weights,
                            context.other_concentration};
    if (!rank_by(config.arms.size() + s, ranked, request, context, given, buffer)) continue;
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
