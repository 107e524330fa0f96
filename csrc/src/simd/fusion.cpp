// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "../fusion.hpp"

#include "fuse.hpp"
#include "rows.hpp"
#include "select_rows.hpp"
#include "tile.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
std::int64_t find_negative(const Scores& scores, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t chunk = 512;
  float buffer[chunk];
  for (; begin < end; begin += chunk) {
    const std::int64_t size = end - begin < chunk ? end - begin : chunk;
    const auto* wide = static_cast<const float*>(scores_at(scores, begin));
    if (scores.type != ScoreType::float32) {
      widen(scores_at(scores, begin), scores.type, size, buffer);
      wide = buffer;
    }
    int negative = 0;
    for (std::int64_t i = 0; i < size; ++i) negative |= wide[i] < 0.0f ? 1 : 0;
    if (negative == 0) continue;
    std::int64_t i = 0;
    while (!(wide[i] < 0.0f)) ++i;
    return begin + i;
  }
  return -1;
}

void transform(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
  const FusionScratch s(scratch, task.scores.tasks, task.stride);
  const std::int64_t tasks = task.scores.tasks;
  for (std::int64_t b = begin; b < end; ++b) {
    const Request request = request_of(task.scores, b);
    if (request.count == 0) continue;
    float* values = task.values + request.first * tasks;
    if (task.scores.layout == Layout::task_major) {
      load_request(task.scores, task.options, request, s);
      for (std::int64_t t = 0; t < tasks; ++t)
        __builtin_memcpy(task.values + task_row(task.scores, request, t), s.tile + t * task.stride,
                         static_cast<std::size_t>(request.count) * sizeof(float));
      continue;
    }
    if (task.options.transform == Transform::identity) {
      widen(scores_at(task.scores, request.first * tasks), task.scores.type, request.count * tasks, values);
      continue;
    }
    load_request(task.scores, task.options, request, s);
    store_tile(s.tile, task.stride, tasks, request.count, values);
  }
}

template <bool halves>
void fuse(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
  const FusionScratch s(scratch, task.scores.tasks, task.stride);
  const std::int64_t samples = task.samples;
  for (std::int64_t b = begin; b < end; ++b) {
    const Request request = request_of(task.scores, b);
    if (request.count == 0) continue;
    if (samples == 1) {
      const float* weights = task.weights + b * task.scores.tasks;
      fuse_request<halves>(task.scores, task.options, request, weights, s);
      __builtin_memcpy(task.values + request.first, s.fused, static_cast<std::size_t>(request.count) * sizeof(float));
      continue;
    }
    load_request(task.scores, task.options, request, s);
    // Dense [B, G, N] and jagged [G, M] differ in where a sample's row starts.
    const bool jagged = task.scores.offsets != nullptr;
    float* to = task.values + (jagged ? request.first : request.first * samples);
    const std::int64_t step = jagged ? task.scores.rows : request.count;
    for (std::int64_t g = task.first_sample; g < task.end_sample; g += fused_rows) {
      const std::int64_t left = task.end_sample - g;
      const std::int64_t row_count = left < fused_rows ? left : fused_rows;
      fuse_tile(s.tile, task.stride, task.scores.tasks, task.weights + (b * samples + g) * task.scores.tasks, row_count,
                request.count, {s.fused, task.stride});
      for (std::int64_t i = 0; i < row_count; ++i)
        __builtin_memcpy(to + (g + i) * step, s.fused + i * task.stride,
                         static_cast<std::size_t>(request.count) * sizeof(float));
    }
  }
}

// Writes the result of list `list` (b · G + g): the first `found` positions in `best`, with their scores in `fused` and
// their candidates in `ids` (null: the position is the candidate).
void write_list(const FusionTask& task, std::int64_t list, const float* fused, const std::int32_t* ids,
                std::int64_t found, const std::int32_t* best) {
  float* values = task.values + list * task.k;
  std::int32_t* indices = task.indices + list * task.k;
  for (std::int64_t r = 0; r < found; ++r) {
    const std::int32_t position = best[r];
    values[r] = fused[position];
    indices[r] = ids != nullptr ? ids[position] : position;
  }
  for (std::int64_t r = found; r < task.k; ++r) {
    values[r] = -__builtin_inff();
    indices[r] = -1;
  }
}

// One weight vector over all candidates under log or log1p. Returns false, with nothing written, if there is no
// shortcut or a score may be negative.
bool topk_of_contenders(const FusionTask& task, std::int64_t b, const FusionScratch& s) {
  const Request request = request_of(task.scores, b);
  const float* weights = task.weights + b * task.scores.tasks;
  const std::int64_t count = fuse_contenders(task.scores, task.options, request, weights, task.k, s);
  if (count < 0) return false;
  write_list(task, b, s.fused, s.ids, select_best(s.fused, count, task.k, s.select[0]), s.select[0].best);
  return true;
}

bool topk_unchecked(const FusionTask& task, float* scratch) {
  return topk_of_contenders(task, 0, FusionScratch(scratch, task.scores.tasks, task.stride));
}

// One weight vector over all candidates; fusing also stores the block maxima.
void topk_single(const FusionTask& task, std::int64_t b, Request request, const FusionScratch& s) {
  if (topk_of_contenders(task, b, s)) return;
  const std::int64_t k = task.k < request.count ? task.k : request.count;
  const std::int64_t depth = block_depth(request.count, k);
  fuse_request<true>(task.scores, task.options, request, task.weights + b * task.scores.tasks, s, depth);
  if (depth > 0)
    select_by_maxima(s.fused, request.count, k, depth, s.maxima, s.select[0]);
  else
    select_from_all(s.fused, request.count, k, s.select[0]);
  write_list(task, b, s.fused, nullptr, k, s.select[0].best);
}

void topk_masked(const FusionTask& task, std::int64_t b, Request request, const FusionScratch& s) {
  fuse_request<true>(task.scores, task.options, request, task.weights + b * task.scores.tasks, s);
  const std::int64_t count = keep_admitted(task.mask + request.first, request.count, s.fused, s.kept, 1, s);
  write_list(task, b, s.kept, s.ids, select_best(s.kept, count, task.k, s.select[0]), s.select[0].best);
}

void topk(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
  const FusionScratch s(scratch, task.scores.tasks, task.stride);
  const std::int64_t tasks = task.scores.tasks;
  for (std::int64_t b = begin; b < end; ++b) {
    const Request request = request_of(task.scores, b);
    if (task.samples == 1) {
      if (task.mask == nullptr)
        topk_single(task, b, request, s);
      else
        topk_masked(task, b, request, s);
      continue;
    }
    load_request(task.scores, task.options, request, s);
    float* tile = s.tile;
    const std::int32_t* ids = nullptr;
    std::int64_t count = request.count;
    if (task.mask != nullptr) {
      count = keep_admitted(task.mask + request.first, request.count, s.tile, s.kept, tasks, s);
      tile = s.kept;
      ids = s.ids;
    }
    const std::int64_t depth = rows_depth(count, task.k);
    const FusedRows rows{s.fused, task.stride, depth > 0 ? s.maxima : nullptr, depth > 0 ? depth : 16};
    pad_tile(tile, task.stride, tasks, count);
    for (std::int64_t g = task.first_sample; g < task.end_sample; g += fused_rows) {
      const std::int64_t left = task.end_sample - g;
      const std::int64_t row_count = left < fused_rows ? left : fused_rows;
      const std::int64_t list = b * task.samples + g;
      fuse_tile(tile, task.stride, tasks, task.weights + list * tasks, row_count, count, rows);
      const std::int64_t found = select_rows(rows, row_count, count, task.k, s.select);
      for (std::int64_t i = 0; i < row_count; ++i)
        write_list(task, list + i, rows.from(i).scores, ids, found, s.select[i].best);
    }
  }
}
}  // namespace

const FusionKernels fusion_kernels{&find_negative, &transform, &fuse<false>};
const AnyFusionKernels any_fusion_kernels{&fuse<true>, &topk, &topk_unchecked};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
