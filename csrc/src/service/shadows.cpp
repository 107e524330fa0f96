// The pages that shadows would have served: they rank what a request ranked, by other policies, rankings or values.
#include "service/impl.hpp"

namespace pygrade::inline v0_2 {

using namespace detail;

// Shadows rank the same candidates; the log has a line for each with the page that it would have made.
void Service::Impl::rank_shadows(const Ranked& ranked, Context& context) {
  const std::size_t tasks = context.weights.size();
  context.other_scores.resize(context.input.k);
  context.other_indices.resize(context.input.k);
  context.other_weights.resize(tasks);
  context.other_concentration.resize(tasks);
  context.lines.clear();
  for (std::size_t s = 0; s < config.shadows.size(); ++s) {
    const Served& shadow = ranked.release->shadows[s];
    Request request = ranked.request;
    request.explore = false;
    if (!shadow.values.empty() || !shadow.policy->takes_values()) request.values = shadow.values;
    if (!shadow.shifts.empty() || !shadow.policy->takes_shifts()) request.shifts = shadow.shifts;
    if (shadow.policy->correction()) {  // its columns and levels are its own
      if (pipeline)
        context.workspace.item_columns(*shadow.policy, context.other_columns);
      else
        shadow.policy->item_columns(ranked.item_ids, context.input.item_features, context.other_columns);
      request.items = context.other_columns;
    }
    Page page;
    try {
      page = ranked.release->rankers[config.arms.size() + s]->rank(
          request, {context.other_scores, context.other_indices, context.other_weights, context.other_concentration});
    } catch (const std::invalid_argument&) {
      continue;  // it needs what the request does not have, such as prices
    }
    metrics.shadows[s].add();
    if (!shadow_log) continue;
    const auto filled = static_cast<std::size_t>(page.filled);
    JsonWriter line;
    line.begin_object().field("request_id", context.request_id);
    line.field("timestamp", context.input.timestamp).field("arm", config.arms[ranked.arm].name);
    line.field("shadow", shadow.name).field("policy", page.version()).known_key("items");
    line.list(std::span(context.other_indices).first(filled),
              [&](std::int32_t at) { return item_of(ranked, context, at); });
    line.known_key("scores").list(std::span(context.other_scores).first(filled)).end_object();
    context.lines += line.text();
    context.lines += '\n';
  }
  if (context.lines.empty()) return;
  try {
    shadow_log->append(context.lines);
  } catch (const std::system_error&) {  // costs the line, not the page
    metrics.feedback_errors.add();
  }
}

}  // namespace pygrade::inline v0_2
