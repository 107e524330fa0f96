// Reads the files of a policy, for C++ and Python alike. pygrade/policy/file.py writes them and documents their format.
#include <algorithm>
#include <cmath>
#include <set>

#include "pygrade/fusion.hpp"
#include "serving/correction_tensors.hpp"
#include "serving/item_levels.hpp"
#include "serving/policy.hpp"
#include "serving/prediction_scales.hpp"
#include "util/artifact_record.hpp"
#include "util/files.hpp"
#include "util/safetensors.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2 {
namespace {
namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;
using detail::Json;
using detail::OpenFile;

constexpr std::int64_t max_width = 1 << 16;
constexpr std::size_t max_layers = 64;
constexpr std::string_view evidence_scales[] = {"count", "log", "log1p"};  // in the enum's order

std::string sha256_text(std::string_view text) { return detail::sha256_hex(std::as_bytes(std::span(text))); }

// 'json_sha256' is the sha256 of the file with these 64 digits as zeros.
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
    Json record = detail::parse_artifact_record(text, "pygrade.FusionPolicy");
    check_hash(record, text);
    return record;
  } catch (const detail::JsonError& error) {
    throw ArtifactError(path + ": " + error.what());
  }
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
    wrong(key, "has " + std::to_string(stated.items.size()) + " numbers; expected one, or " + std::to_string(tasks));
  std::vector<double> result;
  for (std::size_t t = 0; t < tasks; ++t) {
    const Json& value = each ? stated.items[t] : stated;
    if (value.type != Json::Type::number || !(value.number >= 0.0 && std::isfinite(static_cast<float>(value.number))))
      wrong(key, "holds something that is not a number ≥ 0");
    result.push_back(value.number);
  }
  return result;
}

// Numbers that are finite as float32.
std::vector<double> numbers_of(const Json& list, std::string_view key) {
  const auto good = [](const Json& item) {
    return item.type == Json::Type::number && std::isfinite(static_cast<float>(item.number));
  };
  if (list.type != Json::Type::array || !std::ranges::all_of(list.items, good))
    wrong(key, "is no list of finite numbers");
  std::vector<double> result;
  for (const Json& item : list.items) result.push_back(item.number);
  return result;
}

// Places from -1 on, as integers.
std::vector<std::int64_t> places_of(const Json& list, std::string_view key) {
  std::vector<std::int64_t> result;
  for (const double number : numbers_of(list, key)) {
    if (!(number >= -1.0 && number <= 1e6 && number == std::floor(number))) wrong(key, "holds no place");
    result.push_back(static_cast<std::int64_t>(number));
  }
  return result;
}

std::vector<float> floats(std::span<const double> numbers) { return {numbers.begin(), numbers.end()}; }

Transform transform_at(const Json& table) {
  const std::string& name = table.string_at("transform");
  if (const auto transform = find_transform(name)) return *transform;
  wrong("transform", "is " + detail::json_quote(name) + "; expected one of " + transform_list());
}

// The entry of `calibration` of one task, [x, y].
std::pair<std::vector<double>, std::vector<double>> knots_of(const Json& entry) {
  constexpr std::string_view key = "calibration";
  if (entry.type != Json::Type::array || entry.items.size() != 2) wrong(key, "holds something that is not [x, y]");
  auto x = numbers_of(entry.items[0], key), y = numbers_of(entry.items[1], key);
  const auto at = floats(x);
  if (x.size() < 2 || y.size() != x.size()) wrong(key, "needs at least two knots, as many x as y");
  if (x[0] != 0.0 || std::ranges::adjacent_find(at, std::greater_equal()) != at.end())
    wrong(key, "has x that do not rise from 0");
  if (y[0] < 0.0 || !std::ranges::is_sorted(y)) wrong(key, "has y that fall or are negative");
  return {std::move(x), std::move(y)};
}
}  // namespace

class PolicyReader {
 public:
  PolicyReader(const Json& record, std::string_view text, const std::string& path) {
    try {
      policy_->schema_hash_ = detail::section_hash(text, "schema").substr(0, 16);
      policy_->version_ = detail::section_hash(text, "served").substr(0, 12);
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
    const Json& schema = record.object_at("schema");
    const Json& served = record.object_at("served");
    const Json& config = served.object_at("config");
    if (const std::string& stated = served.string_at("schema_hash"); stated != p.schema_hash_)
      throw detail::JsonError("'schema_hash' is " + detail::json_quote(stated) + "; 'schema' gives " + p.schema_hash_);
    p.tasks_ = schema.strings_at("tasks");
    p.features_ = schema.strings_at("features");
    p.scenarios_ = served.strings_at("scenarios");
    if (p.tasks_.empty() || p.tasks_.size() > Policy::max_tasks)
      throw detail::JsonError("'tasks' has " + std::to_string(p.tasks_.size()) + " names; expected 1 … 64");
    if (p.features_.size() > static_cast<std::size_t>(max_width)) throw detail::JsonError("'features' is too long");
    hidden_ = config.integers_at("hidden");
    if (hidden_.empty() || hidden_.size() > max_layers ||
        std::ranges::any_of(hidden_, [](auto width) { return width < 1 || width > max_width; }))
      throw detail::JsonError("'hidden' must be 1 … 64 widths of 1 … 65536");
    if (served.at("correction").type != Json::Type::null) correction(served.object_at("correction"));
    inputs_of(schema);
    p.beta_ = static_cast<float>(positive(config, "beta"));
    p.epsilon_ = static_cast<float>(positive(config, "epsilon"));
    p.total_ = static_cast<float>(positive(config, "total_concentration"));
    const bool chosen = config.at("concentration_floor").type != Json::Type::null;
    p.floor_ = static_cast<float>(chosen ? positive(config, "concentration_floor")
                                         : 0.3 / static_cast<double>(p.tasks_.size()));
    evidence(config);
    p.slope_ = floats(per_task(config, "slope", p.tasks_.size()));
    exploration(config.object_at("scenario_exploration"));
    box(config);
    if (served.at("mixture").type != Json::Type::null)
      mixture(served.object_at("mixture"), record.object_at("verdict"));
    values(config);
    boosts(config);
    if (served.find("scales") != nullptr) p.scales_ = detail::parse_scales(served.object_at("scales"), p.tasks_);
    if (served.find("history") != nullptr) history(served.object_at("history"));
    if (inputs() == 0) throw detail::JsonError("there are no features and context_only is on");
  }

  // Reads what the schema holds beside names.
  void inputs_of(const Json& schema) {
    Policy& p = *policy_;
    p.transform_ = traits_of(transform_at(schema)).name;
    p.context_only_ = schema.boolean_at("context_only");
    p.trade_offs_ = schema.boolean_at("trade_offs");
    p.corrected_ = schema.boolean_at("corrected");
    if (p.corrected_ && !correction_) wrong("corrected", "is true, and there is no correction");
    p.priced_ = priced(schema.strings_at("value_tasks"));
    for (const std::string& name : schema.strings_at("indicators")) {
      const auto feature = std::ranges::find(p.features_, name);
      if (feature == p.features_.end())
        wrong("indicators", "names " + detail::json_quote(name) + ", which is not a feature");
      const auto place = static_cast<std::size_t>(feature - p.features_.begin());
      if (std::ranges::find(p.indicators_, place) != p.indicators_.end())
        wrong("indicators", "names " + detail::json_quote(name) + " twice");
      p.indicators_.push_back(place);
    }
  }

  // Refuses keys that are not known: an older reader must not serve a newer policy wrongly.
  static void check_keys(const Json& record, std::string_view block, std::initializer_list<std::string_view> known) {
    for (const std::string& key : record.keys)
      if (std::ranges::find(known, key) == known.end())
        wrong(block, "has " + detail::json_quote(key) + ", which is not known here");
  }

  void correction(const Json& record) {
    check_keys(record, "correction",
               {"items", "parents", "amounts", "indicators", "form", "trees", "levels", "page_terms"});
    Correction::Structure& s = correction_.emplace().structure;
    s.items = record.strings_at("items");
    if (std::set(s.items.begin(), s.items.end()).size() != s.items.size()) wrong("items", "holds a name twice");
    s.parents = places_of(record.at("parents"), "parents");
    s.indicators = places_of(record.at("indicators"), "indicators");
    for (const Json& entry : record.at("amounts").items) {
      if (entry.type != Json::Type::boolean) wrong("amounts", "holds something else than true and false");
      s.amounts.push_back(entry.boolean);
    }
    const auto form = std::ranges::find(Correction::form_names, record.string_at("form"));
    if (form == Correction::form_names.end()) wrong("form", "is not \"\", marginal or conditional");
    s.form = static_cast<Correction::Form>(form - Correction::form_names.begin());
    if (const Json* trees = record.find("trees"); trees != nullptr) {
      if (!trees->whole) wrong("trees", "is not a whole number");
      s.trees = trees->integer;
    }
    const std::size_t tasks = policy_->tasks_.size();
    if (const Json* levels = record.find("levels"); levels != nullptr && levels->type != Json::Type::null) {
      if (s.items.size() < tasks) wrong("items", "lacks the columns of the levels");
      if (levels->find("keys") != nullptr)
        wrong("levels", "are by hashes that served items with names do not have; train the policy again");
      policy_->levels_ =
          std::make_shared<detail::ItemLevels>(levels->string_at("item_keys"), levels->string_at("values"), tasks);
    }
    if (s.parents.size() != tasks)
      wrong("parents", "has " + std::to_string(s.parents.size()) + " numbers; expected one for each task");
    try {
      s.check(policy_->features_.size());
    } catch (const std::invalid_argument& error) {
      wrong("correction", std::string("is wrong: ") + error.what());
    }
    if (record.find("page_terms") != nullptr) page_terms(record.object_at("page_terms"));
  }

  void page_terms(const Json& record) {
    check_keys(record, "page_terms", {"root", "categories", "cosine", "beam", "dimension", "slots"});
    PageTerms& terms = policy_->page_terms_.emplace();
    terms.root = task("root", record.string_at("root"));
    terms.categories = record.strings_at("categories");
    terms.index_categories();
    terms.cosine = static_cast<float>(record.finite_at("cosine"));
    const auto whole = [&](std::string_view key) {
      const Json& value = record.at(key);
      if (value.type != Json::Type::number || !value.whole || value.integer < 0 || value.integer > 1'000'000)
        wrong(key, "is not a whole number from 0 to 1000000");
      return static_cast<std::size_t>(value.integer);
    };
    terms.beam = whole("beam");
    terms.dimension = whole("dimension");
    terms.attention.resize(whole("slots"));
  }

  void history(const Json& record) {
    check_keys(record, "history",
               {"tasks", "categories", "exposure_delay_ms", "feedback_delay_ms", "half_life", "expected", "user",
                "item", "category"});
    Policy& p = *policy_;
    History::Spec spec;
    spec.tasks = record.strings_at("tasks");
    spec.categories = record.boolean_at("categories");
    const std::pair<const char*, std::int64_t&> times[] = {{"exposure_delay_ms", spec.exposure_delay_ms},
                                                           {"feedback_delay_ms", spec.feedback_delay_ms},
                                                           {"half_life", spec.half_life}};
    for (const auto& [key, value] : times) {
      const Json& stated = record.at(key);
      if (stated.type != Json::Type::number || !stated.whole) wrong(key, "is no whole number of ms");
      value = stated.integer;
    }
    for (const Json& row : record.at("expected").items)
      for (const double value : numbers_of(row, "expected")) spec.expected.push_back(static_cast<float>(value));
    for (const auto& [key, values] :
         {std::pair("user", &spec.user), {"item", &spec.item}, {"category", &spec.category}})
      *values = floats(numbers_of(record.at(key), key));
    try {
      p.history_.emplace(std::move(spec));
    } catch (const std::invalid_argument& error) {
      wrong("history", std::string("is wrong: ") + error.what());
    }
    const auto places = [](std::span<const std::string> names, const std::vector<std::string>& columns) {
      std::vector<Policy::HistoryColumn> result;
      for (std::size_t i = 0; i < names.size(); ++i)
        if (const auto found = std::ranges::find(columns, names[i]); found != columns.end())
          result.push_back({i, static_cast<std::size_t>(found - columns.begin())});
      return result;
    };
    for (const std::string& name : p.history_->spec().tasks) task("tasks", name);
    p.history_features_ = places(p.features_, p.history_->context_columns());
    p.history_items_ = places(items(), p.history_->item_columns());
  }

  // [T] whether a task is among these; nothing if there are none.
  std::vector<bool> priced(std::span<const std::string> names) const {
    std::vector<bool> result(names.empty() ? 0 : policy_->tasks_.size());
    for (const std::string& name : names) result[task("value_tasks", name)] = true;
    return result;
  }

  void exploration(const Json& table) {
    policy_->explored_scenarios_ = table.keys;
    for (const std::string& name : table.keys)
      policy_->exploration_.push_back(static_cast<float>(positive(table, name)));
  }

  void evidence(const Json& config) {
    Policy& p = *policy_;
    const std::string& scale_name = config.string_at("evidence_scale");
    const std::string& feature_name = config.string_at("evidence_feature");
    const auto scale = std::ranges::find(evidence_scales, scale_name);
    if (scale == std::end(evidence_scales)) wrong("evidence_scale", "is not count, log or log1p");
    if (config.at("evidence_prior").number == 0.0 && config.finite_at("evidence_prior") == 0.0) return;
    const double prior = positive(config, "evidence_prior");
    const auto feature = std::ranges::find(p.features_, feature_name);
    if (feature == p.features_.end()) wrong("evidence_feature", "is not a feature of the policy");
    p.evidence_prior_ = static_cast<float>(prior);
    p.evidence_scale_ = static_cast<Policy::Evidence>(scale - std::begin(evidence_scales));
    p.evidence_input_ = static_cast<std::size_t>(feature - p.features_.begin());
  }

  // The box of the weights as the config describes it; the tensor "bounds" must be the same.
  void box(const Json& config) {
    const auto& tasks = policy_->tasks_;
    std::vector<double> low = per_task(config, "lower", tasks.size());
    std::vector<double> high = per_task(config, "upper", tasks.size());
    const Json& minimum = config.object_at("minimum");
    for (const std::string& name : minimum.keys) {
      double& bound = low[task("minimum", name)];
      bound = std::max(bound, minimum.finite_at(name));
    }
    const Json& frozen = config.object_at("frozen");
    for (const std::string& name : frozen.keys) {
      const std::size_t t = task("frozen", name);
      low[t] = high[t] = frozen.finite_at(name);
    }
    if (tasks.size() == 1) low[0] = high[0] = 1.0;
    box_.assign(low.begin(), low.end());
    box_.insert(box_.end(), high.begin(), high.end());
  }

  // The place of the task that an entry of `key` names.
  std::size_t task(std::string_view key, const std::string& name) const {
    const auto& tasks = policy_->tasks_;
    const auto found = std::ranges::find(tasks, name);
    if (found == tasks.end()) wrong(key, "names " + detail::json_quote(name) + ", which is not a task");
    return static_cast<std::size_t>(found - tasks.begin());
  }

  void mixture(const Json& record, const Json& found) {
    Mixture& mixture = policy_->mixture_.emplace();
    mixture.mixture_weight = record.finite_at("mixture_weight");
    if (!(mixture.mixture_weight >= 0.0 && mixture.mixture_weight <= 1.0))
      wrong("mixture_weight", "is not a number from 0 to 1");
    mixture.sentence = found.string_at("sentence");
    const auto verdict = std::ranges::find(verdict_names, found.string_at("verdict"));
    if (verdict == verdict_names.end() || verdict == verdict_names.begin()) wrong("verdict", "is not known");
    mixture.verdict = static_cast<Verdict>(verdict - verdict_names.begin());
    baseline(record.object_at("baseline"), mixture.baseline);
    if (record.at("challenger").type != Json::Type::null)
      baseline(record.object_at("challenger"), mixture.challenger.emplace());
    if (const Json* tried = found.find("baselines"))
      for (const Json& entry : tried->items) try {
          baseline(entry, mixture.baselines.emplace_back());
        } catch (const detail::JsonError&) {  // nothing served depends on it: one of an older format has no name here
          mixture.baselines.pop_back();
        }
    mixture.control = found.string_at("control");
    if (found.find("unproven") != nullptr) mixture.unproven = found.string_at("unproven");
  }

  void baseline(const Json& record, Baseline& baseline) {
    const std::size_t tasks = policy_->tasks_.size();
    baseline.name = record.string_at("name");
    if (baseline.name.empty() || baseline.name.size() > Baseline::max_name ||
        baseline.name.find('\0') != std::string::npos)
      wrong("name", "is not of 1 to 63 bytes without 0");
    baseline.transform = transform_at(record);
    baseline.logarithm = record.boolean_at("logarithm");
    const auto weights = numbers_of(record.at("weights"), "weights");
    baseline.weights = floats(weights);
    const float smallest = weights.empty() ? 0.0f : std::ranges::min(baseline.weights);
    if (weights.size() != tasks || (smallest == 0.0f && std::ranges::max(baseline.weights) == 0.0f))
      wrong("weights",
            "has " + std::to_string(weights.size()) + " numbers; expected " + std::to_string(tasks) + ", not all 0");
    if (baseline.logarithm && (smallest < 0.0f || baseline.transform != Transform::identity))
      wrong("logarithm", "needs the identity and weights that are not negative");
    baseline.corrected = record.boolean_at("corrected");
    if (baseline.corrected && !correction_) wrong("corrected", "is true, and there is no correction");
    baseline.priced = priced(record.strings_at("value_tasks"));
    const Json& calibration = record.at("calibration");
    if (calibration.type != Json::Type::array || (!calibration.items.empty() && calibration.items.size() != tasks))
      wrong("calibration", "is no list of one map for each task, or none");
    for (const Json& entry : calibration.items) {
      const auto [x, y] = knots_of(entry);
      const auto& slope = baseline.calibration.emplace_back(floats(x), floats(y)).slope;
      if (!std::ranges::all_of(slope, [](float s) { return std::isfinite(s); }))
        wrong("calibration", "has knots whose slope is not finite");
    }
  }

  // `row` with the values of a table of the config.
  std::vector<float> values(std::string_view key, const Json& table, std::vector<float> row) {
    for (const std::string& name : table.keys) {
      float& value = row[task(key, name)];
      value = static_cast<float>(table.finite_at(name));
      if (!std::isfinite(value)) wrong(key, "holds a number that is not finite");
    }
    policy_->own_values_.insert(policy_->own_values_.end(), row.begin(), row.end());
    return row;
  }

  // Its own values, and of a policy with trade-offs those in its training; of a file without these all were 1.
  void values(const Json& config) {
    Policy& p = *policy_;
    const std::size_t tasks = p.tasks_.size();
    if (p.trade_offs_) {
      const Json* stated = config.find("task_values");
      p.task_values_ = stated ? floats(numbers_of(*stated, "task_values")) : std::vector(tasks, 1.0f);
      if (p.task_values_.size() != tasks) wrong("task_values", "does not have one number for each task");
    }
    const Json& own = config.object_at("values");
    const Json& by_scenario = config.object_at("scenario_values");
    const auto row = values("values", own, std::vector(tasks, std::numeric_limits<float>::quiet_NaN()));
    p.valued_scenarios_ = by_scenario.keys;
    for (const std::string& name : p.valued_scenarios_) values("scenario_values", by_scenario.object_at(name), row);
    p.has_values_ = !own.keys.empty() || !by_scenario.keys.empty();
    if (!p.has_values_) return;
    if (!p.takes_values()) wrong("values", "needs a policy with trade_offs, or an expected value");
    Policy::RequestValues memory;
    try {
      p.find_values({}, {}, memory);
      for (const std::string& name : p.valued_scenarios_) p.find_values({}, name, memory);
    } catch (const std::invalid_argument& error) {
      throw detail::JsonError(error.what());
    }
  }

  // `row` with the boosts of a table of the config, by item column.
  std::vector<float> boosts(std::string_view key, const Json& table, std::vector<float> row) {
    const auto names = items();
    for (const std::string& name : table.keys) {
      const auto found = std::ranges::find(names, name);
      if (found == names.end()) wrong(key, "names " + detail::json_quote(name) + ", which is no item column");
      float& value = row[static_cast<std::size_t>(found - names.begin())];
      value = static_cast<float>(table.finite_at(name));
      if (!std::isfinite(value)) wrong(key, "holds a number that is not finite");
    }
    policy_->boosts_.insert(policy_->boosts_.end(), row.begin(), row.end());
    return row;
  }

  // The tables `boosts` and `scenario_boosts`, of which a policy without them has none.
  void boosts(const Json& config) {
    const auto table = [&](const char* key) -> const Json* {
      return config.find(key) == nullptr ? nullptr : &config.object_at(key);
    };
    const Json *all = table("boosts"), *by_scenario = table("scenario_boosts");
    if (all == nullptr && by_scenario == nullptr) return;
    if (policy_->page_terms_) wrong("boosts", "stands beside page terms, which no boost of scores is added to");
    std::vector<float> row(items().size(), 0.0f);
    row = boosts("boosts", all == nullptr ? Json() : *all, std::move(row));
    if (by_scenario == nullptr) return;
    policy_->boosted_scenarios_ = by_scenario->keys;
    for (const std::string& name : by_scenario->keys) boosts("scenario_boosts", by_scenario->object_at(name), row);
  }

  // Names of the item columns, before the correction is complete.
  std::span<const std::string> items() const {
    return correction_ ? std::span<const std::string>(correction_->structure.items) : std::span<const std::string>();
  }

  std::int64_t inputs() const {
    const std::size_t parts = (policy_->context_only_ ? 0 : 2) + (policy_->trade_offs_ ? 1 : 0);
    return static_cast<std::int64_t>(policy_->features_.size() + policy_->indicators_.size() +
                                     parts * policy_->tasks_.size());
  }

  void fill(const std::vector<detail::TensorView>& tensors) {
    Policy& p = *policy_;
    const auto tasks = static_cast<std::int64_t>(p.tasks_.size());
    std::size_t used = 0;
    const auto take = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
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
    if (bounds != box_)
      throw detail::SafetensorsError("tensor \"bounds\" is not what 'lower', 'upper', 'minimum' and 'frozen' give");
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
    if (correction_) {
      const Correction::Structure& s = correction_->structure;
      for (const auto& tensor : detail::correction_tensors)
        if (!tensor.of_trees || s.trees > 0)
          (*correction_).*tensor.values =
              take(std::string("correction.") + tensor.name, detail::shape_of(tensor, s, p.features_.size()));
      if (p.page_terms_) {
        const auto categories = static_cast<std::int64_t>(p.page_terms_->categories.size());
        p.page_terms_->attention =
            take("correction.page_terms.attention", {static_cast<std::int64_t>(p.page_terms_->attention.size())});
        p.page_terms_->pairs = take("correction.page_terms.pairs", {categories, categories});
      }
      try {
        if (p.page_terms_) p.page_terms_->check(s.parents, s.amounts);
        p.correction_.emplace(*std::move(correction_));
      } catch (const std::invalid_argument& error) {
        throw detail::SafetensorsError(std::string("tensors of the correction: ") + error.what());
      }
    }
    if (used != tensors.size()) throw detail::SafetensorsError("there are tensors that the policy does not have");
    check_bounds();
    check_weights("static_weights", p.static_weights_);
    check_weights("scenario_table", p.scenario_table_);
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
  std::optional<Correction::Parts> correction_;  // without its tensors, until they are read
  std::vector<float> box_;                       // [2, T]
};

namespace {
// The file of the tensors, which the JSON names by its hash.
struct TensorFile {
  TensorFile(const Json& record, const std::string& path) {
    try {
      sha256 = record.object_at("served").string_at("tensors_sha256");
      if (sha256.size() != 64 || sha256.find_first_not_of("0123456789abcdef") != sha256.npos)
        throw detail::JsonError("the sha256 of the tensors is not 64 hexadecimal digits");
      name = "policy-" + sha256.substr(0, 16) + ".safetensors";
    } catch (const detail::JsonError& error) {
      throw ArtifactError(path + ": " + error.what());
    }
  }

  void check(std::span<const std::byte> content, const std::string& path) const {
    if (const std::string actual = detail::sha256_hex(content); actual != sha256)
      throw ArtifactError(path + " has sha256 " + actual.substr(0, 12) + "; expected " + sha256.substr(0, 12) +
                          " (truncated, corrupt or of another save)");
  }

  std::string sha256, name;
};

std::string_view text_of(const Bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

Bytes read_tensors(const fs::path& directory, const TensorFile& file) {
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
  PolicyReader reader(record, json, path);
  const std::string tensor_path = std::string(name) + "/" + file.name;
  file.check(safetensors, tensor_path);
  return reader.finish(safetensors, tensor_path);
}

Policy::Files Policy::read(const std::string& directory) {
  const fs::path path = fs::path(directory) / "policy.json";
  for (;;) {
    const OpenFile json(path, "; expected a directory that FusionPolicy.save wrote");
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

std::shared_ptr<const Policy> Policy::load(const std::string& directory) {
  const Files files = read(directory);
  return parse(text_of(files.json), files.tensors, directory);
}
}  // namespace pygrade::inline v0_2
