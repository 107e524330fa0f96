#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "isa.hpp"
#include "pygrade/prerank.hpp"

namespace pygrade::detail {

inline constexpr std::size_t item_block = 16;    // items side by side: the widest vector
inline constexpr std::size_t select_slack = 64;  // numbers past a row that the selection may read and write

constexpr std::size_t whole_blocks(std::size_t count) { return (count + item_block - 1) / item_block * item_block; }

struct PrerankKernels {
  // out[j] = bias[j], then fma(x[i], weights[i, j], out[j]) for i = 0 … inputs - 1, for j < outputs, whole blocks.
  void (*linear)(const float* x, std::int64_t inputs, const float* weights, const float* bias, std::int64_t outputs,
                 float* out);
  // x / (1 + exp(-x)) in place.
  void (*silu)(float* x, std::int64_t count);
  // Of each item of blocks[count, width, item_block]: 0, then fma(vector[d], item[d], score) for d = 0 … width - 1.
  // Never NaN for finite numbers: an infinite score stays as it is.
  void (*scores)(const float* vector, std::int64_t width, const float* blocks, std::int64_t count, float* out);
  // The positions of the k ≤ count best of row[count], best first, ties by position; NaN comes last. `memory` has
  // select_rows rows of count + select_slack numbers; the result is in it. row[count … count + select_slack) exists.
  const std::int32_t* (*best)(const float* row, std::int64_t count, std::int64_t k, float* memory, std::int64_t stride);
};

inline constexpr std::size_t select_rows = 6;

PYGRADE_DECLARE_KERNELS(PrerankKernels, prerank_kernels)

// Finds the place of an id: linear probing, half of the slots are empty.
class IdTable {
 public:
  static constexpr std::int32_t absent = -1;

  // Distinct ids, fewer than 2^31.
  explicit IdTable(std::span<const std::int64_t> ids)
      : slots_(std::bit_ceil(2 * ids.size() + 1)), mask_(slots_.size() - 1) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      std::size_t at = start(ids[i]);
      while (slots_[at].place != absent) at = (at + 1) & mask_;
      slots_[at] = {ids[i], static_cast<std::int32_t>(i)};
    }
  }

  std::int32_t find(std::int64_t id) const {
    for (std::size_t at = start(id);; at = (at + 1) & mask_) {
      if (slots_[at].place == absent || slots_[at].id == id) return slots_[at].place;
    }
  }

 private:
  struct Slot {
    std::int64_t id = 0;
    std::int32_t place = absent;
  };

  std::size_t start(std::int64_t id) const {  // the finalizer of splitmix64, so that no common pattern of ids collides
    auto z = static_cast<std::uint64_t>(id);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return static_cast<std::size_t>(z ^ z >> 31) & mask_;
  }

  std::vector<Slot> slots_;
  std::size_t mask_;
};

// std::invalid_argument unless the ids ascend from 0 on and are fewer than 2^31.
void check_ascending(std::span<const std::int64_t> ids, const char* name);

// std::invalid_argument unless there are `wanted` numbers, all of them finite.
void check_numbers(std::span<const float> values, std::size_t wanted, const char* name);

}  // namespace pygrade::detail
