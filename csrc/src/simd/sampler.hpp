// The Dirichlet sampler: Marsaglia-Tsang gamma variates in log space, 64 draws at a time, 16 of one task per vector.
//
// One pass makes the first attempt of every variate; the few rejected ones are collected and retried together, so that
// no lane is idle. Which lanes share a vector does not affect the bits of a draw.
#pragma once

#include "../dirichlet.hpp"
#include "lanes.hpp"
#include "numerics.hpp"
#include "philox.hpp"
#include "special.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
inline constexpr int block = 64;         // draws at a time
inline constexpr int philox_calls = 16;  // two attempts each; the chance that all fail is below 1e-40
inline constexpr float lowest = -1e38f;  // lower bound of log-gammas, so that their differences stay finite

// Numbers that the sampler needs from one row of concentrations.
struct SamplerRow {
  alignas(64) float alpha[max_tasks];      // 1 if the row is invalid
  alignas(64) float shape[max_tasks];      // d = α - ⅓, or α + ⅔ if α < 1
  alignas(64) float scale[max_tasks];      // c = 1 / (3 √d)
  alignas(64) float log_shape[max_tasks];  // log(d / max d)
  float poison = 0.0f;                     // NaN if the row is invalid, else 0
};

inline void prepare(const float* concentration, std::int64_t tasks, SamplerRow& row) {
  bool good = true;
  for (std::int64_t t = 0; t < tasks; ++t) good &= concentration[t] > 0.0f && concentration[t] < __builtin_inff();
  row.poison = good ? 0.0f : __builtin_nanf("");
  for (std::int64_t t = 0; t < tasks; ++t) row.alpha[t] = good ? concentration[t] : 1.0f;
  for (std::int64_t t = tasks; t % lane_count != 0; ++t) row.alpha[t] = 1.0f;
  float max_shape = 0.0f;
  for (std::int64_t first = 0; first < tasks; first += lane_count) {
    for (std::int64_t t = first; t < first + lane_count; ++t) {
      const float a = row.alpha[t];
      row.shape[t] = (a < 1.0f ? a + 1.0f : a) - 0.33333334f;
      row.scale[t] = 0.33333334f / __builtin_sqrtf(row.shape[t]);
    }
  }
  for (std::int64_t t = 0; t < tasks; ++t) max_shape = row.shape[t] > max_shape ? row.shape[t] : max_shape;
  for (std::int64_t first = 0; first < tasks; first += lane_count)
    for (std::int64_t t = first; t < first + lane_count; ++t) row.log_shape[t] = log(row.shape[t] / max_shape);
}

struct Attempt {
  float log_ratio;  // log(variate / d)
  bool accepted;
};

// One Marsaglia-Tsang attempt with the normal x and the uniform of `word`. With v = 1 + c x as rounded and u = v - 1,
// the test log U < ½x² + d (3 log v + 1 - v³) is written without the cancellation that a large d would amplify.
inline Attempt attempt(float d, float c, float x, std::uint32_t word) {
  const float v = fma(c, x, 1.0f);
  const bool positive = v > 0.0f;
  const float safe = positive ? v : 1.0f;
  const float u = safe - 1.0f;
  const float log_ratio = 3.0f * log_positive(safe);
  const float excess = log_ratio - u * fma(u, u + 3.0f, 3.0f);
  const float bound = fma(d, excess, (0.5f * x) * x);
  const bool below = log_positive(uniform(word)) < bound;
  return {log_ratio, static_cast<bool>(positive & below)};
}

// log U / α if α < 1, else 0: turns a variate of α + 1 into one of α. U is made of bits of the first attempt's words
// that its uniforms do not use. The divisor is bounded so that the quotient does not overflow.
inline float boost(float alpha, std::uint32_t w0, std::uint32_t w1, std::uint32_t w2) {
  const float u = unit_interval(((w0 & 511u) << 14) | ((w1 & 511u) << 5) | (w2 & 31u));
  const float value = log_positive(u) / (alpha > 1e-37f ? alpha : 1e-37f);
  const float bounded = value > lowest ? value : lowest;
  return alpha < 1.0f ? bounded : 0.0f;
}

// The state of up to 64 draws; arrays [T, 64] in scratch.
struct Block {
  alignas(64) std::uint32_t row_low[block];
  alignas(64) std::uint32_t row_high[block];
  alignas(64) std::uint32_t sample[block];  // 256 g
  alignas(64) float poison[block];
  alignas(64) double log_beta[block];
  bool small[max_tasks];  // true if any α of the task is below 1
  float* alpha;
  float* shape;
  float* scale;
  float* log_shape;
  float* variate;  // log-gamma variates, then log-weights
  float* boosts;
  float* weight;
  std::uint8_t rejected[block * max_tasks];     // 1: the first attempt failed
  std::int32_t pending[block * max_tasks + 8];  // append_bits writes past the end
};

// Separate loops for words, normals and attempts: out-of-order execution overlaps iterations only if the loop body is
// short.
inline void first_attempts(Block& b, std::uint64_t seed, std::int64_t tasks, int draws) {
  const int vectors = (draws + lane_count - 1) / lane_count;
  LaneWords words[block / lane_count];
  alignas(64) float normal[block];
  for (std::int64_t t = 0; t < tasks; ++t) {
    for (int v = 0; v < vectors; ++v) {
      const int first = v * lane_count;
      alignas(64) std::uint32_t counter[lane_count];
      for (int l = 0; l < lane_count; ++l) counter[l] = b.sample[first + l] + static_cast<std::uint32_t>(t);
      philox16(seed, b.row_low + first, counter, 0u, b.row_high + first, words[v]);
    }
    for (int v = 0; v < vectors; ++v) {
      const LaneWords& w = words[v];
      for (int l = 0; l < lane_count; ++l) normal[v * lane_count + l] = box_muller(w.w0[l], w.w1[l]).first;
    }
    for (int v = 0; v < vectors; ++v) {
      const LaneWords& w = words[v];
      const std::int64_t at = t * block + v * lane_count;
      const float* shape = b.shape + at;
      const float* scale = b.scale + at;
      const float* x = normal + v * lane_count;
      alignas(64) float variate[lane_count];
      alignas(64) std::uint32_t rejected[lane_count];
      for (int l = 0; l < lane_count; ++l) {
        const Attempt a = attempt(shape[l], scale[l], x[l], w.w2[l]);
        variate[l] = a.log_ratio;
        rejected[l] = a.accepted ? 0u : 1u;
      }
      __builtin_memcpy(b.variate + at, variate, sizeof variate);
      for (int l = 0; l < lane_count; ++l) b.rejected[at + l] = static_cast<std::uint8_t>(rejected[l]);
    }
    float* boosts = b.boosts + t * block;
    for (int i = 0; i < block; ++i) boosts[i] = 0.0f;
    for (int v = 0; v < vectors && b.small[t]; ++v) {
      const LaneWords& w = words[v];
      const float* alpha = b.alpha + t * block + v * lane_count;
      alignas(64) float value[lane_count];
      for (int l = 0; l < lane_count; ++l) value[l] = boost(alpha[l], w.w0[l], w.w1[l], w.w2[l]);
      __builtin_memcpy(boosts + v * lane_count, value, sizeof value);
    }
  }
}

// Appends first + the position of each bit of the word to `to`, ascending; may write up to 4 integers past the end.
// Four at a time, so that the number of iterations hardly varies.
inline void append_bits(std::uint64_t word, std::int32_t first, std::int32_t* to) {
  do {
    for (int i = 0; i < 4; ++i, word &= word - 1)
      to[i] = first + __builtin_ctzll(word | std::uint64_t{1} << 63);  // not 0
    to += 4;
  } while (word != 0);
}

// Collects the rejected first attempts in a separate pass and without a branch for each: a misprediction would discard
// the attempts in flight.
inline int collect_rejected(Block& b, std::int64_t tasks, int draws) {
  const std::uint64_t drawn = ~std::uint64_t{0} >> (block - draws);
  int pending = 0;
  for (std::int64_t t = 0; t < tasks; ++t) {
    std::uint64_t word = 0;
    for (int i = 0; i < block; i += 8) {
      std::uint64_t bytes;  // each 0 or 1
      __builtin_memcpy(&bytes, b.rejected + t * block + i, 8);
      word |= (bytes * 0x0102040810204080u >> 56) << i;  // byte j to bit j
    }
    word &= drawn;
    append_bits(word, static_cast<std::int32_t>(t * block), b.pending + pending);
    pending += __builtin_popcountll(word);
  }
  return pending;
}

inline int retry(Block& b, std::uint64_t seed, std::uint32_t call, int pending) {
  int kept = 0;
  for (int first = 0; first < pending; first += lane_count) {
    const int count = pending - first < lane_count ? pending - first : lane_count;
    alignas(64) std::uint32_t low[lane_count], high[lane_count], sample[lane_count];
    alignas(64) float shape[lane_count], scale[lane_count], ratio[lane_count];
    alignas(64) std::int32_t accepted[lane_count];
    std::int32_t at[lane_count];
    for (int l = 0; l < lane_count; ++l) {
      at[l] = b.pending[first + (l < count ? l : 0)];
      const int draw = at[l] % block;
      low[l] = b.row_low[draw];
      high[l] = b.row_high[draw];
      sample[l] = b.sample[draw] + at[l] / block;
      shape[l] = b.shape[at[l]];
      scale[l] = b.scale[at[l]];
    }
    LaneWords w;
    philox16(seed, low, sample, call, high, w);
    for (int l = 0; l < lane_count; ++l) {
      const Normals x = box_muller(w.w0[l], w.w1[l]);
      const Attempt one = attempt(shape[l], scale[l], x.first, w.w2[l]);
      const Attempt two = attempt(shape[l], scale[l], x.second, w.w3[l]);
      ratio[l] = one.accepted ? one.log_ratio : two.log_ratio;
      accepted[l] = one.accepted | two.accepted;
    }
    for (int l = 0; l < count; ++l) {
      b.variate[at[l]] = accepted[l] != 0 ? ratio[l] : 0.0f;
      b.pending[kept] = at[l];
      kept += accepted[l] == 0;
    }
  }
  return kept;
}

// Log-gamma variates → log-weights and weights, by log-sum-exp around the maximum. The maximum's own term is left out
// of the sum, so that the log-weight of a dominant task keeps its relative accuracy.
inline void normalize(Block& b, std::int64_t tasks, int padded, int first) {
  alignas(64) float maximum[lane_count], ties[lane_count], total[lane_count], log_total[lane_count];
  alignas(64) float rest[max_tasks][lane_count];
  Sixteen highest = Sixteen{} - __builtin_inff();
  for (std::int64_t t = 0; t < tasks; ++t) {
    const std::int64_t at = t * block + first;
    const Sixteen value = (sixteen(b.log_shape + at) + sixteen(b.variate + at)) + sixteen(b.boosts + at);
    sixteen(b.variate + at) = value;
    highest = value > highest ? value : highest;
  }
  sixteen(maximum) = highest;
  for (int l = 0; l < lane_count; ++l) ties[l] = -1.0f;
  for (std::int64_t t = 0; t < tasks; ++t) {
    float* variate = b.variate + t * block + first;
    float* weight = b.weight + t * block + first;
    for (int l = 0; l < lane_count; ++l) {
      const float below = variate[l] - maximum[l];
      const float value = exp(below);
      const float top = below == 0.0f ? 1.0f : 0.0f;  // exactly exp(0)
      variate[l] = below;
      weight[l] = value;
      rest[t][l] = value - top;
      ties[l] += top;
    }
  }
  for (int half = padded / 2; half >= 1; half /= 2)
    for (int t = 0; t + half < tasks && t < half; ++t) sixteen(rest[t]) += sixteen(rest[t + half]);
  for (int l = 0; l < lane_count; ++l) {
    const float y = rest[0][l] + ties[l];
    total[l] = 1.0f + y;
    log_total[l] = log_one_plus(y);
  }
  const Sixteen poison = sixteen(b.poison + first);
  for (std::int64_t t = 0; t < tasks; ++t) {
    Sixteen& variate = sixteen(b.variate + t * block + first);
    Sixteen& weight = sixteen(b.weight + t * block + first);
    variate = (variate - sixteen(log_total)) + poison;
    weight = weight / sixteen(total) + poison;
  }
}

inline void block_log_prob(const Block& b, std::int64_t tasks, int first, int count, float* log_prob) {
  const Doubles zero = fill(0.0), one = fill(1.0);
  for (int from = 0; from < count; from += row_lanes) {
    Doubles sum = zero - load(b.log_beta + first + from);
    for (std::int64_t t = 0; t < tasks; ++t) {
      const std::int64_t at = t * block + first + from;
      sum = multiply_add(load(b.alpha + at) - one, load(b.variate + at), sum);
    }
    alignas(64) float value[row_lanes];
    store(value, sum);
    const int size = count - from < row_lanes ? count - from : row_lanes;
    __builtin_memcpy(log_prob + from, value, static_cast<std::size_t>(size) * sizeof(float));
  }
}

inline void sample(const DirichletSampleTask& task, float* scratch, std::int64_t begin, std::int64_t end) {
  const std::int64_t tasks = task.tasks;
  int padded = 1;
  while (padded < tasks) padded *= 2;
  Block b;
  float** arrays[] = {&b.alpha, &b.shape, &b.scale, &b.log_shape, &b.variate, &b.boosts, &b.weight};
  for (float** array : arrays) {
    *array = scratch;
    scratch += (tasks + 7) / 8 * 8 * block;
  }
  SamplerRow row;
  Rows exact;                            // eight rows, for log_beta
  std::int64_t prepared = -1;            // the row in `row`
  std::int64_t exact_from = -row_lanes;  // the first row in `exact`
  const std::int64_t last = end * task.samples;
  for (std::int64_t start = begin * task.samples; start < last; start += block) {
    const int draws = static_cast<int>(last - start < block ? last - start : block);
    for (std::int64_t t = 0; t < tasks; ++t) b.small[t] = false;
    for (int lane = 0; lane < block;) {  // lanes after the last draw repeat it
      const std::int64_t draw = start + (lane < draws ? lane : draws - 1);
      const std::int64_t r = draw / task.samples;
      std::int64_t g = draw % task.samples;
      if (r != prepared) {
        prepare(task.concentration + r * tasks, tasks, row);
        prepared = r;
        if (task.log_prob != nullptr && r >= exact_from + row_lanes) {
          load_rows(task.concentration + r * tasks, tasks, static_cast<int>(end - r < row_lanes ? end - r : row_lanes),
                    exact);
          evaluate<Order::log_gamma>(tasks, exact);
          exact_from = r;
        }
      }
      const double log_beta = task.log_prob != nullptr ? exact.log_beta[r - exact_from] : 0.0;
      const std::int64_t fits = lane < draws ? task.samples - g : block;
      const int stop = static_cast<int>(block - lane < fits ? block : lane + fits);
      const std::uint64_t global = task.offset + static_cast<std::uint64_t>(r);
      const std::int64_t final_sample = lane < draws ? task.samples : g + 1;
      for (int l = lane; l < stop; ++l) {
        b.row_low[l] = static_cast<std::uint32_t>(global);
        b.row_high[l] = static_cast<std::uint32_t>(global >> 32);
        b.sample[l] = static_cast<std::uint32_t>(g) << 8;
        b.poison[l] = row.poison;
        b.log_beta[l] = log_beta;
        g = g + 1 < final_sample ? g + 1 : g;
      }
      for (std::int64_t t = 0; t < tasks; ++t) {
        const std::int64_t at = t * block;
        b.small[t] |= row.alpha[t] < 1.0f;
        for (int l = lane; l < stop; ++l) {
          b.alpha[at + l] = row.alpha[t];
          b.shape[at + l] = row.shape[t];
          b.scale[at + l] = row.scale[t];
          b.log_shape[at + l] = row.log_shape[t];
        }
      }
      lane = stop;
    }
    first_attempts(b, task.seed, tasks, draws);
    int pending = collect_rejected(b, tasks, draws);
    for (int call = 0; call < philox_calls && pending > 0; ++call)
      pending = retry(b, task.seed, static_cast<std::uint32_t>(call), pending);
    for (int first = 0; first < draws; first += lane_count) {
      const int count = draws - first < lane_count ? draws - first : lane_count;
      const std::int64_t out = start + first;
      normalize(b, tasks, padded, first);
      if (task.weights != nullptr) from_lanes(b.weight + first, block, tasks, count, task.weights + out * tasks);
      if (task.log_weights != nullptr)
        from_lanes(b.variate + first, block, tasks, count, task.log_weights + out * tasks);
      if (task.log_prob != nullptr) block_log_prob(b, tasks, first, count, task.log_prob + out);
    }
  }
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
