// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "../policy_network.hpp"

#include "numerics.hpp"
#include "simd.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr float input_clip = 5.0f;  // as in pygrade/policy/network.py

#if defined(__FP_FAST_FMAF)
constexpr bool fuses = true;
#else
constexpr bool fuses = false;
#endif

// A block of a matrix product, R rows of V vectors: out = start + Σ_k a(·, k) b(k, ·), each element one chain.
template <int R, int V>
PYGRADE_INLINE void product_block(const float* a, std::int64_t a_row, std::int64_t a_step, const float* b,
                                  std::int64_t b_stride, std::int64_t depth, const float* start, float* out,
                                  std::int64_t out_stride) {
  Floats sum[R][V];
  for (int v = 0; v < V; ++v) {
    const Floats first = start != nullptr ? load(start + v * lanes) : broadcast(0.0f);
    for (int r = 0; r < R; ++r) sum[r][v] = first;
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    Floats right[V];
    for (int v = 0; v < V; ++v) right[v] = load(b + k * b_stride + v * lanes);
    for (int r = 0; r < R; ++r) {
      const Floats left = broadcast(a[r * a_row + k * a_step]);
      for (int v = 0; v < V; ++v) sum[r][v] = fma(left, right[v], sum[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(out + r * out_stride + v * lanes, sum[r][v]);
}

// A matrix: element (i, k) at data[i · row + k · step].
struct Left {
  const float* data;
  std::int64_t row, step;
};

template <int R, int V>
PYGRADE_INLINE void product_columns(Left a, std::int64_t rows, const float* b, std::int64_t b_stride,
                                    std::int64_t depth, const float* start, float* out, std::int64_t out_stride) {
  for (std::int64_t i = 0; i < rows; i += R)
    product_block<R, V>(a.data + i * a.row, a.row, a.step, b, b_stride, depth, start, out + i * out_stride, out_stride);
}

// out[rows, columns] = start[columns] (null: 0) + a[rows, depth] b[depth, columns]. Rounds rows up to a multiple of 8
// and columns up to whole vectors, within the padding.
void product(Left a, std::int64_t rows, const float* b, std::int64_t b_stride, std::int64_t depth, std::int64_t columns,
             const float* start, float* out, std::int64_t out_stride) {
  constexpr int wide = lanes == 16 ? 4 : 2;  // vectors that leave room for four rows of sums in the registers
  const std::int64_t end = (columns + lanes - 1) / lanes * lanes;
  std::int64_t j = 0;
  const auto from = [&](const float* p) { return p != nullptr ? p + j : nullptr; };
  for (; j + wide * lanes <= end; j += wide * lanes)
    product_columns<4, wide>(a, rows, b + j, b_stride, depth, from(start), out + j, out_stride);
  if constexpr (wide > 2) {
    for (; j + 2 * lanes <= end; j += 2 * lanes)
      product_columns<4, 2>(a, rows, b + j, b_stride, depth, from(start), out + j, out_stride);
  }
  for (; j < end; j += lanes) product_columns<8, 1>(a, rows, b + j, b_stride, depth, from(start), out + j, out_stride);
}

void pack(const float* weights, std::int64_t inputs, std::int64_t outputs, float* columns, float* rows) {
  const std::int64_t wide_in = padded(inputs), wide_out = padded(outputs);
  for (std::int64_t o = 0; o < outputs; ++o) {
    for (std::int64_t i = 0; i < inputs; ++i) {
      columns[i * wide_out + o] = weights[o * inputs + i];
      rows[o * wide_in + i] = weights[o * inputs + i];
    }
  }
}

// Raw inputs of up to chunk_rows rows → normalized ones; the padding is 0.
void normalize(const ForwardTask& task, std::int64_t first, std::int64_t count, float* out) {
  const std::int64_t width = task.layers[0].inputs, wide = padded(width);
  for (std::int64_t r = 0; r < chunk_rows; ++r) {
    float* row = out + r * wide;
    const std::int64_t known = r < count ? width : 0;
    const float* x = task.inputs + (first + r) * width;
    for (std::int64_t i = 0; i < known; ++i) {
      float value = (x[i] - task.mean[i]) / task.std[i];
      value = value < -input_clip ? -input_clip : value;
      value = value > input_clip ? input_clip : value;
      row[i] = value == value ? value : 0.0f;
    }
    for (std::int64_t i = known; i < wide; ++i) row[i] = 0.0f;
  }
}

// z → z σ(z), and its derivative.
template <bool keep>
void silu(float* x, std::int64_t count, float* derivative) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float z = x[i];
    const float sigmoid = 1.0f / (1.0f + exp(-z));
    const float y = z * sigmoid;
    x[i] = y;
    if (keep) derivative[i] = fma(y, 1.0f - sigmoid, sigmoid);
  }
}

constexpr std::int64_t tile_rows = 16;

// logits [count, stride] → softmax, in place, and concentration [count, tasks]. A tile of rows is one vector loop.
void concentration_of(float* logits, std::int64_t count, std::int64_t tasks, const ForwardTask& task,
                      const float* factor, float* concentration) {
  const std::int64_t stride = padded(tasks);
  float column[PolicyNetwork::max_tasks][tile_rows];
  for (std::int64_t first = 0; first < count; first += tile_rows) {
    float* tile = logits + first * stride;
    float highest[tile_rows], sum[tile_rows];
    for (std::int64_t t = 0; t < tasks; ++t)
      for (std::int64_t l = 0; l < tile_rows; ++l) column[t][l] = tile[l * stride + t];
    for (std::int64_t l = 0; l < tile_rows; ++l) {
      highest[l] = column[0][l];
      sum[l] = 0.0f;
    }
    for (std::int64_t t = 1; t < tasks; ++t)
      for (std::int64_t l = 0; l < tile_rows; ++l) highest[l] = highest[l] > column[t][l] ? highest[l] : column[t][l];
    for (std::int64_t t = 0; t < tasks; ++t) {
      for (std::int64_t l = 0; l < tile_rows; ++l) {
        column[t][l] = exp(column[t][l] - highest[l]);
        sum[l] += column[t][l];
      }
    }
    for (std::int64_t t = 0; t < tasks; ++t)
      for (std::int64_t l = 0; l < tile_rows; ++l) tile[l * stride + t] = column[t][l] / sum[l];
    const std::int64_t rows = count - first < tile_rows ? count - first : tile_rows;
    for (std::int64_t l = 0; l < rows; ++l) {
      float* alpha = concentration + (first + l) * tasks;
      const float scale = factor != nullptr ? factor[first + l] : 1.0f;
      for (std::int64_t t = 0; t < tasks; ++t) alpha[t] = (task.floor + task.total * tile[l * stride + t]) * scale;
    }
  }
}

std::int64_t rows_of_chunk(std::int64_t batch, std::int64_t chunk) {
  const std::int64_t rest = batch - chunk * chunk_rows;
  return rest < chunk_rows ? rest : chunk_rows;
}

void forward(const ForwardTask& task, std::int64_t chunk, float* memory, bool keep) {
  const std::int64_t first = chunk * chunk_rows, count = rows_of_chunk(task.batch, chunk);
  normalize(task, first, count, memory);
  const float* x = memory;
  float* next = memory + chunk_rows * padded(task.layers[0].inputs);
  for (std::int64_t i = 0; i < task.layer_count; ++i) {
    const PackedLayer& layer = task.layers[i];
    const std::int64_t wide = padded(layer.outputs), size = chunk_rows * wide;
    product({x, padded(layer.inputs), 1}, chunk_rows, layer.columns, wide, layer.inputs, layer.outputs, layer.bias,
            next, wide);
    if (i + 1 == task.layer_count) {
      const float* factor = task.factor != nullptr ? task.factor + first : nullptr;
      concentration_of(next, count, layer.outputs, task, factor, task.concentration + first * layer.outputs);
      return;
    }
    if (keep)
      silu<true>(next, size, next + size);
    else
      silu<false>(next, size, nullptr);
    x = next;
    next += 2 * size;
  }
}

// slope [count, tasks] by the concentration → by the logits [chunk_rows, stride], whose softmax is `share`.
void softmax_slope(const BackwardTask& task, std::int64_t first, std::int64_t count, std::int64_t tasks,
                   const float* share, float* out) {
  const std::int64_t stride = padded(tasks);
  for (std::int64_t l = 0; l < chunk_rows; ++l) {
    float* row = out + l * stride;
    for (std::int64_t t = 0; t < stride; ++t) row[t] = 0.0f;
    if (l >= count) continue;
    const float* slope = task.slope + (first + l) * tasks;
    const float* p = share + l * stride;
    const float scale = task.factor != nullptr ? task.total * task.factor[first + l] : task.total;
    float dot = 0.0f;
    for (std::int64_t t = 0; t < tasks; ++t) dot = fma(p[t], slope[t], dot);
    for (std::int64_t t = 0; t < tasks; ++t) row[t] = (p[t] * (slope[t] - dot)) * scale;
  }
}

// Sums over the rows, in order: x[count, stride] → sums[stride].
void sum_rows(const float* x, std::int64_t count, std::int64_t stride, float* sums) {
  for (std::int64_t j = 0; j < stride; j += 16) {
    float sum[16] = {};
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t l = 0; l < 16; ++l) sum[l] += x[r * stride + j + l];
    for (std::int64_t l = 0; l < 16; ++l) sums[j + l] = sum[l];
  }
}

void backward(const BackwardTask& task, std::int64_t chunk, const float* memory, float* parts, float* scratch) {
  const std::int64_t first = chunk * chunk_rows, count = rows_of_chunk(task.batch, chunk);
  // Walks back over the chunk's memory and over the parts.
  const float* at = memory + chunk_rows * padded(task.layers[0].inputs);
  for (std::int64_t i = 0; i + 1 < task.layer_count; ++i) {
    at += 2 * chunk_rows * padded(task.layers[i].outputs);
    parts += task.layers[i].gradient_size();
  }
  float* slope = scratch;
  float* below = scratch + chunk_rows * task.widest;
  softmax_slope(task, first, count, task.layers[task.layer_count - 1].outputs, at, slope);
  for (std::int64_t i = task.layer_count - 1; i >= 0; --i) {
    const PackedLayer& layer = task.layers[i];
    const std::int64_t wide_in = padded(layer.inputs), wide_out = padded(layer.outputs);
    const std::int64_t size = chunk_rows * wide_in;
    at -= i > 0 ? 2 * size : size;  // the layer's inputs, then the derivatives of their SiLU
    product({slope, 1, wide_out}, layer.outputs, at, wide_in, count, wide_in, nullptr, parts, wide_in);
    sum_rows(slope, count, wide_out, parts + wide_out * wide_in);
    if (i == 0) return;
    product({slope, wide_out, 1}, chunk_rows, layer.rows, wide_in, layer.outputs, wide_in, nullptr, below, wide_in);
    const float* derivative = at + size;
    for (std::int64_t k = 0; k < size; ++k) below[k] *= derivative[k];
    float* const swap = slope;
    slope = below;
    below = swap;
    parts -= task.layers[i - 1].gradient_size();
  }
}

// to[count] = Σ parts[c · stride + ·] over the chunks c, in order.
void add_parts(const float* parts, std::int64_t chunks, std::int64_t stride, std::int64_t count, float* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = parts[i];
  for (std::int64_t c = 1; c < chunks; ++c)
    for (std::int64_t i = 0; i < count; ++i) to[i] += parts[c * stride + i];
}

// Sum of squares in 16 chains of doubles.
double sum_of_squares(const float* x, std::int64_t count) {
  double chain[16] = {};
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (std::int64_t l = 0; l < 16; ++l) {
      const double value = static_cast<double>(x[i + l]);
      chain[l] += value * value;
    }
  }
  for (; i < count; ++i) {
    const double value = static_cast<double>(x[i]);
    chain[i % 16] += value * value;
  }
  double sum = 0.0;
  for (std::int64_t l = 0; l < 16; ++l) sum += chain[l];
  return sum;
}

double add_chunks(const PackedLayer* layers, std::int64_t layer_count, const float* parts, std::int64_t chunks,
                  std::int64_t stride, float* gradient) {
  float* to = gradient;
  for (std::int64_t i = 0; i < layer_count; ++i) {
    const PackedLayer& layer = layers[i];
    const std::int64_t wide = padded(layer.inputs);
    if (wide == layer.inputs) {
      add_parts(parts, chunks, stride, layer.outputs * wide, to);
    } else {
      for (std::int64_t o = 0; o < layer.outputs; ++o)
        add_parts(parts + o * wide, chunks, stride, layer.inputs, to + o * layer.inputs);
    }
    to += layer.outputs * layer.inputs;
    add_parts(parts + padded(layer.outputs) * wide, chunks, stride, layer.outputs, to);
    to += layer.outputs;
    parts += layer.gradient_size();
  }
  return sum_of_squares(gradient, to - gradient);
}

void adam(const AdamTask& task) {
  const float* __restrict gradient = task.gradient;
  float* __restrict first = task.first, * __restrict second = task.second, * __restrict parameters = task.parameters;
  for (std::int64_t i = 0; i < task.count; ++i) {
    const float g = gradient[i] * task.scale;
    const float m = fma(g - first[i], task.beta1_rest, first[i]);
    const float v = fma(g * g, task.beta2_rest, second[i] * task.beta2);
    const float deviation = __builtin_sqrtf(v) / task.root_correction + task.epsilon;
    first[i] = m;
    second[i] = v;
    parameters[i] = fma(-task.step_size, m / deviation, parameters[i] * task.keep);
  }
}
}  // namespace

const PolicyNetworkKernels policy_network_kernels{fuses, &pack, &forward, &backward, &add_chunks, &adam};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
