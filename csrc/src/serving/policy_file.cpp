// Reads the two files of a policy. pygrade/policy/network.py writes them and says what they hold.
#include <algorithm>
#include <cmath>
#include <fstream>

#include "pygrade/fusion.hpp"
#include "serving/policy.hpp"
#include "util/json.hpp"
#include "util/safetensors.hpp"
#include "util/sha256.hpp"

namespace pygrade {

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;
using detail::Json;

constexpr std::uintmax_t max_file = std::uintmax_t{1} << 30;
constexpr std::int64_t max_width = 1 << 16;
constexpr std::size_t max_layers = 64;
constexpr std::string_view evidence_scales[] = {"count", "log", "log1p"};  // in the enum's order

Bytes read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (!file || error) throw ArtifactMissing(path.string() + " does not exist or can't be read");
  if (size > max_file) throw ArtifactError(path.string() + " has " + std::to_string(size) + " bytes; at most 2^30");
  Bytes content(static_cast<std::size_t>(size));
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(size));
  if (static_cast<std::uintmax_t>(file.gcount()) != size)
    throw ArtifactError(path.string() + " changed while it was read");
  return content;
}

Json read_record(std::string_view text, const std::string& path) {
  try {
    Json record = Json::parse(text);
    if (record.type != Json::Type::object) throw detail::JsonError("it holds no JSON object");
    const std::string& format = record.string_at("format");
    const double version = record.finite_at("format_version");
    if (format != "pygrade.FusionPolicy" || (version != 1.0 && version != static_cast<double>(Policy::format_version)))
      throw detail::JsonError("it is " + detail::json_quote(format) + " of version " + std::to_string(version) +
                              "; this pygrade reads pygrade.FusionPolicy version 1 or 2");
    return record;
  } catch (const detail::JsonError& error) {
    throw ArtifactError(path + ": " + error.what());
  }
}

// The JSON text that the Python side hashes: json.dumps(schema, indent=2, sort_keys=True) and a line feed.
std::string schema_text(const Policy& policy, bool prediction_features) {
  const auto list = [](const std::vector<std::string>& names) {
    std::string text = "[";
    for (std::size_t i = 0; i < names.size(); ++i)
      text += (i == 0 ? "\n    " : ",\n    ") + detail::json_quote(names[i]);
    return text + (names.empty() ? "]" : "\n  ]");
  };
  return "{\n  \"features\": " + list(policy.features()) +
         ",\n  \"prediction_features\": " + (prediction_features ? "true" : "false") +
         ",\n  \"tasks\": " + list(policy.tasks()) + ",\n  \"transform\": " + detail::json_quote(policy.transform()) +
         "\n}\n";
}

std::string sha256_text(std::string_view text) { return detail::sha256_hex(std::as_bytes(std::span(text))); }

// As FusionPolicy.version: sha256 over the name and the bytes of every tensor, by name, then, where there is an
// evidence prior, over it and the evidence it weighs.
std::string version_of(std::span<const detail::TensorView> tensors, float evidence_prior, std::string_view scale,
                       std::string_view feature) {
  detail::Sha256 digest;
  for (const auto& tensor : tensors) {
    digest.update(std::as_bytes(std::span(tensor.name)));
    digest.update(tensor.bytes);
  }
  if (evidence_prior > 0.0f) {
    digest.update(std::as_bytes(std::span(std::string_view("evidence_prior"))));
    digest.update(std::as_bytes(std::span(&evidence_prior, 1)));
    digest.update(std::as_bytes(std::span(scale)));
    digest.update(std::as_bytes(std::span(feature)));
  }
  return digest.hex().substr(0, 12);
}

double positive(const Json& config, std::string_view key) {
  const double value = config.finite_at(key);
  if (!(value > 0.0)) throw detail::JsonError("'" + std::string(key) + "' is not positive");
  return value;
}

}  // namespace

class PolicyReader {
 public:
  PolicyReader(const Json& record, const std::string& path) {
    try {
      read(record);
    } catch (const detail::JsonError& error) {
      throw ArtifactError(path + ": " + error.what());
    }
  }

  std::shared_ptr<const Policy> finish(std::span<const std::byte> content, const std::string& path) {
    try {
      fill(detail::read_safetensors(content));
    } catch (const detail::SafetensorsError& error) {
      throw ArtifactError(path + ": " + error.what());
    }
    return std::move(policy_);
  }

 private:
  void read(const Json& record) {
    Policy& p = *policy_;
    p.tasks_ = record.strings_at("tasks");
    p.features_ = record.strings_at("features");
    p.scenarios_ = record.strings_at("scenarios");
    if (p.tasks_.empty() || p.tasks_.size() > Policy::max_tasks)
      throw detail::JsonError("'tasks' has " + std::to_string(p.tasks_.size()) + " names; want 1 … 64");
    if (p.features_.size() > static_cast<std::size_t>(max_width)) throw detail::JsonError("'features' is too long");
    const Json& config = record.object_at("config");
    hidden_ = config.integers_at("hidden");
    if (hidden_.empty() || hidden_.size() > max_layers ||
        std::ranges::any_of(hidden_, [](auto width) { return width < 1 || width > max_width; }))
      throw detail::JsonError("'hidden' must be 1 … 64 widths of 1 … 65536");
    p.transform_ = config.string_at("transform");
    if (std::ranges::find(transform_names, p.transform_) == transform_names.end())
      throw detail::JsonError("'transform' is " + detail::json_quote(p.transform_) +
                              "; want identity, log, zscore, zlog, rank or log1p");
    p.prediction_features_ = config.boolean_at("prediction_features");
    p.beta_ = positive(config, "beta");
    p.epsilon_ = static_cast<float>(positive(config, "epsilon"));
    slope(config);
    p.total_ = static_cast<float>(positive(config, "total_concentration"));
    const bool chosen = config.at("concentration_floor").type != Json::Type::null;
    p.floor_ = static_cast<float>(chosen ? positive(config, "concentration_floor")
                                         : 0.3 / static_cast<double>(p.tasks_.size()));
    exploration(config.object_at("scenario_exploration"));
    evidence(config);
    p.schema_hash_ = sha256_text(schema_text(p, p.prediction_features_)).substr(0, 16);
    if (const std::string& wanted = record.string_at("schema_hash"); wanted != p.schema_hash_)
      throw detail::JsonError("'schema_hash' is " + detail::json_quote(wanted) + "; tasks, features and formula give " +
                              p.schema_hash_);
    if (inputs() == 0) throw detail::JsonError("there are no features and prediction_features is off");
  }

  // One number for all tasks or a list of one each; 1 where the file is older than the key.
  void slope(const Json& config) {
    Policy& p = *policy_;
    p.slope_.assign(p.tasks_.size(), 1.0f);
    const Json* given = config.find("slope");
    if (given == nullptr) return;
    const bool each = given->type == Json::Type::array;
    if (each && given->items.size() != p.tasks_.size())
      throw detail::JsonError("'slope' has " + std::to_string(given->items.size()) + " numbers; want one, or " +
                              std::to_string(p.tasks_.size()));
    for (std::size_t t = 0; t < p.slope_.size(); ++t) {
      const Json& value = each ? given->items[t] : *given;
      const auto number = static_cast<float>(value.number);
      if (value.type != Json::Type::number || !(number >= 0.0f && std::isfinite(number)))
        throw detail::JsonError("'slope' holds something that is not a number ≥ 0");
      p.slope_[t] = number;
    }
  }

  void exploration(const Json& table) {
    for (const std::string& name : table.keys)
      policy_->exploration_.push_back(static_cast<float>(positive(table, name)));
    policy_->explored_scenarios_ = table.keys;
  }

  // Off where the file is older than the keys.
  void evidence(const Json& config) {
    Policy& p = *policy_;
    if (config.find("evidence_prior") == nullptr) return;
    p.evidence_prior_ = static_cast<float>(config.finite_at("evidence_prior"));
    if (!(p.evidence_prior_ >= 0.0f && std::isfinite(p.evidence_prior_)))
      throw detail::JsonError("'evidence_prior' is not a number ≥ 0");
    if (p.evidence_prior_ == 0.0f) return;
    const auto scale = std::ranges::find(evidence_scales, config.string_at("evidence_scale"));
    if (scale == std::end(evidence_scales)) throw detail::JsonError("'evidence_scale' is not count, log or log1p");
    p.evidence_scale_ = static_cast<Policy::Evidence>(scale - std::begin(evidence_scales));
    const auto feature = std::ranges::find(p.features_, config.string_at("evidence_feature"));
    if (feature == p.features_.end()) throw detail::JsonError("'evidence_feature' is not a feature of the policy");
    p.evidence_input_ = static_cast<std::size_t>(feature - p.features_.begin());
  }

  std::int64_t inputs() const {
    return static_cast<std::int64_t>(policy_->features_.size() +
                                     (policy_->prediction_features_ ? 2 * policy_->tasks_.size() : 0));
  }

  void fill(const std::vector<detail::TensorView>& tensors) {
    Policy& p = *policy_;
    const auto tasks = static_cast<std::int64_t>(p.tasks_.size());
    std::size_t used = 0;
    const auto take = [&](const std::string& name, std::initializer_list<std::int64_t> shape) {
      auto values = detail::float_tensor(tensors, name, shape);
      ++used;
      if (!std::ranges::all_of(values, [](float v) { return std::isfinite(v); }))
        throw detail::SafetensorsError("tensor \"" + name + "\" holds NaN or infinity");
      return values;
    };
    p.input_mean_ = take("input_mean", {inputs()});
    p.input_std_ = take("input_std", {inputs()});
    const auto bounds = take("bounds", {2, tasks});
    p.lower_.assign(bounds.begin(), bounds.begin() + tasks);
    p.upper_.assign(bounds.begin() + tasks, bounds.end());
    p.static_weights_ = take("static_weights", {tasks});
    p.scenario_table_ = take("scenario_table", {static_cast<std::int64_t>(p.scenarios_.size()), tasks});
    std::int64_t size = inputs();
    for (std::size_t i = 0; i < hidden_.size(); ++i) {
      const std::string name = "body." + std::to_string(2 * i);
      add_layer(take(name + ".weight", {hidden_[i], size}), take(name + ".bias", {hidden_[i]}), size);
      size = hidden_[i];
    }
    add_layer(take("head.weight", {tasks, size}), take("head.bias", {tasks}), size);
    if (used != tensors.size()) throw detail::SafetensorsError("there are tensors that the policy does not have");
    check_bounds();
    const bool weighed = p.evidence_prior_ > 0.0f;
    p.version_ = version_of(tensors, p.evidence_prior_, evidence_scales[static_cast<std::size_t>(p.evidence_scale_)],
                            weighed ? std::string_view(p.features_[p.evidence_input_]) : std::string_view());
  }

  // weight[outputs, inputs] as torch has it.
  void add_layer(const std::vector<float>& weight, const std::vector<float>& bias, std::int64_t size) {
    Policy::Layer layer;
    const auto outputs = static_cast<std::int64_t>(bias.size());
    layer.inputs = size;
    layer.outputs = (outputs + detail::lane_padding - 1) / detail::lane_padding * detail::lane_padding;
    layer.weights.assign(static_cast<std::size_t>(layer.inputs * layer.outputs), 0.0f);
    for (std::int64_t j = 0; j < outputs; ++j)
      for (std::int64_t i = 0; i < size; ++i)
        layer.weights[static_cast<std::size_t>(i * layer.outputs + j)] = weight[static_cast<std::size_t>(j * size + i)];
    layer.bias = bias;
    layer.bias.resize(static_cast<std::size_t>(layer.outputs), 0.0f);
    policy_->widest_ =
        std::max({policy_->widest_, static_cast<std::size_t>(layer.inputs), static_cast<std::size_t>(layer.outputs)});
    policy_->layers_.push_back(std::move(layer));
  }

  void check_bounds() const {
    double low = 0.0;
    double high = 0.0;
    for (std::size_t t = 0; t < policy_->tasks_.size(); ++t) {
      const float a = policy_->lower_[t];
      const float b = policy_->upper_[t];
      if (!(0.0f <= a && a <= b && b <= 1.0f))
        throw detail::SafetensorsError("tensor \"bounds\" breaks 0 <= lower <= upper <= 1");
      low += a;
      high += b;
    }
    if (!(low <= 1.0 + 1e-5 && high >= 1.0 - 1e-5))
      throw detail::SafetensorsError("tensor \"bounds\" leaves no weights that sum to 1");
  }

  std::shared_ptr<Policy> policy_{new Policy};
  std::vector<std::int64_t> hidden_;
};

namespace {

[[noreturn]] void mixed(const std::string& path, const std::string& found, const std::string& wanted) {
  throw ArtifactError(path + " has sha256 " + found.substr(0, 12) + "; want " + wanted.substr(0, 12) +
                      " (truncated, corrupt or of another save)");
}

std::string sha256_of(const Json& record, const std::string& path) {
  try {
    return record.string_at("sha256");
  } catch (const detail::JsonError& error) {
    throw ArtifactError(path + ": " + error.what());
  }
}

}  // namespace

std::shared_ptr<const Policy> Policy::parse(std::string_view json, std::span<const std::byte> safetensors,
                                            std::string_view name) {
  const std::string json_path = std::string(name) + "/policy.json";
  const std::string tensor_path = std::string(name) + "/policy.safetensors";
  const Json record = read_record(json, json_path);
  const std::string wanted = sha256_of(record, json_path);
  PolicyReader reader(record, json_path);
  if (const std::string found = detail::sha256_hex(safetensors); found != wanted) mixed(tensor_path, found, wanted);
  return reader.finish(safetensors, tensor_path);
}

std::shared_ptr<const Policy> Policy::load(const std::filesystem::path& directory) {
  const fs::path json_path = directory / "policy.json";
  std::error_code error;
  if (!fs::is_regular_file(json_path, error))
    throw ArtifactMissing(json_path.string() + " does not exist; want a directory that FusionPolicy.save wrote");
  const Bytes text = read_file(json_path);
  const std::string_view json{reinterpret_cast<const char*>(text.data()), text.size()};
  const Json record = read_record(json, json_path.string());
  const std::string wanted = sha256_of(record, json_path.string());
  PolicyReader reader(record, json_path.string());
  // The JSON names its tensors by their hash. A process killed while saving leaves them under the temporary name.
  const fs::path pending = directory / "policy.safetensors.new";
  if (fs::is_regular_file(pending, error)) {
    const Bytes content = read_file(pending);
    if (detail::sha256_hex(content) == wanted) return reader.finish(content, pending.string());
  }
  const fs::path path = directory / "policy.safetensors";
  const Bytes content = read_file(path);
  if (const std::string found = detail::sha256_hex(content); found != wanted) mixed(path.string(), found, wanted);
  return reader.finish(content, path.string());
}

}  // namespace pygrade
