// Metrics of a service: the series, and what is computed of them. docs/SERVICE.md lists them.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/pipeline.hpp"
#include "pygrade/service.hpp"
#include "service/config.hpp"
#include "service/registry.hpp"

namespace pygrade::inline v0_2::detail {
enum Endpoint : std::uint8_t {
  on_rank,
  on_update,
  on_explain,
  on_weights,
  on_users,
  on_livez,
  on_readyz,
  on_metrics,
  on_status,
  on_openapi,
  on_docs,
  on_test,
  on_other
};
inline constexpr std::array<std::string_view, 13> endpoint_names{
    "/v1/rank", "/v1/update", "/v1/explain",   "/v1/weights", "/v1/users/{id}", "/livez", "/readyz",
    "/metrics", "/v1/status", "/openapi.json", "/docs",       "/test",          "other"};
// Statuses of answers; the last one stands for all others.
inline constexpr std::array<std::string_view, 8> statuses{"200", "400", "404", "405", "413", "500", "503", "other"};
inline constexpr std::array<std::string_view, steps> step_names{"user", "prerank", "items", "predictions", "ranking"};
inline constexpr std::array<std::string_view, 5> degraded_names{"none", "store", "deadline", "version", "history"};
inline constexpr std::array<std::string_view, 3> fallback_names{"none", "scenario", "global"};

inline constexpr std::size_t drift_bins = 10;

// The series that depend on tasks and scenarios.
struct ScenarioCells {
  std::string name;
  Cell pages;
  std::vector<Cell> sum, square;  // [T] of the weights
};
struct TaskCells {
  std::vector<std::array<Cell, drift_bins>> bins;  // [T] of predictions by decile of the reference
};

struct ArmCells {
  Cell pages, explored, capped;
  std::vector<Cell> effective_sum, effective_square;  // [1 + shadows] of the density ratios of its draws
  Cell ranked, unranked, different;                   // of a test
};

// Counts of a shadow, over all arms' pages.
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

  // The numbers now, and at a moment about an hour ago, or the first ones since `restart`.
  struct Window {
    std::vector<double> now, before;
    double seconds = 0.0;  // between them
    double total(Cell cell) const { return cell.index() < now.size() ? now[cell.index()] : 0.0; }
    double gained(Cell cell) const { return total(cell) - (cell.index() < before.size() ? before[cell.index()] : 0.0); }
    // Gains of a histogram's bins.
    std::array<double, duration_bins> gained(const Histogram& histogram) const;
  };
  Window window();
  void restart();

  Registry registry;
  std::array<std::array<Cell, statuses.size()>, endpoint_names.size()> requests;
  std::array<Histogram, endpoint_names.size()> seconds;
  std::array<Histogram, steps> step;
  std::array<Cell, fallback_names.size()> fallback;
  std::array<Cell, degraded_names.size()> degraded;
  Cell reloads, failures, feedback_events, feedback_bytes, feedback_errors;
  Cell unknown_keys;     // of requests
  Cell unknown_items;    // of updates
  Cell unknown_effects;  // candidates without levels
  std::vector<ArmCells> arms;
  std::vector<ShadowCells> shadows;

 private:
  struct Snapshot {
    std::chrono::steady_clock::time_point time;
    std::vector<double> numbers;
  };

  std::mutex mutex_;  // guards snapshots_
  std::deque<Snapshot> snapshots_;
};

// Population stability index of shares against those of the reference, which are equal by bin.
double stability_index(std::span<const double> counts, std::span<const double> shares);

// The duration below which `share` of those in a histogram's bins lie, by interpolation; NaN if it has none.
double quantile(std::span<const double> bins, double share);

// A series; `first`: of its family.
void write_gauge(const Gauge& gauge, bool first, std::string& out);
}  // namespace pygrade::inline v0_2::detail
