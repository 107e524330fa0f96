#include "service/config.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <span>
#include <tuple>

#include "service/api.hpp"
#include "service/input.hpp"
#include "util/blake2b.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
namespace fs = std::filesystem;

constexpr double largest = 1e30;  // value of a task
constexpr std::size_t max_arms = 32, max_name = 63, max_path = 4096;
constexpr std::int64_t most = std::int64_t{1} << 30;
constexpr double slack = 1e-9;  // of a sum of shares
constexpr double absent = std::numeric_limits<double>::quiet_NaN();

// Options that need no words: their least value, or their largest one.
constexpr std::tuple<std::string_view, std::int64_t ServiceConfig::*, std::int64_t> counts[] = {
    {"max_k", &ServiceConfig::max_k, 1},           {"max_candidates", &ServiceConfig::max_candidates, 1},
    {"max_events", &ServiceConfig::max_events, 1}, {"max_ids", &ServiceConfig::max_ids, 0},
    {"max_batch", &ServiceConfig::max_batch, 1},
};
constexpr std::tuple<std::string_view, double ServiceConfig::*, double> amounts[] = {
    {"max_amount", &ServiceConfig::max_amount, 1e30},
    {"max_explore", &ServiceConfig::max_explore, 1.0},
    {"exposure_share", &ServiceConfig::exposure_share, 1.0},
};
constexpr std::pair<std::string_view, bool ServiceConfig::*> flags[] = {
    {"strict", &ServiceConfig::strict},
    {"test", &ServiceConfig::test},
    {"require_store", &ServiceConfig::require_store},
    {"allow_unproven", &ServiceConfig::allow_unproven},
};

template <std::size_t N, class Read>
void read_options(JsonReader& reader, std::string_view prefix, const api::Field (&known)[N], Read&& read) {
  read_keys(reader, prefix, known, read,
            [&](const Argument& argument) { refuse_unknown(argument, joined(known, &api::Field::name)); });
}

// A label of metrics and a part of file names.
std::string read_name(JsonReader& reader, const Argument& argument) {
  const std::size_t place = reader.place();
  const std::string_view text = read_text(reader, argument, max_name);
  const auto good = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '-';
  };
  if (std::ranges::all_of(text, good)) return std::string(text);
  reader.go_back(place);
  refuse(argument, reader, "letters, digits, _ and - alone");
}

// Reads one of two allowed texts; returns true for the first.
bool read_choice(JsonReader& reader, const Argument& argument, const std::string& first, const std::string& second) {
  const std::size_t place = reader.place();
  const std::string text(read_text(reader, argument, max_name));
  if (text == first || text == second) return text == first;
  reader.go_back(place);
  refuse(argument, reader, json_quote(first) + " or " + json_quote(second));
}

// Numbers by task.
std::vector<std::pair<std::string, double>> read_by_task(JsonReader& reader, const Argument& argument) {
  std::vector<std::pair<std::string, double>> numbers;
  const std::string prefix = argument.text() + ".";
  enter_object(reader, argument);
  for (std::string_view task; reader.next_key(task);)
    numbers.emplace_back(task, read_number(reader, {prefix, task}, -largest, largest));
  return numbers;
}

// One of arms or of shadow. A share that is not given is `absent`.
template <std::size_t N>
ArmConfig read_arm(JsonReader& reader, const std::string& where, const api::Field (&known)[N], const fs::path& run) {
  ArmConfig arm{.share = absent, .explore = absent};
  const std::string prefix = where + ".";
  if (reader.peek() != Json::Type::object) refuse(where, reader, "a JSON object");
  reader.enter_object();
  read_options(reader, prefix, known, [&](const Argument& argument) {
    if (argument.key == "name") arm.name = read_name(reader, argument);
    if (argument.key == "policy") arm.policy = run / read_text(reader, argument, max_path);
    if (argument.key == "mixture_weight") arm.mixture_weight = read_number(reader, argument, 0.0, 1.0);
    if (argument.key == "ranking") arm.ranking = read_text(reader, argument, max_name);
    if (argument.key == "allow_identical") arm.allow_identical = read_boolean(reader, argument);
    if (argument.key == "share") arm.share = read_number(reader, argument, 0.0, 1.0);
    if (argument.key == "explore") arm.explore = read_number(reader, argument, 0.0, 1.0);
    if (argument.key == "values") arm.values = read_by_task(reader, argument);
  });
  if (arm.name.empty()) refuse_missing(prefix + "name");
  if (arm.mixture_weight && !arm.ranking.empty())
    throw InputError(prefix + "mixture_weight",
                     prefix + "mixture_weight is given with ranking, which has no share of the policy");
  return arm;
}

template <std::size_t N>
std::vector<ArmConfig> read_arms(JsonReader& reader, const Argument& argument, const api::Field (&known)[N],
                                 const fs::path& run) {
  std::vector<ArmConfig> arms;
  read_list(reader, argument, max_arms, [&](const Argument& element) {
    ArmConfig arm = read_arm(reader, element.text(), known, run);
    const std::string name = element.text() + ".name";
    if (std::ranges::find(arms, arm.name, &ArmConfig::name) != arms.end())
      throw InputError(name, name + " is '" + arm.name + "', as another one; expected distinct names");
    arms.push_back(std::move(arm));
  });
  return arms;
}

// The place of a number in 0 … 1 among shares that sum to 1; never one whose share is 0.
std::size_t place_among(std::span<const double> shares, double number) {
  double sum = 0.0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    if (shares[i] == 0.0) continue;
    sum += shares[i];
    last = i;
    if (number < sum) return i;
  }
  return last;
}

// Fills in what is not given: an only arm has all users, and arms explore as `explore` says.
void fill_in(ServiceConfig& config, double explore) {
  for (ArmConfig& arm : config.arms) {
    if (std::isnan(arm.share)) arm.share = config.arms.size() == 1 ? 1.0 : 0.0;
    if (std::isnan(arm.explore)) arm.explore = explore;
  }
  for (ArmConfig& shadow : config.shadows) {
    shadow.share = shadow.explore = 0.0;
    if (std::ranges::find(config.arms, shadow.name, &ArmConfig::name) != config.arms.end())
      throw InputError("shadow", "shadow names '" + shadow.name + "', which is an arm");
  }
}

void check_shares(const ServiceConfig& config) {
  if (config.arms.empty()) throw InputError("arms", "arms is empty; expected at least one");
  double shares = 0.0, explored = config.shuffle;
  for (const ArmConfig& arm : config.arms) {
    shares += arm.share;
    explored += arm.share * arm.explore * (1.0 - config.shuffle);  // no page is explored in both ways
  }
  if (std::fabs(shares - 1.0) > slack)
    throw InputError("arms", "arms have shares of " + std::to_string(shares) + " together; expected 1");
  if (explored > config.max_explore + slack)
    throw InputError("max_explore", "max_explore is " + std::to_string(config.max_explore) + "; the arms explore " +
                                        std::to_string(explored) + " of all requests: expected at most as many");
}

// Seconds or milliseconds in another unit.
template <class Duration>
Duration read_duration(JsonReader& reader, const Argument& argument, double most_units) {
  return Duration(std::llround(read_number(reader, argument, 0.1, most_units) * 1000.0));
}

void read_option(ServiceConfig& config, double& explore, JsonReader& reader, const Argument& argument) {
  const std::string_view key = argument.key;
  for (const auto& [name, member, least] : counts)
    if (key == name) config.*member = read_integer(reader, argument, least, most);
  for (const auto& [name, member, bound] : amounts)
    if (key == name) config.*member = read_number(reader, argument, 0.0, bound);
  for (const auto& [name, member] : flags)
    if (key == name) config.*member = read_boolean(reader, argument);
  if (key == "store" || key == "history") {  // a message must not hold what may be a password
    auto& address = key == "store" ? config.store : config.history;
    if (reader.peek() == Json::Type::string) address = reader.string();
    if (!address || address->empty() || address->size() > max_path)
      throw InputError(argument.text(), argument.text() + " is no address; expected a text of 1 to 4096 bytes");
    constexpr std::string_view lmdb = "lmdb:";
    if (key == "history" && address->starts_with(lmdb))
      address = std::string(lmdb) + (config.run / address->substr(lmdb.size())).lexically_normal().string();
  } else if (key == "history_days") {
    config.history_ttl = read_number(reader, argument, 1e-3, 36'500.0) * 86'400.0;
  } else if (key == "deadline_ms") {
    config.deadline = read_duration<std::chrono::microseconds>(reader, argument, 3'600'000.0);
  } else if (key == "file_seconds") {
    config.file_time = read_duration<std::chrono::milliseconds>(reader, argument, 86'400.0);
  } else if (key == "max_body_bytes") {
    config.max_body_bytes = static_cast<std::size_t>(read_integer(reader, argument, 64, most));
  } else if (key == "unknown_items") {
    config.refuse_unknown_items = read_choice(reader, argument, "refuse", "count");
  } else if (key == "arm_by") {
    config.by_request = read_choice(reader, argument, "request", "user");
  } else if (key == "explore") {
    enter_object(reader, argument);
    read_options(reader, "explore.", api::explore_fields, [&](const Argument& part) {
      (part.key == "weights" ? explore : config.shuffle) = read_number(reader, part, 0.0, 1.0);
    });
  } else if (key == "arms") {
    config.arms = read_arms(reader, argument, api::arm_fields, config.run);
  } else if (key == "shadow") {
    config.shadows = read_arms(reader, argument, api::shadow_fields, config.run);
  } else if (key == "salt") {
    config.salt = read_text(reader, argument, max_path);
  } else if (key == "exposures" || key == "feedback") {  // an absolute path stands for itself
    (key == "exposures" ? config.exposures : config.feedback) = config.run / read_text(reader, argument, max_path);
  } else if (key == "seed") {
    config.seed = static_cast<std::uint32_t>(read_integer(reader, argument, 0, (std::int64_t{1} << 31) - 1));
  }
}

void check(ServiceConfig& config, double explore) {
  fill_in(config, explore);
  check_shares(config);
  if (config.test && config.arms.size() < 2)
    throw InputError("test",
                     "test is true, and arms has " + std::to_string(config.arms.size()) + "; expected two or more");
  if (config.test && !config.exposures)
    throw InputError("test",
                     "test is true without exposures; expected the directory in which the arms' slots are logged");
}

// Refuses places in which another run writes.
void check_places(const ServiceConfig& config, const ServiceConfig& other) {
  const auto check_place = [&](const char* option, const fs::path& own, const fs::path& others) {
    if (!own.empty() && own != "none" && own.lexically_normal() == others.lexically_normal())
      throw InputError(option, std::string(option) + " is that of another run; expected one of its own");
  };
  check_place("exposures", config.exposures.value_or(""), other.exposures.value_or(""));
  check_place("feedback", config.feedback.value_or(""), other.feedback.value_or(""));
  check_place("history", config.history.value_or(""), other.history.value_or(""));
}

// Options over those of `config`. A run with a name has those of all, but for policies, test and stores, and logs in
// directories of its own, so that nothing of one run mixes with another.
ServiceConfig read_config(ServiceConfig config, double explore, std::string_view json) {
  if (!config.name.empty()) {
    const Json tree = Json::parse(json);
    const Json* run = tree.type == Json::Type::object ? tree.find("run") : nullptr;
    if (run == nullptr || run->string.empty())
      throw InputError("run", "run is missing; expected the directory of a run");
    config.run = run->string;
  }
  std::string_view runs;
  JsonReader reader(json);
  if (reader.peek() != Json::Type::object) refuse("config", reader, "a JSON object");
  reader.enter_object();
  const auto read = [&](const Argument& argument) {
    if (argument.key == "runs" && config.name.empty()) return void(runs = reader.skip());
    if (argument.key == "runs") refuse_unknown(argument, "the options of one run");
    read_option(config, explore, reader, argument);
  };
  read_keys(reader, "", api::service_options, read, [&](const Argument& argument) {
    if (config.name.empty() || argument.key != "run")
      refuse_unknown(argument, joined(api::service_options, &api::Field::name));
    reader.skip();
  });
  reader.end();
  check(config, explore);
  if (runs.empty()) return config;
  JsonReader names(runs);
  enter_object(names, "runs");
  for (std::string_view name; names.next_key(name);) {
    const std::string quoted = json_quote(name), prefix = "runs." + std::string(name) + ".";
    JsonReader label(quoted);
    read_name(label, "name in runs");
    ServiceConfig own = config;
    own.runs.clear();
    own.name = name;
    own.arms = {{.name = "main", .explore = absent}};
    own.shadows.clear();
    own.test = false;
    own.store = own.history = {};
    for (auto* log : {&own.exposures, &own.feedback})
      if (*log) *log = **log / "runs" / name;
    try {
      own = read_config(own, explore, names.skip());
      check_places(own, config);
      for (const ServiceConfig& other : config.runs) check_places(own, other);
    } catch (const InputError& error) {
      throw InputError(prefix + error.argument, prefix + error.what());
    }
    config.runs.push_back(std::move(own));
  }
  return config;
}
}  // namespace

ServiceConfig ServiceConfig::parse(std::string_view json, const fs::path& run) {
  ServiceConfig config;
  config.run = run;
  config.arms[0].explore = absent;
  try {
    return read_config(std::move(config), 0.0, json);
  } catch (const JsonError& error) {
    throw InputError("config", "config is no JSON: " + std::string(error.what()));
  }
}

double stable_fraction(std::string_view salt, std::string_view text) {
  return static_cast<double>(stable_bits(salt, text) >> 11) * 0x1p-53;
}

std::uint64_t stable_bits(std::string_view salt, std::string_view text) {
  return digest_bits(std::string(salt).append(1, '\0').append(text));
}

std::size_t arm_of(const ServiceConfig& config, std::int64_t user) {
  char text[24];
  const auto end = std::to_chars(text, text + sizeof text, user).ptr;
  return arm_of(config, std::string_view(text, static_cast<std::size_t>(end - text)));
}

std::size_t arm_of(const ServiceConfig& config, std::string_view id) {
  std::array<double, max_arms> shares{};
  std::ranges::transform(config.arms, shares.begin(), &ArmConfig::share);
  return place_among(std::span(shares).first(config.arms.size()),
                     stable_fraction(config.by_request ? config.salt + " arm" : config.salt, id));
}
}  // namespace pygrade::inline v0_2::detail
