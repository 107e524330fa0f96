// Writes the files of a multi-task model as the Python side does, and evaluates them in plain double.
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
  std::vector<std::int64_t> vocabulary = {5, 0};
  int request_dense = 1, request_ids = 1;
  std::vector<std::pair<int, int>> funnel;  // places of parent and child
  std::string network = "ple";
  int levels = 1, task_experts = 1, shared_experts = 1, experts = 2;
  int hidden = 6, output = 5, tower = 3, embedding = 2, buckets = 7;
  std::string calibration = "null";
  std::vector<std::array<double, 3>> beta;                                  // what `calibration` says, for `expected`
  std::vector<std::pair<std::vector<double>, std::vector<double>>> curves;  // likewise
  std::map<std::string, std::string> replaced;                              // JSON values, as text, by key
  unsigned seed = 1;
  std::map<std::string, Artifact::Tensor> tensors;  // filled by `draw`

  int count() const { return static_cast<int>(tasks.size()); }
  bool ple() const { return network == "ple"; }
  int num_levels() const { return ple() ? levels : 1; }
  int num_experts() const { return ple() ? count() * task_experts + shared_experts : experts; }
  int inputs() const {
    return static_cast<int>(dense.size() + ids.size()) + static_cast<int>(ids.size()) * (embedding - 1);
  }
  int owner(int expert) const { return ple() ? std::min(expert / task_experts, count()) : count(); }
  std::int64_t size_of(std::size_t column) const {
    return vocabulary.empty() || vocabulary[column] == 0 ? buckets : vocabulary[column];
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
    std::int64_t entries = 0;
    for (std::size_t f = 0; f < ids.size(); ++f) entries += size_of(f);
    add("mean", {d}, -1, 1);
    add("scale", {d}, 0.5, 2);
    add("base", {count()}, -2, 0);
    add("embedding.weight", {static_cast<int>(entries), embedding}, -2, 2);
    for (int l = 0, width = inputs(); l < num_levels(); width = output, ++l) {
      const std::string name = "layers." + std::to_string(l) + ".";
      const int s = count() + (l + 1 < num_levels());
      if (l == 0) {
        add(name + "hidden.weight", {m * hidden, width}, -1, 1);
        add(name + "hidden.bias", {m * hidden}, -1, 1);
        add(name + "gates.weight", {s * m, width}, -1, 1);
        add(name + "gates.bias", {s * m}, -1, 1);
      } else {
        add(name + "hidden.weight", {m, width, hidden}, -1, 1);
        add(name + "hidden.bias", {m, hidden}, -1, 1);
        add(name + "gates.weight", {s, width, m}, -1, 1);
        add(name + "gates.bias", {s, m}, -1, 1);
      }
      add(name + "output.weight", {m, hidden, output}, -1, 1);
      add(name + "output.bias", {m, output}, -1, 1);
    }
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
    std::map<std::string, std::string> result = {{"tasks", list(quoted(tasks))}, {"dense", list(quoted(dense))},
                                                 {"ids", list(quoted(ids))},     {"funnel", list(pairs)},
                                                 {"vocabulary", list(sizes)},    {"features", "\"abc\""}};
    result["request_dense"] = std::to_string(request_dense);
    result["request_ids"] = std::to_string(request_ids);
    return result;
  }
  std::string schema_hash() const { return Artifact::section_hash("schema", Artifact::object(schema())).substr(0, 16); }

  std::string json() const {
    std::map<std::string, std::string> config = {{"network", "\"" + network + "\""}};
    const std::pair<const char*, int> sizes[] = {
        {"levels", levels},      {"task_experts", task_experts}, {"shared_experts", shared_experts},
        {"experts", experts},    {"expert_hidden", hidden},      {"expert_output", output},
        {"tower_hidden", tower}, {"embedding", embedding},       {"buckets", buckets}};
    for (const auto& [name, size] : sizes) config[name] = std::to_string(size);
    auto inner = schema();
    std::map<std::string, std::string> record = {{"format", "\"pygrade.MtlModel\""},
                                                 {"format_version", "1"},
                                                 {"schema_hash", "\"" + schema_hash() + "\""},
                                                 {"sha256", "\"" + Artifact::sha256(safetensors()) + "\""},
                                                 {"calibration", calibration}};
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

  // Probabilities of one row in double, directly from the tensors.
  std::vector<double> expected(const float* row, const std::int64_t* row_ids) const;
};

namespace plain {

using Vector = std::vector<double>;

inline std::uint64_t splitmix64(std::uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}
inline double silu(double x) { return x / (1.0 + std::exp(-x)); }
inline double log_sigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }
inline double interpolate(double logit, const Vector& x, const Vector& y) {
  const double inside = std::clamp(logit, x.front(), x.back());
  double result = y.back();
  for (std::size_t k = x.size() - 1; k-- > 0;)
    if (inside <= x[k + 1]) result = y[k] + (inside - x[k]) * (y[k + 1] - y[k]) / (x[k + 1] - x[k]);
  return result + (logit - inside);
}

}  // namespace plain

inline std::vector<double> MtlArtifact::expected(const float* row, const std::int64_t* row_ids) const {
  using plain::Vector;
  const auto value = [&](const std::string& name, std::size_t i) {
    return static_cast<double>(tensors.at(name).values[i]);
  };
  Vector x;
  for (std::size_t d = 0; d < dense.size(); ++d) {
    const double scaled = (row[d] - value("mean", d)) * value("scale", d);
    x.push_back(std::isnan(scaled) ? 0.0 : std::clamp(scaled, -5.0, 5.0));
  }
  std::size_t first = 0;
  const auto wide = static_cast<std::size_t>(embedding);
  for (std::size_t f = 0; f < ids.size(); ++f) {
    const std::int64_t size = size_of(f), id = row_ids[f];
    std::size_t entry = id >= 0 && id < size ? static_cast<std::size_t>(id) : 0;
    if (vocabulary.empty() || vocabulary[f] == 0)
      entry = plain::splitmix64(static_cast<std::uint64_t>(id) + 0x9e3779b97f4a7c15ull + f * 0xd1b54a32d192ed03ull) %
              static_cast<std::uint64_t>(buckets);
    for (std::size_t e = 0; e < wide; ++e) x.push_back(value("embedding.weight", (first + entry) * wide + e));
    first += static_cast<std::size_t>(size);
  }
  const auto t_count = tasks.size(), m_count = static_cast<std::size_t>(num_experts()),
             h_count = static_cast<std::size_t>(hidden), o_count = static_cast<std::size_t>(output);
  std::vector<Vector> streams(t_count + 1, x);
  for (int l = 0; l < num_levels(); ++l) {
    const std::string name = "layers." + std::to_string(l) + ".";
    const std::size_t width = streams[0].size();
    // Weight of output j of slice s: the first layer's tensors are [outputs, inputs], the others' [slices, in, out].
    const auto linear = [&](const std::string& which, const Vector& in, std::size_t s, std::size_t j,
                            std::size_t outs) {
      double sum = value(name + which + ".bias", s * outs + j);
      for (std::size_t i = 0; i < width; ++i)
        sum +=
            in[i] * value(name + which + ".weight", l == 0 ? (s * outs + j) * width + i : (s * width + i) * outs + j);
      return sum;
    };
    std::vector<Vector> outputs(m_count, Vector(o_count));
    for (std::size_t m = 0; m < m_count; ++m) {
      Vector inner(h_count);
      const Vector& in = streams[static_cast<std::size_t>(owner(static_cast<int>(m)))];
      for (std::size_t j = 0; j < h_count; ++j) inner[j] = plain::silu(linear("hidden", in, m, j, h_count));
      for (std::size_t o = 0; o < o_count; ++o) {
        double sum = value(name + "output.bias", m * o_count + o);
        for (std::size_t j = 0; j < h_count; ++j)
          sum += inner[j] * value(name + "output.weight", (m * h_count + j) * o_count + o);
        outputs[m][o] = plain::silu(sum);
      }
    }
    std::vector<Vector> mixes;
    for (std::size_t s = 0; s < t_count + (l + 1 < num_levels()); ++s) {
      double total = 0.0;
      Vector mix(o_count);
      for (std::size_t m = 0; m < m_count; ++m) {
        const auto of = static_cast<std::size_t>(owner(static_cast<int>(m)));
        if (s < t_count && of != s && of != t_count) continue;
        const double odds = std::exp(linear("gates", streams[s], s, m, m_count));
        total += odds;
        for (std::size_t o = 0; o < o_count; ++o) mix[o] += odds * outputs[m][o];
      }
      for (double& v : mix) v /= total;
      mixes.push_back(mix);
    }
    streams = mixes;
  }
  Vector logits, result;
  std::vector<int> parents(t_count, -1);
  for (const auto& [parent, child] : funnel) parents[static_cast<std::size_t>(child)] = parent;
  const auto h = static_cast<std::size_t>(tower);
  for (std::size_t t = 0; t < t_count; ++t) {
    double logit = value("tower_out.bias", t) + value("base", t);
    for (std::size_t j = 0; j < h; ++j) {
      double sum = value("tower_in.bias", t * h + j);
      for (std::size_t o = 0; o < o_count; ++o)
        sum += streams[t][o] * value("tower_in.weight", (t * o_count + o) * h + j);
      logit += plain::silu(sum) * value("tower_out.weight", t * h + j);
    }
    logits.push_back(logit);
  }
  for (std::size_t t = 0; t < t_count; ++t) {
    double logit = logits[t];
    if (parents[t] >= 0) {
      double log_p = 0.0;
      for (int at = static_cast<int>(t); at >= 0; at = parents[static_cast<std::size_t>(at)])
        log_p += plain::log_sigmoid(logits[static_cast<std::size_t>(at)]);
      log_p = std::min(log_p, -1e-6);
      logit = log_p - std::log(-std::expm1(log_p));
    }
    if (!curves.empty())
      logit = plain::interpolate(logit, curves[t].first, curves[t].second);
    else if (!beta.empty())
      logit = beta[t][0] * plain::log_sigmoid(logit) - beta[t][1] * plain::log_sigmoid(-logit) + beta[t][2];
    result.push_back(std::max(1.0 / (1.0 + std::exp(-logit)), 1e-6));
  }
  return result;
}

inline std::shared_ptr<const MultiTaskModel> parse(const MtlArtifact& artifact) {
  return MultiTaskModel::parse(artifact.json(), bytes(artifact.safetensors()));
}

}  // namespace pygrade::inline v0_2::tests
