// Compiled once per instruction set; see ../isa.hpp for the rules. One candidate against eight others at a time.
#include "../lambdaloss.hpp"

#include "special.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
struct Sums {
  Doubles loss, slope;  // slope: of the one candidate
};

// Pairs of candidate `one` with those in [first, last). The loss of a pair is w log(1 + exp(-margin)), with the margin
// in favor of the greater gain.
inline void add_pairs_of(const LambdaRow& row, std::int64_t one, std::int64_t first, std::int64_t last, Sums& sums) {
  const Doubles zero = fill(0.0), unit = fill(1.0);
  const Doubles score = fill(row.score[one]), gain = fill(row.gain[one]), discount = fill(row.discount[one]);
  for (std::int64_t i = first; i < last; i += row_lanes) {
    const Doubles gap = gain - load(row.gain + i);
    const Mask less = gap < zero;
    const Doubles seen = discount - load(row.discount + i);
    const Doubles weight =
        select(less, zero - gap, gap) * select(seen < zero, zero - seen, seen) * load(row.present + i);
    const Doubles difference = score - load(row.score + i);
    const Doubles margin = select(less, zero - difference, difference);
    const Mask wrong = margin < zero;
    const Doubles tail = exp64(max(fill(-700.0), select(wrong, margin, zero - margin)));
    const Doubles sum = unit + tail;
    const Doubles inverse = unit / sum;
    const Doubles log_sum = multiply_add(tail - (sum - unit), inverse, log64(sum));  // restores what 1 + tail lost
    const Doubles cost = weight * (select(wrong, zero - margin, zero) + log_sum);
    const Doubles pull = weight * select(wrong, unit, tail) * inverse;
    const Mask counts = zero < weight;  // weight 0: no pair, even for infinite scores
    const Doubles signed_pull = select(counts, select(less, zero - pull, pull), zero);
    sums.loss = sums.loss + select(counts, cost, zero);
    sums.slope = sums.slope - signed_pull;
    store(row.slope + i, load(row.slope + i) + signed_pull);
  }
}

inline double lane_sum(Doubles x) {
  alignas(64) double lane[row_lanes];
  store(lane, x);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

double add_pairs(const LambdaRow& row) {
  const std::int64_t begin = (row.lowest + row_lanes - 1) / row_lanes * row_lanes;
  double loss = 0.0;
  for (std::int64_t i = 0; i < row.others; ++i) {
    const std::int64_t one = begin + i;
    const bool seen = i < row.seen_others;  // if not, its partner must be
    Sums sums{fill(0.0), fill(0.0)};
    add_pairs_of(row, one, 0, seen ? row.lowest : row.seen_lowest, sums);
    add_pairs_of(row, one, one + 1, begin + (seen ? row.others : row.seen_others), sums);
    row.slope[one] += lane_sum(sums.slope);
    loss += lane_sum(sums.loss);
  }
  return loss;
}
}  // namespace

const LambdaKernels lambda_kernels{&add_pairs};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
