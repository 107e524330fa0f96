// The configuration of a service, see docs/SERVICE.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace pygrade::inline v0_2::detail {
// A policy that is served or compared, and how.
struct ArmConfig {
  std::string name = {};
  double share = 1.0;                                       // of the users; none of a shadow
  std::optional<std::filesystem::path> policy = {};         // a directory; nothing: the artifact's
  std::vector<std::pair<std::string, double>> values = {};  // of the tasks, by name
  std::optional<double> mixture_weight = {};                // nothing: the policy's
  std::string ranking = {};                                 // of the policy's training, alone; "": the policy's
  bool allow_identical = false;                             // it may rank as another one
  double explore = 0.0;                                     // share of the arm's requests
  bool operator==(const ArmConfig&) const = default;
};

struct ServiceConfig {
  // std::invalid_argument names the key. Paths are relative to `run`.
  static ServiceConfig parse(std::string_view json, const std::filesystem::path& run);
  bool operator==(const ServiceConfig&) const = default;

  std::string name;                 // of the run, which requests name; "": it has none
  std::filesystem::path run;        // its directory
  std::vector<ServiceConfig> runs;  // others that are served, each with a name
  std::optional<std::string> store;
  std::optional<std::chrono::microseconds> deadline;
  std::int64_t max_k = 1000, max_candidates = 10'000, max_events = 10'000;
  std::int64_t max_ids = 200'000;    // of seen, and of eligible
  std::int64_t max_batch = 100;      // requests in one body
  double max_amount = 1e6;           // of an event, as in pygrade join
  bool refuse_unknown_items = true;  // of events, by the catalog; else they are counted
  bool require_store = false;
  bool allow_unproven = false;  // arms may serve policies that the log does not prove
  bool test = false;            // all arms rank each page's candidates, and exposures hold their slots
  bool by_request = false;      // arms are dealt by request, else by user
  bool strict = false;          // unknown keys of requests are refused, not counted
  std::size_t max_body_bytes = std::size_t{1} << 20;
  std::vector<ArmConfig> arms = {{.name = "main"}};
  std::vector<ArmConfig> shadows;
  std::string salt = "pygrade";
  double max_explore = 0.1;
  double shuffle = 0.0;                                      // share of the pages that are put in a random order
  std::optional<std::filesystem::path> exposures, feedback;  // directories
  std::optional<std::string> history;                        // address of its store; "none": callers send the columns
  std::optional<double> history_ttl;                         // seconds
  double exposure_share = 0.05;                              // of the requests that are logged in full
  std::chrono::milliseconds file_time{300'000};              // after which a file of a log is complete
  std::optional<std::uint32_t> seed;                         // of the exploration; nothing: from the system
};

// The arm of a user or, dealt by request, of one: a stable hash of salt and id, against the shares. A number is hashed
// as its digits.
std::size_t arm_of(const ServiceConfig& config, std::string_view id);
std::size_t arm_of(const ServiceConfig& config, std::int64_t user);

// 64 bits that depend on the texts alone.
std::uint64_t stable_bits(std::string_view salt, std::string_view text);

// A number in 0 … 1 that depends on the texts alone.
double stable_fraction(std::string_view salt, std::string_view text);
}  // namespace pygrade::inline v0_2::detail
