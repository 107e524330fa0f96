#include "tenants.hpp"

#include <algorithm>
#include <cmath>

#include "util/json.hpp"

namespace pygrade::inline v0_2::server {
std::optional<Tenants::Refusal> Tenants::enter(std::size_t place, std::optional<std::size_t> limit,
                                               Clock::time_point now) {
  Tenant& tenant = all_[place];
  const std::string argument = "tenants." + tenant.limits.name + ".", about = "tenant '" + tenant.limits.name + "' ";
  ++tenant.requests;
  if (const double rate = tenant.limits.requests_per_second; rate > 0.0) {  // a bucket that holds a second's requests
    const double most = std::max(rate, 1.0), passed = std::chrono::duration<double>(now - tenant.filled).count();
    tenant.room = std::min(most, tenant.room + rate * passed);
    tenant.filled = now;
    if (tenant.room < 1.0) {
      ++tenant.over_rate;
      return Refusal{argument + "requests_per_second",
                     about + "asks more often than its limit of " + detail::plain_number(rate) + " requests a second",
                     static_cast<int>(std::ceil((1.0 - tenant.room) / rate))};
    }
  }
  if (limit) {
    const auto most =
        std::max<std::size_t>(1, static_cast<std::size_t>(tenant.limits.pages * static_cast<double>(*limit)));
    if (tenant.limits.pages < 1.0 && tenant.in_progress >= most) {
      ++tenant.over_pages;
      return Refusal{argument + "pages",
                     about + "has " + std::to_string(most) + " pages in progress, its share of " +
                         detail::plain_number(tenant.limits.pages) + " of " + std::to_string(*limit),
                     1};
    }
    ++tenant.in_progress;
  }
  tenant.room -= 1.0;
  return {};
}
}  // namespace pygrade::inline v0_2::server
