#include "service/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pygrade::inline v0_2::detail {
namespace {
using Clock = std::chrono::steady_clock;

constexpr auto window_length = std::chrono::minutes(60), snapshot_step = std::chrono::minutes(5);
}  // namespace

Metrics::Metrics(const ServiceConfig& config) {
  for (std::size_t e = 0; e < endpoint_names.size(); ++e) {
    for (std::size_t s = 0; s < statuses.size(); ++s)
      requests[e][s] = registry.count("pygrade_requests_total",
                                      labels_of({{"endpoint", endpoint_names[e]}, {"status", statuses[s]}}));
    seconds[e] = registry.histogram("pygrade_request_seconds", labels_of({{"endpoint", endpoint_names[e]}}));
  }
  for (std::size_t s = 0; s < steps; ++s)
    step[s] = registry.histogram("pygrade_step_seconds", labels_of({{"step", step_names[s]}}));
  for (std::size_t i = 0; i < fallback.size(); ++i)
    fallback[i] = registry.count("pygrade_fallback_pages_total", labels_of({{"weights", fallback_names[i]}}));
  for (std::size_t i = 0; i < degraded.size(); ++i)
    degraded[i] = registry.count("pygrade_degraded_pages_total", labels_of({{"reason", degraded_names[i]}}));
  reloads = registry.count("pygrade_reloads_total");
  failures = registry.count("pygrade_reload_failures_total");
  feedback_events = registry.count("pygrade_feedback_logged_total");
  feedback_bytes = registry.count("pygrade_feedback_bytes_total");
  feedback_errors = registry.count("pygrade_feedback_errors_total");
  unknown_keys = registry.count("pygrade_unknown_keys_total");
  unknown_items = registry.count("pygrade_update_unknown_items_total");
  unknown_effects = registry.count("pygrade_correction_unknown_items_total");
  for (const ArmConfig& arm : config.arms) {
    const std::string labels = labels_of({{"arm", arm.name}});
    ArmCells cells;
    cells.pages = registry.count("pygrade_arm_pages_total", labels);
    cells.explored = registry.count("pygrade_arm_explored_pages_total", labels);
    cells.capped = registry.count("pygrade_arm_capped_pages_total", labels);
    const auto add_target = [&](std::string_view target) {
      const std::string both = labels_of({{"arm", arm.name}, {"target", target}});
      cells.effective_sum.push_back(registry.real("pygrade_exploration_ratio_sum", both));
      cells.effective_square.push_back(registry.real("pygrade_exploration_ratio_square_sum", both));
    };
    add_target("narrower");
    for (const ArmConfig& shadow : config.shadows) add_target(shadow.name);
    if (config.test) {
      cells.ranked = registry.count("pygrade_test_pages_total", labels);
      cells.unranked = registry.count("pygrade_test_unranked_pages_total", labels);
      cells.different = registry.count("pygrade_test_different_pages_total", labels);
    }
    arms.push_back(std::move(cells));
  }
  for (const ArmConfig& shadow : config.shadows) {
    const std::string labels = labels_of({{"shadow", shadow.name}});
    shadows.push_back(
        {registry.count("pygrade_shadow_pages_total", labels), registry.real("pygrade_shadow_replaced_sum", labels),
         registry.real("pygrade_shadow_overlap_sum", labels),
         registry.count("pygrade_shadow_correlated_pages_total", labels),
         registry.real("pygrade_shadow_correlation_sum", labels), registry.real("pygrade_shadow_own_score_sum", labels),
         registry.real("pygrade_shadow_served_score_sum", labels)});
  }
}

void Metrics::answered(Endpoint endpoint, int status, double duration) const {
  const auto place = std::ranges::find(statuses, std::to_string(status)) - statuses.begin();
  requests[endpoint][std::min(static_cast<std::size_t>(place), statuses.size() - 1)].add();
  seconds[endpoint].observe(duration);
}

ScenarioCells Metrics::scenario(const std::string& name, std::span<const std::string> tasks) {
  ScenarioCells cells{name, registry.count("pygrade_scenario_pages_total", labels_of({{"scenario", name}})), {}, {}};
  for (const auto& task : tasks) {
    const std::string labels = labels_of({{"scenario", name}, {"task", task}});
    cells.sum.push_back(registry.real("pygrade_weight_sum", labels));
    cells.square.push_back(registry.real("pygrade_weight_square_sum", labels));
  }
  return cells;
}

TaskCells Metrics::drift(std::span<const std::string> tasks) {
  TaskCells cells;
  for (const auto& task : tasks) {
    auto& bins = cells.bins.emplace_back();
    for (std::size_t bin = 0; bin < drift_bins; ++bin)
      bins[bin] =
          registry.count("pygrade_predictions_total", labels_of({{"task", task}, {"decile", std::to_string(bin + 1)}}));
  }
  return cells;
}

std::vector<Cell> Metrics::feedback(const std::string& arm, std::span<const std::string> tasks) {
  std::vector<Cell> cells;
  for (const auto& task : tasks)
    cells.push_back(registry.count("pygrade_feedback_events_total", labels_of({{"arm", arm}, {"task", task}})));
  return cells;
}

void Metrics::restart() {
  auto now = registry.read();
  const std::lock_guard lock(mutex_);
  snapshots_.clear();
  snapshots_.push_back({Clock::now(), std::move(now)});
}

Metrics::Window Metrics::window() {
  Window result{registry.read(), {}, 0.0};
  const auto time = Clock::now();
  const std::lock_guard lock(mutex_);
  if (snapshots_.empty() || time - snapshots_.back().time >= snapshot_step) snapshots_.push_back({time, result.now});
  while (snapshots_.size() > 1 && time - snapshots_[1].time >= window_length) snapshots_.pop_front();
  result.before = snapshots_.front().numbers;
  result.seconds = std::chrono::duration<double>(time - snapshots_.front().time).count();
  return result;
}

std::array<double, duration_bins> Metrics::Window::gained(const Histogram& histogram) const {
  std::array<double, duration_bins> bins;
  for (std::size_t i = 0; i < bins.size(); ++i) bins[i] = gained(histogram.bin(i));
  return bins;
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
}  // namespace pygrade::inline v0_2::detail
