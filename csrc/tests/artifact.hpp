// Writes policy files as the Python side does, for the tests of their reader.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "util/json.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2::tests {
// Correction in policy.json.
struct ArtifactCorrection {
  std::vector<std::string> items = {"age", "stock"};
  std::string parents = "[-1, 0, -1]", amounts = "[false, false, true]", indicators = "[1]", form = "\"conditional\"";
  int indicator_count = 1;
};

struct Artifact {
  std::vector<std::string> tasks = {"click", "cart", "order"};
  std::vector<std::string> features = {"hour", "intent"};
  std::vector<int> hidden = {8, 5};
  std::string transform = "zlog";
  bool context_only = false, trade_offs = false;
  std::string task_values;  // JSON; "": none are stated
  std::string mixture = "null", verdict = "\"better\"", sentence = "\"better than it\"", values = "{}",
              scenario_values = "{}";
  std::string slope = "1.0";
  std::string scales, history;  // JSON; "": none are stated
  std::string exploration = "{\"search\": 0.5}";
  std::string evidence_feature = "intent", evidence_scale = "count", evidence_prior = "0.0";
  std::map<std::string, std::string> replaced;  // JSON values, as text, by key
  unsigned seed = 1;
  std::optional<ArtifactCorrection> correction;
  bool corrected = false;
  std::vector<std::string> value_tasks, indicators;

  struct Tensor {
    std::vector<int> shape;
    std::vector<float> values;
  };
  std::map<std::string, Tensor> tensors;  // filled by `draw`

  Artifact& draw() {
    std::mt19937 random(seed);
    const int count = static_cast<int>(tasks.size());
    int size =
        static_cast<int>(features.size() + indicators.size()) + ((context_only ? 0 : 2) + (trade_offs ? 1 : 0)) * count;
    const auto add = [&](const std::string& name, std::vector<int> shape, float low, float high) {
      std::size_t total = 1;
      for (int s : shape) total *= static_cast<std::size_t>(s);
      Tensor& tensor = tensors[name] = {std::move(shape), std::vector<float>(total)};
      for (float& v : tensor.values)
        v = low +
            (high - low) * static_cast<float>(random() >> 8) * 0x1p-24f;  // std::uniform… differs between libraries
    };
    add("input_mean", {size}, -1, 1);
    add("input_std", {size}, 0.5, 2);
    add("bounds", {2, count}, 0, 0);
    for (int t = 0; t < 2 * count; ++t)
      tensors["bounds"].values[static_cast<std::size_t>(t)] = t < count ? 0.005f : 0.7f;
    add("static_weights", {count}, 0.3f, 0.3f);
    add("scenario_table", {1, count}, 0.2f, 0.4f);
    for (const char* name : {"static_weights", "scenario_table"}) {
      auto& row = tensors[name].values;
      const float sum = std::accumulate(row.begin(), row.end(), 0.0f);
      for (float& weight : row) weight /= sum;
    }
    for (std::size_t i = 0; i < hidden.size(); size = hidden[i++]) {
      const std::string name = "body." + std::to_string(2 * i);
      add(name + ".weight", {hidden[i], size}, -0.5, 0.5);
      add(name + ".bias", {hidden[i]}, -0.5, 0.5);
    }
    add("head.weight", {count, size}, -1, 1);
    add("head.bias", {count}, -1, 1);
    if (correction) {
      const int f = static_cast<int>(features.size()), x = f + correction->indicator_count;
      const int v = count + static_cast<int>(correction->items.size());
      add("correction.median", {f}, -1, 1);
      add("correction.x_mean", {x}, -1, 1);
      add("correction.x_std", {x}, 0.5, 2);
      add("correction.l_mean", {v}, -3, 1);
      add("correction.l_std", {v}, 0.5, 2);
      add("correction.weights", {count, 1 + x + v, 1 + v}, -0.2f, 0.2f);
      add("correction.map_mean", {count}, -3, 0);
      add("correction.map_std", {count}, 0.5, 2);
      add("correction.map_knots", {count, 5}, -2, 2);
      add("correction.map_weights", {count, 7}, -0.3f, 0.3f);
    }
    return *this;
  }

  std::string safetensors() const {
    std::string header;
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      std::string shape;
      for (int s : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(s);
      const std::size_t begin = data.size();
      data.append(reinterpret_cast<const char*>(tensor.values.data()), tensor.values.size() * sizeof(float));
      header += (header.empty() ? "{" : ",") + detail::json_quote(name) + R"(:{"dtype":"F32","shape":[)" + shape +
                R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
    }
    return frame(header + "}") + data;
  }

  static std::string frame(const std::string& header) {
    const std::uint64_t length = header.size();
    std::string result(sizeof length, '\0');
    std::memcpy(result.data(), &length, sizeof length);
    return result + header;
  }

  std::string schema_hash() const { return section_hash("schema").substr(0, 16); }
  std::string version() const { return section_hash("served").substr(0, 12); }

  static std::string sha256(const std::string& text) { return detail::sha256_hex(std::as_bytes(std::span(text))); }

  std::string json() const { return sealed(object(record())); }

  std::map<std::string, std::string> record() const {
    const auto names = [](const std::vector<std::string>& all) {
      std::string text;
      for (const auto& name : all) text += (text.empty() ? "" : ", ") + detail::json_quote(name);
      return "[" + text + "]";
    };
    const auto truth = [](bool value) { return std::string(value ? "true" : "false"); };
    std::string widths;
    for (int width : hidden) widths += (widths.empty() ? "" : ", ") + std::to_string(width);
    std::map<std::string, std::string> schema = {{"tasks", names(tasks)},
                                                 {"features", names(features)},
                                                 {"context_only", truth(context_only)},
                                                 {"corrected", truth(corrected)},
                                                 {"indicators", names(indicators)},
                                                 {"trade_offs", truth(trade_offs)},
                                                 {"transform", "\"" + transform + "\""},
                                                 {"value_tasks", names(value_tasks)}};
    std::map<std::string, std::string> config = {{"hidden", "[" + widths + "]"},
                                                 {"concentration_floor", "null"},
                                                 {"total_concentration", "10.0"},
                                                 {"beta", "1e-07"},
                                                 {"epsilon", "0.001"},
                                                 {"slope", slope},
                                                 {"lower", "0.005"},
                                                 {"upper", "0.7"},
                                                 {"minimum", "{}"},
                                                 {"frozen", "{}"},
                                                 {"values", values},
                                                 {"scenario_values", scenario_values},
                                                 {"scenario_exploration", exploration},
                                                 {"evidence_feature", detail::json_quote(evidence_feature)},
                                                 {"evidence_scale", detail::json_quote(evidence_scale)},
                                                 {"evidence_prior", evidence_prior}};
    if (!task_values.empty()) config["task_values"] = task_values;
    std::map<std::string, std::string> served = {
        {"mixture", mixture}, {"scenarios", "[\"search\"]"}, {"tensors_sha256", "\"" + sha256(safetensors()) + "\""}};
    if (!scales.empty()) served["scales"] = scales;
    if (!history.empty()) served["history"] = history;
    served["correction"] = "null";
    if (correction)
      served["correction"] = object({{"items", names(correction->items)},
                                     {"parents", correction->parents},
                                     {"amounts", correction->amounts},
                                     {"indicators", correction->indicators},
                                     {"form", correction->form}});
    std::map<std::string, std::string> record = {
        {"format", "\"pygrade.FusionPolicy\""},
        {"format_version", "1"},
        {"json_sha256", "\"" + std::string(64, '0') + "\""},
        {"verdict", object({{"verdict", verdict}, {"sentence", sentence}, {"control", "\"\""}})}};
    for (const auto& [key, value] : replaced) {
      for (auto* table : {&schema, &config, &served})
        if (table->contains(key)) (*table)[key] = value;
      if (record.contains(key)) record[key] = value;
    }
    record["schema"] = object(schema);
    served.try_emplace("schema_hash", "\"" + section_hash("schema", record["schema"]).substr(0, 16) + "\"");
    if (const auto stated = replaced.find("schema_hash"); stated != replaced.end())
      served["schema_hash"] = stated->second;
    served["config"] = object(config);
    record["served"] = object(served);
    return record;
  }

  static std::string section_hash(const std::string& key, const std::string& value) {
    const std::string text = object({{key, value}});
    return sha256(text.substr(1, text.size() - 3));
  }
  std::string section_hash(const std::string& key) const { return section_hash(key, record().at(key)); }

  // The text with the hash of itself in the place for it, if it has one.
  static std::string sealed(std::string text) {
    const std::string key = "\n  \"json_sha256\": \"";
    const std::size_t at = text.find(key);
    if (at == text.npos || at + key.size() + 64 > text.size()) return text;
    text.replace(at + key.size(), 64, 64, '0');
    return text.replace(at + key.size(), 64, sha256(text));
  }

  std::string tensor_file() const { return "policy-" + sha256(safetensors()).substr(0, 16) + ".safetensors"; }

  // The lines are indented as the depth of the object asks for, keys sorted, as in what Python writes.
  static std::string object(const std::map<std::string, std::string>& values) {
    std::string text;
    for (const auto& [key, value] : values) {
      text += (text.empty() ? "\n  " : ",\n  ") + detail::json_quote(key) + ": ";
      for (const char c : value) text += c == '\n' ? std::string("\n  ") : std::string(1, c);
    }
    return "{" + text + "\n}";
  }

  void write(const std::filesystem::path& directory) const {
    std::filesystem::create_directories(directory);
    std::ofstream(directory / tensor_file(), std::ios::binary) << safetensors();
    std::ofstream(directory / "policy.json", std::ios::binary) << json();
  }
};

// A baseline as JSON: the expected value, calibrated and priced; `changed` replaces values.
inline std::string baseline_json(const std::map<std::string, std::string>& changed = {}) {
  std::map<std::string, std::string> baseline = {
      {"name", "\"expected value\""},
      {"transform", "\"identity\""},
      {"weights", "[1, 0.5, 20]"},
      {"logarithm", "true"},
      {"corrected", "false"},
      {"value_tasks", "[\"order\"]"},
      {"calibration", "[[[0, 0.5, 1], [0, 0.25, 0.5]], [[0, 1], [0.125, 0.125]], [[0, 0.25], [0, 1]]]"}};
  for (const auto& [key, value] : changed) baseline[key] = value;
  return Artifact::object(baseline);
}

// A mixture with it.
inline std::string mixture_json(const std::map<std::string, std::string>& changed = {},
                                const char* mixture_weight = "0.25", const std::string& challenger = "null") {
  return Artifact::object(
      {{"mixture_weight", mixture_weight}, {"baseline", baseline_json(changed)}, {"challenger", challenger}});
}

inline std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }
}  // namespace pygrade::inline v0_2::tests
