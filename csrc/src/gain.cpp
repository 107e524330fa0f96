#include "gain.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "checks.hpp"
#include "lists.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {
void topk_gain(const Scores& scores, std::span<const float> weights, std::int64_t samples, std::span<const float> gains,
               std::span<const float> discount, std::span<const std::uint8_t> masks, std::int64_t lists,
               std::span<const std::int32_t> component_list, std::int64_t components, const FusionOptions& options,
               std::span<float> gain, int num_threads) {
  if (discount.empty()) throw std::invalid_argument("discount is empty; expected one value a rank");
  if (components < 0 || lists < 0) throw std::invalid_argument("components or lists is negative");
  detail::check_weights(scores, weights, samples);
  detail::check_size(gains.size(), scores.rows * components, "gains");
  detail::check_size(masks.size(), scores.rows * lists, "masks");
  detail::check_size(gain.size(), scores.batch * samples * components, "gain");
  if (!component_list.empty()) detail::check_size(component_list.size(), components, "component_list");
  for (std::size_t c = 0; c < component_list.size(); ++c)
    if (component_list[c] < -1 || component_list[c] >= lists)
      throw std::invalid_argument("component_list[" + std::to_string(c) + "] is " + std::to_string(component_list[c]) +
                                  "; expected -1 or a list below " + std::to_string(lists));
  detail::check_scores(scores, options, num_threads);

  const auto k = static_cast<std::int64_t>(discount.size());
  const auto padded_k = static_cast<std::int64_t>(std::bit_ceil(discount.size()));
  const std::int64_t stride = detail::scratch_stride(detail::longest_request(scores));
  const detail::GainTask task{
      scores,       options,      weights.data(),  samples,
      gains.data(), components,   discount.data(), k,
      padded_k,     masks.data(), lists,           component_list.empty() ? nullptr : component_list.data(),
      gain.data(),  stride};
  const auto size =
      static_cast<std::size_t>(detail::scratch_rows(scores.tasks) * stride + (padded_k + k) * detail::lists_at_once);
  const detail::GainKernels& kernels = PYGRADE_KERNELS(gain_kernels);
  detail::parallel_for_lists(
      scores, samples, num_threads,
      [&](std::int64_t begin, std::int64_t end, std::int64_t first_sample, std::int64_t end_sample) {
        detail::GainTask share = task;
        share.first_sample = first_sample;
        share.end_sample = end_sample;
        kernels.topk_gain(share, begin, end, detail::Scratch(size).data());
      });
}
}  // namespace pygrade::inline v0_2
