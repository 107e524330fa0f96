// What the service says of itself: /readyz, /metrics, /v1/status.
#include <algorithm>
#include <cmath>

#include "pygrade/version.hpp"
#include "service/impl.hpp"
#include "util/files.hpp"

namespace pygrade {

using namespace detail;

namespace {

double value_of(const Sums& sums, std::string_view name) {
  const auto found = sums.find(name);
  return found == sums.end() ? 0.0 : found->second;
}

double gained(const Metrics::Window& window, std::string_view name) {
  return value_of(window.now.sums, name) - value_of(window.before, name);
}

std::optional<Json> online_record(const std::filesystem::path& run) {
  try {
    Json record = Json::parse(text_of(OpenFile(run / "online" / "status.json").content()));
    if (record.type == Json::Type::object) return record;
  } catch (const ArtifactError&) {
  } catch (const JsonError&) {  // it is being written, or damaged: shown as absent
  }
  return {};
}

struct WeightFigures {
  double pages, mean, sd;
};

WeightFigures weights_of(const Metrics::Window& window, const std::string& scenario, const std::string& task) {
  const double pages = gained(window, labelled("pygrade_scenario_pages_total", {{"scenario", scenario}}));
  const auto of = [&](std::string_view family) {
    return gained(window, labelled(family, {{"scenario", scenario}, {"task", task}}));
  };
  if (pages <= 0.0) return {0.0, NAN, NAN};
  const double mean = of("pygrade_weight_sum") / pages;
  const double variance = of("pygrade_weight_square_sum") / pages - mean * mean;
  return {pages, mean, std::sqrt(std::max(variance, 0.0))};
}

double drift_of(const Metrics::Window& window, const std::string& task, const Reference& reference) {
  std::array<double, drift_bins> counts;
  for (std::size_t bin = 0; bin < drift_bins; ++bin)
    counts[bin] =
        gained(window, labelled("pygrade_predictions_total", {{"task", task}, {"decile", std::to_string(bin + 1)}}));
  return stability_index(counts, reference.shares);
}

double effective_samples(const Metrics::Window& window, const std::string& arm, std::string_view target) {
  const auto of = [&](std::string_view family) {
    return gained(window, labelled(family, {{"arm", arm}, {"target", target}}));
  };
  const double sum = of("pygrade_exploration_ratio_sum"), square = of("pygrade_exploration_ratio_square_sum");
  return square > 0.0 ? sum * sum / square : 0.0;
}

void write_quantiles(const Metrics::Window& window, std::string_view family, std::string_view labels, JsonWriter& out) {
  std::array<double, duration_bounds.size() + 1> bins;
  const std::string start = std::string(family) + std::string(labels) + "#";
  double count = 0.0;
  for (std::size_t i = 0; i < bins.size(); ++i) {
    bins[i] = gained(window, start + (i < 10 ? "0" : "") + std::to_string(i));
    count += bins[i];
  }
  out.begin_object().field("count", count);
  out.field("p50", quantile(bins, 0.5)).field("p90", quantile(bins, 0.9)).field("p99", quantile(bins, 0.99));
  out.field("p999", quantile(bins, 0.999)).end_object();
}

}  // namespace

void Service::Impl::mirror() {
  metrics.mirror(pipeline->counters());
  ExposureCounters sum;
  for (const auto& log : exposures) {
    const ExposureCounters one = log->counters();
    sum.requests += one.requests;
    sum.complete += one.complete;
    sum.dropped += one.dropped;
    sum.lost += one.lost;
    sum.rows += one.rows;
    sum.files += one.files;
    sum.bytes += one.bytes;
    sum.errors += one.errors;
  }
  metrics.mirror(sum);
}

std::vector<Gauge> Service::Impl::read_gauges() {
  std::vector<Gauge> read;
  const std::lock_guard lock(asking);
  if (gauges) gauges(read);
  return read;
}

std::string Service::Impl::ready_body() {
  const Models models = pipeline->models();
  const Release& release = Release::of(models);
  JsonWriter out;
  out.begin_object().field("ready", !draining).field("draining", draining.load());
  out.field("artifact", std::string_view(release.artifact)).known_key("policies").begin_object();
  for (const Served& arm : release.arms) out.key(arm.name).value(std::string_view(arm.policy->version()));
  out.end_object().field("store", std::string_view(store->url())).known_key("reload_error");
  const std::lock_guard lock(telling);
  if (last_error.empty())
    out.null();
  else
    out.value(std::string_view(last_error));
  out.end_object();
  return out.take();
}

std::string Service::Impl::metrics_body() {
  mirror();
  const Models models = pipeline->models();
  const Release& release = Release::of(models);
  Metrics::Window window = metrics.window();
  Sums& sums = window.now.sums;
  sums[labelled("pygrade_info", {{"version", PYGRADE_VERSION}})] = 1.0;
  sums["pygrade_workers"] = window.now.workers;
  sums["pygrade_ready"] = draining ? 0.0 : 1.0;
  sums["pygrade_metric_series_left_out"] = static_cast<double>(metrics.file.left_out());
  sums[labelled("pygrade_artifact_info", {{"artifact", release.artifact}})] = 1.0;
  for (const auto* group : {&release.arms, &release.shadows})
    for (const Served& served : *group)
      sums[labelled("pygrade_policy_info", {{group == &release.arms ? "arm" : "shadow", served.name},
                                            {"policy", served.policy->version()},
                                            {"trust", std::to_string(served.trust)}})] = 1.0;
  for (const ScenarioCells& scenario : release.scenarios)
    for (const auto& task : release.tasks) {
      const WeightFigures figures = weights_of(window, scenario.name, task);
      if (figures.pages <= 0.0) continue;
      sums[labelled("pygrade_weight_mean", {{"scenario", scenario.name}, {"task", task}})] = figures.mean;
      sums[labelled("pygrade_weight_sd", {{"scenario", scenario.name}, {"task", task}})] = figures.sd;
    }
  for (std::size_t t = 0; t < release.references.size(); ++t)
    if (const double index = drift_of(window, release.tasks[t], release.references[t]); std::isfinite(index))
      sums[labelled("pygrade_prediction_psi", {{"task", release.tasks[t]}})] = index;
  for (const Served& arm : release.arms) {
    const auto add = [&](const std::string& target) {
      sums[labelled("pygrade_exploration_effective_samples", {{"arm", arm.name}, {"target", target}})] =
          effective_samples(window, arm.name, target);
    };
    add("narrower");
    for (const Served& shadow : release.shadows) add(shadow.name);
  }
  if (const auto record = online_record(run))
    for (std::size_t i = 0; i < record->keys.size(); ++i)
      if (record->items[i].type == Json::Type::number)
        sums[labelled("pygrade_online", {{"field", record->keys[i]}})] = record->items[i].number;
  std::string out;
  out.reserve(std::size_t{1} << 16);
  write_prometheus(sums, out);
  for (const Gauge& gauge : read_gauges()) write_gauge(gauge, out);
  return out;
}

std::string Service::Impl::status_body() {
  mirror();
  const Models models = pipeline->models();
  const Release& release = Release::of(models);
  const Metrics::Window window = metrics.window();
  const auto total = [&](std::string_view name) { return value_of(window.now.sums, name); };
  JsonWriter out;
  out.begin_object().field("version", PYGRADE_VERSION).field("artifact", std::string_view(release.artifact));
  out.field("store", std::string_view(store->url())).field("draining", draining.load());
  out.field("workers", window.now.workers).field("window_seconds", window.seconds).field("timestamp", now_ms());
  out.known_key("tasks").begin_list();
  for (const auto& task : release.tasks) out.value(std::string_view(task));
  out.end_list();

  out.known_key("arms").begin_list();
  for (std::size_t a = 0; a < release.arms.size(); ++a) {
    const Served& arm = release.arms[a];
    const auto of_arm = [&](std::string_view family) { return total(labelled(family, {{"arm", arm.name}})); };
    out.begin_object().field("name", std::string_view(arm.name)).field("share", config.arms[a].share);
    out.field("policy", std::string_view(arm.policy->version())).field("trust", arm.trust);
    const auto& mixture = arm.policy->mixture();
    if (mixture && !config.arms[a].trust) {  // a trust of the arm's own is nothing that the training judged
      out.field("verdict", verdict_names[static_cast<std::size_t>(mixture->verdict)]);
      out.field("sentence", std::string_view(mixture->sentence));
    } else {
      out.known_key("verdict").null();
      out.known_key("sentence").null();
    }
    out.field("explore", config.arms[a].explore).known_key("values").begin_object();
    for (const auto& [task, value] : config.arms[a].values) out.key(task).value(value);
    out.end_object().field("pages", of_arm("pygrade_arm_pages_total"));
    out.field("explored", of_arm("pygrade_arm_explored_pages_total"));
    out.field("capped", of_arm("pygrade_arm_capped_pages_total")).known_key("feedback").begin_object();
    for (const auto& task : release.log_tasks)
      out.key(task).value(total(labelled("pygrade_feedback_events_total", {{"arm", arm.name}, {"task", task}})));
    out.end_object().known_key("effective_samples").begin_object();
    out.field("narrower", effective_samples(window, arm.name, "narrower"));
    for (const Served& shadow : release.shadows)
      out.key(shadow.name).value(effective_samples(window, arm.name, shadow.name));
    out.end_object().end_object();
  }
  out.end_list();

  out.known_key("shadows").begin_list();
  for (const Served& shadow : release.shadows) {
    const auto of = [&](std::string_view family) { return total(labelled(family, {{"shadow", shadow.name}})); };
    const double ranked = of("pygrade_shadow_pages_total");
    out.begin_object().field("name", std::string_view(shadow.name));
    out.field("policy", std::string_view(shadow.policy->version())).field("trust", shadow.trust).field("pages", ranked);
    out.field("replaced", of("pygrade_shadow_replaced_sum") / ranked);
    out.field("overlap", of("pygrade_shadow_overlap_sum") / ranked);
    out.field("correlation", of("pygrade_shadow_correlation_sum") / of("pygrade_shadow_correlated_pages_total"));
    out.field("own_score", of("pygrade_shadow_own_score_sum") / ranked);
    out.field("served_score", of("pygrade_shadow_served_score_sum") / ranked).end_object();
  }
  out.end_list();

  out.known_key("requests").begin_object();
  for (const auto endpoint : endpoint_names) {
    out.known_key(endpoint).begin_object();
    for (const int status : statuses) {
      const std::string text = std::to_string(status);
      const double count = total(labelled("pygrade_requests_total", {{"endpoint", endpoint}, {"status", text}}));
      if (count > 0.0) out.known_key(text).value(count);
    }
    out.end_object();
  }
  out.end_object().known_key("latency").begin_object();
  for (const Endpoint endpoint : {on_rank, on_update, on_explain}) {
    out.known_key(endpoint_names[endpoint]);
    write_quantiles(window, "pygrade_request_seconds", labelled("", {{"endpoint", endpoint_names[endpoint]}}), out);
  }
  out.end_object().known_key("steps").begin_object();
  for (const auto step : step_names) {
    out.known_key(step);
    write_quantiles(window, "pygrade_step_seconds", labelled("", {{"step", step}}), out);
  }
  out.end_object().known_key("degraded").begin_object();
  for (const auto* reason : {"none", "store", "deadline"})
    out.field(reason, total(labelled("pygrade_degraded_pages_total", {{"reason", reason}})));
  out.end_object().known_key("fallback").begin_object();
  for (const auto* weights : {"none", "scenario", "global"})
    out.field(weights, total(labelled("pygrade_fallback_pages_total", {{"weights", weights}})));
  out.end_object();

  out.known_key("weights").begin_list();
  for (const ScenarioCells& scenario : release.scenarios) {
    if (release.tasks.empty() || weights_of(window, scenario.name, release.tasks[0]).pages <= 0.0) continue;
    out.begin_object().field("scenario", std::string_view(scenario.name));
    out.field("pages", weights_of(window, scenario.name, release.tasks[0]).pages);
    for (const char* figure : {"mean", "sd"}) {
      out.known_key(figure).begin_object();
      for (const auto& task : release.tasks) {
        const WeightFigures figures = weights_of(window, scenario.name, task);
        out.key(task).value(figure == std::string_view("mean") ? figures.mean : figures.sd);
      }
      out.end_object();
    }
    out.end_object();
  }
  out.end_list().known_key("drift").begin_object();
  for (std::size_t t = 0; t < release.references.size(); ++t)
    out.key(release.tasks[t]).value(drift_of(window, release.tasks[t], release.references[t]));
  out.end_object();

  out.known_key("counters").begin_object();
  for (const auto& [name, value] : window.now.sums)
    if (name.find_first_of("{#") == name.npos) out.key(name).value(value);
  for (const Gauge& gauge : read_gauges()) out.key(gauge.name).value(gauge.value);
  out.end_object().known_key("reloads").begin_list();
  {
    const std::lock_guard lock(telling);
    for (const Reload& reload : history) {
      out.begin_object().field("timestamp", reload.timestamp).field("artifact", std::string_view(reload.artifact));
      out.known_key("policies").begin_list();
      for (const auto& policy : reload.policies) out.value(std::string_view(policy));
      out.end_list().known_key("error");
      if (reload.error.empty())
        out.null();
      else
        out.value(std::string_view(reload.error));
      out.end_object();
    }
  }
  out.end_list().known_key("online");
  if (const auto record = online_record(run))
    write_json(*record, out);
  else
    out.null();
  out.end_object();
  return out.take();
}

}  // namespace pygrade
