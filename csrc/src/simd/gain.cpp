// Compiled once per instruction set; see ../isa.hpp for what may stand here.
#include "../gain.hpp"

#include "fuse.hpp"
#include "select.hpp"
#include "tile.hpp"

namespace pygrade::detail::PYGRADE_ISA_NAMESPACE {
namespace {

// Which list component c ranks.
std::int32_t list_of(const GainTask& task, std::int64_t c) {
  return task.component_list == nullptr ? -1 : task.component_list[c];
}

bool is_ranked(const GainTask& task, std::int32_t list) {
  for (std::int64_t c = 0; c < task.components; ++c)
    if (list_of(task, c) == list) return true;
  return false;
}

// Σ gains · discount over the ranks, by halves of the padded k.
float discounted(const GainTask& task, const float* gains, const std::int32_t* candidates, std::int64_t found,
                 float* products) {
  for (std::int64_t r = 0; r < found; ++r) products[r] = gains[candidates[r] * task.components] * task.discount[r];
  for (std::int64_t r = found; r < task.padded_k; ++r) products[r] = 0.0f;
  for (std::int64_t half = task.padded_k / 2; half > 0; half /= 2)
    for (std::int64_t r = 0; r < half; ++r) products[r] += products[r + half];
  return products[0] + 0.0f;  // never -0
}

// The gain of every component that ranks `list`, whose candidates stand in the columns of tile.
void rank_list(const GainTask& task, std::int64_t b, Request request, std::int32_t list, const float* tile,
               std::int64_t count, const FusionScratch& s, float* products) {
  const std::int64_t tasks = task.scores.tasks;
  const std::int64_t depth = block_depth(count, task.k);
  const FusedRows rows{s.fused, s.stride, depth > 0 ? s.maxima : nullptr, depth > 0 ? depth : 16};
  for (std::int64_t g = task.first_sample; g < task.end_sample; g += fused_rows) {
    const std::int64_t left = task.end_sample - g;
    const std::int64_t some = left < fused_rows ? left : fused_rows;
    fuse_tile(tile, s.stride, tasks, task.weights + (b * task.samples + g) * tasks, some, count, rows);
    for (std::int64_t i = 0; i < some; ++i) {
      const FusedRows row = rows.from(i);
      const std::int64_t found = select_noted(row.scores, count, task.k, depth, row.maxima, s.select);
      std::int32_t* best = s.select.best;
      if (list >= 0)
        for (std::int64_t r = 0; r < found; ++r) best[r] = s.ids[best[r]];
      float* gain = task.gain + (b * task.samples + g + i) * task.components;
      for (std::int64_t c = 0; c < task.components; ++c)
        if (list_of(task, c) == list)
          gain[c] = discounted(task, task.gains + request.first * task.components + c, best, found, products);
    }
  }
}

void topk_gain(const GainTask& task, std::int64_t begin, std::int64_t end, float* scratch) {
  const std::int64_t tasks = task.scores.tasks;
  const FusionScratch s(scratch, tasks, task.stride);
  float* products = scratch + scratch_rows(tasks) * task.stride;
  const bool jagged = task.scores.offsets != nullptr;
  for (std::int64_t b = begin; b < end; ++b) {
    const Request request = request_of(task.scores, b);
    load_request(task.scores, task.options, request, s);
    if (is_ranked(task, -1)) rank_list(task, b, request, -1, s.tile, request.count, s, products);
    for (std::int32_t list = 0; list < task.lists; ++list) {
      if (!is_ranked(task, list)) continue;
      const std::uint8_t* mask =
          task.masks + (jagged ? list * task.scores.rows + request.first : (b * task.lists + list) * request.count);
      const std::int64_t count = keep_admitted(mask, request.count, s.tile, s.kept, tasks, s);
      rank_list(task, b, request, list, s.kept, count, s, products);
    }
  }
}

}  // namespace

const GainKernels gain_kernels{&topk_gain};

}  // namespace pygrade::detail::PYGRADE_ISA_NAMESPACE
