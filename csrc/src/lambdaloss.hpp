#pragma once

#include "isa.hpp"
#include "pygrade/lambdaloss.hpp"

namespace pygrade::detail {

// The candidates of one request that can be in a pair. First those of the least gain, which make no pair with each
// other, then the others; both by rank, and followed by zeros up to a multiple of 8.
struct LambdaRow {
  const double* score;  // over the temperature
  const double* gain;
  const double* discount;   // of the rank
  const double* present;    // 1, and 0 in the padding
  double* slope;            // d loss / d score is added to it
  std::int64_t least;       // candidates of the least gain,
  std::int64_t seen_least;  // and how many of them have a rank with a discount
  std::int64_t others;      // likewise, from `least` padded to a multiple of 8 on
  std::int64_t seen_others;
};

struct LambdaKernels {
  double (*add_pairs)(const LambdaRow& row);  // the loss
};

PYGRADE_DECLARE_KERNELS(LambdaKernels, lambda_kernels)

}  // namespace pygrade::detail
