// Reports of the service on itself: /readyz, /metrics, /v1/status.
#include <algorithm>
#include <cmath>

#include "pygrade/version.hpp"
#include "service/impl.hpp"
#include "serving/counts.hpp"
#include "util/files.hpp"

namespace pygrade::inline v0_2 {
using namespace detail;

namespace {
std::optional<Json> online_record(const std::filesystem::path& run) {
  try {
    Json record = Json::parse(text_of(OpenFile(run / "online" / "status.json").content()));
    if (record.type == Json::Type::object) return record;
  } catch (const ArtifactError&) {
  } catch (const JsonError&) {  // it is being written, or damaged: shown as absent
  }
  return {};
}

// Figures of a test's last reading.
void add_reading(const Json& reading, Figures& figures) {
  figures.set("pygrade_test_read_time_seconds", reading.finite_at("time") / 1000);
  figures.set("pygrade_test_alarms", static_cast<double>(reading.strings_at("alarms").size()));
  const Json& arms = reading.object_at("arms");
  if (arms.keys.empty()) return;
  figures.set("pygrade_test_requests", reading.finite_at("requests"));
  figures.set("pygrade_test_agreement", reading.finite_at("agreement"));
  for (std::size_t a = 0; a < arms.keys.size(); ++a) {
    const std::string& estimator = reading.object_at("deciding").string_at(arms.keys[a]);
    const Json& metrics = arms.items[a].object_at("readings").object_at(estimator);
    if (metrics.find("value") == nullptr) continue;
    const Json& interval = metrics.object_at("value").object_at("anytime");
    for (const char* bound : {"value", "low", "high"})
      if (interval.at(bound).type != Json::Type::null)  // unknown yet
        figures.set("pygrade_test_lift", interval.finite_at(bound), {{"arm", arms.keys[a]}, {"bound", bound}});
  }
}

struct WeightFigures {
  double pages, mean, sd;
};

WeightFigures weights_of(const Metrics::Window& window, const ScenarioCells& scenario, std::size_t task) {
  const double pages = window.gained(scenario.pages);
  if (pages <= 0.0) return {0.0, NAN, NAN};
  const double mean = window.gained(scenario.sum[task]) / pages;
  const double variance = window.gained(scenario.square[task]) / pages - mean * mean;
  return {pages, mean, std::sqrt(std::max(variance, 0.0))};
}

double drift_of(const Metrics::Window& window, const Release& release, std::size_t task) {
  std::array<double, drift_bins> counts;
  for (std::size_t bin = 0; bin < drift_bins; ++bin) counts[bin] = window.gained(release.drift.bins[task][bin]);
  return stability_index(counts, release.references[task].shares);
}

// target 0: the narrower policy, then the shadows.
double effective_samples(const Metrics::Window& window, const ArmCells& arm, std::size_t target) {
  const double sum = window.gained(arm.effective_sum[target]), square = window.gained(arm.effective_square[target]);
  return square > 0.0 ? sum * sum / square : 0.0;
}

void write_quantiles(const Metrics::Window& window, const Histogram& histogram, JsonWriter& out) {
  const auto bins = window.gained(histogram);
  double count = 0.0;
  for (const double of_bin : bins) count += of_bin;
  out.begin_object().field("count", count);
  out.field("p50", quantile(bins, 0.5)).field("p90", quantile(bins, 0.9)).field("p99", quantile(bins, 0.99));
  out.field("p999", quantile(bins, 0.999)).end_object();
}

void write_shadow(const Metrics::Window& window, const Served& shadow, const ShadowCells& cells, JsonWriter& out) {
  const double pages = window.total(cells.pages);
  out.begin_object().field("name", shadow.name).field("policy", shadow.policy->version());
  out.field("mixture_weight", shadow.share())
      .known_key("ranking")
      .list(shadow.ranking)
      .field("pages", pages)
      .field("replaced", window.total(cells.replaced) / pages);
  out.field("overlap", window.total(cells.overlap) / pages);
  out.field("correlation", window.total(cells.correlation) / window.total(cells.correlated));
  out.field("own_score", window.total(cells.own_score) / pages);
  out.field("served_score", window.total(cells.served_score) / pages).end_object();
}

// Requests, their times, and pages by what was missing.
void write_requests(const Metrics::Window& window, const Metrics& metrics, JsonWriter& out) {
  const auto total = [&](Cell cell) { return window.total(cell); };
  out.known_key("requests").begin_object();
  for (std::size_t e = 0; e < endpoint_names.size(); ++e) {
    out.known_key(endpoint_names[e]).begin_object();
    for (std::size_t s = 0; s < statuses.size(); ++s)
      if (const double count = total(metrics.requests[e][s]); count > 0.0) out.field(statuses[s], count);
    out.end_object();
  }
  out.end_object().known_key("latency").begin_object();
  for (const Endpoint endpoint : {on_rank, on_update, on_explain})
    write_quantiles(window, metrics.seconds[endpoint], out.known_key(endpoint_names[endpoint]));
  out.end_object().known_key("steps").begin_object();
  for (std::size_t step = 0; step < steps; ++step)
    write_quantiles(window, metrics.step[step], out.known_key(step_names[step]));
  out.end_object().known_key("degraded").begin_object();
  for (std::size_t i = 0; i < degraded_names.size(); ++i) out.field(degraded_names[i], total(metrics.degraded[i]));
  out.end_object().known_key("fallback").begin_object();
  for (std::size_t i = 0; i < fallback_names.size(); ++i) out.field(fallback_names[i], total(metrics.fallback[i]));
  out.end_object();
}

void write_scenario(const Metrics::Window& window, const std::vector<std::string>& tasks, const ScenarioCells& scenario,
                    JsonWriter& out) {
  const double pages = window.gained(scenario.pages);
  if (pages <= 0.0) return;
  std::vector<double> means, deviations;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const WeightFigures weights = weights_of(window, scenario, t);
    means.push_back(weights.mean);
    deviations.push_back(weights.sd);
  }
  out.begin_object().field("scenario", scenario.name).field("pages", pages);
  out.known_key("mean").object(tasks, means).known_key("sd").object(tasks, deviations).end_object();
}
}  // namespace

// Collects what other parts of the service count, what follows from the last hour, and the state.
Figures Service::Impl::figures(const Metrics::Window& window, const Release& release) {
  Figures figures;
  figures.set("pygrade_ready", ready() ? 1.0 : 0.0);
  if (store != nullptr) figures.set("pygrade_store_reachable", store->reachable() ? 1.0 : 0.0);
  figures.set("pygrade_metric_series_left_out", static_cast<double>(metrics.registry.left_out()));
  figures.set("pygrade_artifact_info", 1.0, {{"artifact", release.artifact}});
  for (const auto* group : {&release.arms, &release.shadows})
    for (const Served& served : *group)
      figures.set("pygrade_policy_info", 1.0,
                  {{group == &release.arms ? "arm" : "shadow", served.name},
                   {config.name.empty() ? "policy" : "version", served.policy->version()},
                   {"mixture_weight", std::to_string(served.mixture_weight)},
                   {"ranking", joined(served.ranking)}});
  for (const ScenarioCells& scenario : release.scenarios)
    for (std::size_t t = 0; t < release.tasks.size(); ++t) {
      const WeightFigures weights = weights_of(window, scenario, t);
      if (weights.pages <= 0.0) continue;
      figures.set("pygrade_weight_mean", weights.mean, {{"scenario", scenario.name}, {"task", release.tasks[t]}});
      figures.set("pygrade_weight_sd", weights.sd, {{"scenario", scenario.name}, {"task", release.tasks[t]}});
    }
  for (std::size_t t = 0; t < release.references.size(); ++t)
    if (const double index = drift_of(window, release, t); std::isfinite(index))
      figures.set("pygrade_prediction_psi", index, {{"task", release.tasks[t]}});
  for (std::size_t a = 0; config.test && a < release.arms.size(); ++a)
    if (const double ranked = window.gained(metrics.arms[a].ranked); ranked > 0.0)
      figures.set("pygrade_test_different_share", window.gained(metrics.arms[a].different) / ranked,
                  {{"arm", release.arms[a].name}});
  for (std::size_t a = 0; a < release.arms.size(); ++a)
    for (std::size_t target = 0; target <= release.shadows.size(); ++target)
      figures.set("pygrade_exploration_effective_samples", effective_samples(window, metrics.arms[a], target),
                  {{"arm", release.arms[a].name},
                   {"target", target == 0 ? std::string_view("narrower") : release.shadows[target - 1].name}});
  if (config.test) try {
      add_reading(test_reading(), figures);
    } catch (const std::exception&) {  // absent, or damaged, which /test names
    }
  if (const auto record = online_record(run))
    for (std::size_t i = 0; i < record->keys.size(); ++i)
      if (record->items[i].type == Json::Type::number)
        figures.set("pygrade_online", record->items[i].number, {{"field", record->keys[i]}});

  const auto set = [&](const auto& counters, const auto& counts) {
    for (const auto& count : counts)
      if (count.series != nullptr) figures.set(count.series, static_cast<double>(counters.*count.member));
  };
  const PipelineCounters counters = this->counters();
  set(counters.features, feature_counts);
  set(counters.ranker, ranker_counts);
  ExposureCounters sum;
  for (const auto& log : exposures) add_counts(sum, log->counters(), exposure_counts);
  set(sum, exposure_counts);
  if (release.history_store != nullptr) {
    set(release.history_store->counters(), history_counts);
    figures.set("pygrade_history_waiting", static_cast<double>(release.history_store->waiting()));
  }
  return figures;
}

std::string_view Service::Impl::store_state() const {
  if (store == nullptr) return "";
  if (!store->reachable()) return "unreachable";
  return store_checked ? "reachable" : "another version";
}

bool Service::Impl::ready() const {
  return !draining && (!config.require_store || store == nullptr || store->reachable());
}

std::vector<std::string> Service::Impl::warnings() const {
  const auto served = release();
  std::vector<std::string> found = served->identical_arms(true);
  for (const Served& arm : served->arms)
    if (const auto& mixture = arm.policy->mixture(); mixture && !mixture->unproven.empty())
      found.push_back("arm '" + arm.name + "' has a policy that is not proven: " + mixture->unproven);
  return found;
}

// Waits for nothing: the server answers probes between others' bytes.
void Service::Impl::write_ready(JsonWriter& out) {
  const auto served = this->release();
  const Release& release = *served;
  out.text_field("artifact", release.artifact).known_key("policies").begin_object();
  for (const Served& arm : release.arms) out.key(arm.name).value(arm.policy->version());
  out.end_object().text_field("store", store_state());
  const std::lock_guard lock(telling);
  out.text_field("reload_error", last_error);
}

Series Service::Impl::series() {
  const auto served = this->release();
  Metrics::Window window = metrics.window();
  Figures computed = figures(window, *served);
  return {&metrics.registry, std::move(window.now), std::move(computed)};
}

void Service::Impl::write_status(JsonWriter& out, std::span<const Gauge> gauges) {
  const auto served = this->release();
  const Release& release = *served;
  const Metrics::Window window = metrics.window();
  out.field("version", PYGRADE_VERSION).field("kind", release.is_policy() ? "policy" : "pipeline");
  out.text_field("artifact", release.artifact).text_field("store", store_url());
  out.text_field("store_state", store_state()).field("ready", ready()).field("draining", draining.load());
  out.field("window_seconds", window.seconds).field("timestamp", now_ms());
  out.known_key("tasks").list(release.tasks).known_key("warnings").list(warnings());
  out.known_key("arms").begin_list();
  for (std::size_t a = 0; a < release.arms.size(); ++a) write_arm(window, release, a, out);
  out.end_list().known_key("shadows").begin_list();
  for (std::size_t s = 0; s < release.shadows.size(); ++s)
    write_shadow(window, release.shadows[s], metrics.shadows[s], out);
  out.end_list();
  write_requests(window, metrics, out);
  out.known_key("weights").begin_list();
  for (const ScenarioCells& scenario : release.scenarios) write_scenario(window, release.tasks, scenario, out);
  out.end_list().known_key("drift").begin_object();
  for (std::size_t t = 0; t < release.references.size(); ++t)
    out.key(release.tasks[t]).value(drift_of(window, release, t));
  out.end_object();
  write_counters(window, release, gauges, out.known_key("counters"));
  write_reloads(out.known_key("reloads"));
  out.known_key("online");
  if (const auto record = online_record(run))
    out.raw(json_text(*record));
  else
    out.null();
}

void Service::Impl::write_arm(const Metrics::Window& window, const Release& release, std::size_t place,
                              JsonWriter& out) const {
  const Served& arm = release.arms[place];
  const ArmConfig& own = config.arms[place];
  const ArmCells& cells = metrics.arms[place];
  out.begin_object().field("name", arm.name).field("share", own.share);
  out.field("policy", arm.policy->version())
      .field("mixture_weight", arm.share())
      .known_key("ranking")
      .list(arm.ranking);
  const auto& mixture = arm.policy->mixture();
  // The training did not judge an arm with a mixture_weight or ranking of its own.
  const bool is_judged = mixture && !own.mixture_weight && own.ranking.empty();
  out.text_field("verdict", is_judged ? verdict_names[static_cast<std::size_t>(mixture->verdict)] : "");
  out.known_key("sentence").value(is_judged ? std::optional(mixture->sentence) : std::nullopt);
  out.field("explore", own.explore).known_key("values").begin_object();
  for (const auto& [task, value] : own.values) out.key(task).value(value);
  out.end_object().field("pages", window.total(cells.pages)).field("explored", window.total(cells.explored));
  out.field("capped", window.total(cells.capped)).known_key("feedback").begin_object();
  for (std::size_t t = 0; t < release.log_tasks.size(); ++t)
    out.key(release.log_tasks[t]).value(window.total(release.feedback[place][t]));
  out.end_object().known_key("effective_samples").begin_object();
  out.field("narrower", effective_samples(window, cells, 0));
  for (std::size_t s = 0; s < release.shadows.size(); ++s)
    out.key(release.shadows[s].name).value(effective_samples(window, cells, 1 + s));
  out.end_object().end_object();
}

void Service::Impl::write_counters(const Metrics::Window& window, const Release& release, std::span<const Gauge> gauges,
                                   JsonWriter& out) {
  out.begin_object();
  const auto families = all_families();
  for (const auto& [key, index] : metrics.registry.series())
    if (key.second.empty() && index < window.now.size())
      out.known_key(families[key.first].name).value(window.now[index]);
  Figures computed = figures(window, release);
  if (config.name.empty()) add_process_figures(computed);
  for (const auto& [key, value] : computed.values())
    if (key.second.empty()) out.known_key(families[key.first].name).value(value);
  for (const Gauge& gauge : gauges)
    if (gauge.labels.empty()) out.key(gauge.name).value(gauge.value);
  out.end_object();
}

void Service::Impl::write_reloads(JsonWriter& out) {
  const std::lock_guard lock(telling);
  out.begin_list();
  for (const Reload& reload : loads) {
    out.begin_object().field("timestamp", reload.timestamp).text_field("artifact", reload.artifact);
    out.known_key("policies").list(reload.policies).text_field("error", reload.error).end_object();
  }
  out.end_list();
}
}  // namespace pygrade::inline v0_2
