// Fused scores of a tile, summed in the tree that fusion.hpp fixes. Several weight vectors share each loaded score.
#pragma once

#include "../fusion.hpp"
#include "select.hpp"
#include "simd.hpp"
#include "tile.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// Q weight vectors, each weight broadcast to a vector. Read once: the compiler must assume that stores to fused scores
// change the weights.
template <int H, int Q>
struct SpreadWeights {
  Floats at[Q][2 * H];

  PYGRADE_INLINE SpreadWeights(const float* weights, std::int64_t tasks) {
    for (int q = 0; q < Q; ++q)
      for (int t = 0; t < 2 * H; ++t) at[q][t] = broadcast(t < tasks ? weights[q * tasks + t] : 0.0f);
  }
};

template <int Q>
struct FusedVectors {
  Floats at[Q];
};

// x_J of the tree for Q weight vectors and a vector of candidates; H is half the padded number of tasks.
template <int J, int H, int Q, class Element>
PYGRADE_INLINE FusedVectors<Q> leaf(const Element* tile, std::int64_t stride, std::int64_t tasks,
                                    const SpreadWeights<H, Q>& weights) {
  FusedVectors<Q> x;
  const Floats first = load_scores(tile + J * stride);
  for (int q = 0; q < Q; ++q) x.at[q] = mul(first, weights.at[q][J]);
  if (J + H < tasks) {
    const Floats second = load_scores(tile + (J + H) * stride);
    for (int q = 0; q < Q; ++q) x.at[q] = fma(second, weights.at[q][J + H], x.at[q]);
  }
  return x;
}

// x_J after the tree's steps down to `Step`: the sum of the x_i with i ≡ J modulo Step.
template <int J, int Step, int H, int Q, class Element>
PYGRADE_INLINE FusedVectors<Q> tree(const Element* tile, std::int64_t stride, std::int64_t tasks,
                                    const SpreadWeights<H, Q>& weights) {
  if constexpr (Step == H) {
    return leaf<J, H, Q>(tile, stride, tasks, weights);
  } else {
    FusedVectors<Q> x = tree<J, 2 * Step, H, Q>(tile, stride, tasks, weights);
    const FusedVectors<Q> y = tree<J + Step, 2 * Step, H, Q>(tile, stride, tasks, weights);
    for (int q = 0; q < Q; ++q) x.at[q] = add(x.at[q], y.at[q]);
    return x;
  }
}

// The output: row q starts q · stride numbers on, and so do the keys of its block maxima.
struct FusedRows {
  float* scores;
  std::int64_t stride;
  std::int32_t* maxima = nullptr;  // null: not stored
  std::int64_t depth = 16;         // vectors per block

  FusedRows from(std::int64_t q) const {
    return {scores + q * stride, stride, maxima != nullptr ? maxima + q * stride : nullptr, depth};
  }
};

// Q weight vectors over the first `count` columns of the tile.
template <int H, int Q, class Element>
PYGRADE_INLINE void fuse_block(const Element* tile, std::int64_t stride, std::int64_t tasks, const float* weights,
                               std::int64_t count, const FusedRows& fused) {
  const SpreadWeights<H, Q> spread(weights, tasks);
  const std::int64_t vectors = vectors_of(count);
  std::int64_t v = 0;
  std::int64_t block = 0;
  for (; v < vectors; ++block) {
    Floats block_max[Q];
    for (int q = 0; q < Q; ++q) block_max[q] = broadcast(-__builtin_inff());
    for (const std::int64_t end = v + fused.depth < vectors ? v + fused.depth : vectors; v < end; ++v) {
      const FusedVectors<Q> x = tree<0, 1, H, Q>(tile + v * lanes, stride, tasks, spread);
      for (int q = 0; q < Q; ++q) {
        const Floats score = add(x.at[q], broadcast(0.0f));  // never -0
        store(fused.scores + q * fused.stride + v * lanes, score);
        block_max[q] = max(score, block_max[q]);
      }
    }
    if (fused.maxima == nullptr) continue;
    for (int q = 0; q < Q; ++q) store(fused.maxima + q * fused.stride + block * lanes, order_key(block_max[q]));
  }
}

// Number of weight vectors that share a loaded score: limited by the number of registers. Halves are read for one
// vector only.
template <int H, class Element>
constexpr int block_weights = lanes < 16 || sizeof(Element) < sizeof(float) ? 1
                              : H <= 4                                      ? 4
                              : H <= 8                                      ? 2
                                                                            : 1;

template <int H, class Element>
PYGRADE_INLINE void fuse_group(const Element* tile, std::int64_t stride, std::int64_t tasks, const float* weights,
                               std::int64_t samples, std::int64_t count, const FusedRows& fused) {
  std::int64_t g = 0;
  constexpr int q = block_weights<H, Element>;
  for (; g + q <= samples; g += q) fuse_block<H, q>(tile, stride, tasks, weights + g * tasks, count, fused.from(g));
  if constexpr (q > 1)
    for (; g < samples; ++g) fuse_block<H, 1>(tile, stride, tasks, weights + g * tasks, count, fused.from(g));
}

constexpr std::int64_t half_columns = 16;  // with more tasks, half-precision columns are widened first

// Fuses weights[samples, tasks] with the first `count` columns of tile[tasks][stride]. Works in whole vectors: both
// strides have room up to the next multiple of `lanes`. The tile's padding may hold anything, but must be NaN if maxima
// are stored: NaN is never a maximum. Halves: at most half_columns tasks.
template <class Element>
inline void fuse_tile(const Element* tile, std::int64_t stride, std::int64_t tasks, const float* weights,
                      std::int64_t samples, std::int64_t count, const FusedRows& fused) {
#if defined(__AVX2__)
  switch (tasks) {  // constant numbers of tasks: the tree is unrolled without tests
#define PYGRADE_FUSE(T, H) \
  case T:                  \
    return fuse_group<H>(tile, stride, T, weights, samples, count, fused);
    PYGRADE_FUSE(1, 1)
    PYGRADE_FUSE(2, 1)
    PYGRADE_FUSE(3, 2)
    PYGRADE_FUSE(4, 2)
    PYGRADE_FUSE(5, 4)
    PYGRADE_FUSE(6, 4)
    PYGRADE_FUSE(7, 4)
    PYGRADE_FUSE(8, 4)
    PYGRADE_FUSE(12, 8)
    PYGRADE_FUSE(16, 8)
#undef PYGRADE_FUSE
    default:
      break;
  }
#else
  if (tasks <= 2) return fuse_group<1>(tile, stride, tasks, weights, samples, count, fused);
  if (tasks <= 4) return fuse_group<2>(tile, stride, tasks, weights, samples, count, fused);
  if (tasks <= 8) return fuse_group<4>(tile, stride, tasks, weights, samples, count, fused);
#endif
  if (tasks <= 16) return fuse_group<8>(tile, stride, tasks, weights, samples, count, fused);
  if constexpr (sizeof(Element) == sizeof(float)) {
    if (tasks <= 32) return fuse_group<16>(tile, stride, tasks, weights, samples, count, fused);
    fuse_group<32>(tile, stride, tasks, weights, samples, count, fused);
  }
}

// One weight vector over columns[tasks][stride] without padding: the last columns go through a padded copy.
template <class Element>
inline void fuse_columns(const Element* columns, std::int64_t stride, std::int64_t tasks, const float* weights,
                         std::int64_t count, const FusedRows& fused) {
  const std::int64_t body = count / lanes * lanes;
  fuse_tile(columns, stride, tasks, weights, 1, body, fused);
  if (body == count) return;
  Element rest[max_tasks * lanes] = {};
  for (std::int64_t t = 0; t < tasks; ++t)
    __builtin_memcpy(rest + t * lanes, columns + t * stride + body,
                     static_cast<std::size_t>(count - body) * sizeof(Element));
  fuse_tile(rest, lanes, tasks, weights, 1, count - body, {fused.scores + body, 0});
  if (fused.maxima != nullptr) store_maxima(fused.scores, count, fused.depth, body / lanes / fused.depth, fused.maxima);
}
}  // namespace
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
