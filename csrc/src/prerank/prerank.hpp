#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "isa.hpp"
#include "pygrade/prerank.hpp"
#include "util/huge_pages.hpp"
#include "util/id_table.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::size_t item_block = 16;    // items side by side: the widest vector
inline constexpr std::size_t select_slack = 64;  // numbers past a row that the selection may read and write

constexpr std::size_t whole_blocks(std::size_t count) { return (count + item_block - 1) / item_block * item_block; }

struct PrerankKernels {
  // out[j] = bias[j], then fma(x[i], weights[i, j], out[j]) for i = 0 … inputs - 1, for j < outputs, whole blocks.
  void (*linear)(const float* x, std::int64_t inputs, const float* weights, const float* bias, std::int64_t outputs,
                 float* out);
  // x / (1 + exp(-x)) in place.
  void (*silu)(float* x, std::int64_t count);
  // Scores each item of blocks[count, width, item_block]: 0, then fma(vector[d], item[d], score) for d = 0 … width - 1.
  // Never NaN for finite numbers: an infinite score stays as it is.
  void (*scores)(const float* vector, std::int64_t width, const float* blocks, std::int64_t count, float* out);
  // The positions of the k ≤ count best of row[count], best first, ties by position; NaN comes last. `memory` has
  // select_rows rows of count + select_slack numbers; the result is in it. row[count … count + select_slack) exists.
  const std::int32_t* (*best)(const float* row, std::int64_t count, std::int64_t k, float* memory, std::int64_t stride);
};

inline constexpr std::size_t select_rows = 6;

PYGRADE_DECLARE_KERNELS(PrerankKernels, prerank_kernels)

// Rows of vectors[n, width] from `first` on, as one block [width, item_block]; zeros where there is no row.
void fill_block(std::span<const float> vectors, std::size_t width, std::size_t first, float* block);

// Numbers aligned to a cache line.
class AlignedFloats {
 public:
  explicit AlignedFloats(std::size_t count) : memory_(huge_vector<float>(count + item_block)) {
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(memory_.data()) / sizeof(float) % item_block;
    start_ = memory_.data() + (item_block - misaligned) % item_block;
  }
  float* data() const { return start_; }

 private:
  std::vector<float> memory_;
  float* start_;
};

// std::invalid_argument unless the ids ascend from 0 on and are fewer than 2^31.
void check_ascending(std::span<const std::int64_t> ids, const char* name);

// std::invalid_argument unless there are `wanted` numbers, all of them finite.
void check_numbers(std::span<const float> values, std::size_t wanted, const char* name);
}  // namespace pygrade::inline v0_2::detail
