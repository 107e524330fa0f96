// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "../gain.hpp"

#include "fuse.hpp"
#include "select_rows.hpp"
#include "tile.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// The list that component c ranks.
std::int32_t list_of(const GainTask& task, std::int64_t c) {
  return task.component_list == nullptr ? -1 : task.component_list[c];
}

bool is_ranked(const GainTask& task, std::int32_t list) {
  for (std::int64_t c = 0; c < task.components; ++c)
    if (list_of(task, c) == list) return true;
  return false;
}

// Σ gains · discount over the ranks for 16 lists, as a tree over the padded k: best[rank][list] → sums[list]. `gains`
// are those of one component. Overwrites products[padded_k][16].
void discounted(const GainTask& task, const float* gains, const std::int32_t* best, std::int64_t found, float* products,
                float* sums) {
  constexpr std::int64_t width = lists_at_once;
  for (std::int64_t r = 0; r < found; ++r)
    for (std::int64_t i = 0; i < width; ++i)
      products[r * width + i] = gains[best[r * width + i] * task.components] * task.discount[r];
  for (std::int64_t i = found * width; i < task.padded_k * width; ++i) products[i] = 0.0f;
  for (std::int64_t half = task.padded_k / 2; half > 0; half /= 2)
    for (std::int64_t i = 0; i < half * width; ++i) products[i] += products[half * width + i];
  for (std::int64_t i = 0; i < width; ++i) sums[i] = products[i] + 0.0f;  // never -0
}

// Prefetches share [begin, end) of the next request's `size` bytes; the current request's start at `from`.
void fetch_next(const void* from, std::int64_t size, double begin, double end) {
  const char* next = static_cast<const char*>(from) + size;
  const auto last = static_cast<std::int64_t>(static_cast<double>(size) * end);
  for (auto at = static_cast<std::int64_t>(static_cast<double>(size) * begin); at < last; at += 64)
    __builtin_prefetch(next + at);
}

// Prefetches a share of the next request's scores and gains. A whole tile at once would delay the current loads.
void fetch_next(const GainTask& task, Request request, std::int64_t first, std::int64_t end) {
  const Scores& s = task.scores;
  if (s.layout == Layout::task_major) return;
  const double share = 1.0 / static_cast<double>(task.end_sample - task.first_sample);
  const double from = static_cast<double>(first - task.first_sample) * share;
  const double to = static_cast<double>(end - task.first_sample) * share;
  fetch_next(scores_at(s, request.first * s.tasks), request.count * s.tasks * score_bytes(s.type), from, to);
  fetch_next(task.gains + request.first * task.components, request.count * task.components * 4, from, to);
}

// The gain of every component that ranks `list`, whose candidates are the columns of `tile`.
void rank_list(const GainTask& task, std::int64_t b, Request request, std::int32_t list, float* tile,
               std::int64_t count, const FusionScratch& s, float* products) {
  const std::int64_t tasks = task.scores.tasks;
  const std::int64_t found = task.k < count ? task.k : count;
  const std::int64_t depth = rows_depth(count, task.k);
  const FusedRows rows{s.fused, s.stride, depth > 0 ? s.maxima : nullptr, depth > 0 ? depth : 16};
  auto* const best = reinterpret_cast<std::int32_t*>(products + task.padded_k * lists_at_once);  // [k][16]
  pad_tile(tile, s.stride, tasks, count);
  for (std::int64_t first = task.first_sample; first < task.end_sample; first += lists_at_once) {
    const std::int64_t rest = task.end_sample - first;
    const std::int64_t size = rest < lists_at_once ? rest : lists_at_once;
    for (std::int64_t g = 0; g < size; g += fused_rows) {
      const std::int64_t row_count = size - g < fused_rows ? size - g : fused_rows;
      fetch_next(task, request, first + g, first + g + row_count);
      fuse_tile(tile, s.stride, tasks, task.weights + (b * task.samples + first + g) * tasks, row_count, count, rows);
      select_rows(rows, row_count, count, task.k, s.select);
      for (std::int64_t i = 0; i < row_count; ++i)
        for (std::int64_t r = 0; r < found; ++r) best[r * lists_at_once + g + i] = s.select[i].best[r];
    }
    for (std::int64_t r = 0; r < found; ++r) {
      std::int32_t* ids = best + r * lists_at_once;
      for (std::int64_t i = size; i < lists_at_once; ++i) ids[i] = ids[0];
      for (std::int64_t i = 0; list >= 0 && i < lists_at_once; ++i) ids[i] = s.ids[ids[i]];
    }
    for (std::int64_t c = 0; c < task.components; ++c) {
      if (list_of(task, c) != list) continue;
      float sums[lists_at_once];
      discounted(task, task.gains + request.first * task.components + c, best, found, products, sums);
      float* gain = task.gain + (b * task.samples + first) * task.components + c;
      for (std::int64_t i = 0; i < size; ++i) gain[i * task.components] = sums[i];
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
    load_request(task.scores, task.options, request, s, false);
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
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
