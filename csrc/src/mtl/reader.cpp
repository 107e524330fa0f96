// Reads what pygrade/mtl/model.py writes. The network is laid out for its kernels, and refused if a weight is not
// finite or if any input could make a value overflow: then no output is NaN, whatever the inputs are.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "mtl/model.hpp"
#include "pygrade/policy.hpp"
#include "util/artifact_record.hpp"
#include "util/huge_pages.hpp"
#include "util/safetensors.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
using Names = std::vector<std::string>;

constexpr JsonLimits limits{.bytes = std::size_t{64} << 20, .values = std::size_t{1} << 21};
constexpr std::int64_t max_width = 1 << 16;
constexpr std::int64_t max_tasks = 1024;
constexpr std::int64_t max_entries = std::numeric_limits<std::int32_t>::max();
constexpr double max_value = 1e30;
constexpr double input_clip = 5.0;

[[noreturn]] void wrong(std::string_view key, const std::string& what) {
  throw JsonError("'" + std::string(key) + "' " + what);
}

std::size_t size_of(std::int64_t count) { return static_cast<std::size_t>(count); }

std::int64_t integer_at(const Json& table, std::string_view key, std::int64_t low, std::int64_t high) {
  const double value = table.finite_at(key);
  if (!(value >= static_cast<double>(low) && value <= static_cast<double>(high)) || value != std::floor(value))
    wrong(key, "is not an integer of " + std::to_string(low) + " … " + std::to_string(high));
  return static_cast<std::int64_t>(value);
}

Names distinct_at(const Json& table, std::string_view key, std::int64_t low, std::int64_t high) {
  Names names = table.strings_at(key);
  if (names.size() < size_of(low) || names.size() > size_of(high))
    wrong(key, "has " + std::to_string(names.size()) + " names; expected " + std::to_string(low) + " … " +
                   std::to_string(high));
  Names sorted = names;
  std::ranges::sort(sorted);
  if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end())
    wrong(key, "names " + json_quote(*twice) + " twice");
  return names;
}

class Reader {
 public:
  explicit Reader(MtlModel& model) : model_(model), network_(model.network) {}

  void read_record(const Json& record, std::string_view text) {
    sha256_ = record.string_at("sha256");
    if (sha256_.size() != 64 || sha256_.find_first_not_of("0123456789abcdef") != sha256_.npos)
      wrong("sha256", "is not 64 hexadecimal digits");
    schema(record.object_at("schema"));
    model_.schema_hash = section_hash(text, "schema").substr(0, 16);
    if (const std::string& stated = record.string_at("schema_hash"); stated != model_.schema_hash)
      wrong("schema_hash", "is " + json_quote(stated) + "; 'schema' gives " + model_.schema_hash);
    config(record.object_at("config"));
    calibration(record.at("calibration"));
  }

  const std::string& sha256() const { return sha256_; }

  void read_tensors(std::span<const std::byte> content) {
    const auto tensors = read_safetensors(content);
    tensors_ = tensors;
    inputs();
    towers(experts(std::max(input_clip, table_reach_)));
    if (used_ != tensors_.size()) throw SafetensorsError("there are tensors that the model does not have");
    scratch();
  }

 private:
  void schema(const Json& of) {
    model_.tasks = distinct_at(of, "tasks", 1, max_tasks);
    model_.dense = distinct_at(of, "dense", 0, max_width);
    model_.ids = distinct_at(of, "ids", 0, max_width);
    model_.features = of.string_at("features");
    network_.tasks = std::ssize(model_.tasks);
    network_.dense = std::ssize(model_.dense);
    network_.ids = std::ssize(model_.ids);
    network_.request_dense = integer_at(of, "request_dense", 0, network_.dense);
    network_.request_ids = integer_at(of, "request_ids", 0, network_.ids);
    vocabulary_ = of.integers_at("vocabulary");
    if (std::ssize(vocabulary_) != network_.ids)
      wrong("vocabulary",
            "has " + std::to_string(vocabulary_.size()) + " sizes; expected " + std::to_string(network_.ids));
    if (std::ranges::find(vocabulary_, 0) != vocabulary_.end()) wrong("vocabulary", "holds a size of 0");
    funnel(of.at("funnel"));
  }

  // Fills parents and order.
  void funnel(const Json& list) {
    const std::size_t tasks = model_.tasks.size();
    std::vector<std::int32_t> parents(tasks, -1);
    if (list.type != Json::Type::array) wrong("funnel", "is not a list");
    for (const Json& pair : list.items) {
      if (pair.type != Json::Type::array || pair.items.size() != 2) wrong("funnel", "holds something that is no pair");
      std::int32_t places[2];
      for (std::size_t i = 0; i < 2; ++i) {
        const auto found = std::ranges::find(model_.tasks, pair.items[i].string);
        if (pair.items[i].type != Json::Type::string || found == model_.tasks.end())
          wrong("funnel", "names " + json_quote(pair.items[i].string) + ", which is not a task");
        places[i] = static_cast<std::int32_t>(found - model_.tasks.begin());
      }
      std::int32_t& parent = parents[static_cast<std::size_t>(places[1])];
      if (parent >= 0) wrong("funnel", "gives " + json_quote(pair.items[1].string) + " two parents");
      parent = places[0];
    }
    std::vector<std::int32_t> order;
    std::vector<bool> placed(tasks);
    for (bool more = true; more;) {
      more = false;
      for (std::size_t t = 0; t < tasks; ++t)
        if (!placed[t] && (parents[t] < 0 || placed[static_cast<std::size_t>(parents[t])])) {
          placed[t] = more = true;
          order.push_back(static_cast<std::int32_t>(t));
        }
    }
    if (order.size() < tasks) wrong("funnel", "leads from a task back to itself");
    network_.funnel = !list.items.empty();
    network_.parents = model_.keep(std::move(parents));
    network_.order = model_.keep(std::move(order));
  }

  void config(const Json& of) {
    const auto width = [&](std::string_view key) { return integer_at(of, key, 1, max_width); };
    task_experts_ = integer_at(of, "task_experts", 0, max_width);
    num_experts_ = network_.tasks * task_experts_ + width("shared_experts");
    if (num_experts_ > max_width) wrong("task_experts", "gives more than 65536 experts");
    expert_hidden_ = width("expert_hidden");
    expert_output_ = width("expert_output");
    tower_hidden_ = width("tower_hidden");
    network_.embedding = width("embedding");
    network_.request_inputs = network_.request_dense + network_.request_ids * network_.embedding;
    network_.inputs = network_.dense + network_.ids * network_.embedding;
    std::vector<std::int64_t> first;
    for (const std::int64_t size : vocabulary_) {
      first.push_back(entries_);
      entries_ += size;
      if (entries_ > max_entries) wrong("vocabulary", "gives more than 2^31 - 1 embeddings");
    }
    network_.vocabulary = model_.keep(vocabulary_);
    network_.first_entry = model_.keep(std::move(first));
  }

  void calibration(const Json& of) {
    if (of.type == Json::Type::null) return;
    if (of.type != Json::Type::array || of.items.size() != model_.tasks.size())
      wrong("calibration", "is not a list of " + std::to_string(model_.tasks.size()) + " tasks");
    std::vector<MtlCurve> curves;
    for (const Json& row : of.items) {
      const bool good = row.type == Json::Type::array && row.items.size() == 3 &&
                        std::ranges::all_of(row.items, [](const Json& item) {
                          return item.type == Json::Type::number && std::isfinite(item.number);
                        });
      if (!good) wrong("calibration", "holds something that is not three finite numbers");
      curves.push_back({row.items[0].number, row.items[1].number, row.items[2].number});
      if (!(curves.back().a > 0.0 && curves.back().b > 0.0))
        wrong("calibration", "holds a factor that is not positive");
    }
    network_.curves = model_.keep(std::move(curves));
  }

  std::vector<float> take(const std::string& name, std::initializer_list<std::int64_t> shape) {
    auto values = float_tensor(tensors_, name, shape);
    ++used_;
    if (!std::ranges::all_of(values, [](float v) { return std::isfinite(v); }))
      throw SafetensorsError("tensor " + json_quote(name) + " holds NaN or infinity");
    return values;
  }

  void inputs() {
    network_.mean = model_.keep(take("mean", {network_.dense}));
    network_.scale = model_.keep(take("scale", {network_.dense}));
    network_.base = model_.keep(take("base", {network_.tasks}));
    const auto values = take("embedding.weight", {entries_, network_.embedding});
    auto table = huge_vector<float>(values.size());
    std::ranges::copy(values, table.begin());
    for (const float value : table) table_reach_ = std::max(table_reach_, std::abs(static_cast<double>(value)));
    network_.table = model_.keep(std::move(table));
    // The request's dense values and embeddings first; the tensors have all dense values first.
    const auto add = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) order_.push_back(i);
    };
    const std::int64_t cut = network_.dense + network_.request_ids * network_.embedding;
    add(0, network_.request_dense);
    add(network_.dense, cut);
    add(network_.request_dense, network_.dense);
    add(cut, network_.inputs);
  }

  // The weights and biases of a map, by place in its chain and by output.
  struct Source {
    std::string name;
    std::int64_t inputs, outputs;
    std::function<float(std::int64_t, std::int64_t)> weight;
    std::function<float(std::int64_t)> bias;
  };

  // Lays out the weights; appends the biases, padded, to `biases`. `reach` of the inputs becomes that of the outputs.
  MtlMap map(const Source& of, double& reach, std::vector<float>& biases) {
    const std::int64_t tiles = (of.outputs + mtl_tile - 1) / mtl_tile;
    std::vector<float> weights(size_of(tiles * of.inputs * mtl_tile), 0.0f);
    double highest = 0.0;
    for (std::int64_t o = 0; o < of.outputs; ++o) {
      float* tile = weights.data() + o / mtl_tile * of.inputs * mtl_tile + o % mtl_tile;
      double sum = 0.0;
      for (std::int64_t i = 0; i < of.inputs; ++i) {
        tile[i * mtl_tile] = of.weight(i, o);
        sum += std::abs(static_cast<double>(tile[i * mtl_tile]));
      }
      biases.push_back(of.bias(o));
      highest = std::max(highest, std::abs(static_cast<double>(biases.back())) + sum * reach);
    }
    biases.resize(biases.size() + size_of(tiles * mtl_tile - of.outputs), 0.0f);
    if (!(highest < max_value)) throw SafetensorsError("tensor " + json_quote(of.name) + " can make values overflow");
    reach = highest;
    return {model_.keep(std::move(weights)), nullptr, of.inputs, of.outputs};
  }

  MtlMap map(const Source& of, double& reach) {
    std::vector<float> biases;
    MtlMap result = map(of, reach, biases);
    result.bias = model_.keep(std::move(biases));
    return result;
  }

  // Slice s of a Stacked: weight[slices, inputs, outputs], bias[slices, outputs].
  static Source slice(const std::string& name, const std::vector<float>& weight, const std::vector<float>& bias,
                      std::int64_t s, std::int64_t inputs, std::int64_t outputs) {
    return {name, inputs, outputs,
            [&weight, s, inputs, outputs](std::int64_t i, std::int64_t o) {
              return weight[size_of((s * inputs + i) * outputs + o)];
            },
            [&bias, s, outputs](std::int64_t o) { return bias[size_of(s * outputs + o)]; }};
  }

  std::vector<std::int32_t> sees(std::int64_t task) const {
    std::vector<std::int32_t> experts;
    for (std::int64_t m = 0; m < num_experts_; ++m)
      if (m >= network_.tasks * task_experts_ || m / task_experts_ == task)
        experts.push_back(static_cast<std::int32_t>(m));
    return experts;
  }

  // Experts and gates; returns the reach of what they give.
  double experts(double reach) {
    const std::int64_t m = num_experts_, h = expert_hidden_, o = expert_output_, tasks = network_.tasks,
                       width = network_.inputs;
    const auto hidden = take("experts.hidden.weight", {m * h, width}),
               hidden_bias = take("experts.hidden.bias", {m * h});
    const auto output = take("experts.output.weight", {m, h, o}), output_bias = take("experts.output.bias", {m, o});
    const auto gate = take("experts.gates.weight", {tasks * m, width}),
               gate_bias = take("experts.gates.bias", {tasks * m});
    std::vector<MtlExpert> experts;
    std::vector<float> biases;  // of the maps of the inputs
    double highest = 0.0;
    for (std::int64_t e = 0; e < m; ++e) {
      double at = reach;
      MtlExpert expert;
      const Source source{"experts.hidden.weight", width, h,
                          [&, e](std::int64_t i, std::int64_t j) { return hidden[place(e * h + j, i)]; },
                          [&, e](std::int64_t j) { return hidden_bias[size_of(e * h + j)]; }};
      expert.hidden = map(source, at, biases);
      expert.output = map(slice("experts.output.weight", output, output_bias, e, h, o), at);
      highest = std::max(highest, at);
      experts.push_back(expert);
    }
    std::vector<std::int64_t> rows;
    std::vector<MtlGate> gates;
    for (std::int64_t t = 0; t < tasks; ++t) {
      auto seen = sees(t);
      for (const std::int32_t e : seen) rows.push_back(t * m + e);
      const std::int64_t count = std::ssize(seen);
      gates.push_back({model_.keep(std::move(seen)), count});
    }
    const Source scores{"experts.gates.weight", width, std::ssize(rows),
                        [&](std::int64_t i, std::int64_t j) { return gate[place(rows[size_of(j)], i)]; },
                        [&](std::int64_t j) { return gate_bias[size_of(rows[size_of(j)])]; }};
    network_.scores = map(scores, reach, biases);
    network_.initial = std::ssize(biases);
    network_.first_bias = model_.keep(std::move(biases));
    const float* at = network_.first_bias;
    const auto point = [&](MtlMap& to) {
      to.bias = at;
      at += (to.outputs + mtl_tile - 1) / mtl_tile * mtl_tile;
    };
    for (MtlExpert& expert : experts) point(expert.hidden);
    point(network_.scores);
    network_.num_experts = m;
    network_.experts = model_.keep(std::move(experts));
    network_.gates = model_.keep(std::move(gates));
    return highest;
  }

  // Place in a tensor [outputs, inputs] of the inputs, by place in the chain.
  std::size_t place(std::int64_t output, std::int64_t input) const {
    return size_of(output * network_.inputs + order_[size_of(input)]);
  }

  void towers(double reach) {
    const std::int64_t tasks = network_.tasks;
    const auto in = take("tower_in.weight", {tasks, expert_output_, tower_hidden_});
    const auto in_bias = take("tower_in.bias", {tasks, tower_hidden_});
    const auto out = take("tower_out.weight", {tasks, tower_hidden_, 1}), out_bias = take("tower_out.bias", {tasks, 1});
    std::vector<MtlTower> towers;
    for (std::int64_t t = 0; t < tasks; ++t) {
      double at = reach;
      MtlTower tower;
      tower.hidden = map(slice("tower_in.weight", in, in_bias, t, expert_output_, tower_hidden_), at);
      tower.output = map(slice("tower_out.weight", out, out_bias, t, tower_hidden_, 1), at);
      towers.push_back(tower);
    }
    network_.towers = model_.keep(std::move(towers));
  }

  void scratch() {
    MtlScratch& at = network_.scratch;
    std::int64_t end = 0;
    const auto next = [&](std::int64_t count) {
      const std::int64_t begin = end;
      end += (count + mtl_lanes - 1) / mtl_lanes * mtl_lanes;
      return begin;
    };
    at.request = next(network_.request_inputs);
    at.initial = next(network_.initial);
    at.entries = next(mtl_block * network_.ids);
    at.inputs = next(mtl_block * network_.inputs);
    at.hidden = next(mtl_block * std::max(expert_hidden_, tower_hidden_));
    at.outputs = next(mtl_block * num_experts_ * expert_output_);
    at.scores = next(mtl_block * network_.scores.outputs);
    at.mixes = next(mtl_block * network_.tasks * expert_output_);
    at.logits = next(mtl_block * network_.tasks);
    at.doubles = next(2 * 4 * mtl_block * network_.tasks);
    at.size = end;
  }

  MtlModel& model_;
  MtlNetwork& network_;
  std::string sha256_;
  std::vector<std::int64_t> vocabulary_;
  std::int64_t task_experts_ = 0, num_experts_ = 0, expert_hidden_ = 0, expert_output_ = 0, tower_hidden_ = 0,
               entries_ = 0;
  double table_reach_ = 0.0;  // the largest magnitude of an embedding
  std::vector<std::int64_t> order_;
  std::span<const TensorView> tensors_;
  std::size_t used_ = 0;
};
}  // namespace

void read_mtl(std::string_view json, const FileContent& tensors, std::string_view name, MtlModel& model) {
  const std::string json_path = std::string(name) + "/mtl.json", tensor_path = std::string(name) + "/mtl.safetensors";
  Reader reader(model);
  try {
    reader.read_record(parse_artifact_record(json, "pygrade.MtlModel", limits), json);
  } catch (const JsonError& error) {
    throw ArtifactError(json_path + ": " + error.what());
  }
  if (const std::string& actual = tensors.sha256(); actual != reader.sha256())
    throw ArtifactError(tensor_path + " has sha256 " + actual.substr(0, 12) + "; expected " +
                        reader.sha256().substr(0, 12) + " (truncated, corrupt or of another save)");
  try {
    reader.read_tensors(tensors);
  } catch (const SafetensorsError& error) {
    throw ArtifactError(tensor_path + ": " + error.what());
  }
}
}  // namespace pygrade::inline v0_2::detail
