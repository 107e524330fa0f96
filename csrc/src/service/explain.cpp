// The reasons for a page.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "pygrade/history_reasons.hpp"
#include "service/impl.hpp"
#include "serving/prediction_scales.hpp"
#include "serving/score_sources.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
constexpr std::size_t most_reasoned = 50;  // items; each costs as much as a ranking of the page

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
void write_inputs(const Policy& policy, const Request& request, const ScoreParts& parts, JsonWriter& out) {
  std::vector<float> predictions;  // of the candidates without a missing one
  const std::size_t tasks = policy.tasks().size();
  const auto read = policy.corrected() ? std::span<const float>(parts.corrected) : request.predictions;
  for (std::size_t row = 0; row < parts.scores.size(); ++row)
    if (const auto of_row = request.predictions.subspan(row * tasks, tasks); std::ranges::none_of(of_row, is_missing))
      predictions.insert(predictions.end(), read.begin() + static_cast<std::ptrdiff_t>(row * tasks),
                         read.begin() + static_cast<std::ptrdiff_t>((row + 1) * tasks));
  if (request.context.empty() || predictions.empty()) return static_cast<void>(out.null());
  std::vector<float> inputs(policy.num_inputs());
  Policy::RequestValues in_force;
  if (policy.trade_offs()) policy.find_values(request.values, request.scenario, in_force);
  Policy::Workspace workspace;
  policy.request_inputs(request.context, predictions, workspace, inputs, in_force.multipliers);
  out.object(input_names(policy), inputs);
}

// Writes what ranks, how contributions make the score, and why it is so.
void write_ranking(const Policy& policy, const Request& request, const ScoreParts& parts, Fallback fallback,
                   JsonWriter& out) {
  const Baseline* lead = parts.lead;
  const auto& mixture = policy.mixture();
  const ScoreSources sources(policy, request);
  const auto names = sources.names();
  const std::string& first = names[0];
  std::string score = parts.logarithm ? "the logarithm of the sum" : "the sum";
  score += " of the contributions";
  std::string why = first + " ranks alone";
  const bool boosted = !sources.boosts.empty();
  if (sources.mixture != nullptr || boosted) score += ", standardized over the candidates";
  if (sources.mixed_in() != nullptr) {
    const long percent = std::lround(100.0 * mixture->mixture_weight);
    score += ", times " + plain_number(mixture->mixture_weight) + ", plus the share of " + mixture->baseline.name;
    why = std::to_string(percent) + " % " + first + " and " + std::to_string(100 - percent) + " % " +
          mixture->baseline.name + " rank";
  }
  if (boosted) score += ", plus the policy's boosts of item columns";
  if (sources.by_values)
    why += request.values.empty() ? ", by the policy's own values" : ", by the values of the request";
  if (lead != nullptr) why += "; the weights do not count";
  if (lead != nullptr && lead->given) score = "the request's production_scores";
  if (lead == nullptr && fallback != Fallback::none) why += "; static weights, for want of features";
  if (!sources.by_values && mixture && !mixture->sentence.empty()) why += ": " + mixture->sentence;
  out.begin_object()
      .known_key("by")
      .list(names)
      .field("weighs", lead == nullptr)
      .field("score", score)
      .field("why", why)
      .end_object();
}

// An item of the page.
void write_item(const ScoreParts& parts, const Ranked& ranked, const Context& context, std::size_t place,
                JsonWriter& out) {
  const Policy& policy = *ranked.policy;
  const Request& request = ranked.request;
  const Page& page = ranked.page.page;
  const auto row = static_cast<std::size_t>(ranked.indices[place]);
  const std::size_t tasks = policy.tasks().size();
  out.known_key("predictions").object(policy.tasks(), request.predictions.subspan(row * tasks, tasks));
  out.known_key("contributions");
  if (std::ranges::any_of(request.predictions.subspan(row * tasks, tasks), is_missing)) {
    out.null().known_key("mixture").null();
    return;
  }
  out.object(policy.tasks(), std::span(parts.contributions).subspan(row * tasks, tasks));
  out.field("fused", parts.scores[row]).known_key("mixture");
  if (parts.baseline.empty()) {
    out.null();
  } else {
    out.begin_object().field("policy", parts.share[row]).field("baseline", parts.baseline_share[row]);
    out.field("baseline_score", parts.baseline[row]).end_object();
  }
  if (!parts.trees.empty()) out.field("trees", parts.trees[row]);
  if (page.searched) {
    const PageEffect& moved = context.effects[place];
    out.known_key("page").begin_object().field("effect", moved.effect).field("above", moved.above);
    out.field("sorted_position", moved.sorted_place);
    const std::string& root = policy.tasks()[policy.page_terms()->root];
    out.field("why", describe(moved, static_cast<std::int32_t>(place), root)).end_object();
  }
  if (!context.arm_pages.empty()) {
    out.known_key("slots").begin_object();
    for (std::size_t a = 0; a < context.arm_pages.size(); ++a) {
      const auto& shown = context.arm_pages[a].indices;
      const auto slot = std::ranges::find(shown, ranked.indices[place]) - shown.begin();
      out.key(ranked.release->arms[a].name);
      out.value(slot == std::ssize(shown) ? std::nullopt : std::optional(slot));
    }
    out.end_object();
  }
  const auto& [mul, add] = std::tie(request.rules.boost_mul, request.rules.boost_add);
  if (mul.empty() && add.empty()) return;
  out.known_key("boost").begin_object().field("mul", mul.empty() ? 1.0f : mul[row]);
  out.field("add", add.empty() ? 0.0f : add[row]).end_object();
}

// Writes the reasons and facts of an item by history.
void write_history(const Ranked& ranked, std::size_t row, std::span<const HistoryReason> reasons, JsonWriter& out) {
  const Policy& policy = *ranked.policy;
  out.known_key("history").begin_object().known_key("reasons").begin_list();
  for (const HistoryReason& reason : reasons) {
    out.begin_object().field("of", History::group_names[static_cast<std::size_t>(reason.group)]);
    out.field("task", policy.tasks()[reason.task])
        .field("factor", reason.factor)
        .field("why", reason.text)
        .end_object();
  }
  out.end_list().known_key("facts").begin_object();
  const auto items = ranked.request.items;
  const std::size_t width = items.empty() ? 0 : policy.items().size();
  for (const auto& [name, value] : history_facts(policy, items.subspan(row * width, width))) out.key(name).value(value);
  out.end_object().end_object();
}

// Writes the same candidates by the static weights: without features a policy falls back to them.
void write_static(const Ranked& ranked, std::span<const std::int32_t> shown, Context& context, JsonWriter& out) {
  const auto& tasks = ranked.policy->tasks();
  const std::size_t k = context.items.size();
  context.other_scores.resize(k);
  context.other_indices.resize(k);
  context.other_weights.resize(tasks.size());
  Request unknown = ranked.request;
  unknown.context = {};
  unknown.explore = false;
  // A policy that reads history is never served without it.
  const auto& plain = ranked.release->plain_rankers[ranked.arm];
  if (plain != nullptr && !plain->policy()->takes_values()) unknown.values = {};
  const Page page = (plain != nullptr ? plain : ranked.release->rankers[ranked.arm])
                        ->rank(unknown, {context.other_scores, context.other_indices, context.other_weights, {}});
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
  rank_arms(ranked, context, given, false);
  const Policy& policy = *ranked.policy;
  Reading reading;
  ranked.request = as_logged(policy, ranked.request, reading);
  const Request& request = ranked.request;
  const ScoreParts parts = Ranker::score_parts(policy, request, context.weights);
  const auto shown = ranked.indices.first(static_cast<std::size_t>(ranked.page.filled));
  const auto reasons = history_reasons(policy, request, shown.first(std::min(shown.size(), most_reasoned)));

  JsonWriter out;
  out.begin_object();
  write_page(ranked, context, out);
  out.field("candidates", ranked.page.candidates).field("transform", policy.transform());
  write_ranking(policy, request, parts, ranked.page.page.fallback, out.known_key("ranking"));
  out.known_key("explanation").begin_list();
  for (std::size_t i = 0; i < shown.size(); ++i) {
    out.begin_object().field("item", item_of(ranked, context, shown[i])).field("score", context.scores[i]);
    write_item(parts, ranked, context, i, out);
    if (policy.history())
      write_history(ranked, static_cast<std::size_t>(shown[i]),
                    i < reasons.size() ? std::span(reasons[i]) : std::span<const HistoryReason>(), out);
    out.end_object();
  }
  out.end_list().known_key("concentration");
  if (ranked.page.page.fallback == Fallback::none)
    out.object(policy.tasks(), context.concentration);
  else
    out.null();
  write_inputs(policy, request, parts, out.known_key("inputs"));
  out.known_key("mixture");
  if (const auto& mixture = policy.mixture()) {
    out.begin_object().field("baseline", mixture->baseline.name);
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
