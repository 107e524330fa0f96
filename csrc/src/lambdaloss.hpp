#pragma once

#include "isa.hpp"
#include "pygrade/lambdaloss.hpp"

namespace pygrade::inline v0_2::detail {
// The candidates of one request that can be in a pair: first those with the lowest gain, which make no pair with each
// other, then the others; both by rank and padded with zeros to a multiple of 8.
struct LambdaRow {
  const double* score;  // divided by the temperature
  const double* gain;
  const double* discount;    // of the rank
  const double* present;     // 1; 0 in the padding
  double* slope;             // d loss / d score is added to it
  std::int64_t lowest;       // candidates with the lowest gain
  std::int64_t seen_lowest;  // those of them with a discounted rank
  std::int64_t others;       // the other candidates, after `lowest` padded to a multiple of 8
  std::int64_t seen_others;
};

struct LambdaKernels {
  double (*add_pairs)(const LambdaRow& row);  // returns the loss
};

PYGRADE_DECLARE_KERNELS(LambdaKernels, lambda_kernels)
}  // namespace pygrade::inline v0_2::detail
