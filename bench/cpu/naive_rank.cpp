// The arithmetic of Ranker::rank as it is written without a library, with weights of its own; compiled by
// -O3 -ffast-math, in a clone with -march=native, else for each instruction set of the core. core_bench.cpp times it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace {
constexpr int hidden = 64;

std::vector<float> some(int size) {
  std::vector<float> values;
  for (int i = 0; i < size; ++i) values.push_back(0.02f * static_cast<float>(i % 11 - 5));
  return values;
}

// x[inputs] · weights[inputs, outputs] → y[outputs]
void layer(const float* x, int inputs, const float* weights, int outputs, float* y) {
  for (int o = 0; o < outputs; ++o) y[o] = 0.0f;
  for (int i = 0; i < inputs; ++i)
    for (int o = 0; o < outputs; ++o) y[o] += x[i] * weights[i * outputs + o];
}

// Mean and standard deviation of the columns of x[rows, columns].
void moments(const float* x, int rows, int columns, float* mean, float* std) {
  std::fill_n(mean, columns, 0.0f);
  std::fill_n(std, columns, 0.0f);
  for (int i = 0; i < rows; ++i)
    for (int c = 0; c < columns; ++c) mean[c] += x[i * columns + c];
  for (int c = 0; c < columns; ++c) mean[c] /= static_cast<float>(rows);
  for (int i = 0; i < rows; ++i)
    for (int c = 0; c < columns; ++c) std[c] += (x[i * columns + c] - mean[c]) * (x[i * columns + c] - mean[c]);
  for (int c = 0; c < columns; ++c) std[c] = std::sqrt(std[c] / static_cast<float>(rows)) + 1e-3f;
}
}  // namespace

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(PYGRADE_NATIVE)
#define PYGRADE_CLONES __attribute__((flatten, target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define PYGRADE_CLONES
#endif

// kind 0: a policy of two hidden layers alone; 1: mixed with a static score; 2: alone, of corrected predictions.
PYGRADE_CLONES
void naive_rank(const float* context, int features, const float* predictions, int n, int tasks, int kind, int k,
                float* values, std::int32_t* indices) {
  static const auto first = some((features + 2 * tasks) * hidden), second = some(hidden * hidden),
                    head = some(hidden * tasks), terms = some((1 + features + tasks) * tasks * (1 + tasks));
  static std::vector<float> memory(static_cast<std::size_t>(3 * n * tasks + 2 * n + 4 * features + 64 * tasks * tasks));
  static std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  float *logs = memory.data(), *changed = logs + n * tasks, *score = changed + n * tasks, *other = score + n;
  float *mean = other + n, *std = mean + tasks, *weight = std + tasks, *b = weight + tasks;
  float* inputs = b + tasks * (1 + tasks);
  if (kind == 2) {  // log odds + B_0 + Σ B_v (variable v - its mean); B is linear in the context and in these means
    for (int i = 0; i < n * tasks; ++i) {
      const float p = std::clamp(predictions[i], 1e-6f, 1.0f - 1e-6f);
      logs[i] = std::log(p) - std::log(1.0f - p);
      changed[i] = std::clamp(0.5f * (logs[i] + 3.0f), -4.0f, 4.0f);
    }
    moments(changed, n, tasks, mean, std);
    inputs[0] = 1.0f;
    std::copy_n(context, features, inputs + 1);
    std::copy_n(mean, tasks, inputs + 1 + features);
    layer(inputs, 1 + features + tasks, terms.data(), tasks * (1 + tasks), b);
    for (int i = 0; i < n; ++i) {
      float* row = changed + i * tasks;
      for (int t = 0; t < tasks; ++t) {
        weight[t] = b[t];
        for (int v = 0; v < tasks; ++v) weight[t] += b[(1 + v) * tasks + t] * (row[v] - mean[v]);
      }
      for (int t = 0; t < tasks; ++t) row[t] = 1.0f / (1.0f + std::exp(-logs[i * tasks + t] - weight[t]));
    }
    predictions = changed;
  }
  for (int i = 0; i < n * tasks; ++i) logs[i] = std::log(predictions[i] + 1e-7f);
  moments(logs, n, tasks, mean, std);
  std::copy_n(context, features, inputs);
  std::copy_n(mean, tasks, inputs + features);
  std::copy_n(std, tasks, inputs + features + tasks);
  float one[hidden], two[hidden];
  layer(inputs, features + 2 * tasks, first.data(), hidden, one);
  for (float& x : one) x /= 1.0f + std::exp(-x);
  layer(one, hidden, second.data(), hidden, two);
  for (float& x : two) x /= 1.0f + std::exp(-x);
  layer(two, hidden, head.data(), tasks, weight);
  float total = 0.0f;
  for (int t = 0; t < tasks; ++t) total += weight[t] = std::log1p(std::exp(weight[t])) + 0.05f;
  for (int t = 0; t < tasks; ++t) weight[t] /= total * std[t];
  for (int i = 0; i < n; ++i) {
    score[i] = 0.0f;
    for (int t = 0; t < tasks; ++t) score[i] += weight[t] * (logs[i * tasks + t] - mean[t]);
  }
  if (kind == 1) {
    for (int i = 0; i < n; ++i) {
      other[i] = 0.0f;
      for (int t = 0; t < tasks; ++t) other[i] += head[static_cast<std::size_t>(t)] * predictions[i * tasks + t];
    }
    float at = 0.0f, scale = 0.0f, at_other = 0.0f, scale_other = 0.0f;
    moments(score, n, 1, &at, &scale);
    moments(other, n, 1, &at_other, &scale_other);
    for (int i = 0; i < n; ++i) score[i] = 0.6f * (score[i] - at) / scale + 0.4f * (other[i] - at_other) / scale_other;
  }
  const auto better = [score](std::int32_t a, std::int32_t b) {
    return score[a] > score[b] || (score[a] == score[b] && a < b);
  };
  std::iota(order.begin(), order.end(), 0);
  std::nth_element(order.begin(), order.begin() + k - 1, order.end(), better);
  std::sort(order.begin(), order.begin() + k, better);
  std::copy_n(order.begin(), k, indices);
  for (int i = 0; i < k; ++i) values[i] = score[indices[i]];
}
