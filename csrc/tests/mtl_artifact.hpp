// Writes the files of a multi-task model as the Python side does.
#pragma once

#include <algorithm>
#include <cmath>

#include "artifact.hpp"
#include "pygrade/mtl.hpp"

namespace pygrade::inline v0_2::tests {
struct MtlArtifact {
  std::vector<std::string> tasks = {"click", "cart", "order"};
  std::vector<std::string> dense = {"age", "price", "ctr"};
  std::vector<std::string> ids = {"city", "item"};
  std::vector<std::int64_t> vocabulary = {5, 7};
  std::string features = "abc";  // hash of their schema
  int request_dense = 1, request_ids = 1;
  std::vector<std::pair<int, int>> funnel;  // places of parent and child
  int task_experts = 1, shared_experts = 1, hidden = 6, output = 5, tower = 3, embedding = 2;
  std::vector<std::array<double, 3>> beta;      // of the calibration, if there is one
  std::map<std::string, std::string> replaced;  // JSON values, as text, by key
  unsigned seed = 1;
  std::map<std::string, Artifact::Tensor> tensors;  // filled by `draw`

  int count() const { return static_cast<int>(tasks.size()); }
  int num_experts() const { return count() * task_experts + shared_experts; }
  int inputs() const {
    return static_cast<int>(dense.size() + ids.size()) + static_cast<int>(ids.size()) * (embedding - 1);
  }
  MtlArtifact& draw() {
    std::mt19937 random(seed);
    tensors.clear();
    const auto add = [&](const std::string& name, std::vector<int> shape, float low, float high) {
      std::size_t total = 1;
      for (int s : shape) total *= static_cast<std::size_t>(s);
      Artifact::Tensor& tensor = tensors[name] = {std::move(shape), std::vector<float>(total)};
      for (float& v : tensor.values) v = low + (high - low) * static_cast<float>(random() >> 8) * 0x1p-24f;
    };
    const int d = static_cast<int>(dense.size()), m = num_experts();
    const std::int64_t entries = std::accumulate(vocabulary.begin(), vocabulary.end(), std::int64_t{0});
    add("mean", {d}, -1, 1);
    add("scale", {d}, 0.5, 2);
    add("base", {count()}, -2, 0);
    add("embedding.weight", {static_cast<int>(entries), embedding}, -2, 2);
    add("experts.hidden.weight", {m * hidden, inputs()}, -1, 1);
    add("experts.hidden.bias", {m * hidden}, -1, 1);
    add("experts.gates.weight", {count() * m, inputs()}, -1, 1);
    add("experts.gates.bias", {count() * m}, -1, 1);
    add("experts.output.weight", {m, hidden, output}, -1, 1);
    add("experts.output.bias", {m, output}, -1, 1);
    add("tower_in.weight", {count(), output, tower}, -1, 1);
    add("tower_in.bias", {count(), tower}, -1, 1);
    add("tower_out.weight", {count(), tower, 1}, -1, 1);
    add("tower_out.bias", {count(), 1}, -1, 1);
    return *this;
  }

  std::string safetensors() const {
    Artifact files;
    files.tensors = tensors;
    return files.safetensors();
  }

  static std::string list(const std::vector<std::string>& items) {
    std::string text;
    for (const auto& item : items) text += (text.empty() ? "" : ", ") + item;
    return "[" + text + "]";
  }
  static std::vector<std::string> quoted(const std::vector<std::string>& names) {
    std::vector<std::string> result;
    for (const auto& name : names) result.push_back(detail::json_quote(name));
    return result;
  }

  std::map<std::string, std::string> schema() const {
    std::vector<std::string> pairs, sizes;
    for (const auto& [parent, child] : funnel)
      pairs.push_back(list(quoted({tasks[static_cast<std::size_t>(parent)], tasks[static_cast<std::size_t>(child)]})));
    for (const auto size : vocabulary) sizes.push_back(std::to_string(size));
    std::map<std::string, std::string> result = {
        {"tasks", list(quoted(tasks))}, {"dense", list(quoted(dense))}, {"ids", list(quoted(ids))},
        {"funnel", list(pairs)},        {"vocabulary", list(sizes)},    {"features", detail::json_quote(features)}};
    result["request_dense"] = std::to_string(request_dense);
    result["request_ids"] = std::to_string(request_ids);
    return result;
  }
  std::string schema_hash() const { return Artifact::section_hash("schema", Artifact::object(schema())).substr(0, 16); }

  std::string json() const {
    std::map<std::string, std::string> config;
    const std::pair<const char*, int> sizes[] = {{"task_experts", task_experts}, {"shared_experts", shared_experts},
                                                 {"expert_hidden", hidden},      {"expert_output", output},
                                                 {"tower_hidden", tower},        {"embedding", embedding}};
    for (const auto& [name, size] : sizes) config[name] = std::to_string(size);
    std::vector<std::string> rows;
    for (const auto& [a, b, c] : beta) rows.push_back(list({std::to_string(a), std::to_string(b), std::to_string(c)}));
    auto inner = schema();
    std::map<std::string, std::string> record = {{"format", "\"pygrade.MtlModel\""},
                                                 {"format_version", "1"},
                                                 {"schema_hash", "\"" + schema_hash() + "\""},
                                                 {"sha256", "\"" + Artifact::sha256(safetensors()) + "\""},
                                                 {"calibration", beta.empty() ? "null" : list(rows)}};
    for (const auto& [key, value] : replaced)
      (config.contains(key) ? config : inner.contains(key) ? inner : record)[key] = value;
    record["config"] = Artifact::object(config);
    record["schema"] = Artifact::object(inner);
    return Artifact::object(record) + "\n";
  }

  void write(const std::filesystem::path& directory) const {
    std::filesystem::create_directories(directory);
    std::ofstream(directory / "mtl.safetensors", std::ios::binary) << safetensors();
    std::ofstream(directory / "mtl.json", std::ios::binary) << json();
  }
};

inline std::shared_ptr<const MultiTaskModel> parse(const MtlArtifact& artifact) {
  return MultiTaskModel::parse(artifact.json(), bytes(artifact.safetensors()));
}
}  // namespace pygrade::inline v0_2::tests
