// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "../ranking.hpp"

#include "boost.hpp"
#include "rows.hpp"
#include "select.hpp"
#include "tile.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {

// Counts each group value on the page: an open-addressing table per group column.
class GroupCounters {
 public:
  GroupCounters(const RankingTask& task, std::int32_t* memory) : task_(task), memory_(memory) {
    for (std::int64_t i = 0; i < task.columns * task.slots; ++i) memory_[2 * i] = -1;  // no value
  }

  // Whether the page may take one more candidate of these group values; if so, counts it.
  bool take(const std::int32_t* groups) {
    for (std::int64_t a = 0; a < task_.columns; ++a) {
      if (task_.caps[a] < 0 || groups[a] < 0) continue;
      const std::int32_t* slot = find(a, groups[a]);
      if ((slot[0] < 0 ? 0 : slot[1]) >= task_.caps[a]) return false;
    }
    for (std::int64_t a = 0; a < task_.columns; ++a) {
      if (task_.caps[a] < 0 || groups[a] < 0) continue;
      std::int32_t* slot = find(a, groups[a]);
      slot[1] = slot[0] < 0 ? 1 : slot[1] + 1;
      slot[0] = groups[a];
    }
    return true;
  }

 private:
  // The value's slot, or the free slot it would get. There are at least twice as many slots as values.
  std::int32_t* find(std::int64_t column, std::int32_t value) const {
    std::int32_t* table = memory_ + 2 * column * task_.slots;
    const auto last = static_cast<std::uint32_t>(task_.slots - 1);
    std::uint32_t at = static_cast<std::uint32_t>(value) * 0x9E3779B1u;  // Fibonacci hashing: the high bits are mixed
    at = (at >> 16 ^ at) & last;
    while (table[2 * at] >= 0 && table[2 * at] != value) at = (at + 1) & last;
    return table + 2 * at;
  }

  const RankingTask& task_;
  std::int32_t* memory_;
};

// One request's candidates: `fused[i]` is the final score of candidate `ids[i]`, or of candidate i if ids is null.
struct Candidates {
  const float* fused;
  const std::int32_t* ids;
  std::int64_t count;
  std::int64_t first;  // the request's first row

  std::int32_t id(std::int64_t position) const {
    return ids != nullptr ? ids[position] : static_cast<std::int32_t>(position);
  }
};

// Takes candidates in order from a sorted prefix that grows until the page is full. Returns how many it took.
std::int64_t fill_page(const RankingTask& task, const Candidates& candidates, const SelectScratch& select,
                       std::int32_t* counters, float* values, std::int32_t* indices) {
  const std::int64_t k = task.fusion.k;
  const std::int64_t count = candidates.count;
  const bool capped = task.groups != nullptr;
  GroupCounters on_page(task, counters);
  std::int64_t taken = 0;
  std::int64_t seen = 0;
  std::int64_t prefix = k < count ? k : count;
  if (capped) prefix = 2 * prefix < count ? 2 * prefix : count;
  while (prefix > 0) {
    select_best(candidates.fused, count, prefix, select);
    for (; seen < prefix && taken < k; ++seen) {
      const std::int32_t position = select.best[seen];
      const std::int32_t id = candidates.id(position);
      if (capped && !on_page.take(task.groups + (candidates.first + id) * task.columns)) continue;
      values[taken] = candidates.fused[position];
      indices[taken] = id;
      ++taken;
    }
    if (taken == k || prefix == count) break;
    prefix = 4 * prefix < count ? 4 * prefix : count;
  }
  return taken;
}

void rank(const RankingTask& task, std::int64_t begin, std::int64_t end, float* scratch, std::int32_t* counters) {
  const FusionTask& fusion = task.fusion;
  const FusionScratch s(scratch, fusion.scores.tasks, fusion.stride);
  for (std::int64_t b = begin; b < end; ++b) {
    const Request request = request_of(fusion.scores, b);
    fuse_request(fusion.scores, fusion.options, request, fusion.weights + b * fusion.scores.tasks, s);
    const auto beside = [&](const float* boosts) { return boosts == nullptr ? nullptr : boosts + request.first; };
    boost(beside(task.boost_mul), beside(task.boost_add), request.count, s.fused);
    Candidates candidates{s.fused, nullptr, request.count, request.first};
    if (fusion.mask != nullptr) {
      const std::int64_t count = keep_admitted(fusion.mask + request.first, request.count, s.fused, s.kept, 1, s);
      candidates = {s.kept, s.ids, count, request.first};
    }
    float* values = fusion.values + b * fusion.k;
    std::int32_t* indices = fusion.indices + b * fusion.k;
    for (std::int64_t r = fill_page(task, candidates, s.select[0], counters, values, indices); r < fusion.k; ++r) {
      values[r] = -__builtin_inff();
      indices[r] = -1;
    }
  }
}

}  // namespace

const RankingKernels ranking_kernels{&rank};

}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
