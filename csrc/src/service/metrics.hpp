// What a service counts: the series, and what is computed of them. docs/SERVICE.md lists them.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/exposures.hpp"
#include "pygrade/pipeline.hpp"
#include "pygrade/service.hpp"
#include "service/config.hpp"
#include "service/metric_file.hpp"

namespace pygrade::detail {

enum Endpoint : std::uint8_t { on_rank, on_update, on_explain, on_livez, on_readyz, on_metrics, on_status, on_other };
inline constexpr std::array<std::string_view, 8> endpoint_names{"/v1/rank", "/v1/update", "/v1/explain", "/livez",
                                                                "/readyz",  "/metrics",   "/v1/status",  "other"};
inline constexpr std::array<int, 7> statuses{200, 400, 404, 405, 413, 500, 503};
inline constexpr std::array<std::string_view, steps> step_names{"user", "prerank", "items", "predictions", "ranking"};

// Upper bounds of durations in seconds, six a decade; the last bin has none.
inline constexpr std::array<double, 36> duration_bounds{
    1e-5, 1.5e-5, 2e-5, 3e-5, 5e-5, 7e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7e-3,
    1e-2, 1.5e-2, 2e-2, 3e-2, 5e-2, 7e-2, 1e-1, 1.5e-1, 2e-1, 3e-1, 5e-1, 7e-1, 1.0,  1.5,    2.0,  3.0,  5.0,  7.0};

class DurationCells {
 public:
  DurationCells() = default;
  DurationCells(MetricFile& file, const std::string& family, const std::string& labels);
  void observe(double seconds) const;

 private:
  std::array<Cell, duration_bounds.size() + 1> bins_;
  Cell sum_;
};

inline constexpr std::size_t drift_bins = 10;

// The series that depend on tasks and scenarios.
struct ScenarioCells {
  std::string name;
  Cell pages;
  std::vector<Cell> sum, square;  // [T] of the weights
};
struct TaskCells {
  std::vector<std::array<Cell, drift_bins>> bins;  // [T]
};

struct ArmCells {
  Cell pages, explored, capped;
  std::vector<Cell> effective_sum, effective_square;  // [1 + shadows] of the density ratios of its draws
};

// Of a shadow, over all arms' pages.
struct ShadowCells {
  Cell pages, replaced, overlap, correlated, correlation, own_score, served_score;
};

class Metrics {
 public:
  explicit Metrics(const ServiceConfig& config);

  void answered(Endpoint endpoint, int status, double seconds) const;

  ScenarioCells scenario(const std::string& name, std::span<const std::string> tasks);
  TaskCells drift(std::span<const std::string> tasks);
  std::vector<Cell> feedback(const std::string& arm, std::span<const std::string> tasks);

  // Counts that other parts of this process keep.
  void mirror(const PipelineCounters& pipeline) const;
  void mirror(const ExposureCounters& exposures) const;

  // Sums over the workers now, and at a moment about `window` ago, or the first ones since `restart`.
  struct Window {
    MetricFile::Read now;
    Sums before;
    double seconds = 0.0;  // between them
  };
  Window window();
  void restart();

  MetricFile file;
  std::array<DurationCells, steps> step;
  std::array<Cell, 3> fallback, degraded;  // by Fallback and Degraded
  Cell reloads, failures, feedback_events, feedback_bytes, feedback_errors;
  std::vector<ArmCells> arms;
  std::vector<ShadowCells> shadows;

 private:
  struct Snapshot {
    std::chrono::steady_clock::time_point time;
    Sums sums;
  };

  std::array<std::array<Cell, statuses.size()>, endpoint_names.size()> requests_;
  std::array<DurationCells, endpoint_names.size()> seconds_;
  std::vector<Cell> mirrored_, mirrored_exposures_;
  std::mutex mutex_;  // guards snapshots_
  std::deque<Snapshot> snapshots_;
};

// A series' name with labels: family{a="x",b="y"}; values are escaped.
std::string labelled(std::string_view family,
                     std::initializer_list<std::pair<std::string_view, std::string_view>> labels);

// Population stability index of shares against those of the reference, which are equal by bin.
double stability_index(std::span<const double> counts, std::span<const double> shares);

// Σ_i min over the bins: the value below which `share` of a histogram's durations lie, by interpolation; NaN of none.
double quantile(std::span<const double> bins, double share);

// Prometheus text of sums: the families of the list below, with their help.
void write_prometheus(const Sums& sums, std::string& out);

// A family of one series.
void write_gauge(const Gauge& gauge, std::string& out);

}  // namespace pygrade::detail
