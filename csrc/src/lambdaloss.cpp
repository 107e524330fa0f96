#include "lambdaloss.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "checks.hpp"
#include "util/parallel.hpp"

namespace pygrade::inline v0_2 {
namespace {
struct Row {
  const float* scores;
  const float* gains;
  const std::uint8_t* mask;  // nullptr: all are included
  std::int64_t count;

  bool included(std::int64_t i) const { return mask == nullptr || mask[i] != 0; }
};

// Ascending for descending scores: the score's bits as an ordered integer, then the index.
std::uint64_t rank_key(float score, std::int64_t index) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(score + 0.0f);  // -0 equals 0
  const std::uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<std::uint64_t>(~ascending) << 32 | static_cast<std::uint32_t>(index);
}

// Buffers of one thread, kept between rows and calls.
struct Workspace {
  std::vector<std::uint64_t> keys;
  std::vector<std::int64_t> index;  // the candidate of each position, -1 in padding
  std::vector<double> score, gain, discount, present, slope;

  std::size_t size = 0;

  void reset(std::size_t capacity) {
    index.resize(capacity);
    for (auto* values : {&score, &gain, &discount, &present}) values->resize(capacity);
    slope.assign(capacity, 0.0);
    size = 0;
  }
  void append(double s, double g, double d, double p, std::int64_t i) {
    score[size] = s;
    gain[size] = g;
    discount[size] = d;
    present[size] = p;
    index[size++] = i;
  }
  void pad(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) append(0.0, 0.0, 0.0, 0.0, -1);
  }
};

// Ranks the candidates and arranges them as the kernel expects. A NaN score ranks with the masked ones, after all
// others in index order; a NaN gain makes no pair.
detail::LambdaRow lay_out(const Row& row, std::span<const float> discount, double inverse_temperature, Workspace& w) {
  w.keys.clear();
  float lowest = std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < row.count; ++i) {
    if (!row.included(i)) continue;
    if (row.gains[i] < lowest) lowest = row.gains[i];
    if (row.scores[i] == row.scores[i]) w.keys.push_back(rank_key(row.scores[i], i));
  }
  std::sort(w.keys.begin(), w.keys.end());
  const std::size_t ranked = w.keys.size();
  for (std::int64_t i = 0; i < row.count; ++i)
    if (!row.included(i) || row.scores[i] != row.scores[i]) w.keys.push_back(static_cast<std::uint64_t>(i));
  w.reset(w.keys.size() + 24);  // padding of both parts and of the end
  detail::LambdaRow result{};
  for (const bool is_lowest : {true, false}) {
    const std::size_t begin = w.size;
    std::int64_t seen = 0;
    for (std::size_t rank = 0; rank < w.keys.size(); ++rank) {
      const auto i = static_cast<std::int64_t>(w.keys[rank] & 0xffffffffu);
      if (rank >= ranked && !row.included(i)) continue;
      if (row.gains[i] != row.gains[i] || (row.gains[i] == lowest) != is_lowest) continue;
      w.append(row.scores[i] * inverse_temperature, row.gains[i], rank < discount.size() ? discount[rank] : 0.0f, 1.0,
               i);
      seen += rank < discount.size();
    }
    const std::size_t count = w.size - begin;
    (is_lowest ? result.lowest : result.others) = static_cast<std::int64_t>(count);
    (is_lowest ? result.seen_lowest : result.seen_others) = seen;
    w.pad((8 - count % 8) % 8);
  }
  w.pad(8);  // the kernel reads whole vectors from any position
  result.score = w.score.data();
  result.gain = w.gain.data();
  result.discount = w.discount.data();
  result.present = w.present.data();
  result.slope = w.slope.data();
  return result;
}

void check_numbers(std::span<const float> values, std::span<const std::uint8_t> mask, const char* name) {
  bool good = true;
  if (mask.empty())
    for (const float value : values) good &= value == value;
  else
    for (std::size_t i = 0; i < values.size(); ++i) good &= (values[i] == values[i]) | (mask[i] == 0);
  if (!good) throw std::invalid_argument(std::string(name) + " holds NaN; expected numbers wherever mask is True");
}
}  // namespace

void lambda_loss(std::span<const float> scores, std::span<const float> gains, std::span<const std::uint8_t> mask,
                 std::span<const float> discount, std::int64_t batch, float temperature, std::span<float> loss,
                 std::span<float> gradient, bool validate, int num_threads) {
  if (batch < 0 || (batch == 0 ? !scores.empty() : scores.size() % static_cast<std::size_t>(batch) != 0))
    throw std::invalid_argument("scores does not hold the same number of candidates for each request");
  detail::check_size(gains.size(), std::ssize(scores), "gains");
  if (!mask.empty()) detail::check_size(mask.size(), std::ssize(scores), "mask");
  detail::check_size(loss.size(), batch, "loss");
  detail::check_size(gradient.size(), std::ssize(scores), "gradient");
  if (!(temperature > 0.0f)) throw std::invalid_argument("temperature is not a positive number");

  if (validate) {
    check_numbers(scores, mask, "scores");
    check_numbers(gains, mask, "gains");
  }

  const std::int64_t count = batch == 0 ? 0 : static_cast<std::int64_t>(scores.size()) / batch;
  if (count > std::numeric_limits<std::uint32_t>::max())
    throw std::invalid_argument("scores has 2^32 candidates or more");
  const detail::LambdaKernels& kernels = PYGRADE_KERNELS(lambda_kernels);
  const double cost = 300.0 + 30.0 * static_cast<double>(count);  // if few candidates have gains
  detail::parallel_for(batch, num_threads, detail::grain_of(cost), [&](std::int64_t begin, std::int64_t end) {
    static thread_local Workspace workspace;  // kept, so that warm calls allocate nothing
    const double inverse_temperature = 1.0 / double{temperature};
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t at = b * count;
      const Row row{scores.data() + at, gains.data() + at, mask.empty() ? nullptr : mask.data() + at, count};
      float* out = gradient.data() + at;
      std::fill_n(out, count, 0.0f);
      const detail::LambdaRow pairs = lay_out(row, discount, inverse_temperature, workspace);
      loss[static_cast<std::size_t>(b)] = static_cast<float>(kernels.add_pairs(pairs));
      for (std::size_t i = 0; i < workspace.size; ++i)
        if (workspace.index[i] >= 0)
          out[workspace.index[i]] = static_cast<float>(workspace.slope[i] * inverse_temperature);
    }
    if (workspace.index.capacity() > std::size_t{1} << 20) workspace = {};  // some 60 MiB
  });
}
}  // namespace pygrade::inline v0_2
