#pragma once

#include "isa.hpp"
#include "pygrade/fusion.hpp"

namespace pygrade::inline v0_2::detail {
// The candidates of one request: rows [first, first + count) of the scores.
struct Request {
  std::int64_t first;
  std::int64_t count;
};

inline Request request_of(const Scores& scores, std::int64_t b) {
  if (scores.offsets == nullptr) return {b * scores.candidates, scores.candidates};
  return {scores.offsets[b], scores.offsets[b + 1] - scores.offsets[b]};
}

// Throws std::invalid_argument if the sizes, the offsets, the slope or (under a logarithm) the scores are invalid.
void check_scores(const Scores& scores, const FusionOptions& options, int num_threads);
void check_shapes(const Scores& scores, const FusionOptions& options);  // everything but the scores
void check_weights(const Scores& scores, std::span<const float> weights, std::int64_t samples);

// The number of candidates of the longest request.
std::int64_t longest_request(const Scores& scores);

// The length of a row of working memory: room for `candidates` and for the vector that a compressing store writes past
// them. Never a multiple of 4 KiB, because then a column of all rows would map to one cache set.
inline std::int64_t scratch_stride(std::int64_t candidates) {
  const std::int64_t padded = (candidates + 63) / 32 * 32 + 32;
  return padded % 1024 == 0 ? padded + 32 : padded;
}

inline constexpr std::int64_t fused_rows = 4;  // weight vectors fused together

inline constexpr std::int64_t selection_rows = 6;  // of working memory, per fused row

// Rows of working memory: two tiles, the fused rows and their maxima, the ids of a mask, and a selection per fused row.
inline std::int64_t scratch_rows(std::int64_t tasks) { return 2 * tasks + (2 + selection_rows) * fused_rows + 1; }

// Nanoseconds to fuse and select one candidate; right within a factor of 2 for all transforms, samples and k.
inline double candidate_cost(const Scores& scores) { return 0.05 * static_cast<double>(scores.tasks + 4); }

// A few microseconds of work, not worth a second thread.
inline bool is_brief(const Scores& scores, const FusionOptions& options, std::int64_t samples) {
  const std::int64_t factor = options.transform == Transform::identity ? 1 : 8;
  return scores.rows * scores.tasks * samples * factor < 50'000;
}

struct FusionTask {
  Scores scores;
  FusionOptions options;
  const float* weights = nullptr;      // [B, G, T]
  std::int64_t samples = 1;            // G
  std::int64_t k = 0;                  // top-k only
  const std::uint8_t* mask = nullptr;  // [rows]; null: all eligible
  float* values = nullptr;             // transformed scores, fused scores or values of the top k
  std::int32_t* indices = nullptr;
  std::int64_t stride = 0;  // scratch_stride of the longest request
  std::int64_t first_sample = 0;
  std::int64_t end_sample = 1;  // samples [first, end) of G are processed
};

// Each works on requests [begin, end) with scratch_rows · stride floats of scratch.
struct FusionKernels {
  // The first element of [begin, end) that is negative, or -1.
  std::int64_t (*find_negative)(const Scores& scores, std::int64_t begin, std::int64_t end);
  void (*transform)(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch);
  void (*fuse)(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch);  // of float32 alone
};

// Take scores of every type.
struct AnyFusionKernels {
  void (*fuse)(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch);
  void (*topk)(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch);
  // The top k of a single request and weight vector whose scores are unchecked. Returns false, with nothing written, if
  // only the general method applies.
  bool (*topk_unchecked)(const FusionTask& task, float* scratch);
};

PYGRADE_DECLARE_KERNELS(FusionKernels, fusion_kernels)
PYGRADE_DECLARE_KERNELS(AnyFusionKernels, any_fusion_kernels)

// `fuse_scores` of one weight vector and float32 scores: what calls it and no other op links no form for halves.
void fuse_floats(const Scores& scores, std::span<const float> weights, const FusionOptions& options,
                 std::span<float> fused);
}  // namespace pygrade::inline v0_2::detail
