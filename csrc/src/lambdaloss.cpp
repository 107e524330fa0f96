#include "pygrade/lambdaloss.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "parallel.hpp"

namespace pygrade {
namespace {

struct Candidate {
  double gain;
  double score;
  double discount;  // of its current rank
  std::int64_t index;
};

struct Row {
  const float* scores;
  const float* gains;
  const std::uint8_t* mask;  // nullptr: all count
  std::int64_t count;
};

// The candidates that count, each with the discount of its current rank, by descending gain. A NaN score ranks with the
// left-out ones, behind all others, in index order; a NaN gain makes no pair.
void read_row(const Row& row, std::span<const float> discount, std::vector<std::int64_t>& order,
              std::vector<Candidate>& candidates) {
  const auto counts = [&](std::int64_t i) { return row.mask == nullptr || row.mask[i] != 0; };
  const auto ranked = [&](std::int64_t i) { return counts(i) && row.scores[i] == row.scores[i]; };
  order.clear();
  for (std::int64_t i = 0; i < row.count; ++i)
    if (ranked(i)) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return row.scores[a] != row.scores[b] ? row.scores[a] > row.scores[b] : a < b;
  });
  for (std::int64_t i = 0; i < row.count; ++i)
    if (!ranked(i)) order.push_back(i);
  candidates.clear();
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const std::int64_t i = order[rank];
    if (!counts(i) || row.gains[i] != row.gains[i]) continue;
    candidates.push_back({row.gains[i], row.scores[i], rank < discount.size() ? double{discount[rank]} : 0.0, i});
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.gain != b.gain ? a.gain > b.gain : a.index < b.index;
  });
}

// The loss; d loss / d score is added to `slope`, which is as long as `candidates`.
double add_pairs(const std::vector<Candidate>& candidates, double inverse_temperature, std::vector<double>& slope) {
  double loss = 0.0;
  std::size_t lower = 0;  // the first candidate with less gain than `high`
  for (std::size_t high = 0; high < candidates.size(); ++high) {
    const Candidate& a = candidates[high];
    while (lower < candidates.size() && candidates[lower].gain == a.gain) ++lower;
    for (std::size_t low = lower; low < candidates.size(); ++low) {
      const Candidate& b = candidates[low];
      const double weight = (a.gain - b.gain) * std::abs(a.discount - b.discount);
      if (weight == 0.0) continue;  // both ranks beyond the discounts
      const double margin = (a.score - b.score) * inverse_temperature;
      const double tail = std::exp(-std::abs(margin));
      loss += weight * ((margin < 0.0 ? -margin : 0.0) + std::log1p(tail));
      const double pull = weight * inverse_temperature * (margin < 0.0 ? 1.0 : tail) / (1.0 + tail);
      slope[high] -= pull;
      slope[low] += pull;
    }
  }
  return loss;
}

}  // namespace

void lambda_loss(std::span<const float> scores, std::span<const float> gains, std::span<const std::uint8_t> mask,
                 std::span<const float> discount, std::int64_t batch, float temperature, std::span<float> loss,
                 std::span<float> gradient, int num_threads) {
  if (batch < 0 || (batch == 0 ? !scores.empty() : scores.size() % static_cast<std::size_t>(batch) != 0))
    throw std::invalid_argument("scores does not hold the same number of candidates for each request");
  if (gains.size() != scores.size()) throw std::invalid_argument("gains is not as long as scores");
  if (!mask.empty() && mask.size() != scores.size()) throw std::invalid_argument("mask is not as long as scores");
  if (static_cast<std::int64_t>(loss.size()) != batch) throw std::invalid_argument("loss does not hold batch values");
  if (gradient.size() != scores.size()) throw std::invalid_argument("gradient is not as long as scores");
  if (!(temperature > 0.0f)) throw std::invalid_argument("temperature is not a positive number");

  const std::int64_t count = batch == 0 ? 0 : static_cast<std::int64_t>(scores.size()) / batch;
  const std::int64_t grain = 1 + 4000 / (1 + count);  // a few hundred µs of work where few candidates have gains
  detail::parallel_for(batch, num_threads, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::int64_t> order;
    std::vector<Candidate> candidates;
    std::vector<double> slope;
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t at = b * count;
      const Row row{scores.data() + at, gains.data() + at, mask.empty() ? nullptr : mask.data() + at, count};
      float* out = gradient.data() + at;
      std::fill_n(out, count, 0.0f);
      read_row(row, discount, order, candidates);
      slope.assign(candidates.size(), 0.0);
      loss[static_cast<std::size_t>(b)] = static_cast<float>(add_pairs(candidates, 1.0 / double{temperature}, slope));
      for (std::size_t i = 0; i < candidates.size(); ++i) out[candidates[i].index] = static_cast<float>(slope[i]);
    }
  });
}

}  // namespace pygrade
