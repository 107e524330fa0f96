#include "service/experiment.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "service/config.hpp"
#include "service/input.hpp"

namespace pygrade::inline v0_2::detail {

void check_cohorts(std::span<const std::vector<double>> cohorts, std::size_t settings, const std::string& name) {
  constexpr double slack = 1e-9;  // of a sum of shares
  if (cohorts.empty()) throw InputError(name, name + " is empty; want the shares of at least one cohort");
  for (std::size_t c = 0; c < cohorts.size(); ++c) {
    const auto& shares = cohorts[c];
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    const bool is_share = std::ranges::all_of(shares, [](double share) { return share >= 0.0 && share <= 1.0; });
    if (is_share && shares.size() == settings && std::fabs(sum - 1.0) <= slack) continue;
    const std::string list = name + "[" + std::to_string(c) + "]";
    throw InputError(list, list + " has " + std::to_string(shares.size()) + " shares of " + std::to_string(sum) +
                               " together; want one for each of the " + std::to_string(settings) +
                               " settings, 1 together");
  }
}

Assignment assign_user(std::string_view experiment, std::span<const std::vector<double>> cohorts,
                       std::string_view user) {
  const auto number = [&](const char* what) { return stable_fraction(what + std::string(experiment), user); };
  const auto count = static_cast<double>(cohorts.size());
  const auto cohort = std::min(static_cast<std::size_t>(number("cohort ") * count), cohorts.size() - 1);
  const std::size_t setting = place_among(cohorts[cohort], number("setting "));
  return {static_cast<std::int32_t>(cohort), static_cast<std::int32_t>(setting)};
}

Assignment assign_user(const Experiment& experiment, std::string_view user, std::int64_t timestamp) {
  Assignment found = assign_user(experiment.name, experiment.cohorts, user);
  if (timestamp < experiment.start + found.cohort * cohort_ms) found.setting = -1;
  return found;
}

std::size_t place_among(std::span<const double> shares, double number) {
  double sum = 0.0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    if (shares[i] == 0.0) continue;
    sum += shares[i];
    last = i;
    if (number < sum) return i;
  }
  return last;
}

}  // namespace pygrade::inline v0_2::detail
