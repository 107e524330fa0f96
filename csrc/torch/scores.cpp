#include "scores.hpp"

#include <torch/csrc/stable/ops.h>

#include <limits>
#include <stdexcept>
#include <string>

#include "../src/fusion.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
ScoreType type_of(const Tensor& scores) {
  std::int32_t code = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(scores.get(), &code));
  if (code == aoti_torch_dtype_float32()) return ScoreType::float32;
  if (code == aoti_torch_dtype_float16()) return ScoreType::float16;
  if (code == aoti_torch_dtype_bfloat16()) return ScoreType::bfloat16;
  throw std::invalid_argument("scores is of another dtype; expected float32 or float16 or bfloat16");
}

// Whether the last two axes, swapped, are contiguous.
bool is_task_major(const Tensor& scores) {
  const auto sizes = sizes_of(scores);
  const auto strides = scores.strides();
  const std::size_t last = sizes.size() - 1;
  const std::int64_t rows = sizes[last - 1], tasks = sizes[last];
  return strides[last - 1] == 1 && strides[last] == rows && (last < 2 || sizes[0] == 1 || strides[0] == rows * tasks);
}

Tensor readable(const Tensor& scores, bool jagged) {
  const auto sizes = sizes_of(scores);
  if (sizes.size() != (jagged ? 2 : 3))
    throw std::invalid_argument("scores has " + std::to_string(sizes.size()) +
                                " dimensions; expected [B, N, T], or [M, T] with offsets");
  return scores.is_contiguous() || is_task_major(scores) ? scores : torch::stable::contiguous(scores);
}

Scores view_of(const Tensor& held, const Input<std::int64_t>& offsets) {
  const auto sizes = sizes_of(held);
  const Layout layout = held.is_contiguous() ? Layout::item_major : Layout::task_major;
  const void* data = held.const_data_ptr();
  if (!offsets) return Scores::dense(data, type_of(held), sizes[0], sizes[1], sizes[2], layout);
  if (offsets.span().empty()) throw std::invalid_argument("offsets is empty; expected [B + 1]");
  return Scores::jagged(data, type_of(held), sizes[0], sizes[1], offsets.span(), layout);
}

float require_non_negative(const char* name, double value) {
  if (!(value >= 0.0))
    throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; expected a number ≥ 0");
  return static_cast<float>(value);
}

Transform transform_of(std::int64_t code) {
  if (code < 0 || code >= static_cast<std::int64_t>(transforms.size()))
    refuse("transform", code, "the place of a transform in the core's table");
  return static_cast<Transform>(code);
}
}  // namespace

FusionInput::FusionInput(const Tensor& given, std::int64_t transform, double beta, double epsilon,
                         const MaybeTensor& slope, const MaybeTensor& offsets)
    : held_(readable(given, offsets.has_value())),
      offsets_(offsets, "offsets", {any('n')}),
      scores(view_of(held_, offsets_)),
      options{transform_of(transform), require_non_negative("beta", beta), require_non_negative("epsilon", epsilon)},
      slope_(slope, "slope", {scores.tasks}) {
  if (slope_) options.slope = slope_.span().data();
}

Weights::Weights(const Tensor& given, const Scores& scores)
    : group(given.dim() == 3),
      input(group ? Input<float>(given, "weights", {scores.batch, any('G'), scores.tasks})
                  : Input<float>(given, "weights", {scores.batch, scores.tasks})),
      samples(group ? input.size(1) : 1) {}

template <class T>
Input<T> RulesInput::read(const MaybeTensor& given, const char* name, const Rows& rows, Size size, Size width) {
  if (size == one) return {given, name, {columns_}};
  if (width == one) return per_candidate<T>(given, name, rows);
  auto input = per_candidate<T>(given, name, rows, columns_);
  if (input) columns_ = input.size(rows.jagged ? 1 : 2);
  return input;
}

RulesInput::RulesInput(
#define PYGRADE_RULE(type, name, size, width, json, text) const MaybeTensor &name,
#include "pygrade/request.def"
    const Rows& rows)
    : columns_(any('A'))
#define PYGRADE_RULE(type, name, size, width, json, text) , name##_(read<type>(name, #name, rows, size, width))
#include "pygrade/request.def"
{
}

PageRules RulesInput::rules() const {
  return {
#define PYGRADE_RULE(type, name, size, width, json, text) name##_.span(),
#include "pygrade/request.def"
  };
}

std::int64_t list_length(std::int64_t k) {
  if (k < 1 || k > std::numeric_limits<std::int32_t>::max()) refuse("k", k, "at least 1 and at most 2^31 - 1");
  return k;
}

int thread_count(const FusionInput& call, std::int64_t samples, std::int64_t num_threads) {
  return num_threads == 0 && detail::is_brief(call.scores, call.options, samples) ? 1 : thread_count(num_threads);
}
}  // namespace pygrade::inline v0_2::torch_ops
