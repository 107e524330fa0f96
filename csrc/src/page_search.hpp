#pragma once

#include "fusion.hpp"
#include "pygrade/page_search.hpp"

namespace pygrade::inline v0_2::detail {

inline constexpr std::int64_t max_beam = 64;
inline constexpr std::int64_t max_embedding_width = 256;
inline constexpr std::int64_t dot_lanes = 16;  // sums that a dot product keeps
inline constexpr float least_variance = 1e-6f;
inline constexpr std::int64_t cached_rows = 256;  // of likeness, that prefixes of a beam share

struct PageSearchTask {
  Scores requests;                 // rows and offsets alone
  const float *value, *root;       // [rows]; root may be null
  const std::int32_t* categories;  // [rows] or null, with pairs
  const float* embeddings;         // [rows, width] or null
  std::int64_t width;
  const std::uint8_t* mask;  // this and the boosts: [rows] or null
  const float *boost_mul, *boost_add;
  const std::int32_t *groups, *caps, *pins;  // [rows, columns], [columns], [B, k], or null
  std::int64_t columns;
  const float *attention, *examination;  // [k] or null: 1
  const float* pairs;                    // [C, C]
  std::int64_t category_count;
  float cosine, trade_off;
  PageObjective objective;
  std::int64_t k, beam;
  float* values;  // [B, k]
  std::int32_t* indices;
  std::int64_t stride;  // scratch_stride of the longest request
};

struct PageSearchKernels {
  // Pages of requests [begin, end); csrc/src/page_search.cpp knows the size of the scratch.
  void (*search)(const PageSearchTask& task, std::int64_t begin, std::int64_t end, float* scratch);
  // The first of the rows [begin, end) whose squared length is neither near 1 nor 0, or -1.
  std::int64_t (*find_unscaled)(const float* embeddings, std::int64_t width, std::int64_t begin, std::int64_t end);
};

PYGRADE_DECLARE_KERNELS(PageSearchKernels, page_search_kernels)

}  // namespace pygrade::inline v0_2::detail
