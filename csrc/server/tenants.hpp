// Limits of clients by the names of their tokens.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "admission.hpp"

namespace pygrade::inline v0_2::server {
struct TenantLimits {
  std::string name;
  double pages = 1.0;                // share of the pages in progress that the pool takes
  double requests_per_second = 0.0;  // 0: any number
};

// The loop alone uses it, but for the counters.
class Tenants {
 public:
  explicit Tenants(const std::vector<TenantLimits>& limits) : all_(limits.begin(), limits.end()) {}

  struct Refusal {
    std::string argument, message;
    int seconds;  // after which to ask again
  };
  // A request comes; `limit`: of the pool, of a request for pages, which is in progress until it leaves. Refused: why.
  std::optional<Refusal> enter(std::size_t tenant, std::optional<std::size_t> limit, Clock::time_point now);
  // A request for pages has its answer, in which there were so many more than one, each of which counts as a request.
  void leave(std::size_t tenant, std::size_t more) {
    --all_[tenant].in_progress;
    all_[tenant].room -= static_cast<double>(more);
  }

  struct Tenant {
    explicit Tenant(const TenantLimits& given) : limits(given) {}
    const TenantLimits limits;
    double room = 0.0;  // requests that may come now; below 0 after several in one body
    Clock::time_point filled{};
    std::atomic<std::uint64_t> requests{0}, over_rate{0}, over_pages{0};
    std::atomic<std::size_t> in_progress{0};
  };
  const std::deque<Tenant>& all() const { return all_; }

 private:
  std::deque<Tenant> all_;
};
}  // namespace pygrade::inline v0_2::server
