#pragma once

#include <cstdint>

#include "isa.hpp"
#include "pygrade/correction.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::int64_t correction_block = 32;  // candidates; those of a request are padded to whole blocks
inline constexpr std::int64_t spilled_columns = 8;    // loading may overwrite seven columns after those of the tasks

// A correction and one request of it. Columns are `stride` floats apart.
struct CorrectionTask {
  std::int64_t tasks, items, inputs;  // T, I, X
  Correction::Form form;
  const std::int64_t *parents, *order;  // [T]
  const std::uint8_t* amounts;          // [T]
  const float *l_mean, *l_inverse;      // [V]
  const float* weights;                 // [Z, width]
  std::int64_t width;
  const float *map_mean, *map_inverse, *map_knots, *map_weights;

  std::int64_t count, stride;
  const float* x;                        // [X] standardized
  const float *predictions, *item_rows;  // [N, T]; [N, I], or null
  float* columns;                        // [2 T + V + spilled_columns, stride], and [V + 1, stride] if there are trees
  float* means;                          // [V]
  float* row;                            // [width]
  float* result;                         // [N, T]

  std::int64_t trees;        // G
  const TreeNode* nodes;     // of all trees, in each those on candidates first
  const std::int32_t* ends;  // [G, 2] of a tree's nodes on candidates, and of all
  const float* leaves;       // [G, 8]
};

// Up to gram_requests requests of correction_gram.
struct GramBlock {
  std::int64_t z_count, u_count;
  const double *z, *u, *h;      // z of the block's first request, u and h of all rows
  const std::int64_t* offsets;  // from the block's first request on
  std::int64_t requests;        // of the block
  std::int64_t width;           // pairs of u, padded to gram_padding
  double *columns, *moments;    // [Z, gram_requests], [gram_requests, width]
  const std::int32_t* pairs;    // [pairs, 2] of z, padded to gram_pairs
  double* sums;                 // [pairs, width]
};
inline constexpr std::int64_t gram_requests = 512, gram_padding = 8, gram_pairs = 4;

struct CorrectionKernels {
  void (*correct)(const CorrectionTask& task);
};

struct GramKernels {
  // z of requests [begin, end) as columns, and Σ h u u' of their pairs u, u'.
  void (*gram_moments)(const GramBlock& block, std::int64_t begin, std::int64_t end);
  // Adds the block's z z' Σ h u u' to the sums of the groups of gram_pairs pairs [begin, end).
  void (*gram_sums)(const GramBlock& block, std::int64_t begin, std::int64_t end);
};

PYGRADE_DECLARE_KERNELS(CorrectionKernels, correction_kernels)
PYGRADE_DECLARE_KERNELS(GramKernels, gram_kernels)
}  // namespace pygrade::inline v0_2::detail
