#include "serving/page_places.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>

#include "pygrade/page_search.hpp"

namespace pygrade::inline v0_2 {
namespace {
constexpr float least_term = 0.01f;  // that explains a place

// Vectors of length 1, or 0 where one is not finite or 0; sums of 8 lanes, for the same bits everywhere.
void scale_embeddings(std::span<const float> given, std::size_t width, std::vector<float>& scaled) {
  constexpr std::size_t lanes = 8;
  scaled.resize(given.size());
  for (std::size_t at = 0; at < given.size(); at += width) {
    const float* from = given.data() + at;
    double sums[lanes] = {};
    std::size_t i = 0;
    for (; i + lanes <= width; i += lanes)
      for (std::size_t l = 0; l < lanes; ++l)
        sums[l] += static_cast<double>(from[i + l]) * static_cast<double>(from[i + l]);
    for (; i < width; ++i) sums[i % lanes] += static_cast<double>(from[i]) * static_cast<double>(from[i]);
    double sum = 0.0;
    for (const double part : sums) sum += part;
    const bool known = std::isfinite(sum) && sum > 0.0;
    const double inverse = known ? 1.0 / std::sqrt(sum) : 0.0;
    for (i = 0; i < width; ++i)
      scaled[at + i] = known ? static_cast<float>(static_cast<double>(from[i]) * inverse) : 0.0f;
  }
}

// Prepares what the terms read of the candidates, and the search by them.
void prepare(const PageTerms& terms, const Request& request, std::size_t k, detail::PageMemory& memory,
             PageCandidates& candidates, PageSearch& search) {
  memory.codes.clear();
  for (const std::string_view name : request.categories) memory.codes.push_back(terms.code(name));
  if (terms.categories.empty()) memory.codes.clear();
  memory.attention.resize(k);
  for (std::size_t slot = 0; slot < k; ++slot)
    memory.attention[slot] = terms.attention[std::min(slot, terms.attention.size() - 1)];
  candidates.root = memory.root;
  candidates.categories = memory.codes;
  search.attention = memory.attention;
  search.examination = memory.attention;
  search.beam = static_cast<std::int64_t>(terms.beam);
  if (!memory.codes.empty()) {
    search.pairs = terms.pairs;
    search.category_count = static_cast<std::int64_t>(terms.categories.size());
  }
  if (terms.dimension == 0 || request.embeddings.empty()) return;
  scale_embeddings(request.embeddings, terms.dimension, memory.embeddings);
  candidates.embeddings = memory.embeddings;
  candidates.width = static_cast<std::int64_t>(terms.dimension);
  search.cosine = terms.cosine;
}

// Moves filled places before empty ones, in their order.
std::size_t close_gaps(const PageBuffer& buffer) {
  std::size_t filled = 0;
  for (std::size_t place = 0; place < buffer.indices.size(); ++place) {
    if (buffer.indices[place] < 0) continue;
    buffer.indices[filled] = buffer.indices[place];
    buffer.values[filled++] = buffer.values[place];
  }
  std::ranges::fill(buffer.indices.subspan(filled), -1);
  std::ranges::fill(buffer.values.subspan(filled), -std::numeric_limits<float>::infinity());
  return filled;
}

// The page, and after the others, where there is room, the demoted items in the order of their scores.
std::size_t search(const PageCandidates& candidates, const PageSearch& terms, const Request& request,
                   detail::PageMemory& memory, const PageBuffer& buffer) {
  PageRules rules = request.rules;
  const std::size_t rows = candidates.value.size();
  const auto& demoted = request.demoted;
  if (!demoted.empty()) {
    memory.mask.resize(rows);
    for (std::size_t i = 0; i < rows; ++i)
      memory.mask[i] = (rules.mask.empty() || rules.mask[i] != 0) && demoted[i] == 0;
    for (const std::int32_t pin : request.pins)
      if (pin >= 0) {
        const auto i = static_cast<std::size_t>(pin);
        memory.mask[i] = rules.mask.empty() || rules.mask[i] != 0;
      }
    rules.mask = memory.mask;
  }
  search_page(candidates, terms, rules, request.pins, buffer.values, buffer.indices);
  std::size_t filled = close_gaps(buffer);
  if (demoted.empty() || filled == buffer.indices.size()) return filled;
  memory.pins.assign(buffer.indices.begin(), buffer.indices.end());
  rules.mask = request.rules.mask;
  search_page(candidates, terms, rules, memory.pins, buffer.values, buffer.indices);
  return close_gaps(buffer);
}

// Explains what each item of the page gets from those above it, and its place by the scores alone.
void explain(const PageTerms& terms, const PageCandidates& candidates, const PageSearch& searched,
             const Request& request, std::size_t filled, detail::PageMemory& memory, const PageBuffer& buffer) {
  const std::size_t rows = candidates.value.size(), width = terms.dimension, count = terms.categories.size();
  const auto similarity = [&](std::size_t above, std::size_t below) {
    float term = 0.0f;
    if (!memory.codes.empty() && memory.codes[above] >= 0 && memory.codes[below] >= 0)
      term = terms.pairs[static_cast<std::size_t>(memory.codes[above]) * count +
                         static_cast<std::size_t>(memory.codes[below])];
    if (candidates.embeddings.empty()) return term;
    float cosine = 0.0f;
    for (std::size_t d = 0; d < width; ++d)
      cosine += memory.embeddings[above * width + d] * memory.embeddings[below * width + d];
    return term + terms.cosine * std::max(cosine, 0.0f);
  };
  const auto candidate = [&](std::size_t place) { return static_cast<std::size_t>(buffer.indices[place]); };
  PageCandidates scored = candidates;
  scored.root = scored.embeddings = {};
  scored.categories = {};
  std::vector<float>& whole = memory.attention;  // the search is over
  whole.resize(rows);
  for (std::size_t i = 0; i < rows; ++i) whole[i] = memory.value[i] + memory.root[i];
  scored.value = whole;
  memory.sorted.resize(buffer.indices.size());
  memory.sorted_values.resize(buffer.indices.size());
  PageSearch by_scores;
  by_scores.k = searched.k;
  by_scores.objective = PageObjective::mmr;
  by_scores.trade_off = 1.0f;
  search(scored, by_scores, request, memory, {memory.sorted_values, memory.sorted});
  for (std::size_t place = 0; place < buffer.effects.size(); ++place) {
    PageEffect& effect = buffer.effects[place] = {};
    if (place >= filled) continue;
    const auto term = [&](std::size_t above) {
      return terms.attention[std::min(above, terms.attention.size() - 1)] *
             similarity(candidate(above), candidate(place));
    };
    for (std::size_t above = 0; above < place; ++above) effect.effect += term(above);
    for (std::size_t above = 0; above < place; ++above) {
      const float own = term(above);
      effect.above += std::fabs(own) >= least_term && (own < 0.0f) == (effect.effect < 0.0f);
    }
    const auto found = std::ranges::find(memory.sorted, buffer.indices[place]);
    if (found != memory.sorted.end()) effect.sorted_place = static_cast<std::int32_t>(found - memory.sorted.begin());
  }
}
}  // namespace

void detail::place_candidates(const PageTerms* terms, const pygrade::Request& request, PageMemory& memory,
                              const PageBuffer& buffer) {
  PageCandidates candidates;
  candidates.candidates = static_cast<std::int64_t>(memory.value.size());
  candidates.value = memory.value;
  PageSearch wanted;
  wanted.k = static_cast<std::int64_t>(buffer.values.size());
  if (terms != nullptr) {
    prepare(*terms, request, buffer.values.size(), memory, candidates, wanted);
  } else {  // relevance alone
    wanted.objective = PageObjective::mmr;
    wanted.trade_off = 1.0f;
  }
  const std::size_t filled = search(candidates, wanted, request, memory, buffer);
  if (terms != nullptr && !buffer.effects.empty()) explain(*terms, candidates, wanted, request, filled, memory, buffer);
}

std::string describe(const PageEffect& effect, std::int32_t place, std::string_view root) {
  const std::int32_t down = effect.sorted_place < 0 ? 0 : place - effect.sorted_place;
  std::string text;
  if (effect.sorted_place < 0)
    text = "not on the page by its score";
  else if (down != 0)
    text = (down > 0 ? "moved down " : "moved up ") + std::to_string(std::abs(down));
  if (effect.above > 0) {
    char factor[32];
    std::snprintf(factor, sizeof factor, "%.2g", std::exp(static_cast<double>(effect.effect)));
    text += (text.empty() ? "" : ": ") + std::to_string(effect.above);
    text += effect.effect < 0.0f ? " like it above, " : " above that it goes with, ";
    text.append(root).append(" × ").append(factor);
  }
  return text;
}
}  // namespace pygrade::inline v0_2
