// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "prerank/prerank.hpp"

#include "numerics.hpp"
#include "select.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
constexpr std::int64_t block = item_block;

// `blocks` outputs of item_block numbers stay in registers over all inputs.
template <std::int64_t blocks>
void linear_blocks(const float* x, std::int64_t inputs, const float* weights, const float* bias, std::int64_t outputs,
                   float* out) {
  constexpr int parts = blocks * block / lanes;
  Floats sum[parts];
  for (int p = 0; p < parts; ++p) sum[p] = load(bias + p * lanes);
  for (std::int64_t i = 0; i < inputs; ++i) {
    const Floats value = broadcast(x[i]);
#pragma GCC unroll 32
    for (int p = 0; p < parts; ++p) sum[p] = fma(value, load(weights + i * outputs + p * lanes), sum[p]);
  }
  for (int p = 0; p < parts; ++p) store(out + p * lanes, sum[p]);
}

void linear(const float* x, std::int64_t inputs, const float* weights, const float* bias, std::int64_t outputs,
            float* out) {
  std::int64_t j = 0;
  for (; j + 4 * block <= outputs; j += 4 * block) linear_blocks<4>(x, inputs, weights + j, bias + j, outputs, out + j);
  for (; j + block <= outputs; j += block) linear_blocks<1>(x, inputs, weights + j, bias + j, outputs, out + j);
}

void silu(float* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) x[i] = x[i] / (1.0f + exp(-x[i]));
}

// Several blocks at once, so that the chains of multiply-adds overlap.
template <int blocks>
PYGRADE_INLINE void score_blocks(const float* vector, std::int64_t width, const float* items, float* out) {
  constexpr int parts = static_cast<int>(block) / lanes;
  Floats sum[blocks * parts];
  for (Floats& s : sum) s = broadcast(0.0f);
  for (std::int64_t d = 0; d < width; ++d) {
    const Floats value = broadcast(vector[d]);
#pragma GCC unroll 32
    for (int b = 0; b < blocks; ++b) {
#pragma GCC unroll 4
      for (int p = 0; p < parts; ++p)
        sum[b * parts + p] = fma(value, load(items + (b * width + d) * block + p * lanes), sum[b * parts + p]);
    }
  }
  for (int i = 0; i < blocks * parts; ++i) store(out + i * lanes, sum[i]);
}

void scores(const float* vector, std::int64_t width, const float* blocks, std::int64_t count, float* out) {
  constexpr int together = lanes == 16 ? 8 : 4;
  std::int64_t b = 0;
  for (; b + together <= count; b += together)
    score_blocks<together>(vector, width, blocks + b * width * block, out + b * block);
  for (; b < count; ++b) score_blocks<1>(vector, width, blocks + b * width * block, out + b * block);
}

const std::int32_t* best(const float* row, std::int64_t count, std::int64_t k, float* memory, std::int64_t stride) {
  const SelectScratch scratch(memory, stride);
  select_best(row, count, k, scratch);
  return scratch.best;
}
}  // namespace

const PrerankKernels prerank_kernels{&linear, &silu, &scores, &best};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
