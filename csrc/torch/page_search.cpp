#include "pygrade/page_search.hpp"

#include <stdexcept>
#include <string>
#include <tuple>

#include "scores.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
void check_together(bool one, bool other, const char* names, const char* found) {
  if (one != other) throw std::invalid_argument(std::string(names) + " go together; got " + found + " alone");
}

std::tuple<Tensor, Tensor> search_page_of(const Tensor& value, const MaybeTensor& root, std::int64_t k,
                                          const MaybeTensor& attention, const MaybeTensor& examination,
                                          const MaybeTensor& categories, const MaybeTensor& pairs,
                                          const MaybeTensor& embeddings, double cosine, std::int64_t objective,
                                          std::int64_t beam, double trade_off,
#define PYGRADE_RULE(type, name, rows, width, json, text) const MaybeTensor &name,
#include "pygrade/request.def"
                                          const MaybeTensor& pins, const MaybeTensor& offsets, bool,
                                          std::int64_t num_threads) {
  const Input<std::int64_t> bounds(offsets, "offsets", {any('n')});
  const bool jagged = offsets.has_value();
  const auto sizes = sizes_of(value);
  if (sizes.size() != (jagged ? 1 : 2))
    throw std::invalid_argument("value is no [B, N]; expected it, or [M] with offsets");
  if (jagged && bounds.span().empty()) throw std::invalid_argument("offsets is empty; expected [B + 1] numbers");
  if (objective < 0 || objective > 2) refuse("objective", objective, "0 (page_value), 1 (mmr) or 2 (log_det)");
  const Rows rows{jagged, jagged ? 1 : sizes[0], sizes[jagged ? 0 : 1]};
  const std::int64_t batch = jagged ? static_cast<std::int64_t>(bounds.span().size()) - 1 : sizes[0];
  check_together(categories.has_value(), pairs.has_value(), "categories and pairs",
                 categories ? "categories" : "pairs");

  const auto b = per_candidate<float>(value, "value", rows);
  const auto r = per_candidate<float>(root, "root", rows);
  const auto c = per_candidate<std::int32_t>(categories, "categories", rows);
  const auto e = per_candidate<float>(embeddings, "embeddings", rows, any('d'));
  const Input<float> p(pairs, "pairs", {any('C'), any('C')});
  if (p && p.size(0) != p.size(1)) throw std::invalid_argument("pairs is not square; expected [C, C]");
  const Input<float> a(attention, "attention", {k}), q(examination, "examination", {k});
  const RulesInput rules(
#define PYGRADE_RULE(type, name, size, width, json, text) name,
#include "pygrade/request.def"
      rows);
  const Input<std::int32_t> placed(pins, "pins", {batch, k});

  const PageCandidates candidates{batch,    jagged ? 0 : sizes[1],         bounds.span(), b.span(), r.span(), c.span(),
                                  e.span(), e ? e.size(jagged ? 1 : 2) : 0};
  const PageSearch search{k,
                          a.span(),
                          q.span(),
                          p.span(),
                          p ? p.size(0) : 0,
                          static_cast<float>(cosine),
                          static_cast<PageObjective>(objective),
                          beam,
                          static_cast<float>(trade_off)};
  const std::int64_t shape[] = {batch, list_length(k)};
  Tensor values = fresh(shape, Dtype::float32, true), indices = fresh(shape, Dtype::int32, true);
  search_page(candidates, search, rules.rules(), placed.span(), memory_of(values), memory_of<std::int32_t>(indices),
              batch == 1 && num_threads == 0 ? 1 : thread_count(num_threads));
  return {values, indices};
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "search_page(Tensor value, Tensor? root, int k, Tensor? attention=None, Tensor? examination=None, Tensor? "
      "categories=None, Tensor? pairs=None, Tensor? embeddings=None, float cosine=0.0, int objective=0, int beam=1, "
      "float trade_off=0.5, "
#define PYGRADE_RULE(type, name, rows, width, json, text) "Tensor? " #name "=None, "
#include "pygrade/request.def"
      "Tensor? pins=None, Tensor? offsets=None, bool validate=True, int num_threads=0) -> (Tensor values, Tensor "
      "indices)");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) { m.impl("search_page", TORCH_BOX(&search_page_of)); }
}  // namespace pygrade::inline v0_2::torch_ops
