// The places of a page whose items depend on each other: by page terms, pins and demotions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pygrade/ranker.hpp"

namespace pygrade::inline v0_2::detail {
// Working memory, reused.
struct PageMemory {
  std::vector<float> value, root;  // [N] of scores: the part without the root task, and with it; or all, none
  std::vector<float> embeddings, attention, sorted_values;
  std::vector<std::int32_t> codes, pins, sorted;
  std::vector<std::uint8_t> mask;
};

// Whether a request has places that scores alone do not decide, beside page terms.
inline bool has_places(const pygrade::Request& request) { return !request.pins.empty() || !request.demoted.empty(); }

// Fills the buffer with the page of the candidates whose scores are memory.value and, with terms, memory.root.
void place_candidates(const PageTerms* terms, const pygrade::Request& request, PageMemory& memory,
                      const PageBuffer& buffer);
}  // namespace pygrade::inline v0_2::detail
