// Compiled once per instruction set; see ../isa.hpp for the rules. Lanes are candidates.
#include "serving/correction.hpp"

#include "lanes.hpp"
#include "numerics.hpp"
#include "simd.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr std::int64_t knots = Correction::knots, map_terms = knots + 2;
constexpr float smallest = 1e-6f;  // probability and amount, and distance of a probability from 1
constexpr float most_log_odds = 13.81550956f, least_log_amount = -13.81551056f;    // of `smallest`
constexpr float most_mapped = 0.99900049983f, most_mapped_log_odds = 6.90725523f;  // exp(-1e-3)
constexpr float least_odds = 1e-4f / (1.0f - 1e-4f), most_odds = 19.0f;  // of a task's share of its parent: 1e-4 … 0.95
constexpr float map_clip = 6.0f, clip = 4.0f, shift_clip = 60.0f;

// Two vectors side by side: chains of dependent operations are long here, and two run at once.
struct Pair {
  Floats a, b;
};
struct IntPair {
  Ints a, b;
};
constexpr std::int64_t pair_lanes = 2 * lanes;
static_assert(correction_block % pair_lanes == 0);

PYGRADE_INLINE Pair load_pair(const float* p) { return {load(p), load(p + lanes)}; }
PYGRADE_INLINE void store(float* p, Pair x) {
  store(p, x.a);
  store(p + lanes, x.b);
}
PYGRADE_INLINE Pair both(float x) { return {broadcast(x), broadcast(x)}; }
PYGRADE_INLINE IntPair both(std::int32_t x) { return {broadcast(x), broadcast(x)}; }
PYGRADE_INLINE Pair add(Pair x, Pair y) { return {add(x.a, y.a), add(x.b, y.b)}; }
PYGRADE_INLINE Pair sub(Pair x, Pair y) { return {sub(x.a, y.a), sub(x.b, y.b)}; }
PYGRADE_INLINE Pair mul(Pair x, Pair y) { return {mul(x.a, y.a), mul(x.b, y.b)}; }
PYGRADE_INLINE Pair div(Pair x, Pair y) { return {div(x.a, y.a), div(x.b, y.b)}; }
PYGRADE_INLINE Pair fma(Pair x, Pair y, Pair z) { return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)}; }
PYGRADE_INLINE Pair max(Pair x, Pair y) { return {max(x.a, y.a), max(x.b, y.b)}; }
PYGRADE_INLINE Pair min(Pair x, Pair y) { return {min(x.a, y.a), min(x.b, y.b)}; }
PYGRADE_INLINE Pair number_of_bits(Pair x) { return {number_of_bits(x.a), number_of_bits(x.b)}; }
PYGRADE_INLINE IntPair as_ints(Pair x) { return {as_ints(x.a), as_ints(x.b)}; }
PYGRADE_INLINE Pair as_floats(IntPair x) { return {as_floats(x.a), as_floats(x.b)}; }
PYGRADE_INLINE IntPair add(IntPair x, IntPair y) { return {add(x.a, y.a), add(x.b, y.b)}; }
PYGRADE_INLINE IntPair sub(IntPair x, IntPair y) { return {sub(x.a, y.a), sub(x.b, y.b)}; }
PYGRADE_INLINE IntPair bits_and(IntPair x, IntPair y) { return {bits_and(x.a, y.a), bits_and(x.b, y.b)}; }
PYGRADE_INLINE IntPair shift_left(IntPair x, int bits) { return {shift_left(x.a, bits), shift_left(x.b, bits)}; }

// In [low, high]; low if x is NaN.
PYGRADE_INLINE Pair clamp(Pair x, float low, float high) { return min(max(x, both(low)), both(high)); }

// numerics.hpp's log_positive and, of |x| ≤ shift_clip, exp, with their bits.
PYGRADE_INLINE Pair log_positive(Pair x) {
  const IntPair power = bits_and(sub(as_ints(x), both(0x3f3504f3)), both(static_cast<std::int32_t>(0xff800000)));
  const Pair e = mul(number_of_bits(as_floats(power)), both(0x1p-23f));  // exact
  const Pair f = sub(as_floats(sub(as_ints(x), power)), both(1.0f));
  const Pair z = mul(f, f);
  Pair p = both(7.0376836292e-2f);
  p = fma(p, f, both(-1.1514610310e-1f));
  p = fma(p, f, both(1.1676998740e-1f));
  p = fma(p, f, both(-1.2420140846e-1f));
  p = fma(p, f, both(1.4249322787e-1f));
  p = fma(p, f, both(-1.6668057665e-1f));
  p = fma(p, f, both(2.0000714765e-1f));
  p = fma(p, f, both(-2.4999993993e-1f));
  p = fma(p, f, both(3.3333331174e-1f));
  p = fma(e, both(-2.12194440e-4f), mul(mul(p, f), z));
  p = fma(z, both(-0.5f), p);
  return fma(e, both(0.693359375f), add(f, p));
}
PYGRADE_INLINE Pair growth(Pair shift) {
  const Pair x = clamp(shift, -shift_clip, shift_clip);
  const Pair rounder = both(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer, held in the low bits
  const Pair shifted = fma(x, both(1.44269504089f), rounder);
  const Pair n = sub(shifted, rounder);
  const Pair r = fma(n, both(2.12194440e-4f), fma(n, both(-0.693359375f), x));
  Pair p = both(1.9875691500e-4f);
  p = fma(p, r, both(1.3981999507e-3f));
  p = fma(p, r, both(8.3334519073e-3f));
  p = fma(p, r, both(4.1665795894e-2f));
  p = fma(p, r, both(1.6666665459e-1f));
  p = fma(p, r, both(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), both(1.0f));
  return as_floats(add(as_ints(p), shift_left(as_ints(shifted), 23)));
}

PYGRADE_INLINE Pair clip_probability(Pair p) { return clamp(p, smallest, 1.0f - smallest); }
PYGRADE_INLINE Pair clip_amount(Pair p) { return max(p, both(smallest)); }
// Odds of a probability. 1 - p is exact near 1, where the clipped p is not.
PYGRADE_INLINE Pair odds_of(Pair p) { return div(clip_probability(p), max(sub(both(1.0f), p), both(smallest))); }
// Odds p / (parent - p) of a task whose parent happened.
PYGRADE_INLINE Pair odds_of_share(Pair p, Pair parent) {
  return clamp(div(p, max(sub(parent, p), both(1e-30f))), least_odds, most_odds);
}
PYGRADE_INLINE Pair probability_of(Pair odds) { return div(odds, add(both(1.0f), odds)); }

struct Map {
  float mean, inverse;
  float weights[map_terms], at[knots];

  Map(const CorrectionTask& task, std::int64_t t) : mean(task.map_mean[t]), inverse(task.map_inverse[t]) {
    for (std::int64_t k = 0; k < map_terms; ++k) weights[k] = task.map_weights[t * map_terms + k];
    for (std::int64_t k = 0; k < knots; ++k) at[k] = task.map_knots[t * knots + k];
  }
  PYGRADE_INLINE Pair shift(Pair l) const {
    const Pair z = clamp(mul(sub(l, both(mean)), both(inverse)), -map_clip, map_clip);
    Pair sum = fma(both(weights[1]), z, both(weights[0]));
#pragma GCC unroll 5
    for (std::int64_t k = 0; k < knots; ++k) sum = fma(both(weights[2 + k]), max(sub(z, both(at[k])), both(0.0f)), sum);
    return sum;
  }
};

// Standardizes log odds.
struct Standard {
  float mean, inverse;

  Standard(const CorrectionTask& task, std::int64_t v) : mean(task.l_mean[v]), inverse(task.l_inverse[v]) {}
  PYGRADE_INLINE Pair operator()(Pair l) const { return clamp(mul(sub(l, both(mean)), both(inverse)), -clip, clip); }
};

// rows[count, tasks] → columns; overwrites up to seven columns after them.
void load_columns(const float* rows, std::int64_t count, std::int64_t tasks, float* columns, std::int64_t stride) {
  std::int64_t i = 0;
  for (; (i + 7) * tasks + (tasks + 7) / 8 * 8 <= count * tasks; i += 8)
    for (std::int64_t t = 0; t < tasks; t += 8)
      transpose8(rows + i * tasks + t, tasks, columns + t * stride + i, stride);
  for (std::int64_t t = 0; t < tasks; ++t)
    for (std::int64_t j = i; j < count; ++j) columns[t * stride + j] = rows[j * tasks + t];
}

// Standardized log odds of the predictions of a task without a parent.
void root_logs(const CorrectionTask& task, std::int64_t padded, std::int64_t t, const float* p, float* logs) {
  const Standard standard(task, t);
  if (task.amounts[t] != 0)
    for (std::int64_t i = 0; i < padded; i += pair_lanes)
      store(logs + i, standard(log_positive(clip_amount(load_pair(p + i)))));
  else
    for (std::int64_t i = 0; i < padded; i += pair_lanes)
      store(logs + i, standard(log_positive(odds_of(load_pair(p + i)))));
}

// Maps the predictions of a task without a parent, or of any in the marginal form, and their log odds with them.
void map_root(const CorrectionTask& task, std::int64_t padded, std::int64_t t, const float* p, float* mapped,
              float* logs) {
  const Standard standard(task, t);
  const Map map(task, t);
  if (task.amounts[t] != 0) {
    for (std::int64_t i = 0; i < padded; i += pair_lanes) {
      const Pair amount = clip_amount(load_pair(p + i)), l = log_positive(amount), shift = map.shift(l);
      store(mapped + i, mul(amount, growth(shift)));
      store(logs + i, standard(max(add(l, shift), both(least_log_amount))));
    }
    return;
  }
  const bool marginal = task.form == Correction::Form::marginal;
  const float most = marginal ? most_mapped : 1.0f, most_log = marginal ? most_mapped_log_odds : most_log_odds;
  for (std::int64_t i = 0; i < padded; i += pair_lanes) {
    const Pair odds = odds_of(load_pair(p + i)), l = log_positive(odds), shift = map.shift(l);
    store(mapped + i, min(probability_of(mul(odds, growth(shift))), both(most)));
    store(logs + i, standard(clamp(add(l, shift), -most_log_odds, most_log)));
  }
}

// Maps the shares that the predictions of a task are of its parent's.
void map_child(const CorrectionTask& task, std::int64_t padded, std::int64_t t, const float* p, const float* parent,
               const float* mapped_parent, float* mapped) {
  const Map map(task, t);
  for (std::int64_t i = 0; i < padded; i += pair_lanes) {
    const Pair odds = odds_of_share(load_pair(p + i), max(load_pair(parent + i), both(1e-9f)));
    const Pair share = probability_of(mul(odds, growth(map.shift(log_positive(odds)))));
    store(mapped + i, mul(load_pair(mapped_parent + i), share));
  }
}

// Mean of a column whose padding is 0, in 16 chains of doubles.
float mean_of(const float* column, std::int64_t padded, std::int64_t count) {
  double chain[16] = {};
  for (std::int64_t i = 0; i < padded; i += 16)
    for (int k = 0; k < 16; ++k) chain[k] += static_cast<double>(column[i + k]);
  double sum = 0.0;
  for (const double part : chain) sum += part;
  return static_cast<float>(sum / static_cast<double>(count > 0 ? count : 1));
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

// A task's predictions, or of one with a parent odds, → corrected predictions, in place.
void correct_task(const CorrectionTask& task, std::int64_t padded, std::int64_t t, const float* logs, float* p,
                  const float* parent) {
  const std::int64_t variables = task.tasks + task.items;
  const float* b = task.row + t * (1 + variables);
  const bool amount = task.amounts[t] != 0;
  for (std::int64_t i = 0; i < padded; i += pair_lanes) {
    Pair d = both(b[0]);
    for (std::int64_t v = 0; v < variables; ++v) d = fma(both(b[1 + v]), load_pair(logs + v * task.stride + i), d);
    const Pair given = load_pair(p + i), grown = growth(d);
    if (amount)
      store(p + i, mul(clip_amount(given), grown));
    else if (parent == nullptr)
      store(p + i, min(mul(clip_probability(given), grown), both(1.0f)));
    else
      store(p + i, mul(probability_of(mul(given, grown)), load_pair(parent + i)));
  }
}

// Adds the leaves of a tree with `count` nodes on candidates to sums; start: the leaves that the request leaves.
template <int count>
void add_leaves(const float* const* inputs, const TreeNode* nodes, std::int32_t start, const float* leaves,
                std::int64_t padded, float* sums) {
  for (std::int64_t i = 0; i < padded; i += lanes) {
    Ints left = broadcast(start);
#pragma GCC unroll 7
    for (int k = 0; k < count; ++k) {
      const unsigned stays = greater_equal(broadcast(nodes[k].threshold), load(inputs[k] + i));
      left = select(stays, left, bits_and(left, broadcast(nodes[k].mask)));
    }
    const Ints lowest = bits_and(left, sub(broadcast(0), left));  // a power of 2, whose exponent is the leaf
    const Ints leaf = sub(shift_right(as_ints(number_of_bits(as_floats(lowest))), 23), broadcast(127));
    store(sums + i, add(load(sums + i), look_up8(leaves, leaf)));
  }
}

// Multiplies the corrected predictions of each candidate by the exponential of its leaves' sum.
void apply_trees(const CorrectionTask& task, std::int64_t padded, const float* logs, const float* means,
                 float* mapped) {
  using Add = void (*)(const float* const*, const TreeNode*, std::int32_t, const float*, std::int64_t, float*);
  static constexpr Add add_of[] = {&add_leaves<0>, &add_leaves<1>, &add_leaves<2>, &add_leaves<3>,
                                   &add_leaves<4>, &add_leaves<5>, &add_leaves<6>, &add_leaves<7>};
  const std::int64_t variables = task.tasks + task.items, stride = task.stride;
  float* const above = task.columns + (2 * task.tasks + spilled_columns + variables) * stride;
  float* const sums = above + variables * stride;
  for (std::int64_t v = 0; v < variables; ++v)
    for (std::int64_t i = 0; i < padded; i += lanes)
      store(above + v * stride + i, sub(load(logs + v * stride + i), broadcast(means[v])));
  for (std::int64_t i = 0; i < padded; i += lanes) store(sums + i, broadcast(0.0f));
  std::int32_t begin = 0;
  for (std::int64_t g = 0; g < task.trees; ++g) {
    const std::int32_t middle = task.ends[2 * g], end = task.ends[2 * g + 1];
    std::int32_t start = 255;
    for (std::int32_t k = middle; k < end; ++k) {
      const TreeNode& node = task.nodes[k];
      const float input = node.input < task.inputs ? task.x[node.input] : means[node.input - task.inputs];
      if (!(input <= node.threshold)) start &= node.mask;
    }
    const float* inputs[Correction::tree_nodes];
    for (std::int32_t k = begin; k < middle; ++k) inputs[k - begin] = logs + task.nodes[k].input * stride;
    add_of[middle - begin](inputs, task.nodes + begin, start, task.leaves + 8 * g, padded, sums);
    begin = end;
  }
  for (std::int64_t i = 0; i < padded; i += pair_lanes) {
    const Pair factor = growth(load_pair(sums + i));
    for (std::int64_t t = 0; t < task.tasks; ++t)
      store(mapped + t * stride + i, mul(load_pair(mapped + t * stride + i), factor));
  }
}

void correct(const CorrectionTask& task) {
  const std::int64_t tasks = task.tasks, stride = task.stride, variables = tasks + task.items;
  const std::int64_t padded = (task.count + correction_block - 1) / correction_block * correction_block;
  float* const raw = task.columns;
  float* const mapped = task.form == Correction::Form::none ? raw : raw + tasks * stride;
  float* const logs = raw + (2 * tasks + spilled_columns) * stride;
  load_columns(task.predictions, task.count, tasks, raw, stride);
  for (std::int64_t t = 0; t < tasks; ++t)
    for (std::int64_t i = task.count; i < padded; ++i) raw[t * stride + i] = 0.5f;
  for (std::int64_t o = 0; o < tasks; ++o) {
    const std::int64_t t = task.order[o], parent = task.parents[t];
    const float* p = raw + t * stride;
    if (task.form == Correction::Form::conditional && parent >= 0)
      map_child(task, padded, t, p, raw + parent * stride, mapped + parent * stride, mapped + t * stride);
    else if (task.form != Correction::Form::none)
      map_root(task, padded, t, p, mapped + t * stride, logs + t * stride);
    else if (parent < 0)
      root_logs(task, padded, t, p, logs + t * stride);
  }
  // The odds of a child's share of its parent, in the place of its prediction: the deepest first.
  for (std::int64_t o = tasks - 1; o >= 0; --o) {
    const std::int64_t t = task.order[o], parent = task.parents[t];
    if (parent < 0) continue;
    const Standard standard(task, t);
    float *p = mapped + t * stride, *l = logs + t * stride;
    for (std::int64_t i = 0; i < padded; i += pair_lanes) {
      const Pair odds = odds_of_share(load_pair(p + i), add(load_pair(mapped + parent * stride + i), both(1e-7f)));
      store(p + i, odds);
      store(l + i, standard(log_positive(odds)));
    }
  }
  for (std::int64_t j = 0; j < task.items; ++j) {
    float* l = logs + (tasks + j) * stride;
    const float mean = task.l_mean[tasks + j], inverse = task.l_inverse[tasks + j];
    for (std::int64_t i = 0; i < task.count; ++i) {
      const float value = task.item_rows != nullptr ? task.item_rows[i * task.items + j] : __builtin_nanf("");
      const float x = (value - mean) * inverse;
      const float cut = x > clip ? clip : x < -clip ? -clip : x;
      l[i] = value - value == 0.0f ? cut : 0.0f;  // finite
    }
  }
  float* const means = task.means;
  for (std::int64_t v = 0; v < variables; ++v) {
    float* l = logs + v * stride;
    for (std::int64_t i = task.count; i < padded; ++i) l[i] = 0.0f;
    means[v] = mean_of(l, padded, task.count);
  }
  coefficients(task, means);
  for (std::int64_t o = 0; o < tasks; ++o) {
    const std::int64_t t = task.order[o], parent = task.parents[t];
    correct_task(task, padded, t, logs, mapped + t * stride, parent < 0 ? nullptr : mapped + parent * stride);
  }
  if (task.trees > 0) apply_trees(task, padded, logs, means, mapped);
  from_lanes(mapped, stride, tasks, static_cast<int>(task.count), task.result);
}
}  // namespace

const CorrectionKernels correction_kernels{&correct};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
