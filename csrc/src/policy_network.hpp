#pragma once

#include "isa.hpp"
#include "pygrade/policy_network.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::int64_t chunk_rows = 64;  // of a batch; part of the order of sums

// Sizes are padded to a multiple of 16 floats, so that kernels know no partial vectors. Padding holds zeros.
constexpr std::int64_t padded(std::int64_t size) { return (size + 15) / 16 * 16; }

struct PackedLayer {
  std::int64_t inputs;
  std::int64_t outputs;
  const float* columns;  // [inputs, padded outputs]
  const float* rows;     // [outputs, padded inputs]
  const float* bias;     // [padded outputs]

  std::int64_t gradient_size() const { return padded(outputs) * (padded(inputs) + 1); }
};

// Memory of a chunk after the forward pass: the normalized inputs, for each hidden layer its outputs and the
// derivatives of SiLU, and the softmax, all [chunk_rows, padded width].
struct ForwardTask {
  const PackedLayer* layers;
  std::int64_t layer_count;
  const float* mean;
  const float* std;
  float floor;
  float total;
  const float* inputs;  // [B, D]
  const float* factor;  // [B], null: 1
  std::int64_t batch;
  float* concentration;  // [B, T]
};

struct BackwardTask {
  const PackedLayer* layers;
  std::int64_t layer_count;
  float total;
  const float* factor;  // [B], null: 1
  std::int64_t batch;
  const float* slope;   // [B, T]
  std::int64_t widest;  // padded
};

struct AdamTask {
  std::int64_t count;
  const float* gradient;
  float* first;
  float* second;
  float* parameters;
  float scale, beta1_rest, beta2, beta2_rest, epsilon;  // *_rest: 1 - beta
  float step_size;                                      // learning rate / (1 - beta1^step)
  float root_correction;                                // √(1 - beta2^step)
  float keep;                                           // 1 - learning rate · weight decay
};

struct PolicyNetworkKernels {
  bool fuses;  // multiply-adds are instructions
  // weights [outputs, inputs] → columns and rows of PackedLayer
  void (*pack)(const float* weights, std::int64_t inputs, std::int64_t outputs, float* columns, float* rows);
  void (*forward)(const ForwardTask& task, std::int64_t chunk, float* memory, bool keep);
  // parts: the chunk's sums by layer, weights [padded outputs, padded inputs] and then bias [padded outputs];
  // scratch: 2 · chunk_rows · widest floats.
  void (*backward)(const BackwardTask& task, std::int64_t chunk, const float* memory, float* parts, float* scratch);
  // Adds the parts of all chunks, in order, to gradient [P]; returns the sum of squares.
  double (*add_chunks)(const PackedLayer* layers, std::int64_t layer_count, const float* parts, std::int64_t chunks,
                       std::int64_t stride, float* gradient);
  void (*adam)(const AdamTask& task);
};

PYGRADE_DECLARE_KERNELS(PolicyNetworkKernels, policy_network_kernels)
}  // namespace pygrade::inline v0_2::detail
