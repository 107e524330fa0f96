// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "serving/correction.hpp"

#include "doubles.hpp"
#include "mtl_numerics.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

constexpr std::int64_t block = correction_block;
constexpr std::int64_t knots = Correction::knots, map_terms = knots + 2;
constexpr float smallest = 1e-6f;  // probability and amount, and distance of a probability from 1
constexpr float least_ratio = 1e-4f, most_ratio = 0.95f;  // of a task to its parent
constexpr float most_mapped = 0.99900049983f;             // exp(-1e-3)
constexpr float map_clip = 6.0f, clip = 4.0f, shift_clip = 60.0f;

PYGRADE_INLINE float clamp(float x, float low, float high) {
  const float above = x < low ? low : x;
  return above > high ? high : above;
}
PYGRADE_INLINE float clip_probability(float p) { return clamp(p, smallest, 1.0f - smallest); }
PYGRADE_INLINE float clip_amount(float p) { return p < smallest ? smallest : p; }
// 1 - p, which is exact near 1, where the clipped p is not.
PYGRADE_INLINE float rest_of(float p) {
  const float rest = 1.0f - p;
  return rest < smallest ? smallest : rest;
}
// Numbers between the smallest and the largest normal ones, for log_positive.
PYGRADE_INLINE float log_odds(float p) { return log_positive(clip_probability(p) / rest_of(p)); }
PYGRADE_INLINE float log_amount(float p) { return log_positive(clip_amount(p)); }
PYGRADE_INLINE float growth(float shift) { return exp_inside(clamp(shift, -shift_clip, shift_clip)); }
// The probability p of which 1 - p is `rest`, with its odds times exp(shift).
PYGRADE_INLINE float shifted(float p, float rest, float shift) {
  const float odds = p * growth(shift);
  return odds / (rest + odds);
}

// to = f(a) for whole blocks; `to` may be `a`, or `b` below. Local copies let compilers vectorize.
template <class Function>
PYGRADE_INLINE void transform(const float* a, float* to, std::int64_t count, Function f) {
  for (std::int64_t begin = 0; begin < count; begin += block) {
    float x[block], y[block];
    __builtin_memcpy(x, a + begin, sizeof x);
    for (std::int64_t i = 0; i < block; ++i) y[i] = f(x[i]);
    __builtin_memcpy(to + begin, y, sizeof y);
  }
}
template <class Function>
PYGRADE_INLINE void transform(const float* a, const float* b, float* to, std::int64_t count, Function f) {
  for (std::int64_t begin = 0; begin < count; begin += block) {
    float x[block], y[block], z[block];
    __builtin_memcpy(x, a + begin, sizeof x);
    __builtin_memcpy(y, b + begin, sizeof y);
    for (std::int64_t i = 0; i < block; ++i) z[i] = f(x[i], y[i]);
    __builtin_memcpy(to + begin, z, sizeof z);
  }
}

// rows[count, tasks] → columns; overwrites up to seven columns after them.
void load_columns(const float* rows, std::int64_t count, std::int64_t tasks, float* columns, std::int64_t stride) {
  std::int64_t i = 0;
  for (; (i + 7) * tasks + (tasks + 7) / 8 * 8 <= count * tasks; i += 8)
    for (std::int64_t t = 0; t < tasks; t += 8)
      transpose8(rows + i * tasks + t, tasks, columns + t * stride + i, stride);
  for (std::int64_t t = 0; t < tasks; ++t)
    for (std::int64_t j = i; j < count; ++j) columns[t * stride + j] = rows[j * tasks + t];
}

struct Map {
  float mean, inverse;
  float weights[map_terms], at[knots];

  Map(const CorrectionTask& task, std::int64_t t) : mean(task.map_mean[t]), inverse(task.map_inverse[t]) {
    for (std::int64_t k = 0; k < map_terms; ++k) weights[k] = task.map_weights[t * map_terms + k];
    for (std::int64_t k = 0; k < knots; ++k) at[k] = task.map_knots[t * knots + k];
  }
  PYGRADE_INLINE float shift(float l) const {
    const float z = clamp((l - mean) * inverse, -map_clip, map_clip);
    float sum = fma(weights[1], z, weights[0]);
    for (std::int64_t k = 0; k < knots; ++k) {
      const float over = z - at[k];
      sum = fma(weights[2 + k], over > 0.0f ? over : 0.0f, sum);
    }
    return sum;
  }
};

PYGRADE_INLINE float map_ratio(const Map& map, float p, float parent) {
  const float ratio = clamp(p / (parent > 1e-9f ? parent : 1e-9f), least_ratio, most_ratio);
  return shifted(ratio, 1.0f - ratio, map.shift(log_positive(ratio / (1.0f - ratio))));
}

// Columns of predictions → columns of mapped predictions.
void map_columns(const CorrectionTask& task, std::int64_t count, const float* raw, float* mapped) {
  for (std::int64_t o = 0; o < task.tasks; ++o) {
    const std::int64_t t = task.order[o], parent = task.parents[t];
    const float* from = raw + t * task.stride;
    float* to = mapped + t * task.stride;
    const Map map(task, t);
    if (task.amounts[t] != 0) {
      transform(from, to, count, [&](float p) { return clip_amount(p) * growth(map.shift(log_amount(p))); });
    } else if (task.form == Correction::Form::marginal) {
      transform(from, to, count, [&](float p) {
        const float moved = shifted(clip_probability(p), rest_of(p), map.shift(log_odds(p)));
        return moved > most_mapped ? most_mapped : moved;
      });
    } else if (parent < 0) {
      transform(from, to, count,
                [&](float p) { return shifted(clip_probability(p), rest_of(p), map.shift(log_odds(p))); });
    } else {
      transform(from, raw + parent * task.stride, to, count, [&](float p, float q) { return map_ratio(map, p, q); });
      transform(to, mapped + parent * task.stride, to, count, [](float p, float q) { return p * q; });
    }
  }
}

// Mean of a column whose padding is 0, in 16 chains of doubles.
float mean_of(const float* column, std::int64_t padded, std::int64_t count) {
  Doubles low = fill(0.0), high = fill(0.0);
  for (std::int64_t i = 0; i < padded; i += 2 * row_lanes) {
    low = low + load(column + i);
    high = high + load(column + i + row_lanes);
  }
  alignas(64) double chain[2 * row_lanes];
  store(chain, low);
  store(chain + row_lanes, high);
  double sum = 0.0;
  for (int i = 0; i < 2 * row_lanes; ++i) sum += chain[i];
  return static_cast<float>(sum / static_cast<double>(count));
}

// row[width] of z = [1, x, m].
void coefficients(const CorrectionTask& task, const float* means) {
  const std::int64_t variables = task.tasks + task.items;
  for (std::int64_t j = 0; j < task.width; j += 16) {
    float sum[16];
    const float* w = task.weights + j;
    for (int k = 0; k < 16; ++k) sum[k] = w[k];
    for (std::int64_t i = 0; i < task.inputs + variables; ++i) {
      const float z = i < task.inputs ? task.x[i] : means[i - task.inputs];
      w += task.width;
      for (int k = 0; k < 16; ++k) sum[k] = fma(z, w[k], sum[k]);
    }
    for (int k = 0; k < 16; ++k) task.row[j + k] = sum[k];
  }
  // B_0 + Σ B_v (l_v - m_v) is (B_0 - Σ B_v m_v) + Σ B_v l_v.
  for (std::int64_t t = 0; t < task.tasks; ++t) {
    float* b = task.row + t * (1 + variables);
    for (std::int64_t v = 0; v < variables; ++v) b[0] = fma(-b[1 + v], means[v], b[0]);
  }
}

void correct(const CorrectionTask& task) {
  const std::int64_t tasks = task.tasks, stride = task.stride, variables = tasks + task.items;
  const std::int64_t padded = (task.count + block - 1) / block * block;
  float* const raw = task.columns;
  float* const mapped = task.form == Correction::Form::none ? raw : raw + tasks * stride;
  float* const logs = raw + (2 * tasks + spilled_columns) * stride;
  load_columns(task.predictions, task.count, tasks, raw, stride);
  for (std::int64_t t = 0; t < tasks; ++t)
    for (std::int64_t i = task.count; i < padded; ++i) raw[t * stride + i] = 0.5f;
  if (mapped != raw) map_columns(task, padded, raw, mapped);

  // Each task's probability, amount or ratio to its parent, in the place of its prediction: children first.
  for (std::int64_t o = tasks - 1; o >= 0; --o) {
    const std::int64_t t = task.order[o], parent = task.parents[t];
    float* p = mapped + t * stride;
    float* l = logs + t * stride;
    const float mean = task.l_mean[t], inverse = task.l_inverse[t];
    const auto standard = [=](float base) { return clamp((base - mean) * inverse, -clip, clip); };
    if (task.amounts[t] != 0) {
      transform(p, l, padded, [=](float x) { return standard(log_amount(x)); });
      transform(p, p, padded, [](float x) { return clip_amount(x); });
    } else if (parent < 0) {
      transform(p, l, padded, [=](float x) { return standard(log_odds(x)); });
      transform(p, p, padded, [](float x) { return clip_probability(x); });
    } else {
      transform(p, mapped + parent * stride, p, padded,
                [](float x, float y) { return clamp(x / (y + 1e-7f), least_ratio, most_ratio); });
      transform(p, l, padded, [=](float x) { return standard(log_positive(x / (1.0f - x))); });
    }
  }
  for (std::int64_t j = 0; j < task.items; ++j) {
    float* l = logs + (tasks + j) * stride;
    const float mean = task.l_mean[tasks + j], inverse = task.l_inverse[tasks + j];
    for (std::int64_t i = 0; i < task.count; ++i) {
      const float value = task.item_rows != nullptr ? task.item_rows[i * task.items + j] : __builtin_nanf("");
      const bool known = value - value == 0.0f;  // finite
      l[i] = known ? clamp((value - mean) * inverse, -clip, clip) : 0.0f;
    }
  }
  float means[Correction::max_variables];
  for (std::int64_t v = 0; v < variables; ++v) {
    float* l = logs + v * stride;
    for (std::int64_t i = task.count; i < padded; ++i) l[i] = 0.0f;
    means[v] = mean_of(l, padded, task.count);
  }
  coefficients(task, means);

  for (std::int64_t begin = 0; begin < padded; begin += block) {
    for (std::int64_t o = 0; o < tasks; ++o) {
      const std::int64_t t = task.order[o], parent = task.parents[t];
      const float* b = task.row + t * (1 + variables);
      float d[block], x[block];
      for (std::int64_t i = 0; i < block; ++i) d[i] = b[0];
      for (std::int64_t v = 0; v < variables; ++v) {
        const float* l = logs + v * stride + begin;
        for (std::int64_t i = 0; i < block; ++i) d[i] = fma(b[1 + v], l[i], d[i]);
      }
      float* p = mapped + t * stride + begin;
      __builtin_memcpy(x, p, sizeof x);
      if (task.amounts[t] != 0) {
        for (std::int64_t i = 0; i < block; ++i) x[i] *= growth(d[i]);
      } else if (parent < 0) {
        for (std::int64_t i = 0; i < block; ++i) {
          const float grown = x[i] * growth(d[i]);
          x[i] = grown > 1.0f ? 1.0f : grown;
        }
      } else {
        float q[block];
        __builtin_memcpy(q, mapped + parent * stride + begin, sizeof q);
        for (std::int64_t i = 0; i < block; ++i) x[i] = shifted(x[i], 1.0f - x[i], d[i]) * q[i];
      }
      __builtin_memcpy(p, x, sizeof x);
    }
  }
  from_lanes(mapped, stride, tasks, static_cast<int>(task.count), task.result);
}

void gram_moments(const GramBlock& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t size = task.u_count;
  for (std::int64_t r = begin; r < end; ++r) {
    for (std::int64_t i = 0; i < task.z_count; ++i) task.columns[i * gram_requests + r] = task.z[r * task.z_count + i];
    double* const moments = task.moments + r * task.width;
    for (std::int64_t i = 0; i < task.width; ++i) moments[i] = 0.0;
    for (std::int64_t row = task.offsets[r]; row < task.offsets[r + 1]; ++row) {
      const double* u = task.u + row * size;
      double* sum = moments;
      for (std::int64_t a = 0; a < size; ++a) {
        const double weighted = task.h[row] * u[a];
        for (std::int64_t b = a; b < size; ++b) sum[b - a] += weighted * u[b];
        sum += size - a;
      }
    }
  }
}

// The sums of gram_pairs pairs, `vectors` parts of their rows.
template <int vectors>
PYGRADE_INLINE void add_products(const GramBlock& task, const double* products, std::int64_t column, double* sums) {
  Part sum[gram_pairs][vectors];
  for (auto& row : sum)
    for (auto& part : row) part = fill_part(0.0);
  for (std::int64_t r = 0; r < task.requests; ++r) {
    Part moment[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) moment[v] = load_part(task.moments + r * task.width + column + v * part_lanes);
#pragma GCC unroll 8
    for (int k = 0; k < gram_pairs; ++k) {
      const Part product = fill_part(products[k * gram_requests + r]);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[k][v] = sum[k][v] + product * moment[v];
    }
  }
  for (int k = 0; k < gram_pairs; ++k)
    for (int v = 0; v < vectors; ++v) {
      double* to = sums + k * task.width + column + v * part_lanes;
      store_part(to, load_part(to) + sum[k][v]);
    }
}

void gram_sums(const GramBlock& task, std::int64_t begin, std::int64_t end) {
  constexpr int wide = part_lanes == 8 ? 5 : 2;  // parts that leave room for gram_pairs rows of sums in the registers
  alignas(64) double products[gram_pairs * gram_requests];
  for (std::int64_t group = begin; group < end; ++group) {
    for (std::int64_t k = 0; k < gram_pairs; ++k) {
      const std::int32_t* pair = task.pairs + (group * gram_pairs + k) * 2;
      const double* a = task.columns + pair[0] * gram_requests;
      const double* b = task.columns + pair[1] * gram_requests;
      for (std::int64_t r = 0; r < task.requests; ++r) products[k * gram_requests + r] = a[r] * b[r];
    }
    double* sums = task.sums + group * gram_pairs * task.width;
    std::int64_t column = 0;
    for (; column + wide * part_lanes <= task.width; column += wide * part_lanes)
      add_products<wide>(task, products, column, sums);
    if (wide > 4)
      for (; column + 4 * part_lanes <= task.width; column += 4 * part_lanes)
        add_products<4>(task, products, column, sums);
    if (wide > 2)
      for (; column + 2 * part_lanes <= task.width; column += 2 * part_lanes)
        add_products<2>(task, products, column, sums);
    for (; column < task.width; column += part_lanes) add_products<1>(task, products, column, sums);
  }
}

}  // namespace

const CorrectionKernels correction_kernels{&correct, &gram_moments, &gram_sums};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
