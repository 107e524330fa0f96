// Compiled once per instruction set; see ../isa.hpp for the rules.
#include "../ranking.hpp"

#include "boost.hpp"
#include "rows.hpp"
#include "select.hpp"
#include "tile.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
// The page of the best candidates: of all, or of those in `ids`.
void fill_page(const RankingTask& task, std::int64_t b, SortedCandidates candidates, std::int64_t count,
               const SelectScratch& select, float* page_scratch) {
  const std::int64_t k = task.fusion.k;
  candidates.positions = select.best;
  const bool limited = task.page.rules.columns > 0;
  FilledSlots filled;
  for (std::int64_t wanted = limited ? 2 * k : k;; wanted *= 4) {
    candidates.count = select_best(candidates.scores, count, wanted, select);
    if (!limited) break;
    if (page_search_kernels.fill(task.page, b, candidates, filled, page_scratch) || candidates.count == count) return;
  }
  float* const values = task.fusion.values + b * k;
  std::int32_t* const indices = task.fusion.indices + b * k;
  for (std::int64_t r = 0; r < k; ++r) {
    const std::int32_t position = r < candidates.count ? select.best[r] : -1;
    values[r] = position < 0 ? -__builtin_inff() : candidates.scores[position];
    indices[r] = position < 0 || candidates.ids == nullptr ? position : candidates.ids[position];
  }
}

template <bool halves>
void rank(const RankingTask& task, std::int64_t begin, std::int64_t end, float* scratch, float* page_scratch) {
  const FusionTask& fusion = task.fusion;
  const FusionScratch s(scratch, fusion.scores.tasks, fusion.stride);
  for (std::int64_t b = begin; b < end; ++b) {
    const Request request = request_of(fusion.scores, b);
    fuse_request<halves>(fusion.scores, fusion.options, request, fusion.weights + b * fusion.scores.tasks, s);
    const auto beside = [&](const float* boosts) { return boosts == nullptr ? nullptr : boosts + request.first; };
    boost(beside(task.boost_mul), beside(task.boost_add), request.count, s.fused);
    SortedCandidates candidates{request.first, nullptr, 0, s.fused, nullptr};
    std::int64_t count = request.count;
    if (fusion.mask != nullptr) {
      count = keep_admitted(fusion.mask + request.first, request.count, s.fused, s.kept, 1, s);
      candidates.scores = s.kept;
      candidates.ids = s.ids;
    }
    fill_page(task, b, candidates, count, s.select[0], page_scratch);
  }
}
}  // namespace

const RankingKernels ranking_kernels{&rank<false>}, any_ranking_kernels{&rank<true>};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
