#include "service/release.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <tuple>

#include "features/center.hpp"
#include "features/plan.hpp"
#include "service/impl.hpp"
#include "service/input.hpp"
#include "serving/score_sources.hpp"
#include "util/files.hpp"
#include "util/json.hpp"
#include "util/safetensors.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
namespace fs = std::filesystem;

fs::path real_path(const fs::path& directory) {
  std::error_code error;
  fs::path real = fs::weakly_canonical(directory, error);
  return error ? directory : real;
}

// A directory whose file `name` says what it holds: the real path and the file's stamp.
std::string identity_of(const fs::path& directory, const char* name) {
  const fs::path real = real_path(directory);
  struct stat status{};
  if (::stat((real / name).c_str(), &status) != 0) return real.string() + " absent";
  return real.string() + " " + std::to_string(status.st_dev) + " " + std::to_string(status.st_ino) + " " +
         std::to_string(status.st_size) + " " + std::to_string(status.st_mtim.tv_sec) + "." +
         std::to_string(status.st_mtim.tv_nsec);
}

TensorValues<std::int64_t> integers_of(const TensorView& tensor) {
  if (tensor.type != TensorType::int64) throw SafetensorsError("tensor " + tensor.name + " is not int64");
  return TensorValues<std::int64_t>(tensor.bytes);
}

// [T], NaN for tasks that are not named.
std::vector<float> by_task(const std::string& name, const std::vector<std::pair<std::string, double>>& numbers,
                           const std::vector<std::string>& tasks) {
  std::vector<float> row(tasks.size(), std::numeric_limits<float>::quiet_NaN());
  for (const auto& [task, value] : numbers) {
    const auto found = std::ranges::find(tasks, task);
    if (found == tasks.end()) throw std::invalid_argument(name + " names '" + task + "', which is no task");
    row[static_cast<std::size_t>(found - tasks.begin())] = static_cast<float>(value);
  }
  return row;
}

Served serve(std::shared_ptr<const Policy> policy, const ArmConfig& config, const char* kind) {
  const std::string name = std::string(kind) + " '" + config.name + "'";
  Served served{.name = config.name, .policy = std::move(policy), .allow_identical = config.allow_identical};
  try {
    if (config.mixture_weight) served.policy = served.policy->with_mixture_weight(*config.mixture_weight);
    if (!config.ranking.empty()) served.policy = served.policy->with_ranking(config.ranking);
    const auto& tasks = served.policy->tasks();
    if (!config.values.empty()) served.values = by_task("values", config.values, tasks);
    Policy::RequestValues in_force;
    served.policy->find_values(served.values, {}, in_force);
  } catch (const std::invalid_argument& error) {
    throw std::invalid_argument(name + ": " + error.what());
  }
  if (const auto& mixture = served.policy->mixture())
    served.mixture_weight = static_cast<float>(mixture->mixture_weight);
  served.ranking = ScoreSources(*served.policy, {.values = served.values}).names();
  return served;
}

bool same(const Baseline* a, const Baseline* b) { return a == nullptr || b == nullptr ? a == b : a->scores_as(*b); }

// Whether the pages of any request without values of its own are the same.
bool rank_identically(const Served& a, const Served& b) {
  const auto equal = [](std::span<const float> p, std::span<const float> q) {
    return std::ranges::equal(p, q, [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); });
  };
  const Policy &p = *a.policy, &q = *b.policy;
  const ScoreSources of_p(p, {.values = a.values}), of_q(q, {.values = b.values});
  const Baseline *lead = of_p.lead(), *mixed = of_p.mixed_in();
  if (!same(lead, of_q.lead()) || !same(mixed, of_q.mixed_in())) return false;
  if (mixed != nullptr && a.mixture_weight != b.mixture_weight) return false;
  const bool learned = lead == nullptr || lead->corrected || (mixed != nullptr && mixed->corrected);
  const auto own = [](const Policy& of) {  // parts of the policy beside its rankings
    return std::tuple(of.has_values(), of.trade_offs(), of.boosts({}).empty(), of.page_terms().has_value());
  };
  if ((learned || p.has_values() || !p.boosts({}).empty()) && p.version() != q.version()) return false;
  if (own(p) != own(q)) return false;
  if (equal(a.values, b.values)) return true;
  Policy::RequestValues of_a, of_b;
  p.find_values(a.values, {}, of_a);
  q.find_values(b.values, {}, of_b);
  return !p.has_values() && of_a.values == of_b.values;
}

std::string history_address(const ServiceConfig& config) {
  return config.history ? *config.history : "lmdb:" + (*config.exposures / "history").string();
}

// Name of the ranking of a policy's training that reads plain predictions alone: of an expected value rather than
// another. Null: there is none.
const std::string* plain_ranking(const Policy& policy) {
  const auto& mixture = policy.mixture();
  if (!mixture) return nullptr;
  std::vector<const Baseline*> rankings{&mixture->baseline};
  if (mixture->challenger) rankings.push_back(&*mixture->challenger);
  for (const Baseline& other : mixture->baselines) rankings.push_back(&other);
  std::erase_if(rankings, &Baseline::corrected);
  const auto best = std::ranges::find_if(rankings, &Baseline::is_expected_value);
  return best != rankings.end() ? &(*best)->name : rankings.empty() ? nullptr : &rankings.front()->name;
}
}  // namespace

ItemNames::ItemNames(FileContent content) : content_(std::move(content)) {
  const auto tensors = read_safetensors(content_);
  ids_ = integers_of(find_tensor(tensors, "item_id"));
  start_ = integers_of(find_tensor(tensors, "start"));
  text_ = text_of(find_tensor(tensors, "text").bytes);
  if (start_.size() != ids_.size() + 1 || start_.front() != 0 ||
      start_.back() != static_cast<std::int64_t>(text_.size()) || !std::ranges::is_sorted(start_) ||
      !std::ranges::is_sorted(ids_))
    throw SafetensorsError("item_id and start do not fit the text");
  places_ = IdTable(ids_);
}

std::optional<std::string_view> ItemNames::of(std::int64_t item) const {
  const std::int32_t found = places_.find(item);
  if (found == IdTable::absent) return {};
  const auto place = static_cast<std::size_t>(found);
  const auto begin = static_cast<std::size_t>(start_[place]);
  return text_.substr(begin, static_cast<std::size_t>(start_[place + 1]) - begin);
}

std::vector<std::string> Release::identical_arms(bool allowed) const {
  std::vector<std::string> found;
  const auto add = [&](const char* kind, const Served& one, const std::string& others) {
    found.push_back(std::string(kind) + " '" + one.name + "' ranks as " + others + ": by " + joined(one.ranking) +
                    " of policy " + one.policy->version() + " at the same values");
  };
  const auto compare = [&](const std::vector<Served>& group, const char* kind) {
    for (std::size_t b = 0; b < group.size(); ++b)
      for (std::size_t a = 0; a < b; ++a)
        if (rank_identically(group[a], group[b]) && (group[a].allow_identical || group[b].allow_identical) == allowed) {
          add(kind, group[b], std::string(kind) + " '" + group[a].name + "'");
          break;
        }
  };
  compare(arms, "arm");
  compare(shadows, "shadow");
  for (const Served& shadow : shadows)
    if (std::ranges::all_of(arms, [&](const Served& arm) { return rank_identically(arm, shadow); }) &&
        shadow.allow_identical == allowed)
      add("shadow", shadow, arms.size() == 1 ? "the only arm" : "all arms");
  return found;
}

const ScenarioCells& Release::scenario(std::optional<std::string_view> name) const {
  if (!name) return scenarios.back();
  for (std::size_t i = 0; i + 2 < scenarios.size(); ++i)
    if (scenarios[i].name == *name) return scenarios[i];
  return scenarios[scenarios.size() - 2];
}

Sources::Sources(const fs::path& run, const ServiceConfig& config) : run_(run), config_(config) {
  if (fs::symlink_status(run / "artifact").type() != fs::file_type::not_found || fs::exists(run / "store.json")) return;
  for (const fs::path& place : {run / "policy", run})
    if (fs::exists(place / "policy.json")) {
      policy_ = place;
      return;
    }
  throw ArtifactError(run.string() +
                      " holds neither artifact (what pygrade pipeline publishes) nor policy (what "
                      "pygrade train writes)");
}

Sources::Identity Sources::identity() const {
  Identity identity{policy_ ? identity_of(*policy_, "policy.json") : identity_of(run_ / "artifact", "manifest.json"),
                    ""};
  for (const auto* group : {&config_.arms, &config_.shadows})
    for (const ArmConfig& arm : *group)
      identity.policies += arm.policy ? identity_of(*arm.policy, "policy.json") + "\n" : "\n";
  return identity;
}

// References are of one version each; absent or damaged ones only cost the PSI.
std::vector<Reference> Sources::read_references(const std::string& version,
                                                const std::vector<std::string>& tasks) const {
  try {
    const Json record = Json::parse(text_of(OpenFile(run_ / "reference.json").content()));
    const Json* of_version = record.type == Json::Type::object ? record.object_at("versions").find(version) : nullptr;
    if (of_version == nullptr || of_version->type != Json::Type::object) return {};
    std::vector<Reference> references;
    for (const auto& task : tasks) {
      const Json& entry = of_version->object_at(task);
      const Json &bounds = entry.at("bounds"), &shares = entry.at("shares");
      if (bounds.items.size() != drift_bins - 1 || shares.items.size() != drift_bins) return {};
      Reference& reference = references.emplace_back();
      for (std::size_t i = 0; i + 1 < drift_bins; ++i) reference.bounds[i] = static_cast<float>(bounds.items[i].number);
      for (std::size_t i = 0; i < drift_bins; ++i) reference.shares[i] = shares.items[i].number;
    }
    return references;
  } catch (const ArtifactError&) {
  } catch (const JsonError&) {
  }
  return {};
}

// The history that an arm or a shadow reads, and what is served without it. ArtifactError if it cannot be served.
void Sources::add_history(Served& served, Release& release) const {
  const Policy& policy = *served.policy;
  const auto reads = [&](std::span<const float> values) {
    return ScoreSources(policy, {.values = values}).read_history(policy);
  };
  if (!reads(served.values) && !reads(policy.task_values())) return;
  const std::string name = "'" + served.name + "' has policy " + policy.version() + ", which reads history, ";
  if (!config_.history && !config_.exposures)
    throw ArtifactError(name +
                        "and there is no store of it: set history = lmdb:DIR or exposures, or history = none if "
                        "callers send its columns");
  if (config_.history == "none" && !policy_)
    throw ArtifactError(name + "whose columns no request to a pipeline brings: set history to the address of a store");
  const std::string* plain = plain_ranking(policy);
  if (plain == nullptr)
    throw ArtifactError(name + "and no ranking that reads none, for pages when its store fails: train it with one");
  served.plain = policy.with_ranking(*plain);
  for (const auto* group : {&release.arms, &release.shadows})
    for (const Served& other : *group)
      if (other.history != nullptr && other.policy->version() == policy.version()) served.history = other.history;
  if (served.history == nullptr) served.history = std::make_shared<StoredHistory>(*policy.history());
  if (std::ranges::any_of(release.histories,
                          [&](const auto& other) { return other->layout() == served.history->layout(); }))
    return;
  release.histories.push_back(served.history);
  if (history_store_ == nullptr && config_.history != "none")
    history_store_ =
        std::make_shared<HistoryStore>(open_store(history_address(config_), {.create = true, .wait_for_server = false}),
                                       HistoryStoreOptions{.salt = config_.salt, .ttl = config_.history_ttl});
  release.history_store = history_store_;
}

// Makes what arms and shadows serve; `own`: the policy of those that name none.
std::shared_ptr<Release> Sources::make_release(const std::shared_ptr<const Policy>& own,
                                               const std::vector<std::string>& log_tasks, Metrics& metrics) const {
  auto release = std::make_shared<Release>();
  release->tasks = own->tasks();
  release->log_tasks = log_tasks;
  std::set<std::string> scenarios;
  std::vector<std::string> items;
  const auto add = [&](const std::vector<ArmConfig>& group, const char* kind, std::vector<Served>& out) {
    for (const ArmConfig& arm : group) {
      out.push_back(serve(arm.policy ? Policy::load(real_path(*arm.policy)) : own, arm, kind));
      const Policy& policy = *out.back().policy;
      if (policy.tasks() != own->tasks() || policy.features() != own->features())
        throw ArtifactError(std::string(kind) + " '" + arm.name + "' has a policy of other tasks or features");
      for (const auto& name : policy.items())
        if (std::ranges::find(items, name) == items.end()) items.push_back(name);
      release->rankers.push_back(std::make_unique<Ranker>(out.back().policy, RankerOptions{.seed = 0}));
      scenarios.insert(policy.scenarios().begin(), policy.scenarios().end());
    }
  };
  add(config_.arms, "arm", release->arms);
  add(config_.shadows, "shadow", release->shadows);
  for (auto* group : {&release->arms, &release->shadows})
    for (Served& served : *group) add_history(served, *release);
  for (const Served& arm : release->arms)
    release->plain_rankers.push_back(
        arm.plain == nullptr ? nullptr : std::make_unique<Ranker>(arm.plain, RankerOptions{.seed = 0}));
  if (!config_.allow_unproven)
    for (const Served& arm : release->arms)
      if (const auto& mixture = arm.policy->mixture(); mixture && !mixture->unproven.empty())
        throw ArtifactError("arm '" + arm.name + "' has policy " + arm.policy->version() + ", which is not proven: " +
                            mixture->unproven + "; to serve it all the same set allow_unproven = true");
  if (const auto found = release->identical_arms(false); !found.empty())
    throw std::invalid_argument(
        found[0] + "; expected another ranking, mixture_weight, policy or values, or allow_identical = true");
  release->items = Columns(items);
  for (const auto& name : scenarios) release->scenarios.push_back(metrics.scenario(name, release->tasks));
  for (const char* name : {"other", ""}) release->scenarios.push_back(metrics.scenario(name, release->tasks));
  for (const ArmConfig& arm : config_.arms) release->feedback.push_back(metrics.feedback(arm.name, log_tasks));
  return release;
}

std::shared_ptr<const Release> Sources::load(Metrics& metrics) const {
  const auto policy = Policy::load(real_path(*policy_));
  auto release = make_release(policy, policy->tasks(), metrics);
  release->context = Columns(policy->features());
  release->needs_predictions = true;
  return release;
}

Models Sources::load(const Models* before, bool artifact_changed, Metrics& metrics) const {
  Models models = before != nullptr && !artifact_changed ? *before : Models::load(real_path(run_ / "artifact"));
  auto release = make_release(models.policy, models.features->tasks(), metrics);
  release->artifact = models.version;
  release->needs_predictions = models.mtl == nullptr;
  const Schema& schema = models.features->impl().plan.schema;
  release->outcomes = schema.outcome_columns;
  models.alternatives.clear();
  for (const auto* group : {&release->arms, &release->shadows})
    for (const Served& served : *group) models.alternatives.push_back(served.policy);
  for (Served& arm : release->arms)
    if (arm.plain != nullptr) {
      models.alternatives.push_back(arm.plain);
      arm.plain_place = models.alternatives.size();
    }
  models.check();
  release->references = read_references(models.version, release->tasks);
  if (!release->references.empty()) release->drift = metrics.drift(release->tasks);
  const fs::path names = run_ / "item_names.safetensors";
  if (before != nullptr && !artifact_changed) {
    release->names = Release::of(*before)->names;
  } else if (fs::exists(names)) {
    try {
      release->names = std::make_shared<const ItemNames>(OpenFile(names).large_content());
    } catch (const SafetensorsError& error) {
      throw ArtifactError(names.string() + " is damaged: " + error.what());
    }
  }
  models.attached = std::move(release);
  return models;
}
}  // namespace pygrade::inline v0_2::detail
