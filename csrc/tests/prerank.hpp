// Writes the files of a prerank as the Python side does, for the tests of their reader.
#pragma once

#include "artifact.hpp"
#include "pygrade/prerank.hpp"

namespace pygrade::inline v0_2::tests {
struct PrerankFiles {
  int width = 6, hidden = 5, narrow = 2, length = 4;
  std::vector<std::int64_t> sizes = {3, 4};     // rows of each table of a field
  std::vector<std::int64_t> known = {2, 5, 9};  // items with an embedding
  std::vector<std::int64_t> item_ids = {1, 2, 5, 9, 12, 20, 21, 22, 23, 40, 41, 42, 50, 51, 52, 60, 61, 62};
  int version = 1;
  std::map<std::string, std::string> config, replaced;  // JSON values, as text, by key
  std::map<std::string, Artifact::Tensor> tensors;      // filled by `draw`
  std::vector<float> vectors;                           // [items, width], filled by `draw`

  PrerankFiles& draw(unsigned seed = 1) {
    std::mt19937 random(seed);
    const auto number = [&] { return static_cast<float>(random() >> 8) * 0x1p-23f - 1.0f; };
    const auto add = [&](const std::string& name, std::vector<int> shape) {
      std::size_t total = 1;
      for (int s : shape) total *= static_cast<std::size_t>(s);
      Artifact::Tensor& tensor = tensors[name] = {std::move(shape), std::vector<float>(total)};
      for (float& v : tensor.values) v = number();
    };
    const int wide = width - 1;
    add("towers.item_table.weight", {static_cast<int>(known.size()) + 1, wide});
    for (std::size_t f = 0; f < sizes.size(); ++f)
      add("towers.request_fields." + std::to_string(f) + ".weight", {static_cast<int>(sizes[f]), narrow});
    add("inputs.request_mean", {3});
    add("inputs.request_std", {3});
    tensors["inputs.request_std"].values = {0.5f, 0.0f, 2.0f};
    const int inputs = 3 + narrow * static_cast<int>(sizes.size()) + wide;
    add("towers.user_tower.0.weight", {hidden, inputs});
    add("towers.user_tower.0.bias", {hidden});
    add("towers.user_tower.3.weight", {wide, hidden});
    add("towers.user_tower.3.bias", {wide});
    vectors.resize(item_ids.size() * static_cast<std::size_t>(width));
    for (float& v : vectors) v = number();
    return *this;
  }

  // The integers are I64, which the writer of policies does not know.
  std::string safetensors() const {
    std::string header, data;
    const auto add = [&](const std::string& name, const char* type, const std::string& shape, const void* from,
                         std::size_t size) {
      const std::size_t begin = data.size();
      data.append(static_cast<const char*>(from), size);
      header += (header.empty() ? "{" : ",") + detail::json_quote(name) + ":{\"dtype\":\"" + type + "\",\"shape\":[" +
                shape + "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
    };
    const auto integers = [&](const std::string& name, const std::vector<std::int64_t>& values) {
      add(name, "I64", std::to_string(values.size()), values.data(), values.size() * sizeof values[0]);
    };
    integers("inputs.item_id", known);
    integers("inputs.request_sizes", sizes);
    integers("inputs.length", {length});
    const std::size_t slots = (item_ids.size() + 15) / 16 * 16, wide = static_cast<std::size_t>(width);
    std::vector<std::int64_t> padded = item_ids;
    padded.resize(slots, -1);
    std::vector<float> blocks(slots * wide);
    for (std::size_t i = 0; i < item_ids.size() * wide; ++i)
      blocks[(i / wide / 16 * wide + i % wide) * 16 + i / wide % 16] = vectors[i];
    integers("index.item_id", padded);
    add("index.vectors", "F32", std::to_string(slots / 16) + "," + std::to_string(width) + ",16", blocks.data(),
        blocks.size() * sizeof(float));
    for (const auto& [name, tensor] : tensors) {
      std::string shape;
      for (int s : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(s);
      add(name, "F32", shape, tensor.values.data(), tensor.values.size() * sizeof(float));
    }
    return Artifact::frame(header + "}") + data;
  }

  std::string json() const { return json(safetensors()); }

  // That of this file, which may be damaged.
  std::string json(const std::string& safetensors) const {
    std::map<std::string, std::string> options = {{"width", std::to_string(width)},
                                                  {"hidden", std::to_string(hidden)},
                                                  {"field_embedding", std::to_string(narrow)},
                                                  {"temperature", "0.1"}};
    for (const auto& [key, value] : config) options[key] = value;
    const std::map<std::string, std::string> hashes = {{"prerank.safetensors", quoted_hash(safetensors)}};
    std::map<std::string, std::string> record = {{"format", "\"pygrade.Prerank\""},
                                                 {"format_version", std::to_string(version)},
                                                 {"schema_hash", "\"schema-1\""},
                                                 {"config", Artifact::object(options)},
                                                 {"items", std::to_string(item_ids.size())},
                                                 {"task_weights", "[1.0, 0.0]"},
                                                 {"sha256", Artifact::object(hashes)}};
    for (const auto& [key, value] : replaced) record[key] = value;
    record["record_sha256"] = quoted_hash(Artifact::object(without_own_hash(record)));
    return Artifact::object(record);
  }

  std::shared_ptr<const Prerank> parse() const {
    const std::string tensors_file = safetensors();
    return Prerank::parse(json(tensors_file), bytes(tensors_file));
  }

  void write(const std::filesystem::path& directory) const {
    std::filesystem::create_directories(directory);
    std::ofstream(directory / "prerank.safetensors", std::ios::binary) << safetensors();
    std::ofstream(directory / "prerank.json", std::ios::binary) << json();
  }

 private:
  static std::string quoted_hash(const std::string& content) { return "\"" + Artifact::sha256(content) + "\""; }
  static std::map<std::string, std::string> without_own_hash(std::map<std::string, std::string> record) {
    record.erase("record_sha256");
    return record;
  }
};

// The text with the hash of itself in the place for it, if it has one.
inline std::string sealed_prerank(const std::string& text) {
  constexpr std::string_view key = "\n  \"record_sha256\": \"";
  const std::size_t at = text.find(key);
  const std::size_t end = at == text.npos ? at : text.find('\n', at + 1);
  if (end == text.npos || at + key.size() + 64 > text.size()) return text;
  std::string sealed = text;
  return sealed.replace(at + key.size(), 64, Artifact::sha256(text.substr(0, at) + text.substr(end)));
}
}  // namespace pygrade::inline v0_2::tests
