// The discounted gain of the top k under each sampled weight vector. pygrade/reference/gain.py has the formula; scores,
// order and transforms are those of pygrade/fusion.hpp.
#pragma once

#include "pygrade/api.hpp"
#include "pygrade/fusion.hpp"

namespace pygrade::inline v0_2 {
// weights[B, G, T], gains[B, N, C] (jagged: [M, C]), discount[k] → gain[B, G, C]. masks[B, L, N] (jagged: [L, M]) holds
// L candidate lists, nonzero for members; component_list[C] is the list that each component ranks, -1 for all
// candidates, and is empty if all components rank all candidates. Products gains · discount are summed in one tree: KP
// = next power of two ≥ k, v_r += v_{r+h} for h = KP/2 … 1, where ranks without a candidate are +0; the gain is v_0 +
// 0, never -0. Throws std::invalid_argument, before anything is written, like the functions of fusion.hpp, and on a
// list that does not exist.
PYGRADE_API void topk_gain(const Scores& scores, std::span<const float> weights, std::int64_t samples,
                           std::span<const float> gains, std::span<const float> discount,
                           std::span<const std::uint8_t> masks, std::int64_t lists,
                           std::span<const std::int32_t> component_list, std::int64_t components,
                           const FusionOptions& options, std::span<float> gain, int num_threads = 1);
}  // namespace pygrade::inline v0_2
