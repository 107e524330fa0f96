#pragma once

#include "fusion.hpp"
#include "pygrade/page_search.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::int64_t max_beam = 64;
inline constexpr std::int64_t max_embedding_width = 256;
inline constexpr std::int64_t dot_lanes = 16;  // sums that a dot product keeps
inline constexpr float least_variance = 1e-6f;
inline constexpr std::int64_t cached_rows = 256;  // of similarity, that prefixes of a beam share

// PageRules as kernels read them; null where there is none.
struct RulesTask {
  const std::uint8_t* mask = nullptr;                        // [rows]
  const float *boost_mul = nullptr, *boost_add = nullptr;    // [rows]
  const std::int32_t* groups = nullptr;                      // [rows, columns]
  const std::int32_t *caps = nullptr, *cap_slots = nullptr;  // [columns]
  const float* decay = nullptr;                              // [columns]
  std::int64_t columns = 0;                                  // 0: no group limits or fades anything
};

struct PageSearchTask {
  Scores requests = {};                           // rows and offsets alone
  const float *value = nullptr, *root = nullptr;  // [rows]; without a root the value is the score
  const std::int32_t* categories = nullptr;       // [rows] or null, with pairs
  const float* embeddings = nullptr;              // [rows, width] or null
  std::int64_t width = 0;
  RulesTask rules = {};
  const std::int32_t* pins = nullptr;                        // [B, k] or null
  const float *attention = nullptr, *examination = nullptr;  // [k] or null: 1
  const float* pairs = nullptr;                              // [C, C]
  std::int64_t category_count = 0;
  float cosine = 0.0f, trade_off = 1.0f;
  PageObjective objective = PageObjective::page_value;
  std::int64_t k = 1, beam = 1;
  float* values = nullptr;  // [B, k]
  std::int32_t* indices = nullptr;
  std::int64_t stride = 0;  // scratch_stride of the longest request
};

// The best candidates of a request by a score that depends on no other candidate, best first.
struct SortedCandidates {
  std::int64_t first;             // row of the request
  const std::int32_t* positions;  // [count]
  std::int64_t count;
  const float* scores;      // by position
  const std::int32_t* ids;  // by position; null: the position
};

// Progress of a page over the candidates before those that are new.
struct FilledSlots {
  std::int64_t seen = 0, slots = 0;
};

struct PageSearchKernels {
  // Pages of requests [begin, end), with page_scratch floats of scratch.
  void (*search)(const PageSearchTask& task, std::int64_t begin, std::int64_t end, float* scratch);
  // The greedy page of request b; false if candidates that come after these might be on it: then it goes on with more
  // of them. The task has no pins, no mask, no boosts and no root.
  bool (*fill)(const PageSearchTask& task, std::int64_t b, const SortedCandidates& candidates, FilledSlots& filled,
               float* scratch);
  // The first of the rows [begin, end) whose squared length is neither near 1 nor 0, or -1.
  std::int64_t (*find_unscaled)(const float* embeddings, std::int64_t width, std::int64_t begin, std::int64_t end);
};

// std::invalid_argument for rules that do not fit `rows` candidates: here alone is checked what goes with what.
void check_rules(const PageRules& rules, std::int64_t rows);
RulesTask rules_of(const PageRules& rules);

// Floats of working memory of a search.
std::int64_t page_scratch(const PageSearchTask& task);

PYGRADE_DECLARE_KERNELS(PageSearchKernels, page_search_kernels)
}  // namespace pygrade::inline v0_2::detail
