#include "fusion.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "checks.hpp"
#include "lists.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
namespace detail {
namespace {
void check_offsets(const Scores& scores) {
  const std::int64_t* offsets = scores.offsets;
  const auto at = [&](std::int64_t b) { return "offsets[" + std::to_string(b) + "] is " + std::to_string(offsets[b]); };
  if (offsets[0] != 0) throw std::invalid_argument(at(0) + "; expected 0");
  for (std::int64_t b = 0; b < scores.batch; ++b)
    if (offsets[b + 1] < offsets[b])
      throw std::invalid_argument(at(b + 1) + ", below offsets[" + std::to_string(b) + "]; expected ascending offsets");
  if (offsets[scores.batch] != scores.rows)
    throw std::invalid_argument(at(scores.batch) + "; expected the number of rows of scores, " +
                                std::to_string(scores.rows));
}

// The position of an element of the scores, as "request 1, candidate 2, task 0".
std::string place_of(const Scores& scores, std::int64_t element) {
  std::int64_t row = element / scores.tasks;
  std::int64_t task = element % scores.tasks;
  if (scores.layout == Layout::task_major) {
    const std::int64_t length = scores.offsets != nullptr ? scores.rows : scores.candidates;  // of a task's row
    task = element / length % scores.tasks;
    row = element / (length * scores.tasks) * length + element % length;
  }
  std::int64_t b = 0;
  if (scores.offsets == nullptr)
    b = row / scores.candidates;
  else
    b = std::upper_bound(scores.offsets, scores.offsets + scores.batch + 1, row) - scores.offsets - 1;
  return "request " + std::to_string(b) + ", candidate " + std::to_string(row - request_of(scores, b).first) +
         ", task " + std::to_string(task);
}

void check_no_negative(const Scores& scores, int num_threads) {
  std::atomic<std::int64_t> first = -1;
  const FusionKernels& kernels = PYGRADE_KERNELS(fusion_kernels);
  const double cost = 0.04;  // per score
  parallel_for(scores.rows * scores.tasks, num_threads, grain_of(cost), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t found = kernels.find_negative(scores, begin, end);
    std::int64_t before = first.load();
    while (found >= 0 && (before < 0 || found < before) && !first.compare_exchange_weak(before, found)) {
    }
  });
  const std::int64_t found = first.load();
  if (found < 0) return;
  throw std::invalid_argument("scores is negative at " + place_of(scores, found) +
                              "; expected scores ≥ 0 under this transform");
}

void check_slope(const float* slope, std::int64_t tasks) {
  if (slope == nullptr) return;
  for (std::int64_t t = 0; t < tasks; ++t)
    if (!(slope[t] >= 0.0f))
      throw std::invalid_argument("slope[" + std::to_string(t) + "] is " + std::to_string(slope[t]) +
                                  "; expected a number ≥ 0");
}
}  // namespace

void check_shapes(const Scores& scores, const FusionOptions& options) {
  if (scores.tasks < 1 || scores.tasks > max_tasks)
    throw std::invalid_argument("scores has " + std::to_string(scores.tasks) + " tasks; expected 1 to " +
                                std::to_string(max_tasks));
  if (scores.batch < 0 || scores.rows < 0) throw std::invalid_argument("scores has a negative size");
  if (scores.offsets != nullptr) check_offsets(scores);
  if (longest_request(scores) > INT32_MAX) throw std::invalid_argument("a request has more than 2^31 - 1 candidates");
  if (options.transform == Transform::log1p) check_slope(options.slope, scores.tasks);
}

void check_scores(const Scores& scores, const FusionOptions& options, int num_threads) {
  check_shapes(scores, options);
  if (traits_of(options.transform).nonnegative) check_no_negative(scores, num_threads);
}

void check_weights(const Scores& scores, std::span<const float> weights, std::int64_t samples) {
  if (samples < 0) throw std::invalid_argument("samples is " + std::to_string(samples) + "; expected at least 0");
  check_size(weights.size(), scores.batch * samples * scores.tasks, "weights");
}

std::int64_t longest_request(const Scores& scores) {
  if (scores.offsets == nullptr) return scores.batch > 0 ? scores.candidates : 0;
  std::int64_t longest = 0;
  for (std::int64_t b = 0; b < scores.batch; ++b) longest = std::max(longest, request_of(scores, b).count);
  return longest;
}

namespace {
void run(FusionTask task, int num_threads,
         void (*kernel)(const FusionTask& task, std::int64_t begin, std::int64_t end, float* scratch)) {
  task.stride = scratch_stride(longest_request(task.scores));
  const std::int64_t rows = scratch_rows(task.scores.tasks);
  parallel_for_lists(task.scores, task.samples, num_threads,
                     [&](std::int64_t begin, std::int64_t end, std::int64_t first_sample, std::int64_t end_sample) {
                       FusionTask share = task;
                       share.first_sample = first_sample;
                       share.end_sample = end_sample;
                       kernel(share, begin, end, Scratch(static_cast<std::size_t>(rows * task.stride)).data());
                     });
}

void fuse_by(decltype(FusionKernels::fuse) kernel, const Scores& scores, std::span<const float> weights,
             std::int64_t samples, const FusionOptions& options, std::span<float> fused, int num_threads) {
  check_weights(scores, weights, samples);
  check_size(fused.size(), scores.rows * samples, "fused");
  check_scores(scores, options, num_threads);
  FusionTask task{scores, options, weights.data(), samples};
  task.values = fused.data();
  run(task, num_threads, kernel);
}
}  // namespace

void fuse_floats(const Scores& scores, std::span<const float> weights, const FusionOptions& options,
                 std::span<float> fused) {
  fuse_by(PYGRADE_KERNELS(fusion_kernels).fuse, scores, weights, 1, options, fused, 1);
}
}  // namespace detail

std::optional<Transform> find_transform(std::string_view name) {
  for (std::size_t code = 0; code < transforms.size(); ++code)
    if (transforms[code].name == name) return static_cast<Transform>(code);
  return {};
}

std::string transform_list() {
  std::string list;
  for (const TransformTraits& traits : transforms) list.append(list.empty() ? "" : ", ").append(traits.name);
  return list;
}

void transform_scores(const Scores& scores, const FusionOptions& options, std::span<float> values, int num_threads) {
  detail::check_size(values.size(), scores.rows * scores.tasks, "values");
  detail::check_scores(scores, options, num_threads);
  detail::FusionTask task{scores, options};
  task.values = values.data();
  detail::run(task, num_threads, PYGRADE_KERNELS(fusion_kernels).transform);
}

void fuse_scores(const Scores& scores, std::span<const float> weights, std::int64_t samples,
                 const FusionOptions& options, std::span<float> fused, int num_threads) {
  detail::fuse_by(PYGRADE_KERNELS(any_fusion_kernels).fuse, scores, weights, samples, options, fused, num_threads);
}

void fuse_topk(const Scores& scores, std::span<const float> weights, std::int64_t samples, std::int64_t k,
               const FusionOptions& options, std::span<const std::uint8_t> mask, std::span<float> values,
               std::span<std::int32_t> indices, int num_threads) {
  if (k < 1) throw std::invalid_argument("k is " + std::to_string(k) + "; expected at least 1");
  detail::check_weights(scores, weights, samples);
  if (!mask.empty()) detail::check_size(mask.size(), scores.rows, "mask");
  detail::check_size(values.size(), scores.batch * samples * k, "values");
  detail::check_size(indices.size(), scores.batch * samples * k, "indices");
  detail::check_shapes(scores, options);
  detail::FusionTask task{scores, options, weights.data(), samples, k, mask.empty() ? nullptr : mask.data()};
  task.values = values.data();
  task.indices = indices.data();
  const detail::AnyFusionKernels& kernels = PYGRADE_KERNELS(any_fusion_kernels);
  const bool shortcut = options.transform == Transform::log || options.transform == Transform::log1p;
  if (shortcut && scores.batch == 1 && samples == 1 && mask.empty()) {
    task.stride = detail::scratch_stride(scores.rows);
    const std::int64_t size = detail::scratch_rows(scores.tasks) * task.stride;
    const detail::FloatEnvironment environment;
    if (kernels.topk_unchecked(task, detail::Scratch(static_cast<std::size_t>(size)).data())) return;
  }
  detail::check_scores(scores, options, num_threads);
  detail::run(task, num_threads, kernels.topk);
}
}  // namespace pygrade::inline v0_2
