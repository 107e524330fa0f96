#include "pygrade/advantage.hpp"

#include <vector>

#include "tensors.hpp"

namespace pygrade::inline v0_2::torch_ops {
namespace {
Tensor group_advantage_of(const Tensor& rewards, const MaybeTensor& component_weights, std::int64_t normalize,
                          bool leave_one_out, double clip, bool validate, std::int64_t num_threads) {
  if (normalize < 0 || normalize > 3) refuse("normalize", normalize, "0 to 3: none, group, batch, component");
  const Input<float> r(rewards, "rewards", {any('B'), any('G'), any('C')});
  const Input<float> given(component_weights, "component_weights", {r.size(2)});
  const std::vector<float> ones(given ? 0 : static_cast<std::size_t>(r.size(2)), 1.0f);
  const AdvantageOptions options{static_cast<Normalize>(normalize), leave_one_out, static_cast<float>(clip)};
  Tensor advantage = fresh({r.size(0), r.size(1)});
  group_advantage(r.span(), given ? given.span() : std::span<const float>(ones), r.size(0), r.size(1), options,
                  memory_of(advantage), validate, thread_count(num_threads));
  return advantage;
}
}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(pygrade, m) {
  m.def(
      "group_advantage(Tensor rewards, Tensor? component_weights=None, int normalize=2, bool leave_one_out=False, "
      "float clip=5.0, bool validate=True, int num_threads=0) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(pygrade, CPU, m) { m.impl("group_advantage", TORCH_BOX(&group_advantage_of)); }
}  // namespace pygrade::inline v0_2::torch_ops
