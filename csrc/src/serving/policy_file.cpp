// Reads the files of a policy, for C++ and Python alike. pygrade/policy/file.py writes them and documents their format.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>

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

// A file, open as long as this lives: so its inode is not given to a file that replaces it.
class OpenFile {
 public:
  explicit OpenFile(const fs::path& path, const std::string& hint = "")
      : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    struct stat status{};
    if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      close();
      throw ArtifactMissing(path.string() + " does not exist or can't be read" + hint);
    }
    device_ = status.st_dev;
    inode_ = status.st_ino;
    size_ = static_cast<std::size_t>(status.st_size);
  }
  ~OpenFile() { close(); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  Bytes content() const {
    if (size_ > max_file) throw ArtifactError(path_.string() + " has " + std::to_string(size_) + " bytes; want ≤ 2^30");
    Bytes content(size_ + 1);  // one more, to see a file that has grown
    std::size_t filled = 0;
    for (::ssize_t count = 1; count > 0 && filled < content.size(); filled += static_cast<std::size_t>(count)) {
      count = ::read(descriptor_, content.data() + filled, content.size() - filled);
      if (count < 0) throw ArtifactError(path_.string() + " can't be read");
    }
    if (filled != size_) throw ArtifactError(path_.string() + " changed while it was read");
    content.resize(filled);
    return content;
  }

  // Whether the path names another file by now.
  bool replaced() const {
    struct stat status{};
    return ::stat(path_.c_str(), &status) != 0 || status.st_dev != device_ || status.st_ino != inode_;
  }

 private:
  void close() const {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  fs::path path_;
  int descriptor_;
  ::dev_t device_ = 0;
  ::ino_t inode_ = 0;
  std::size_t size_ = 0;
};

std::string sha256_text(std::string_view text) { return detail::sha256_hex(std::as_bytes(std::span(text))); }

// From format 3 on, 'json_sha256' is the sha256 of the file with these 64 digits as zeros.
void check_hash(const Json& record, std::string_view text) {
  constexpr std::string_view key = "\n  \"json_sha256\": \"";
  const std::string& stated = record.string_at("json_sha256");
  const std::size_t at = text.find(key);
  if (at == text.npos || stated.size() != 64)
    throw detail::JsonError("'json_sha256' is not as FusionPolicy.save writes it");
  std::string blank(text);
  blank.replace(at + key.size(), 64, 64, '0');
  if (const std::string actual = sha256_text(blank); actual != stated)
    throw detail::JsonError("its sha256 is " + actual.substr(0, 12) + ", 'json_sha256' says " + stated.substr(0, 12) +
                            " (damaged or edited)");
}

Json read_record(std::string_view text, const std::string& path) {
  try {
    Json record = Json::parse(text);
    if (record.type != Json::Type::object) throw detail::JsonError("it holds no JSON object");
    const std::string& format = record.string_at("format");
    const double version = record.finite_at("format_version");
    if (format != "pygrade.FusionPolicy" || (version != 1.0 && version != 2.0 && version != Policy::format_version))
      throw detail::JsonError("it is " + detail::json_quote(format) + " of version " + std::to_string(version) +
                              "; this pygrade reads pygrade.FusionPolicy version 1, 2 or 3");
    if (version == Policy::format_version) check_hash(record, text);
    return record;
  } catch (const detail::JsonError& error) {
    throw ArtifactError(path + ": " + error.what());
  }
}

// A list of names as Python's json.dumps(…, indent=2) writes it, one level deep.
std::string names_text(std::span<const std::string> names) {
  std::string text = "[";
  for (std::size_t i = 0; i < names.size(); ++i) text += (i == 0 ? "\n    " : ",\n    ") + detail::json_quote(names[i]);
  return text + (names.empty() ? "]" : "\n  ]");
}

// What FusionPolicy.schema_hash hashes: json.dumps(schema, indent=2, sort_keys=True) and a line feed.
std::string schema_text(const Policy& policy, bool prediction_features) {
  return "{\n  \"features\": " + names_text(policy.features()) +
         ",\n  \"prediction_features\": " + (prediction_features ? "true" : "false") +
         ",\n  \"tasks\": " + names_text(policy.tasks()) +
         ",\n  \"transform\": " + detail::json_quote(policy.transform()) + "\n}\n";
}

[[noreturn]] void wrong(std::string_view key, const std::string& what) {
  throw detail::JsonError("'" + std::string(key) + "' " + what);
}

double positive(const Json& table, std::string_view key) {
  const double value = table.finite_at(key);
  if (!(static_cast<float>(value) > 0.0f && std::isfinite(static_cast<float>(value)))) wrong(key, "is not positive");
  return value;
}

// One number ≥ 0 for all tasks, or a list with one for each.
std::vector<double> per_task(const Json& config, std::string_view key, std::size_t tasks) {
  const Json& stated = config.at(key);
  const bool each = stated.type == Json::Type::array;
  if (each && stated.items.size() != tasks)
    wrong(key, "has " + std::to_string(stated.items.size()) + " numbers; want one, or " + std::to_string(tasks));
  std::vector<double> result;
  for (std::size_t t = 0; t < tasks; ++t) {
    const Json& value = each ? stated.items[t] : stated;
    if (value.type != Json::Type::number || !(value.number >= 0.0 && std::isfinite(static_cast<float>(value.number))))
      wrong(key, "holds something that is not a number ≥ 0");
    result.push_back(value.number);
  }
  return result;
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
    const double epsilon = positive(config, "epsilon");
    p.epsilon_ = static_cast<float>(epsilon);
    const double total = positive(config, "total_concentration");
    p.total_ = static_cast<float>(total);
    const bool chosen = config.at("concentration_floor").type != Json::Type::null;
    const double floor = chosen ? positive(config, "concentration_floor") : 0.3 / static_cast<double>(p.tasks_.size());
    p.floor_ = static_cast<float>(floor);
    numbers_ = {floor, total, p.beta_, epsilon, evidence(config)};
    slope(config);
    exploration(config.object_at("scenario_exploration"));
    box(config);
    p.schema_hash_ = sha256_text(schema_text(p, p.prediction_features_)).substr(0, 16);
    if (const std::string& wanted = record.string_at("schema_hash"); wanted != p.schema_hash_)
      throw detail::JsonError("'schema_hash' is " + detail::json_quote(wanted) + "; tasks, features and formula give " +
                              p.schema_hash_);
    if (inputs() == 0) throw detail::JsonError("there are no features and prediction_features is off");
  }

  // 1 in files that are older than the key.
  void slope(const Json& config) {
    const std::size_t tasks = policy_->tasks_.size();
    const auto values =
        config.find("slope") == nullptr ? std::vector<double>(tasks, 1.0) : per_task(config, "slope", tasks);
    policy_->slope_.assign(values.begin(), values.end());
    numbers_.insert(numbers_.end(), values.begin(), values.end());
  }

  void exploration(const Json& table) {
    policy_->explored_scenarios_ = table.keys;
    std::ranges::sort(policy_->explored_scenarios_);
    for (const std::string& name : policy_->explored_scenarios_) {
      numbers_.push_back(positive(table, name));
      policy_->exploration_.push_back(static_cast<float>(numbers_.back()));
    }
  }

  // Returns the prior, 0 in files that are older than the keys.
  double evidence(const Json& config) {
    Policy& p = *policy_;
    if (config.find("evidence_prior") == nullptr) return 0.0;
    const std::string& scale_name = config.string_at("evidence_scale");
    const std::string& feature_name = config.string_at("evidence_feature");
    const auto scale = std::ranges::find(evidence_scales, scale_name);
    if (scale == std::end(evidence_scales)) wrong("evidence_scale", "is not count, log or log1p");
    if (config.at("evidence_prior").number == 0.0 && config.finite_at("evidence_prior") == 0.0) return 0.0;
    const double prior = positive(config, "evidence_prior");
    const auto feature = std::ranges::find(p.features_, feature_name);
    if (feature == p.features_.end()) wrong("evidence_feature", "is not a feature of the policy");
    p.evidence_prior_ = static_cast<float>(prior);
    p.evidence_scale_ = static_cast<Policy::Evidence>(scale - std::begin(evidence_scales));
    p.evidence_input_ = static_cast<std::size_t>(feature - p.features_.begin());
    evidence_ = {scale_name, feature_name};
    return prior;
  }

  // The box of the weights as the config describes it; the tensor "bounds" must be the same.
  void box(const Json& config) {
    if (config.find("lower") == nullptr) return;
    const auto& tasks = policy_->tasks_;
    std::vector<double> low = per_task(config, "lower", tasks.size());
    std::vector<double> high = per_task(config, "upper", tasks.size());
    const Json& minimum = config.object_at("minimum");
    for (const std::string& name : minimum.keys) {
      const auto task = std::ranges::find(tasks, name);
      if (task == tasks.end()) wrong("minimum", "names " + detail::json_quote(name) + ", which is not a task");
      double& bound = low[static_cast<std::size_t>(task - tasks.begin())];
      bound = std::max(bound, minimum.finite_at(name));
    }
    if (tasks.size() == 1) low = high = {1.0};
    box_.assign(low.begin(), low.end());
    box_.insert(box_.end(), high.begin(), high.end());
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
    if (!std::ranges::all_of(p.input_std_, [](float std) { return std > 0.0f; }))
      throw detail::SafetensorsError("tensor \"input_std\" holds a number that is not positive");
    const auto bounds = take("bounds", {2, tasks});
    if (!box_.empty() && bounds != box_)
      throw detail::SafetensorsError("tensor \"bounds\" is not what 'lower', 'upper' and 'minimum' give");
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
    check_weights("static_weights", p.static_weights_);
    check_weights("scenario_table", p.scenario_table_);
    p.version_ = version_of(tensors);
  }

  // As FusionPolicy.version: of all that decides what is served.
  std::string version_of(std::span<const detail::TensorView> tensors) const {
    detail::Sha256 digest;
    const auto add = [&](std::string_view text) { digest.update(std::as_bytes(std::span(text))); };
    for (const auto& tensor : tensors) {
      add(tensor.name);
      digest.update(tensor.bytes);
    }
    add(policy_->schema_hash_);
    add("{\n  \"evidence\": " + names_text(evidence_) + ",\n  \"explored\": " +
        names_text(policy_->explored_scenarios_) + ",\n  \"scenarios\": " + names_text(policy_->scenarios_) + "\n}\n");
    static_assert(std::endian::native == std::endian::little);
    digest.update(std::as_bytes(std::span(numbers_)));
    return digest.hex().substr(0, 12);
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

  // Rows of weights that are served as they are: in the box, with the sum 1.
  void check_weights(const std::string& name, std::span<const float> rows) const {
    const std::size_t tasks = policy_->tasks_.size();
    for (; !rows.empty(); rows = rows.subspan(tasks)) {
      double sum = 0.0;
      for (std::size_t t = 0; t < tasks; ++t) {
        if (!(policy_->lower_[t] <= rows[t] && rows[t] <= policy_->upper_[t]))
          throw detail::SafetensorsError("tensor \"" + name + "\" holds a weight outside of the bounds");
        sum += rows[t];
      }
      if (!(std::abs(sum - 1.0) <= 1e-4))
        throw detail::SafetensorsError("tensor \"" + name + "\" holds weights whose sum is not 1");
    }
  }

  std::shared_ptr<Policy> policy_{new Policy};
  std::vector<std::int64_t> hidden_;
  std::vector<double> numbers_;        // what the version covers besides tensors and names
  std::vector<std::string> evidence_;  // its scale and feature, or nothing without a prior
  std::vector<float> box_;             // [2, T], or nothing
};

namespace {

// The file of the tensors, which the JSON names by its hash.
struct TensorFile {
  TensorFile(const Json& record, const std::string& path) {
    try {
      const bool old = record.finite_at("format_version") < 3.0;
      sha256 = record.string_at(old ? "sha256" : "tensors_sha256");
      if (sha256.size() != 64 || sha256.find_first_not_of("0123456789abcdef") != sha256.npos)
        throw detail::JsonError("the sha256 of the tensors is not 64 hexadecimal digits");
      name = old ? "policy.safetensors" : "policy-" + sha256.substr(0, 16) + ".safetensors";
    } catch (const detail::JsonError& error) {
      throw ArtifactError(path + ": " + error.what());
    }
  }

  void check(std::span<const std::byte> content, const std::string& path) const {
    if (const std::string actual = detail::sha256_hex(content); actual != sha256)
      throw ArtifactError(path + " has sha256 " + actual.substr(0, 12) + "; want " + sha256.substr(0, 12) +
                          " (truncated, corrupt or of another save)");
  }

  std::string sha256, name;
};

std::string_view text_of(const Bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// 0.1.0 replaced policy.json before it renamed the tensors: if it was killed in between, they are in a file ".new".
Bytes read_tensors(const fs::path& directory, const TensorFile& file) {
  std::error_code error;
  const fs::path pending = directory / (file.name + ".new");
  if (fs::is_regular_file(pending, error)) {
    Bytes content = OpenFile(pending).content();
    if (detail::sha256_hex(content) == file.sha256) return content;
  }
  const fs::path path = directory / file.name;
  Bytes content = OpenFile(path, "; policy.json beside it names it").content();
  file.check(content, path.string());
  return content;
}

}  // namespace

std::shared_ptr<const Policy> Policy::parse(std::string_view json, std::span<const std::byte> safetensors,
                                            std::string_view name) {
  const std::string path = std::string(name) + "/policy.json";
  const Json record = read_record(json, path);
  const TensorFile file(record, path);
  PolicyReader reader(record, path);
  const std::string tensor_path = std::string(name) + "/" + file.name;
  file.check(safetensors, tensor_path);
  return reader.finish(safetensors, tensor_path);
}

Policy::Files Policy::read(const fs::path& directory) {
  const fs::path path = directory / "policy.json";
  for (;;) {
    const OpenFile json(path, "; want a directory that FusionPolicy.save wrote");
    try {
      Files files{json.content(), {}};
      const Json record = read_record(text_of(files.json), path.string());
      files.tensors = read_tensors(directory, TensorFile(record, path.string()));
      return files;
    } catch (const ArtifactError&) {
      if (!json.replaced()) throw;  // else the files were of two saves
    }
  }
}

std::shared_ptr<const Policy> Policy::load(const fs::path& directory) {
  const Files files = read(directory);
  return parse(text_of(files.json), files.tensors, directory.string());
}

}  // namespace pygrade
