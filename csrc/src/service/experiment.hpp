// An experiment over weeks: settings of the tasks' values, one a user, by a hash. Nothing is stored: a user keeps the
// setting as long as the experiment keeps its name and its shares.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pygrade/exposures.hpp"

namespace pygrade::inline v0_2::detail {

inline constexpr std::int64_t cohort_ms = 7 * 86'400'000;  // from the first day of a cohort to that of the next one

struct Experiment {
  std::string name = {};
  std::int64_t start = 0;                                                  // ms since 1970, of the first cohort
  std::vector<std::vector<std::pair<std::string, double>>> settings = {};  // shifts of the tasks' values by task
  std::vector<std::vector<double>> cohorts = {};                           // [cohorts][settings] shares
  bool operator==(const Experiment&) const = default;
};

// InputError unless there is a cohort, and each has a share of every setting, which sum to 1; `name` in the message.
void check_cohorts(std::span<const std::vector<double>> cohorts, std::size_t settings, const std::string& name);

// The cohort and the setting of a user, by the id as in the log. Users are dealt to the cohorts evenly; one cohort's
// shares sum to 1.
Assignment assign_user(std::string_view experiment, std::span<const std::vector<double>> cohorts,
                       std::string_view user);

// The same at a time; setting -1: the user's cohort has not begun.
Assignment assign_user(const Experiment& experiment, std::string_view user, std::int64_t timestamp);

// The place of a number in 0 … 1 among shares that sum to 1; never one whose share is 0.
std::size_t place_among(std::span<const double> shares, double number);

}  // namespace pygrade::inline v0_2::detail
