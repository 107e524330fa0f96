// Compiled once per instruction set; see ../isa.hpp for the rules.
//
// A lane is a row. A block of rows is held by columns, [columns, stride], where the stride is the number of rows,
// padded to a multiple of mtl_lanes. Rows never meet, so a row's bits depend on its own values alone.
#include "lanes.hpp"
#include "mtl/network.hpp"
#include "mtl_numerics.hpp"
#include "simd.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr float input_clip = 5.0f;  // normalized inputs are cut to ± this
// Bounds of a child's probability in the funnel: log p ≤ -1e-6, and 1 - p accordingly.
constexpr double highest_log = -1e-6;
constexpr double lowest_rest = 9.9999950000016667e-07;

// --- maps

// x / (1 + exp(-x)); exp as mtl_numerics.hpp's.
PYGRADE_INLINE Floats silu(Floats x) {
  const Floats inside = max(min(x, broadcast(exp_limit)), broadcast(-exp_limit));
  const Floats rounder = broadcast(exp_rounder), log2_e = broadcast(-exp_log2_e);
  const Floats shifted = fma(inside, log2_e, rounder), f = fma(inside, log2_e, sub(rounder, shifted));
  Floats p = broadcast(exp_terms[0]);
#pragma GCC unroll 5
  for (int i = 1; i < 6; ++i) p = fma(p, f, broadcast(exp_terms[i]));
  const Ints power = shift_left(as_ints(shifted), 23);
  return div(x, add(broadcast(1.0f), as_floats(add(as_ints(p), power))));
}

constexpr int columns_at_once = lanes == 16 ? 8 : 4;  // with three vectors of rows: all registers but a few
constexpr int vectors_at_once = 3;

// y[c, rows] = start[c] + Σ_i x[i, rows] · weights[i, c], or its silu, for `width` columns c and `vectors` vectors of
// rows.
template <int vectors, int width, bool activate>
PYGRADE_INLINE void chains(const float* x, std::int64_t stride, std::int64_t inputs, const float* weights,
                           const float* start, float* y) {
  Floats sum[width][vectors];
#pragma GCC unroll 8
  for (int c = 0; c < width; ++c)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) sum[c][v] = broadcast(start[c]);
  for (std::int64_t i = 0; i < inputs; ++i) {
    Floats value[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) value[v] = load(x + v * lanes);
#pragma GCC unroll 8
    for (int c = 0; c < width; ++c) {
      const Floats weight = broadcast(weights[c]);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) sum[c][v] = fma(value[v], weight, sum[c][v]);
    }
    x += stride;
    weights += mtl_tile;
  }
#pragma GCC unroll 8
  for (int c = 0; c < width; ++c)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) store(y + c * stride + v * lanes, activate ? silu(sum[c][v]) : sum[c][v]);
}

template <int width, bool activate>
void chains_of_rows(const float* x, std::int64_t stride, std::int64_t inputs, const float* weights, const float* start,
                    float* y) {
  constexpr int most = vectors_at_once * lanes;
  std::int64_t r = 0;
  for (; r + most <= stride; r += most)
    chains<vectors_at_once, width, activate>(x + r, stride, inputs, weights, start, y + r);
  if (r + 2 * lanes <= stride) {
    chains<2, width, activate>(x + r, stride, inputs, weights, start, y + r);
    r += 2 * lanes;
  }
  if (r < stride) chains<1, width, activate>(x + r, stride, inputs, weights, start, y + r);
}

// The map without its first `skip` inputs, whose part is in start[outputs]; x[inputs - skip, stride] → y[outputs,
// stride].
template <bool activate>
void apply(const MtlMap& map, std::int64_t skip, const float* start, const float* x, std::int64_t stride, float* y) {
  const std::int64_t inputs = map.inputs - skip;
  std::int64_t o = 0;
  const auto next = [&]<int width>() {
    const float* tile = map.weights + o / mtl_tile * mtl_tile * map.inputs + skip * mtl_tile + o % mtl_tile;
    chains_of_rows<width, activate>(x, stride, inputs, tile, start + o, y + o * stride);
    o += width;
  };
  while (map.outputs - o >= columns_at_once) next.template operator()<columns_at_once>();
  if (columns_at_once > 4 && map.outputs - o >= 4) next.template operator()<4>();
  if (map.outputs - o >= 2) next.template operator()<2>();
  if (map.outputs - o >= 1) next.template operator()<1>();
}

template <bool activate>
void apply(const MtlMap& map, const float* x, std::int64_t stride, float* y) {
  apply<activate>(map, 0, map.bias, x, stride, y);
}

// --- inputs

// Entry of the table of embeddings, as pygrade/mtl/network.py's table_entries.
inline std::int64_t entry_of(const MtlNetwork& network, std::int64_t column, std::int64_t id) {
  return network.first_entry[column] + (id >= 0 && id < network.vocabulary[column] ? id : 0);
}

inline float normalized(float x, float mean, float scale) {
  const float value = (x - mean) * scale;
  const float low = value < -input_clip ? -input_clip : value;
  const float inside = low > input_clip ? input_clip : low;
  return value == value ? inside : 0.0f;
}

void copy_embedding(const MtlNetwork& network, std::int64_t entry, float* to, std::int64_t step) {
  const float* from = network.table + entry * network.embedding;
  for (std::int64_t e = 0; e < network.embedding; ++e) to[e * step] = from[e];
}

// Dense columns begin … end of the rows → x[end - begin, stride].
void load_dense(const MtlNetwork& network, const MtlRows& rows, const float* dense, std::int64_t begin,
                std::int64_t end, std::int64_t stride, float* x) {
  const std::int64_t columns = end - begin;
  for (std::int64_t r = 0; r < rows.count; ++r)
    for (std::int64_t d = 0; d < columns; ++d) x[d * stride + r] = dense[r * rows.dense_stride + d];
  for (std::int64_t d = 0; d < columns; ++d) {
    const float mean = network.mean[begin + d], scale = network.scale[begin + d];
    float* column = x + d * stride;
    for (std::int64_t r = 0; r < stride; ++r) column[r] = normalized(column[r], mean, scale);
  }
}

// Embeddings of the id columns begin … end → x[(end - begin) · embedding, stride].
void load_embeddings(const MtlNetwork& network, const MtlRows& rows, const std::int64_t* ids, std::int64_t begin,
                     std::int64_t end, std::int64_t stride, std::int32_t* entries, float* x) {
  for (std::int64_t f = begin; f < end; ++f, entries += mtl_block) {
    for (std::int64_t r = 0; r < rows.count; ++r) {
      const std::int64_t entry = entry_of(network, f, ids[r * rows.ids_stride + f - begin]);
      __builtin_prefetch(network.table + entry * network.embedding);
      entries[r] = static_cast<std::int32_t>(entry);
    }
  }
  entries -= (end - begin) * mtl_block;
  for (std::int64_t f = begin; f < end; ++f, entries += mtl_block, x += network.embedding * stride)
    for (std::int64_t r = 0; r < rows.count; ++r) copy_embedding(network, entries[r], x + r, stride);
}

// --- layers

// Scores of one gate, [count, stride] → weights of its experts, in place.
void softmax(float* scores, std::int64_t count, std::int64_t stride) {
  float highest[mtl_block], sum[mtl_block];
  for (std::int64_t r = 0; r < stride; ++r) highest[r] = scores[r];
  for (std::int64_t v = 1; v < count; ++v)
    for (std::int64_t r = 0; r < stride; ++r) {
      const float score = scores[v * stride + r];
      highest[r] = score > highest[r] ? score : highest[r];
    }
  for (std::int64_t r = 0; r < stride; ++r) sum[r] = 0.0f;
  for (std::int64_t v = 0; v < count; ++v)
    for (std::int64_t r = 0; r < stride; ++r) {
      const float odds = exp_below(scores[v * stride + r] - highest[r]);
      scores[v * stride + r] = odds;
      sum[r] += odds;
    }
  for (std::int64_t v = 0; v < count; ++v)
    for (std::int64_t r = 0; r < stride; ++r) scores[v * stride + r] /= sum[r];
}

// Σ_v weights[v] · the output of expert sees[v] → mix[width, stride].
void mix_experts(const MtlGate& gate, const float* weights, const float* outputs, std::int64_t width,
                 std::int64_t stride, float* mix) {
  for (std::int64_t v = 0; v < gate.count; ++v) {
    const float* output = outputs + gate.sees[v] * width * stride;
    for (std::int64_t r = 0; r < stride; r += lanes) {
      const Floats weight = load(weights + v * stride + r);
      const std::int64_t end = width * stride + r;
      if (v == 0)
        for (std::int64_t i = r; i < end; i += stride) store(mix + i, mul(weight, load(output + i)));
      else
        for (std::int64_t i = r; i < end; i += stride) store(mix + i, fma(weight, load(output + i), load(mix + i)));
    }
  }
}

// x[inputs - skip, stride] → mixes[tasks, width, stride].
void run_experts(const MtlNetwork& network, const float* x, std::int64_t stride, std::int64_t skip,
                 const float* initial, float* hidden, float* outputs, float* scores, float* mixes) {
  const auto start = [&](const MtlMap& map) { return initial ? initial + (map.bias - network.first_bias) : map.bias; };
  const std::int64_t width = network.experts[0].output.outputs;
  for (std::int64_t m = 0; m < network.num_experts; ++m) {
    const MtlExpert& expert = network.experts[m];
    apply<true>(expert.hidden, skip, start(expert.hidden), x, stride, hidden);
    apply<true>(expert.output, hidden, stride, outputs + m * width * stride);
  }
  apply<false>(network.scores, skip, start(network.scores), x, stride, scores);
  for (std::int64_t t = 0; t < network.tasks; ++t) {
    const MtlGate& gate = network.gates[t];
    softmax(scores, gate.count, stride);
    mix_experts(gate, scores, outputs, width, stride, mixes + t * width * stride);
    scores += gate.count * stride;
  }
}

// --- logits

struct FunnelTask {
  double* __restrict logit;
  double* __restrict log_p;
  double* __restrict p;
  double* __restrict rest;  // 1 - p
};

// Logits of the tasks given their parents → of the tasks, as pygrade/mtl/network.py's funnel_logits. 1 - p of a child
// is a sum of positive terms, (1 - p(parent)) + p(parent) · (1 - p(child | parent)), so nothing cancels.
void run_funnel(const MtlNetwork& network, std::int64_t stride, double* work) {
  const std::int64_t part = network.tasks * stride;
  const auto of = [&](std::int64_t t) {
    double* at = work + t * stride;
    return FunnelTask{at, at + part, at + 2 * part, at + 3 * part};
  };
  for (std::int64_t k = 0; k < network.tasks; ++k) {
    const std::int64_t t = network.order[k];
    const FunnelTask task = of(t);
    for (std::int64_t r = 0; r < stride; ++r) {
      const double z = task.logit[r];
      const double e = exp_minus(z);
      task.log_p[r] = (z < 0.0 ? z : 0.0) - log_one_plus(e);
      task.p[r] = (z < 0.0 ? e : 1.0) / (1.0 + e);
      task.rest[r] = (z < 0.0 ? 1.0 : e) / (1.0 + e);
    }
    if (network.parents[t] < 0) continue;
    const FunnelTask parent = of(network.parents[t]);
    for (std::int64_t r = 0; r < stride; ++r) {
      task.log_p[r] += parent.log_p[r];
      task.rest[r] = fma(parent.p[r], task.rest[r], parent.rest[r]);
      task.p[r] *= parent.p[r];
      const double log_p = task.log_p[r] < highest_log ? task.log_p[r] : highest_log;
      const double rest = task.rest[r] > lowest_rest ? task.rest[r] : lowest_rest;
      const double logit = log_p - log_normal(rest);
      task.logit[r] = logit < parent.logit[r] ? logit : parent.logit[r];  // true but for rounding
    }
  }
}

void calibrate(const MtlCurve& curve, std::int64_t stride, double* logits) {
  for (std::int64_t r = 0; r < stride; ++r) {
    const double x = logits[r];
    const double one_plus = log_one_plus(exp_minus(x));
    const double log_p = (x < 0.0 ? x : 0.0) - one_plus;
    const double log_rest = (x < 0.0 ? 0.0 : -x) - one_plus;
    logits[r] = fma(curve.a, log_p, fma(-curve.b, log_rest, curve.c));
  }
}

// logits[tasks, stride] → rows.probabilities.
void finish(const MtlNetwork& network, const MtlRows& rows, std::int64_t stride, float* logits, double* work) {
  constexpr double lowest = 1e-6f;
  for (std::int64_t i = 0; i < network.tasks * stride; ++i) work[i] = static_cast<double>(logits[i]);
  if (network.funnel) run_funnel(network, stride, work);
  if (rows.calibrated && network.curves != nullptr)
    for (std::int64_t t = 0; t < network.tasks; ++t) calibrate(network.curves[t], stride, work + t * stride);
  for (std::int64_t i = 0; i < network.tasks * stride; ++i) {
    const double p = sigmoid(work[i]);
    logits[i] = static_cast<float>(p > lowest ? p : lowest);
  }
  from_lanes(logits, stride, network.tasks, static_cast<int>(rows.count), rows.probabilities);
}

// --- entries of the table

// The chains of `tiles` tiles of outputs from `o` on over the first inputs. Several at once hide the latency of fma.
template <int tiles>
void start_tiles(const MtlMap& map, const float* x, std::int64_t inputs, std::int64_t o, float* to) {
  float sum[tiles][mtl_tile];
  const float* weights = map.weights + o * map.inputs;
  for (int t = 0; t < tiles; ++t)
    for (int c = 0; c < mtl_tile; ++c) sum[t][c] = map.bias[o + t * mtl_tile + c];
  for (std::int64_t i = 0; i < inputs; ++i, weights += mtl_tile)
#pragma GCC unroll 4
    for (int t = 0; t < tiles; ++t)
#pragma GCC unroll 8
      for (int c = 0; c < mtl_tile; ++c) sum[t][c] = fma(x[i], weights[t * map.inputs * mtl_tile + c], sum[t][c]);
  for (int t = 0; t < tiles; ++t)
    for (int c = 0; c < mtl_tile; ++c) to[t * mtl_tile + c] = sum[t][c];
}

void run_request(const MtlNetwork& network, const float* dense, const std::int64_t* ids, float* scratch,
                 float* initial) {
  float* x = scratch + network.scratch.request;
  float* at = x;
  for (std::int64_t d = 0; d < network.request_dense; ++d)
    *at++ = normalized(dense[d], network.mean[d], network.scale[d]);
  for (std::int64_t f = 0; f < network.request_ids; ++f, at += network.embedding)
    copy_embedding(network, entry_of(network, f, ids[f]), at, 1);
  const auto add = [&](const MtlMap& map) {
    float* to = initial + (map.bias - network.first_bias);
    std::int64_t o = 0;
    for (; o + 4 * mtl_tile <= map.outputs; o += 4 * mtl_tile)
      start_tiles<4>(map, x, network.request_inputs, o, to + o);
    for (; o < map.outputs; o += mtl_tile) start_tiles<1>(map, x, network.request_inputs, o, to + o);
  };
  for (std::int64_t m = 0; m < network.num_experts; ++m) add(network.experts[m].hidden);
  add(network.scores);
}

void run_rows(const MtlNetwork& network, const MtlRows& rows, float* scratch) {
  const MtlScratch& at = network.scratch;
  const std::int64_t stride = (rows.count + mtl_lanes - 1) / mtl_lanes * mtl_lanes;
  const bool whole = rows.initial == nullptr;
  const std::int64_t skip = whole ? 0 : network.request_inputs;
  float* inputs = scratch + at.inputs;
  if (rows.count < stride)
    for (std::int64_t i = 0; i < (network.inputs - skip) * stride; ++i) inputs[i] = 0.0f;
  auto* entries = reinterpret_cast<std::int32_t*>(scratch + at.entries);
  float* x = inputs;
  const float* dense = rows.dense;
  const std::int64_t* ids = rows.ids;
  if (whole) {
    load_dense(network, rows, dense, 0, network.request_dense, stride, x);
    x += network.request_dense * stride;
    load_embeddings(network, rows, ids, 0, network.request_ids, stride, entries, x);
    x += network.request_ids * network.embedding * stride;
    dense += network.request_dense;
    ids += network.request_ids;
  }
  load_dense(network, rows, dense, network.request_dense, network.dense, stride, x);
  x += (network.dense - network.request_dense) * stride;
  load_embeddings(network, rows, ids, network.request_ids, network.ids, stride, entries, x);

  float* hidden = scratch + at.hidden;
  const float* mixes = scratch + at.mixes;
  run_experts(network, inputs, stride, skip, rows.initial, hidden, scratch + at.outputs, scratch + at.scores,
              scratch + at.mixes);
  float* logits = scratch + at.logits;
  for (std::int64_t t = 0; t < network.tasks; ++t) {
    const MtlTower& tower = network.towers[t];
    float* logit = logits + t * stride;
    apply<true>(tower.hidden, mixes + t * tower.hidden.inputs * stride, stride, hidden);
    apply<false>(tower.output, hidden, stride, logit);
    for (std::int64_t r = 0; r < stride; ++r) logit[r] += network.base[t];
  }
  finish(network, rows, stride, logits, reinterpret_cast<double*>(scratch + at.doubles));
}
}  // namespace

const MtlKernels mtl_kernels{&run_request, &run_rows};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
