#include "service/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pygrade::detail {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto window_length = std::chrono::minutes(60), snapshot_step = std::chrono::minutes(5);

constexpr std::string_view mirrored_names[] = {"pygrade_feature_reads_total",      "pygrade_feature_defaults_total",
                                               "pygrade_store_errors_total",       "pygrade_unknown_users_total",
                                               "pygrade_unknown_items_total",      "pygrade_feature_updates_total",
                                               "pygrade_missing_predictions_total"};
constexpr std::string_view exposure_names[] = {"pygrade_exposures_total",         "pygrade_exposures_complete_total",
                                               "pygrade_exposures_dropped_total", "pygrade_exposures_lost_total",
                                               "pygrade_exposure_rows_total",     "pygrade_exposure_files_total",
                                               "pygrade_exposure_bytes_total",    "pygrade_exposure_errors_total"};

std::string two_digits(std::size_t number) { return (number < 10 ? "0" : "") + std::to_string(number); }

}  // namespace

std::string labelled(std::string_view family,
                     std::initializer_list<std::pair<std::string_view, std::string_view>> labels) {
  std::string text(family);
  if (labels.size() == 0) return text;
  for (const auto& [name, value] : labels) {
    text.append(text.size() == family.size() ? "{" : ",").append(name).append("=\"");
    for (const char c : value) {
      if (c == '"' || c == '\\') text += '\\';
      if (c == '\n')
        text += "\\n";
      else
        text += c;
    }
    text += '"';
  }
  return text += '}';
}

// The series of a histogram: family{labels}#00 … of the bins, which are not cumulative, and #sum.
DurationCells::DurationCells(MetricFile& file, const std::string& family, const std::string& labels)
    : sum_(file.real(family + labels + "#sum")) {
  for (std::size_t i = 0; i < bins_.size(); ++i) bins_[i] = file.count(family + labels + "#" + two_digits(i));
}

void DurationCells::observe(double seconds) const {
  const auto bin = std::ranges::lower_bound(duration_bounds, seconds) - duration_bounds.begin();
  bins_[static_cast<std::size_t>(bin)].add();
  sum_.add_real(seconds);
}

Metrics::Metrics(const ServiceConfig& config) : file(config.metrics) {
  for (std::size_t e = 0; e < endpoint_names.size(); ++e) {
    for (std::size_t s = 0; s < statuses.size(); ++s)
      requests_[e][s] = file.count(labelled(
          "pygrade_requests_total", {{"endpoint", endpoint_names[e]}, {"status", std::to_string(statuses[s])}}));
    seconds_[e] = {file, "pygrade_request_seconds", labelled("", {{"endpoint", endpoint_names[e]}})};
  }
  for (std::size_t s = 0; s < steps; ++s)
    step[s] = {file, "pygrade_step_seconds", labelled("", {{"step", step_names[s]}})};
  constexpr std::string_view fallbacks[] = {"none", "scenario", "global"}, reasons[] = {"none", "store", "deadline"};
  for (std::size_t i = 0; i < 3; ++i) {
    fallback[i] = file.count(labelled("pygrade_fallback_pages_total", {{"weights", fallbacks[i]}}));
    degraded[i] = file.count(labelled("pygrade_degraded_pages_total", {{"reason", reasons[i]}}));
  }
  reloads = file.count("pygrade_reloads_total");
  failures = file.count("pygrade_reload_failures_total");
  feedback_events = file.count("pygrade_feedback_logged_total");
  feedback_bytes = file.count("pygrade_feedback_bytes_total");
  feedback_errors = file.count("pygrade_feedback_errors_total");
  for (const ArmConfig& arm : config.arms) {
    ArmCells cells;
    cells.pages = file.count(labelled("pygrade_arm_pages_total", {{"arm", arm.name}}));
    cells.explored = file.count(labelled("pygrade_arm_explored_pages_total", {{"arm", arm.name}}));
    cells.capped = file.count(labelled("pygrade_arm_capped_pages_total", {{"arm", arm.name}}));
    const auto add_target = [&](std::string_view target) {
      cells.effective_sum.push_back(
          file.real(labelled("pygrade_exploration_ratio_sum", {{"arm", arm.name}, {"target", target}})));
      cells.effective_square.push_back(
          file.real(labelled("pygrade_exploration_ratio_square_sum", {{"arm", arm.name}, {"target", target}})));
    };
    add_target("narrower");
    for (const ArmConfig& shadow : config.shadows) add_target(shadow.name);
    arms.push_back(std::move(cells));
  }
  for (const ArmConfig& shadow : config.shadows) {
    const auto name = [&](std::string_view family) { return labelled(family, {{"shadow", shadow.name}}); };
    shadows.push_back(
        {file.count(name("pygrade_shadow_pages_total")), file.real(name("pygrade_shadow_replaced_sum")),
         file.real(name("pygrade_shadow_overlap_sum")), file.count(name("pygrade_shadow_correlated_pages_total")),
         file.real(name("pygrade_shadow_correlation_sum")), file.real(name("pygrade_shadow_own_score_sum")),
         file.real(name("pygrade_shadow_served_score_sum"))});
  }
  for (const auto name : mirrored_names) mirrored_.push_back(file.count(std::string(name)));
  for (const auto name : exposure_names) mirrored_exposures_.push_back(file.count(std::string(name)));
}

void Metrics::answered(Endpoint endpoint, int status, double seconds) const {
  const auto place = std::ranges::find(statuses, status);
  if (place != statuses.end()) requests_[endpoint][static_cast<std::size_t>(place - statuses.begin())].add();
  seconds_[endpoint].observe(seconds);
}

ScenarioCells Metrics::scenario(const std::string& name, std::span<const std::string> tasks) {
  ScenarioCells cells{name, file.count(labelled("pygrade_scenario_pages_total", {{"scenario", name}})), {}, {}};
  for (const auto& task : tasks) {
    cells.sum.push_back(file.real(labelled("pygrade_weight_sum", {{"scenario", name}, {"task", task}})));
    cells.square.push_back(file.real(labelled("pygrade_weight_square_sum", {{"scenario", name}, {"task", task}})));
  }
  return cells;
}

TaskCells Metrics::drift(std::span<const std::string> tasks) {
  TaskCells cells;
  for (const auto& task : tasks) {
    auto& bins = cells.bins.emplace_back();
    for (std::size_t bin = 0; bin < drift_bins; ++bin)
      bins[bin] =
          file.count(labelled("pygrade_predictions_total", {{"task", task}, {"decile", std::to_string(bin + 1)}}));
  }
  return cells;
}

std::vector<Cell> Metrics::feedback(const std::string& arm, std::span<const std::string> tasks) {
  std::vector<Cell> cells;
  for (const auto& task : tasks)
    cells.push_back(file.count(labelled("pygrade_feedback_events_total", {{"arm", arm}, {"task", task}})));
  return cells;
}

void Metrics::mirror(const PipelineCounters& pipeline) const {
  const auto& f = pipeline.features;
  const std::uint64_t counts[] = {f.reads,
                                  f.defaults,
                                  f.store_errors,
                                  f.user_misses,
                                  f.item_misses,
                                  f.updates,
                                  pipeline.ranker.missing_predictions};
  for (std::size_t i = 0; i < mirrored_.size(); ++i) mirrored_[i].set(counts[i]);
}

void Metrics::mirror(const ExposureCounters& e) const {
  const std::uint64_t counts[] = {e.requests, e.complete, e.dropped, e.lost, e.rows, e.files, e.bytes, e.errors};
  for (std::size_t i = 0; i < mirrored_exposures_.size(); ++i) mirrored_exposures_[i].set(counts[i]);
}

void Metrics::restart() {
  auto now = file.read();
  const std::lock_guard lock(mutex_);
  snapshots_.clear();
  snapshots_.push_back({Clock::now(), std::move(now.sums)});
}

Metrics::Window Metrics::window() {
  Window result{file.read(), {}, 0.0};
  const auto time = Clock::now();
  const std::lock_guard lock(mutex_);
  if (snapshots_.empty() || time - snapshots_.back().time >= snapshot_step)
    snapshots_.push_back({time, result.now.sums});
  while (snapshots_.size() > 1 && time - snapshots_[1].time >= window_length) snapshots_.pop_front();
  result.before = snapshots_.front().sums;
  result.seconds = std::chrono::duration<double>(time - snapshots_.front().time).count();
  return result;
}

double stability_index(std::span<const double> counts, std::span<const double> shares) {
  double total = 0.0;
  for (const double count : counts) total += count;
  if (total <= 0.0) return std::numeric_limits<double>::quiet_NaN();
  constexpr double smallest = 1e-4;  // of a share: an empty bin must not be infinitely far
  double index = 0.0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double seen = std::max(counts[i] / total, smallest), wanted = std::max(shares[i], smallest);
    index += (seen - wanted) * std::log(seen / wanted);
  }
  return index;
}

double quantile(std::span<const double> bins, double share) {
  double total = 0.0;
  for (const double count : bins) total += count;
  if (total <= 0.0) return std::numeric_limits<double>::quiet_NaN();
  double below = 0.0;
  for (std::size_t i = 0; i < bins.size(); ++i) {
    if (below + bins[i] >= share * total && bins[i] > 0.0) {
      const double low = i == 0 ? 0.0 : duration_bounds[i - 1];
      const double high = i < duration_bounds.size() ? duration_bounds[i] : low;
      return low + (high - low) * (share * total - below) / bins[i];
    }
    below += bins[i];
  }
  return duration_bounds.back();
}

}  // namespace pygrade::detail
