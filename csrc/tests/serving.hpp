// A policy and requests for the tests of the ranker and of the C ABI.
#pragma once

#include <limits>

#include "artifact.hpp"
#include "pygrade/ranker.hpp"

namespace pygrade::inline v0_2::tests {
inline constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
inline constexpr float missing_values[] = {nan_value, std::numeric_limits<float>::infinity(),
                                           -std::numeric_limits<float>::infinity()};

inline std::shared_ptr<const Policy> make_policy(unsigned seed = 1, const std::string& transform = "zlog") {
  Artifact artifact;
  artifact.seed = seed;
  artifact.transform = transform;
  if (transform == "log1p") artifact.slope = "[0.5, 0, 20]";
  artifact.draw();
  return Policy::parse(artifact.json(), bytes(artifact.safetensors()));
}

// One that reads values of the tasks and is mixed, see mixture_json.
inline Artifact mixed_artifact(const std::map<std::string, std::string>& baseline = {},
                               const char* mixture_weight = "0.25") {
  Artifact artifact;
  artifact.trade_offs = true;
  artifact.task_values = "[1, 0.5, 20]";
  artifact.values = R"({"order": 40.0})";
  artifact.scenario_values = R"({"search": {"click": 0.5}})";
  artifact.mixture = mixture_json(baseline, mixture_weight);
  return artifact.draw();
}

// One that corrects, without tensors; see mixture_json.
inline Artifact corrected_artifact(const char* mixture_weight = "0.25") {
  Artifact artifact;
  artifact.correction.emplace();
  artifact.corrected = true;
  artifact.value_tasks = {"order"};
  artifact.indicators = {"intent", "hour"};
  const std::map<std::string, std::string> challenger = {
      {"name", "\"corrected\""}, {"corrected", "true"}, {"value_tasks", "[\"cart\"]"}, {"calibration", "[]"}};
  artifact.mixture = mixture_json({}, mixture_weight, baseline_json(challenger));
  return artifact;
}

inline std::shared_ptr<const Policy> parse(const Artifact& artifact) {
  return Policy::parse(artifact.json(), bytes(artifact.safetensors()));
}

inline std::vector<float> make_predictions(std::size_t candidates, std::size_t tasks = 3, unsigned seed = 7) {
  std::mt19937 random(seed);
  std::vector<float> values(candidates * tasks);
  for (float& v : values) v = static_cast<float>((random() >> 8) + 1) * 0x1p-24f;
  return values;
}

// Buffers of a page, poisoned.
struct PageMemory {
  explicit PageMemory(std::size_t k, std::size_t tasks = 3)
      : values(k, nan_value), indices(k, -7), weights(tasks, nan_value), concentration(tasks, nan_value) {}
  operator PageBuffer() { return {values, indices, weights, concentration}; }

  std::vector<float> values;
  std::vector<std::int32_t> indices;
  std::vector<float> weights, concentration;
};
}  // namespace pygrade::inline v0_2::tests
