// The fused scores of a tile, in the one tree that fusion.hpp fixes. A block of weight vectors and of vectors of
// candidates is held in registers, so that a loaded score serves several weight vectors.
#pragma once

#include "../fusion.hpp"
#include "select.hpp"
#include "simd.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

template <int Q, int V>
struct FusedBlock {
  Floats at[Q][V];
};

// x_J of the tree for Q weight vectors and V vectors of candidates; H is half the padded number of tasks.
template <int J, int H, int Q, int V>
PYGRADE_INLINE FusedBlock<Q, V> leaf(const float* tile, std::int64_t stride, std::int64_t tasks, const float* weights) {
  FusedBlock<Q, V> x;
  for (int q = 0; q < Q; ++q) {
    const Floats weight = broadcast(weights[q * tasks + J]);
    for (int v = 0; v < V; ++v) x.at[q][v] = mul(load(tile + J * stride + v * lanes), weight);
  }
  if (J + H < tasks) {
    for (int q = 0; q < Q; ++q) {
      const Floats weight = broadcast(weights[q * tasks + J + H]);
      for (int v = 0; v < V; ++v) x.at[q][v] = fma(load(tile + (J + H) * stride + v * lanes), weight, x.at[q][v]);
    }
  }
  return x;
}

// x_J after the steps down to `Step`: the sum of the x_i with i ≡ J modulo Step.
template <int J, int Step, int H, int Q, int V>
PYGRADE_INLINE FusedBlock<Q, V> tree(const float* tile, std::int64_t stride, std::int64_t tasks, const float* weights) {
  if constexpr (Step == H) {
    return leaf<J, H, Q, V>(tile, stride, tasks, weights);
  } else {
    FusedBlock<Q, V> x = tree<J, 2 * Step, H, Q, V>(tile, stride, tasks, weights);
    const FusedBlock<Q, V> y = tree<J + Step, 2 * Step, H, Q, V>(tile, stride, tasks, weights);
    for (int q = 0; q < Q; ++q)
      for (int v = 0; v < V; ++v) x.at[q][v] = add(x.at[q][v], y.at[q][v]);
    return x;
  }
}

// Where fused scores go: row q, and the keys of its block maxima, are q · stride numbers on.
struct FusedRows {
  float* scores;
  std::int64_t stride;
  std::int32_t* maxima = nullptr;  // null: not wanted
  std::int64_t depth = 16;         // vectors of a block; even
  bool padded = false;             // whether NaN, which is in no maximum, stands behind the candidates

  FusedRows from(std::int64_t q) const {
    return {scores + q * stride, stride, maxima != nullptr ? maxima + q * stride : nullptr, depth, padded};
  }
};

// Q weight vectors over the first `count` columns of the tile.
template <int H, int Q, int V>
PYGRADE_INLINE void fuse_block(const float* tile, std::int64_t stride, std::int64_t tasks, const float* weights,
                               std::int64_t count, const FusedRows& fused) {
  const std::int64_t vectors = vectors_of(count);
  std::int64_t v = 0;
  std::int64_t block = 0;
  for (; v < vectors; ++block) {
    Floats most[Q];
    for (int q = 0; q < Q; ++q) most[q] = broadcast(-__builtin_inff());
    const std::int64_t end = v + fused.depth < vectors ? v + fused.depth : vectors;
    for (; v < end; v += V) {
      const FusedBlock<Q, V> x = tree<0, 1, H, Q, V>(tile + v * lanes, stride, tasks, weights);
      for (int q = 0; q < Q; ++q)
        for (int i = 0; i < V; ++i) {
          const Floats score = add(x.at[q][i], broadcast(0.0f));  // never -0
          store(fused.scores + q * fused.stride + (v + i) * lanes, score);
          most[q] = max(score, most[q]);
        }
    }
    if (fused.maxima == nullptr) continue;
    for (int q = 0; q < Q; ++q) store(fused.maxima + q * fused.stride + block * lanes, order_key(most[q]));
  }
  if (fused.maxima == nullptr || block == 0 || fused.padded) return;
  for (int q = 0; q < Q; ++q)  // the last block saw what stands behind the candidates
    note_maxima(fused.scores + q * fused.stride, count, fused.depth, block - 1, fused.maxima + q * fused.stride);
}

// As many accumulators as fit into the registers beside what the tree keeps. The wide trees are rare: kept small.
template <int H>
constexpr int block_weights = H > 8         ? 1
                              : lanes == 16 ? 4
                              : lanes == 8  ? 2
                                            : 1;
constexpr int block_vectors = lanes == 4 ? 1 : 2;

template <int H>
PYGRADE_INLINE void fuse_group(const float* tile, std::int64_t stride, std::int64_t tasks, const float* weights,
                               std::int64_t samples, std::int64_t count, const FusedRows& fused) {
  std::int64_t g = 0;
  constexpr int q = block_weights<H>;
  for (; g + q <= samples; g += q)
    fuse_block<H, q, block_vectors>(tile, stride, tasks, weights + g * tasks, count, fused.from(g));
  for (; g < samples; ++g)
    fuse_block<H, 1, block_vectors>(tile, stride, tasks, weights + g * tasks, count, fused.from(g));
}

// The rows of weights[samples, tasks] over the first `count` columns of tile[tasks][stride]. Works in whole blocks:
// both strides have room for the columns up to the next multiple of 2 · lanes, whatever stands there.
inline void fuse_tile(const float* tile, std::int64_t stride, std::int64_t tasks, const float* weights,
                      std::int64_t samples, std::int64_t count, const FusedRows& fused) {
#if defined(__AVX2__)
  switch (tasks) {  // constants here unroll the tree without a test for the tasks that are not there
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
#endif
  if (tasks <= 2) return fuse_group<1>(tile, stride, tasks, weights, samples, count, fused);
  if (tasks <= 4) return fuse_group<2>(tile, stride, tasks, weights, samples, count, fused);
  if (tasks <= 8) return fuse_group<4>(tile, stride, tasks, weights, samples, count, fused);
  if (tasks <= 16) return fuse_group<8>(tile, stride, tasks, weights, samples, count, fused);
  if (tasks <= 32) return fuse_group<16>(tile, stride, tasks, weights, samples, count, fused);
  fuse_group<32>(tile, stride, tasks, weights, samples, count, fused);
}

// One weight vector over columns[tasks][stride] that end where they end: the last columns go through a padded copy.
inline void fuse_columns(const float* columns, std::int64_t stride, std::int64_t tasks, const float* weights,
                         std::int64_t count, float* fused) {
  constexpr std::int64_t whole = block_vectors * lanes;
  const std::int64_t body = count / whole * whole;
  fuse_tile(columns, stride, tasks, weights, 1, body, {fused, 0});
  if (body == count) return;
  float rest[max_tasks * whole] = {};
  for (std::int64_t t = 0; t < tasks; ++t)
    __builtin_memcpy(rest + t * whole, columns + t * stride + body,
                     static_cast<std::size_t>(count - body) * sizeof(float));
  fuse_tile(rest, whole, tasks, weights, 1, count - body, {fused + body, 0});
}

}  // namespace
}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
