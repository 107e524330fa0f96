// The predictions of a request as a policy reads them.
#pragma once

#include <string>
#include <vector>

#include "pygrade/ranker.hpp"
#include "util/json.hpp"

namespace pygrade::inline v0_2::detail {
// The JSON of a policy: task → scale. JsonError names what is wrong.
PredictionScales parse_scales(const Json& table, const std::vector<std::string>& tasks);

// Memory of a request that was read.
struct Reading {
  pygrade::Request request;
  std::vector<float> predictions;
};

// The request with predictions as a log has them: itself, if they are that already.
inline const pygrade::Request& as_logged(const Policy& policy, const pygrade::Request& given, Reading& memory) {
  if (given.as_logged || !policy.scales().converts()) return given;
  memory.predictions.resize(given.predictions.size());
  policy.scales().read(given.predictions, memory.predictions);
  memory.request = given;
  memory.request.predictions = memory.predictions;
  memory.request.as_logged = true;
  return memory.request;
}
}  // namespace pygrade::inline v0_2::detail
