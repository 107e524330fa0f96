// Reasons that a person understands: what history did to the predictions of a page's items.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pygrade/ranker.hpp"

namespace pygrade::inline v0_2 {
// The factor on a task by the columns of history of one group, as they are over all of them 0.
struct HistoryReason {
  History::Group group;
  std::size_t task;  // of the policy
  double factor;     // on the task's probability or amount; of one with a parent, on its odds given the parent's event
  std::string text;  // such as "seen twice, last 3 hours ago: click × 0.62"
};

// Reasons of candidates of a request that the policy ranked, for each the two largest factors that differ from 1 by
// .05 or more. A candidate's own columns are set to 0 in its row alone. Nothing where no score reads corrected
// predictions, or where one of the candidate's is missing. std::invalid_argument for a request that can't be ranked, or
// a candidate that it does not have.
PYGRADE_API std::vector<std::vector<HistoryReason>> history_reasons(const Policy& policy, const Request& request,
                                                                    std::span<const std::int32_t> candidates);

// Facts that the columns of history among a candidate's items[I] stand for, without 0 or unknown ones: counts as
// they are; hours_since_seen and hours_since_first_shown; of the others events over predicted ones, shrunk.
PYGRADE_API std::vector<std::pair<std::string, double>> history_facts(const Policy& policy,
                                                                      std::span<const float> items);
}  // namespace pygrade::inline v0_2
