#include "service/config.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "service/api.hpp"
#include "service/input.hpp"
#include "util/blake2b.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

namespace fs = std::filesystem;

constexpr auto config_keys = api::names_of(api::service_options);
constexpr auto arm_keys = api::names_of(api::arm_fields);
constexpr auto explore_keys = api::names_of(api::explore_fields);
constexpr auto shadow_keys = api::names_of(api::shadow_fields);
constexpr std::size_t max_arms = 32, max_name = 63, max_path = 4096;
constexpr std::int64_t most = std::int64_t{1} << 30;
constexpr double slack = 1e-9;  // of a sum of shares

// A label of metrics and a part of file names.
std::string name_of(const Input& input) {
  const auto text = input.string("name", max_name);
  if (!text) throw InputError(input.name("name"), input.name("name") + " is missing");
  const auto good = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '-';
  };
  if (!std::ranges::all_of(*text, good)) refuse(input.name("name"), input.at("name"), "letters, digits, _ and - alone");
  return std::string(*text);
}

std::optional<fs::path> path_of(const Input& input, std::string_view key, const fs::path& run) {
  const auto text = input.string(key, max_path);
  if (!text) return {};
  return run / fs::path(*text);  // an absolute one stands for itself
}

std::vector<ArmConfig> arms_of(const Input& config, std::string_view key, const fs::path& run, bool shadows,
                               double explore) {
  std::vector<ArmConfig> arms;
  const Json& list = *config.list(key, max_arms);
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    const std::string where = std::string(key) + "[" + std::to_string(i) + "].";
    const auto keys = shadows ? std::span<const std::string_view>(shadow_keys) : arm_keys;
    const Input input(list.items[i], keys, where);
    ArmConfig arm{.name = name_of(input)};
    arm.share = shadows ? 0.0 : input.number("share", 0.0, 1.0).value_or(list.items.size() == 1 ? 1.0 : 0.0);
    arm.policy = path_of(input, "policy", run);
    arm.trust = input.number("trust", 0.0, 1.0);
    arm.explore = shadows ? 0.0 : input.number("explore", 0.0, 1.0).value_or(explore);
    if (const Json* values = input.object("values")) {
      for (std::size_t v = 0; v < values->items.size(); ++v) {
        const Json& value = values->items[v];
        if (value.type != Json::Type::number || !(value.number >= 0.0 && std::isfinite(value.number)))
          refuse(where + "values." + values->keys[v], value, "a finite number from 0 on");
        arm.values.emplace_back(values->keys[v], value.number);
      }
    }
    for (const ArmConfig& other : arms)
      if (other.name == arm.name)
        throw InputError(where + "name", where + "name is '" + arm.name + "', as another one; want distinct names");
    arms.push_back(std::move(arm));
  }
  return arms;
}

void check_shares(const ServiceConfig& config) {
  double shares = 0.0, explored = config.shuffle;
  for (const ArmConfig& arm : config.arms) {
    shares += arm.share;
    explored += arm.share * arm.explore * (1.0 - config.shuffle);  // no page is explored in both ways
  }
  if (std::fabs(shares - 1.0) > slack)
    throw InputError("arms", "arms have shares of " + std::to_string(shares) + " together; want 1");
  if (explored > config.max_explore + slack)
    throw InputError("max_explore", "max_explore is " + std::to_string(config.max_explore) + "; the arms explore " +
                                        std::to_string(explored) + " of all requests: want at most as many");
}

}  // namespace

ServiceConfig ServiceConfig::parse(std::string_view json, const fs::path& run) {
  Json record;
  try {
    record = Json::parse(json);
  } catch (const JsonError& error) {
    throw InputError("config", "config is no JSON: " + std::string(error.what()));
  }
  const Input input(record, config_keys);
  ServiceConfig config;
  if (const Json* store = input.find("store")) {  // a message must not hold what may be a password
    if (store->type != Json::Type::string || store->string.empty() || store->string.size() > max_path)
      throw InputError("store", "store is no address; want a text of 1 to 4096 bytes");
    config.store = store->string;
  }
  if (const auto ms = input.number("deadline_ms", 0.1, 3'600'000.0))
    config.deadline = std::chrono::microseconds(std::llround(*ms * 1000.0));
  config.max_k = input.integer("max_k", 1, most).value_or(config.max_k);
  config.max_candidates = input.integer("max_candidates", 1, most).value_or(config.max_candidates);
  config.max_events = input.integer("max_events", 1, most).value_or(config.max_events);
  if (const auto bytes = input.integer("max_body_bytes", 64, most))
    config.max_body_bytes = static_cast<std::size_t>(*bytes);
  config.max_ids = input.integer("max_ids", 0, most).value_or(config.max_ids);
  config.max_batch = input.integer("max_batch", 1, most).value_or(config.max_batch);
  config.max_amount = input.number("max_amount", 0.0, 1e30).value_or(config.max_amount);
  if (const auto action = input.string("unknown_items", max_name)) {
    if (*action != "refuse" && *action != "count")
      refuse("unknown_items", input.at("unknown_items"), "\"refuse\" or \"count\"");
    config.refuse_unknown_items = *action == "refuse";
  }
  config.require_store = input.boolean("require_store").value_or(config.require_store);
  config.strict = input.boolean("strict").value_or(config.strict);
  double explore = 0.0;
  if (const Json* shares = input.object("explore")) {
    const Input given(*shares, explore_keys, "explore.");
    explore = given.number("weights", 0.0, 1.0).value_or(0.0);
    config.shuffle = given.number("shuffle", 0.0, 1.0).value_or(0.0);
  }
  config.arms[0].explore = explore;
  if (input.find("arms") != nullptr) config.arms = arms_of(input, "arms", run, false, explore);
  if (input.find("shadow") != nullptr) config.shadows = arms_of(input, "shadow", run, true, 0.0);
  if (config.arms.empty()) throw InputError("arms", "arms is empty; want at least one");
  for (const ArmConfig& shadow : config.shadows)
    for (const ArmConfig& arm : config.arms)
      if (arm.name == shadow.name) throw InputError("shadow", "shadow names '" + arm.name + "', which is an arm");
  if (const auto salt = input.string("salt", max_path)) config.salt = std::string(*salt);
  config.max_explore = input.number("max_explore", 0.0, 1.0).value_or(config.max_explore);
  config.exposures = path_of(input, "exposures", run);
  config.feedback = path_of(input, "feedback", run);
  config.exposure_share = input.number("exposure_share", 0.0, 1.0).value_or(config.exposure_share);
  if (const auto seconds = input.number("file_seconds", 0.1, 86'400.0))
    config.file_time = std::chrono::milliseconds(std::llround(*seconds * 1000.0));
  if (const auto seed = input.integer("seed", 0, (std::int64_t{1} << 31) - 1))
    config.seed = static_cast<std::uint32_t>(*seed);
  check_shares(config);
  return config;
}

double stable_fraction(std::string_view salt, std::string_view text) {
  return static_cast<double>(stable_bits(salt, text) >> 11) * 0x1p-53;
}

std::uint64_t stable_bits(std::string_view salt, std::string_view text) {
  std::string both(salt);
  both += '\0';
  both += text;
  std::array<std::uint8_t, 8> digest;
  blake2b(both, digest);
  std::uint64_t bits = 0;
  for (std::size_t i = digest.size(); i-- > 0;) bits = bits << 8 | digest[i];
  return bits;
}

std::size_t arm_of(const ServiceConfig& config, std::int64_t user) {
  char text[24];
  const auto end = std::to_chars(text, text + sizeof text, user).ptr;
  return arm_of(config, std::string_view(text, static_cast<std::size_t>(end - text)));
}

std::size_t arm_of(const ServiceConfig& config, std::string_view user) {
  const double place = stable_fraction(config.salt, user);
  double sum = 0.0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < config.arms.size(); ++i) {
    if (config.arms[i].share == 0.0) continue;
    sum += config.arms[i].share;
    last = i;
    if (place < sum) return i;
  }
  return last;
}

}  // namespace pygrade::inline v0_2::detail
