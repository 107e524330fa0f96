// Numbers as Prometheus text.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "service/metrics.hpp"
#include "service/registry.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
// Families that are exported, in this order.
constexpr Family family_list[] = {
    {"pygrade_info", "gauge", "Version of pygrade.", "version"},
    {"pygrade_ready", "gauge", "1 if /readyz is 200."},
    {"pygrade_artifact_info", "gauge", "Version of the artifact in service.", "artifact"},
    {"pygrade_policy_info", "gauge",
     "Policy, mixture weight and ranking of every arm; a shadow has the label shadow in place of arm.",
     "arm,policy,mixture_weight,ranking"},
    {"pygrade_requests_total", "counter", "Requests by endpoint and HTTP status.", "endpoint,status"},
    {"pygrade_request_seconds", "histogram", "Time of a request in the service, without HTTP.", "endpoint"},
    {"pygrade_step_seconds", "histogram", "Time of a page's steps: user, prerank, items, predictions, ranking.",
     "step"},
    {"pygrade_degraded_pages_total", "counter", "Pages by what was missing: none, store, deadline, version, history.",
     "reason"},
    {"pygrade_fallback_pages_total", "counter", "Pages by whose static weights were served: none, scenario, global.",
     "weights"},
    {"pygrade_missing_predictions_total", "counter", "Candidates with a prediction that is no number."},
    {"pygrade_store_reachable", "gauge", "1 if the last call reached the store."},
    {"pygrade_unknown_keys_total", "counter", "Keys of requests that the service does not know and ignored."},
    {"pygrade_correction_unknown_items_total", "counter",
     "Candidates of whose item effect the policy's correction knows nothing."},
    {"pygrade_arm_pages_total", "counter", "Pages by arm.", "arm"},
    {"pygrade_arm_explored_pages_total", "counter", "Pages with drawn weights or in a random order, by arm.", "arm"},
    {"pygrade_arm_capped_pages_total", "counter", "Pages that max_explore kept from exploring, by arm.", "arm"},
    {"pygrade_feedback_events_total", "counter", "Feedback events by arm and task.", "arm,task"},
    {"pygrade_test_pages_total", "counter", "Pages of a test, of all arms, that the arm ranked.", "arm"},
    {"pygrade_test_unranked_pages_total", "counter",
     "Pages of a test that the arm could not rank: degraded, or the request lacks what it reads.", "arm"},
    {"pygrade_test_different_pages_total", "counter", "Pages of a test that differ between the first arm and this one.",
     "arm"},
    {"pygrade_test_different_share", "gauge", "Share of these pages in the last hour.", "arm"},
    {"pygrade_test_lift", "gauge",
     "Lift in value of an arm over the control by the reading that decides, at any time: value, low or high.",
     "arm,bound"},
    {"pygrade_test_requests", "gauge", "Requests that the last reading of the test is of."},
    {"pygrade_test_agreement", "gauge", "Share of the shown rows that stand in the slot of their arm's ranking."},
    {"pygrade_test_alarms", "gauge", "Alarms on the page /test, such as users of an arm who return less."},
    {"pygrade_test_read_time_seconds", "gauge", "When the log of the test was last read, in seconds since 1970."},
    {"pygrade_exploration_ratio_sum", "counter", "Sum of the ratios of densities of explored pages, by other policy.",
     "arm,target"},
    {"pygrade_exploration_ratio_square_sum", "counter", "Sum of their squares.", "arm,target"},
    {"pygrade_exploration_effective_samples", "gauge",
     "(Σρ)² / Σρ² over the explored pages of the last hour, ρ the ratio of densities of a draw, other policy to arm.",
     "arm,target"},
    {"pygrade_scenario_pages_total", "counter", "Pages by scenario.", "scenario"},
    {"pygrade_weight_sum", "counter", "Sum of the served weights.", "scenario,task"},
    {"pygrade_weight_square_sum", "counter", "Sum of the squares of the served weights.", "scenario,task"},
    {"pygrade_weight_mean", "gauge", "Mean of the weights served in the last hour.", "scenario,task"},
    {"pygrade_weight_sd", "gauge", "Standard deviation of the weights served in the last hour.", "scenario,task"},
    {"pygrade_predictions_total", "counter", "Predictions of candidates by decile of the reference.", "task,decile"},
    {"pygrade_prediction_psi", "gauge",
     "Population stability index of the last hour's predictions against those at publication; above 0.2: a drift.",
     "task"},
    {"pygrade_shadow_pages_total", "counter", "Pages that a shadow ranked, too.", "shadow"},
    {"pygrade_shadow_replaced_sum", "counter", "Sum of the shares of a page that the shadow would replace.", "shadow"},
    {"pygrade_shadow_overlap_sum", "counter", "Sum of the mean overlap of both pages over their depths.", "shadow"},
    {"pygrade_shadow_correlated_pages_total", "counter", "Pages with two common items or more.", "shadow"},
    {"pygrade_shadow_correlation_sum", "counter", "Sum of the rank correlations of the common items.", "shadow"},
    {"pygrade_shadow_own_score_sum", "counter", "Sum of the shadow's mean score of its own page.", "shadow"},
    {"pygrade_shadow_served_score_sum", "counter", "Sum of the shadow's mean score of the served page.", "shadow"},
    {"pygrade_reloads_total", "counter", "Loads of a new artifact or policy."},
    {"pygrade_reload_failures_total", "counter", "Loads that failed; the old models went on."},
    {"pygrade_feature_reads_total", "counter", "Requests that read features."},
    {"pygrade_feature_defaults_total", "counter", "Requests answered without the store."},
    {"pygrade_feature_updates_total", "counter", "Feedback rows written into the store."},
    {"pygrade_store_errors_total", "counter", "Reads and updates that the store failed."},
    {"pygrade_unknown_users_total", "counter", "Requests of users without history."},
    {"pygrade_unknown_items_total", "counter", "Candidates without history."},
    {"pygrade_exposures_total", "counter", "Pages that the exposure log took."},
    {"pygrade_exposures_complete_total", "counter", "Of these, with all candidates."},
    {"pygrade_exposures_dropped_total", "counter", "Pages that found the log's queue full."},
    {"pygrade_exposures_lost_total", "counter", "Pages that were taken and could not be written."},
    {"pygrade_exposure_rows_total", "counter", "Rows in complete files."},
    {"pygrade_exposure_files_total", "counter", "Complete files."},
    {"pygrade_exposure_bytes_total", "counter", "Bytes of complete files."},
    {"pygrade_exposure_errors_total", "counter", "Errors of the disk."},
    {"pygrade_history_pages_total", "counter", "Pages written into histories."},
    {"pygrade_history_waiting", "gauge", "Pages that wait to be written."},
    {"pygrade_history_dropped_total", "counter", "Pages for which there was no room, or a record was damaged."},
    {"pygrade_history_events_total", "counter", "Events written into histories: the first of a task on a row."},
    {"pygrade_history_ignored_total", "counter",
     "Events on rows that are not among the user's last, too late, or there already."},
    {"pygrade_history_errors_total", "counter", "Reads and writes that the history's store failed."},
    {"pygrade_update_unknown_items_total", "counter", "Feedback events on items that the catalog does not hold."},
    {"pygrade_feedback_logged_total", "counter", "Events in the feedback log."},
    {"pygrade_feedback_bytes_total", "counter", "Bytes in the feedback log."},
    {"pygrade_feedback_errors_total", "counter", "Writes of the feedback log that failed."},
    {"pygrade_metric_series_left_out", "gauge", "Series for which there is no room."},
    {"pygrade_online", "gauge", "Figures of the online learner's record.", "field"},
    {"process_cpu_seconds_total", "counter", "Processor time of the process."},
    {"process_virtual_memory_bytes", "gauge", "Address space of the process."},
    {"process_resident_memory_bytes", "gauge", "Memory of the process."},
    {"process_open_fds", "gauge", "Files and sockets that the process has open."},
    {"process_max_fds", "gauge", "How many it may have open."},
    {"process_start_time_seconds", "gauge", "When the process began, in seconds since 1970."},
};

void number(double value, std::string& out) {
  if (std::isnan(value)) {
    out += "NaN";
    return;
  }
  if (std::isinf(value)) {
    out += value > 0 ? "+Inf" : "-Inf";
    return;
  }
  char text[32];
  out.append(text, std::to_chars(text, text + sizeof text, value).ptr);
}

void line(std::string_view name, double value, std::string& out) {
  out.append(name).append(" ");
  number(value, out);
  out += '\n';
}

// The series of a histogram: sums of all bins up to each bound.
void histogram(std::string_view family, const std::string& labels, std::span<const double> cells, std::string& out) {
  double total = 0.0;
  for (const double count : cells.first(duration_bins)) total += count;
  if (total == 0.0) return;
  const std::string inner = labels.empty() ? "" : labels.substr(1, labels.size() - 2) + ",";
  double sum = 0.0;
  for (std::size_t bin = 0; bin < duration_bins; ++bin) {
    sum += cells[bin];
    std::string bound = "+Inf";
    if (bin < duration_bounds.size()) {
      bound.clear();
      number(duration_bounds[bin], bound);
    }
    line(std::string(family) + "_bucket{" + inner + "le=\"" + bound + "\"}", sum, out);
  }
  line(std::string(family) + "_sum" + labels, cells[duration_bins], out);
  line(std::string(family) + "_count" + labels, total, out);
}
}  // namespace

std::span<const Family> all_families() { return family_list; }

void write_prometheus(std::span<const Series> parts, std::string& out) {
  std::vector<std::string> texts(std::size(family_list));  // the lines of each family, of all parts
  for (const Series& part : parts) {
    const auto labeled = [&](const std::string& labels) {
      if (part.label.empty()) return labels;
      return "{" + part.label + (labels.empty() ? "}" : "," + labels.substr(1));
    };
    for (const auto& [key, index] : part.registry ? part.registry->series() : std::map<Registry::Key, std::size_t>()) {
      const auto& [family, labels] = key;
      const std::string name(family_list[family].name);
      if (index >= part.numbers.size()) continue;  // made after the numbers were read
      if (family_list[family].type == "histogram")
        histogram(name, labeled(labels), std::span(part.numbers).subspan(index, Histogram::cells), texts[family]);
      // A request that never came is no series; plain counters start with 0.
      else if (part.numbers[index] != 0.0 || name != "pygrade_requests_total")
        line(name + labeled(labels), part.numbers[index], texts[family]);
    }
    for (const auto& [key, value] : part.figures.values())
      line(std::string(family_list[key.first].name) + labeled(key.second), value, texts[key.first]);
  }
  for (std::size_t f = 0; f < std::size(family_list); ++f) {
    const std::string name(family_list[f].name), &lines = texts[f];
    if (lines.empty()) continue;
    out.append("# HELP ").append(name).append(" ").append(family_list[f].help).append("\n");
    out.append("# TYPE ").append(name).append(" ").append(family_list[f].type).append("\n");
    out += lines;
  }
}

void write_gauge(const Gauge& gauge, bool first, std::string& out) {
  if (first) {
    out.append("# HELP ").append(gauge.name).append(" ").append(gauge.help).append("\n");
    out.append("# TYPE ").append(gauge.name).append(gauge.name.ends_with("_total") ? " counter\n" : " gauge\n");
  }
  line(std::string(gauge.name) + gauge.labels, gauge.value, out);
}
}  // namespace pygrade::inline v0_2::detail
