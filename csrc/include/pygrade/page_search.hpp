// The page of highest value where an item's worth depends on the items above it: greedy, or by a beam. With maximal
// marginal relevance and a log-determinant (the greedy MAP page of a determinantal point process) for those who set
// diversity by hand. pygrade/reference/page_search.py is the specification.
//
// The similarity of an item j above to i is l(j, i) = P[c_j, c_i] + κ · max(0, <e_j, e_i>), without the first term
// where a category is -1; the log-determinant does not cut the cosine at 0. Scores, before boosts:
//
//   page_value   value + root · exp(Σ_j attention[slot of j] · l(j, i))
//   mmr          λ · value - (1 - λ) · max(0, max_j l(j, i))
//   log_det      λ · value + (1 - λ) · log of (det L[above + i] / det L[above], at least 1e-6), with L = l
//
// In float32 on every backend: a dot product keeps 16 sums, of the components d ≡ 0 … 15 mod 16, in ascending order by
// fused multiply-adds, then adds them as a tree: s_l += s_{l+h} for h = 8, 4, 2, 1. exp and log are those of
// csrc/src/simd/numerics.hpp.
#pragma once

#include <cstdint>
#include <span>

#include "pygrade/api.hpp"
#include "pygrade/ranking.hpp"

namespace pygrade::inline v0_2 {
enum class PageObjective : std::uint8_t { page_value, mmr, log_det };

// The candidates of a batch of requests. Rows: B · N, or M if jagged; an empty span: none.
struct PageCandidates {
  std::int64_t batch = 1;
  std::int64_t candidates = 0;               // N of each request, without offsets
  std::span<const std::int64_t> offsets;     // [B + 1], ascending from 0 to M; empty: dense
  std::span<const float> value;              // [rows]; what does not depend on the page, or the relevance
  std::span<const float> root;               // [rows]; what is multiplied by the page's effect; page_value alone
  std::span<const std::int32_t> categories;  // [rows], below C; -1: unknown
  std::span<const float> embeddings;         // [rows, width] of length 1, or 0 where there is none
  std::int64_t width = 0;                    // 1 to 256 with embeddings
};

struct PageSearch {
  std::int64_t k = 1;                    // slots
  std::span<const float> attention{};    // [k] >= 0; empty: 1; page_value alone
  std::span<const float> examination{};  // [k] >= 0; empty: 1; read by a beam
  std::span<const float> pairs{};        // [C, C]: category above × category below; empty: no term
  std::int64_t category_count = 0;       // C
  float cosine = 0.0f;                   // κ
  PageObjective objective = PageObjective::page_value;
  std::int64_t beam = 1;   // prefixes that are kept, 1 (greedy) to 64; more than 1 for page_value alone
  float trade_off = 0.5f;  // λ in [0, 1] of mmr and log_det
};

// → values[B, k] (final scores, each in its slot) and indices[B, k] within the request; -inf and -1 in empty slots.
//
// Greedy takes for each slot the candidate of the highest final score (the score with its boosts, as in rank): equal
// scores by index, NaN last. A beam keeps the prefixes of the highest Σ examination · final score, equal ones by the
// rank of the prefix that they extend, then by index. A prefix without a candidate for its slot leaves it empty and
// comes after those with one. The rules are those of rank; the first n slots of cap_slots are the first n candidates of
// the page, so that a cap also holds once the empty slots are closed. pins[B, k], or empty: the candidate of a slot, -1
// for none. Pins count as taken from the start, for the caps of their slot too; one that the mask, a cap or an earlier
// pin excludes leaves its slot free. The result does not depend on num_threads.
//
// Throws std::invalid_argument, before anything is written, on inconsistent sizes, options out of range, offsets that
// do not ascend, a category or a pin out of range, coefficients that are not finite (or negative, where they may not
// be), embeddings whose squared length is not within 0.01 of 1, nor 0, and what rank refuses of the rules.
PYGRADE_API void search_page(const PageCandidates& candidates, const PageSearch& search, const PageRules& rules,
                             std::span<const std::int32_t> pins, std::span<float> values,
                             std::span<std::int32_t> indices, int num_threads = 1);
}  // namespace pygrade::inline v0_2
