// Compiled once per instruction set; see ../isa.hpp for what may stand here.
#include "../fusion.hpp"

#include "fuse.hpp"
#include "select.hpp"
#include "tile.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

std::int64_t find_negative(const Scores& scores, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t chunk = 512;
  float wide[chunk];
  for (; begin < end; begin += chunk) {
    const std::int64_t size = end - begin < chunk ? end - begin : chunk;
    widen(scores_at(scores, begin), scores.type, size, wide);
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
    float* values = task.values + request.first * tasks;
    if (task.options.transform == Transform::identity) {
      widen(scores_at(task.scores, request.first * tasks), task.scores.type, request.count * tasks, values);
      continue;
    }
    load_request(task.scores, task.options, request, s);
    store_tile(s.tile, task.stride, tasks, request.count, values);
  }
}

void fuse(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
  const FusionScratch s(scratch, task.scores.tasks, task.stride);
  const std::int64_t samples = task.samples;
  for (std::int64_t b = begin; b < end; ++b) {
    const Request request = request_of(task.scores, b);
    if (request.count == 0) continue;
    load_request(task.scores, task.options, request, s);
    // Dense [B, G, N] and jagged [G, M] differ in where a sample's row starts.
    const bool jagged = task.scores.offsets != nullptr;
    float* to = task.values + (jagged ? request.first : request.first * samples);
    const std::int64_t step = jagged ? task.scores.rows : request.count;
    for (std::int64_t g = 0; g < samples; g += fused_rows) {
      const std::int64_t some = samples - g < fused_rows ? samples - g : fused_rows;
      fuse_tile(s.tile, task.stride, task.scores.tasks, task.weights + (b * samples + g) * task.scores.tasks, some,
                request.count, s.fused, task.stride);
      for (std::int64_t i = 0; i < some; ++i)
        __builtin_memcpy(to + (g + i) * step, s.fused + i * task.stride,
                         static_cast<std::size_t>(request.count) * sizeof(float));
    }
  }
}

void topk(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
  const FusionScratch s(scratch, task.scores.tasks, task.stride);
  const std::int64_t tasks = task.scores.tasks;
  for (std::int64_t b = begin; b < end; ++b) {
    const Request request = request_of(task.scores, b);
    load_request(task.scores, task.options, request, s);
    const float* tile = s.tile;
    std::int64_t count = request.count;
    if (task.mask != nullptr) {
      count = keep_admitted(task.mask + request.first, request.count, tasks, s);
      tile = s.kept;
    }
    for (std::int64_t g = 0; g < task.samples; g += fused_rows) {
      const std::int64_t some = task.samples - g < fused_rows ? task.samples - g : fused_rows;
      fuse_tile(tile, task.stride, tasks, task.weights + (b * task.samples + g) * tasks, some, count, s.fused,
                task.stride);
      for (std::int64_t i = 0; i < some; ++i) {
        const float* fused = s.fused + i * task.stride;
        const std::int64_t found = select_best(fused, count, task.k, s.select);
        const std::int64_t out = (b * task.samples + g + i) * task.k;
        for (std::int64_t r = 0; r < found; ++r) {
          const std::int32_t position = s.select.best[r];
          task.values[out + r] = fused[position];
          task.indices[out + r] = task.mask != nullptr ? s.ids[position] : position;
        }
        for (std::int64_t r = found; r < task.k; ++r) {
          task.values[out + r] = -__builtin_inff();
          task.indices[out + r] = -1;
        }
      }
    }
  }
}

}  // namespace

const FusionKernels fusion_kernels{&find_negative, &transform, &fuse, &topk};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
