// A request of the exposure log, as it lies in the queue.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/exposures.hpp"
#include "pygrade/ranker.hpp"

namespace pygrade::inline v0_2::detail {
// Schema that the columns depend on.
struct ExposureSchema {
  // Columns of the policy that made a page and, in a test, of those of its arms.
  ExposureSchema(const Policy& policy, bool scored, std::span<const ExposurePage> arms);
  bool is_of(const Policy& policy, bool scored, std::span<const ExposurePage> arms) const;

  const std::vector<std::string> tasks, features;
  std::vector<std::vector<std::string>> items_of;  // [1 + arms] item columns of each policy
  std::vector<std::string> item_columns;           // of any of them
  struct Source {
    std::size_t policy, place;  // in items_of
  };
  std::vector<Source> sources;  // of item_columns: the first that has it
  const bool priced;            // something reads the items' prices
  const bool takes_values;      // requests may give values of the tasks
  const bool categorized;       // page terms read the items' categories
  const bool scored;            // requests may have production's scores
  const std::size_t arms;       // of a test
  const std::string scales;     // JSON: how callers' predictions were read
};

struct ExposureHead {
  const ExposureSchema* schema;
  std::uint64_t seed;
  std::int64_t timestamp;
  std::uint32_t rows, shown, candidates;
  std::uint32_t request_id, user_id, scenario, categories;  // bytes
  std::string_view exploration;
  float mixture_weight;
  Verdict verdict;
  bool has_timestamp, explored, priced, scored;
  std::array<char, 12> version;
  std::array<char, Baseline::max_name + 1> baseline;
};

// The parts of a record in its memory.
struct ExposureRecord {
  ExposureRecord(std::byte* memory, const ExposureHead& head);

  std::span<std::int64_t> items;   // [rows]
  std::span<float> predictions;    // [rows, T]
  std::span<float> prices;         // [rows] if the request has them and the schema is priced
  std::span<float> item_columns;   // [rows, I]
  std::span<float> context;        // [F]
  std::span<float> weights;        // [T]
  std::span<float> concentration;  // [T] if explored
  std::span<float> values;         // [T] of the tasks if takes_values
  std::span<float> scores;         // [rows] of production if the request has them
  std::span<float> shares;         // [arms] NaN: it could not rank
  std::span<std::int32_t> shown;   // [shown] rows by position
  std::span<std::int32_t> slots;   // [arms, rows] -1: not on the arm's page
  std::span<char> request_id, user_id, scenario;
  std::span<char> categories;  // of the rows if the schema is categorized, each with a 0

  static std::size_t bytes(const ExposureHead& head);
};
}  // namespace pygrade::inline v0_2::detail
