// The parts of a Service.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "pygrade/exposures.hpp"
#include "pygrade/service.hpp"
#include "service/json_lines.hpp"
#include "service/json_writer.hpp"
#include "service/metrics.hpp"
#include "service/release.hpp"
#include "service/request.hpp"

namespace pygrade {

namespace detail {

// The memory of one request at a time.
struct Context {
  PageWorkspace workspace;
  RankInput input;
  std::string request_id, user_text;
  std::vector<float> values, scores, weights, concentration;
  std::vector<std::int64_t> items;
  // Of a comparison.
  std::vector<float> other_scores, other_weights, other_concentration;
  std::vector<std::int32_t> other_indices;
  std::vector<std::int32_t> place;  // of a candidate on a page
  std::string lines;
};

// Contexts that no request uses; taken and given back without a lock.
class ContextPool {
 public:
  ~ContextPool();
  std::unique_ptr<Context> take();
  void give(std::unique_ptr<Context> context) noexcept;

 private:
  std::array<std::atomic<Context*>, 64> free_{};
};

class Borrowed {
 public:
  explicit Borrowed(ContextPool& pool) : pool_(pool), context_(pool.take()) {}
  ~Borrowed() { pool_.give(std::move(context_)); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  Context& operator*() const { return *context_; }

 private:
  ContextPool& pool_;
  std::unique_ptr<Context> context_;
};

// A page that was made, and how.
struct Ranked {
  std::shared_ptr<const void> owner;  // of the release
  const Release* release = nullptr;
  std::size_t arm = 0;
  ServedPage page;
};

}  // namespace detail

struct Service::Impl {
  Impl(const std::filesystem::path& run, std::string_view config_json, std::shared_ptr<Store> store);

  Response handle(const ServiceRequest& request);
  bool refresh();
  void drain();

  // --- pages (rank.cpp)
  detail::Ranked rank(const ServiceRequest& given, detail::Context& context, bool shown);
  std::string rank_body(const ServiceRequest& given, detail::Context& context);
  std::string explain_body(const ServiceRequest& given, detail::Context& context);
  void count(const detail::Ranked& ranked, detail::Context& context);
  void log_exposure(const detail::Ranked& ranked, detail::Context& context);
  void compare(const detail::Ranked& ranked, detail::Context& context);
  bool explores(const detail::Context& context, std::size_t arm, bool& capped);

  // --- feedback (update.cpp)
  Response update(std::string_view body);

  // --- reports (status.cpp)
  std::string ready_body();
  std::string metrics_body();
  std::string status_body();
  detail::Figures figures(const detail::Metrics::Window& window, const detail::Release& release);
  std::vector<Gauge> read_gauges();

  const std::filesystem::path run;
  const detail::ServiceConfig config;
  const detail::Naming naming;
  const std::shared_ptr<Store> store;
  detail::Metrics metrics;
  const detail::Sources sources;
  std::unique_ptr<Pipeline> pipeline;
  detail::ContextPool contexts;
  std::vector<std::unique_ptr<ExposureLog>> exposures;  // [arms], or none
  std::unique_ptr<detail::JsonLines> feedback, shadow_log;
  std::atomic<bool> draining{false};
  std::atomic<std::uint64_t> pages{0}, explored{0}, next_request;

  // One load of models.
  struct Reload {
    std::int64_t timestamp;
    std::string artifact, error;  // error "": it succeeded
    std::vector<std::string> policies;
  };
  std::mutex refreshing;  // guards the following
  detail::Sources::Identity identity, failed;
  std::chrono::steady_clock::time_point next_try{};
  std::mutex telling;  // guards history and last_error
  std::deque<Reload> history;
  std::string last_error;
  std::mutex asking;  // guards gauges
  std::function<void(std::vector<Gauge>&)> gauges;

 private:
  void tell(const std::string& error);
};

namespace detail {

// JSON of an error.
Response error_response(int status, std::string_view argument, std::string_view message);

// The rank and explain responses' common fields.
void write_page(const Ranked& ranked, const Context& context, JsonWriter& out);
void write_weights(std::span<const std::string> tasks, std::span<const float> weights, JsonWriter& out);
void write_names(const ItemNames& names, std::span<const std::int64_t> items, JsonWriter& out);

}  // namespace detail

}  // namespace pygrade
