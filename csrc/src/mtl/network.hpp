// The network as its kernels read it: plain structures of pointers into memory that a MultiTaskModel owns.
#pragma once

#include <cstdint>

#include "isa.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::int64_t mtl_block = 48;  // rows that pass through the network together, at most
inline constexpr std::int64_t mtl_lanes = 16;  // values of a block's columns are padded to a multiple of this
inline constexpr std::int64_t mtl_tile = 8;    // outputs of a map whose weights lie side by side

// y[o] = (… fma(x[1], w[1, o], fma(x[0], w[0, o], bias[o])) …): one chain in the order of the inputs.
struct MtlMap {
  const float* weights = nullptr;  // [tiles, inputs, mtl_tile]; the last tile is padded with zeros
  const float* bias = nullptr;     // [tiles · mtl_tile]
  std::int64_t inputs = 0, outputs = 0;
};

struct MtlExpert {
  MtlMap hidden, output;
};

struct MtlGate {
  const std::int32_t* sees = nullptr;  // [count] experts
  std::int64_t count = 0;
};

struct MtlTower {
  MtlMap hidden, output;
};

// The map of one task's logit: a · log p - b · log(1 - p) + c.
struct MtlCurve {
  double a = 1.0, b = 1.0, c = 0.0;
};

// Where the parts of the working memory of one thread begin, in floats.
struct MtlScratch {
  std::int64_t request = 0, initial = 0, entries = 0, inputs = 0, hidden = 0, outputs = 0, scores = 0, mixes = 0,
               logits = 0, doubles = 0, size = 0;
};

// Inputs: the request's dense values and embeddings, then those of the row.
struct MtlNetwork {
  std::int64_t dense = 0, ids = 0, request_dense = 0, request_ids = 0, embedding = 0, tasks = 0;
  std::int64_t inputs = 0, request_inputs = 0;    // of experts and gates; the request's part of them
  const float *mean = nullptr, *scale = nullptr;  // [dense]
  const float* table = nullptr;                   // [entries, embedding]
  const std::int64_t* first_entry = nullptr;      // [ids] where the table of a column begins
  const std::int64_t* vocabulary = nullptr;       // [ids] its size
  const MtlExpert* experts = nullptr;
  std::int64_t num_experts = 0;
  MtlMap scores;                      // of all gates, side by side
  const MtlGate* gates = nullptr;     // [tasks]
  const float* first_bias = nullptr;  // [initial] the biases of all maps of the inputs
  std::int64_t initial = 0;
  const MtlTower* towers = nullptr;       // [tasks]
  const float* base = nullptr;            // [tasks] added to the towers' logits
  const std::int32_t* parents = nullptr;  // [tasks] in the funnel, -1: none
  const std::int32_t* order = nullptr;    // [tasks] parents before their children
  bool funnel = false;                    // some task has a parent
  const MtlCurve* curves = nullptr;       // [tasks]; none: not calibrated
  MtlScratch scratch;
};

// Up to mtl_block rows. With `initial` (the request's part of these maps) dense and ids are those of the rows
// alone, else of the request and the row.
struct MtlRows {
  const float* dense;
  std::int64_t dense_stride;
  const std::int64_t* ids;
  std::int64_t ids_stride;
  std::int64_t count;
  const float* initial;
  bool calibrated;
  float* probabilities;  // [count, tasks]
};

struct MtlKernels {
  // Adds the chains over a request's dense values and ids to the maps' biases → initial[network.initial].
  void (*request)(const MtlNetwork& network, const float* dense, const std::int64_t* ids, float* scratch,
                  float* initial);
  void (*rows)(const MtlNetwork& network, const MtlRows& rows, float* scratch);
};

PYGRADE_DECLARE_KERNELS(MtlKernels, mtl_kernels)
}  // namespace pygrade::inline v0_2::detail
