#include "serving/policy.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "checks.hpp"
#include "util/fpenv.hpp"

namespace pygrade::inline v0_2 {

namespace {

using detail::require;

constexpr float input_clip = 5.0f;  // normalized inputs are clipped: one broken feature must not dominate

// Σ_t clip(λ w_t, lower_t, upper_t)
double clipped_sum(double scale, std::span<const double> weights, std::span<const float> lower,
                   std::span<const float> upper) {
  double sum = 0.0;
  for (std::size_t t = 0; t < weights.size(); ++t)
    sum += std::clamp(scale * weights[t], static_cast<double>(lower[t]), static_cast<double>(upper[t]));
  return sum;
}

}  // namespace

void project_weights(std::span<float> weights, std::span<const float> lower, std::span<const float> upper) {
  const std::size_t tasks = weights.size();
  require(tasks <= Policy::max_tasks && lower.size() == tasks && upper.size() == tasks,
          "lower and upper must have one bound for each weight, of at most 64");
  bool inside = true;
  float sum = 0.0f;
  for (std::size_t t = 0; t < tasks; ++t) {
    inside = inside && weights[t] >= lower[t] && weights[t] <= upper[t];
    sum += weights[t];
  }
  if (inside && std::fabs(sum - 1.0f) <= 1e-6f) return;

  // The sum is piecewise linear in λ with corners at lower/w and upper/w: find the piece, then solve.
  double safe[Policy::max_tasks];
  double corners[2 * Policy::max_tasks];
  for (std::size_t t = 0; t < tasks; ++t) {
    safe[t] = std::max(static_cast<double>(weights[t]), 1e-30);
    corners[2 * t] = lower[t] / safe[t];
    corners[2 * t + 1] = upper[t] / safe[t];
  }
  const std::span<const double> given{safe, tasks};
  std::sort(corners, corners + 2 * tasks);
  std::size_t below = 0;  // number of corners, from the first on, with a sum below 1
  std::size_t above = 2 * tasks;
  while (below < above) {
    const std::size_t middle = (below + above) / 2;
    if (clipped_sum(corners[middle], given, lower, upper) < 1.0)
      below = middle + 1;
    else
      above = middle;
  }
  const std::size_t right = std::clamp<std::size_t>(below, 1, 2 * tasks - 1);
  const double a = corners[right - 1];
  const double b = corners[right];
  const double sum_a = clipped_sum(a, given, lower, upper);
  const double sum_b = clipped_sum(b, given, lower, upper);
  const double share = sum_b > sum_a ? (1.0 - sum_a) / (sum_b - sum_a) : 0.0;
  const double scale = a + (b - a) * std::clamp(share, 0.0, 1.0);
  for (std::size_t t = 0; t < tasks; ++t)
    weights[t] = std::clamp(static_cast<float>(scale * safe[t]), lower[t], upper[t]);
}

Policy::Fallback Policy::fallback(std::optional<std::string_view> scenario) const {
  for (std::size_t s = 0; scenario && s < scenarios_.size(); ++s)
    if (scenarios_[s] == *scenario) return {std::span(scenario_table_).subspan(s * tasks_.size(), tasks_.size()), true};
  return {static_weights_, false};
}

const Baseline* Policy::expected_value() const {
  return mixture_ && !trade_offs_ ? mixture_->expected_value() : nullptr;
}

const Baseline* Policy::task_values() const {
  if (!trade_offs_ || !mixture_) return expected_value();
  const auto& challenger = mixture_->challenger;
  if (challenger && challenger->expects()) return &*challenger;
  return mixture_->baseline.expects() ? &mixture_->baseline : nullptr;
}

bool Policy::takes_prices() const {
  if (!mixture_) return !priced_.empty();
  const Baseline* challenger = mixture_->counted_challenger();
  return !mixture_->baseline.priced.empty() || (challenger != nullptr && !challenger->priced.empty()) ||
         (mixture_->takes_network() && !priced_.empty());
}

std::span<const std::string> Policy::items() const {
  return correction_ ? std::span(correction_->parts().structure.items) : std::span<const std::string>();
}

std::span<const std::string> Policy::own_items() const {
  return items().first(items().size() - (levels_ == nullptr ? 0 : tasks_.size()));
}

std::span<const float> Policy::boosts(std::optional<std::string_view> scenario) const {
  if (boosts_.empty()) return {};
  std::size_t row = 0;
  for (std::size_t s = 0; scenario && s < boosted_scenarios_.size(); ++s)
    if (boosted_scenarios_[s] == *scenario) row = s + 1;
  return std::span(boosts_).subspan(row * items().size(), items().size());
}

std::shared_ptr<const Policy> Policy::with_trust(double trust) const {
  require(trust >= 0.0 && trust <= 1.0, "trust is outside 0 … 1");
  require(mixture_ || trust == 1.0, "trust is below 1, and the policy has no baseline to mix with");
  auto other = std::make_shared<Policy>(*this);
  if (other->mixture_) other->mixture_->trust = trust;
  return other;
}

std::shared_ptr<const Policy> Policy::with_ranking(std::string_view name) const {
  require(mixture_.has_value(), "ranking is given, and the policy has no rankings: it was not compared with any");
  std::vector<const Baseline*> known{&mixture_->baseline};
  if (mixture_->challenger) known.push_back(&*mixture_->challenger);
  for (const Baseline& other : mixture_->baselines) known.push_back(&other);
  const std::string& over = mixture_->over.empty() ? mixture_->baseline.name : mixture_->over;
  const auto found = std::ranges::find(known, name == "over" ? over : name, &Baseline::name);
  if (found == known.end()) {
    std::string message = "ranking is '" + std::string(name) + "'";
    if (name == "over") message += " ('" + over + "', by which nothing can be served)";
    std::set<std::string> names;
    for (const Baseline* entry : known) names.insert("'" + entry->name + "'");
    message += "; want 'over'";
    for (const std::string& other : names) message += ", " + other;
    throw std::invalid_argument(message);
  }
  auto other = std::make_shared<Policy>(*this);
  other->mixture_ = Mixture{.trust = 0.0, .baseline = **found, .unproven = mixture_->unproven};
  other->default_multipliers_.assign(tasks_.size(), 1.0f);
  other->valued_scenarios_.clear();
  other->valued_ = false;
  other->boosts_.clear();
  other->boosted_scenarios_.clear();
  other->page_terms_.reset();
  return other;
}

namespace {

[[noreturn]] void refuse_number(const char* name, double number, const std::string& task, const std::string& wanted) {
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(number) + " for task " + task + "; want " +
                              wanted);
}

}  // namespace

void Policy::change_values(const ValueChange& given, std::optional<std::string_view> scenario,
                           ValueMemory& memory) const {
  const std::size_t tasks = tasks_.size();
  const auto& [values, shifts] = given;
  require(values.empty() || takes_values(),
          "values is given; the policy takes no multipliers (trade_offs) and is mixed with no expected value");
  require(shifts.empty() || takes_shifts(),
          "shifts is given; no expected value of the policy knows what its tasks are worth");
  require(values.empty() || values.size() == tasks,
          "values must have one multiplier for each task of the policy, or none");
  require(shifts.empty() || shifts.size() == tasks, "shifts must have one number for each task of the policy, or none");
  std::size_t row = 0;
  for (std::size_t s = 0; scenario && s < valued_scenarios_.size(); ++s)
    if (valued_scenarios_[s] == *scenario) row = s + 1;
  const auto own = std::span(default_multipliers_).subspan(row * tasks, tasks);
  memory.multipliers.assign(own.begin(), own.end());
  memory.shifts.assign(tasks, 0.0f);
  if (given.empty()) return;
  for (std::size_t t = 0; t < tasks; ++t) {
    float& value = memory.multipliers[t];
    if (!values.empty() && !std::isnan(values[t])) value = values[t];
    if (!(value >= 0.0f && std::isfinite(value))) refuse_number("values", value, tasks_[t], "a finite number >= 0");
    if (!shifts.empty() && !std::isnan(shifts[t])) memory.shifts[t] = shifts[t];
    if (!std::isfinite(memory.shifts[t])) refuse_number("shifts", memory.shifts[t], tasks_[t], "a finite number");
  }
  require(std::ranges::any_of(memory.multipliers, [](float value) { return value > 0.0f; }),
          "values is 0 for every task; want at least one above 0");
  if (shifts.empty()) return;
  const Baseline& worth = *task_values();
  std::array<float, max_tasks> all{};
  const auto changed = std::span(all).first(tasks);
  worth.weights_at(memory, changed);
  for (std::size_t t = 0; t < tasks; ++t)
    if (!std::isfinite(changed[t])) refuse_number("shifts", memory.shifts[t], tasks_[t], "a smaller one");
  require(std::ranges::any_of(changed, [](float value) { return value != 0.0f; }),
          "shifts make every task worth 0; want at least one that is not");
  if (!trade_offs_) return;
  for (std::size_t t = 0; t < tasks; ++t) {
    const float shift = std::exchange(memory.shifts[t], 0.0f);
    if (shift == 0.0f) continue;
    if (!(worth.weights[t] > 0.0f))
      refuse_number("shifts", shift, tasks_[t],
                    "0: the policy learned multipliers of the task's value, which is not above 0");
    if (changed[t] < 0.0f)
      refuse_number("shifts", shift, tasks_[t],
                    "at least " + std::to_string(-worth.weights[t]) +
                        ": the policy (trade_offs) learned from values of 0 and more alone");
    memory.multipliers[t] = changed[t] / worth.weights[t];
  }
}

void Policy::request_inputs(std::span<const float> context, std::span<const float> predictions, std::span<float> inputs,
                            std::span<const float> multipliers) const {
  const std::size_t tasks = tasks_.size();
  require(context.size() == features_.size(), "context must have one value for each feature of the policy");
  require(predictions.size() % tasks == 0 && (context_only_ || !predictions.empty()),
          "predictions must be N ≥ 1 rows with one value for each task of the policy");
  require(inputs.size() == num_inputs(), "inputs must have num_inputs() places");
  require(multipliers.empty() || (trade_offs_ && multipliers.size() == tasks),
          "multipliers must have one value for each task of a policy that takes them");
  std::ranges::transform(context, inputs.begin(),
                         [](float v) { return std::isfinite(v) ? v : std::numeric_limits<float>::quiet_NaN(); });
  auto rest = inputs.subspan(context.size());
  for (std::size_t i = 0; i < indicators_.size(); ++i) rest[i] = std::isfinite(context[indicators_[i]]) ? 0.0f : 1.0f;
  rest = rest.subspan(indicators_.size());
  const detail::FloatEnvironment environment;
  const detail::PolicyKernels& kernels = PYGRADE_KERNELS(policy_kernels);
  const auto count = static_cast<std::int64_t>(tasks);
  double mean[max_tasks];
  double square[max_tasks];
  if (!context_only_) {
    kernels.log_moments(predictions.data(), static_cast<std::int64_t>(predictions.size() / tasks), count, beta_, mean,
                        square);
    for (std::size_t t = 0; t < tasks; ++t) {
      rest[t] = static_cast<float>(mean[t]);
      rest[tasks + t] = static_cast<float>(std::sqrt(square[t]));
    }
    rest = rest.subspan(2 * tasks);
  }
  if (!trade_offs_) return;
  float ones[max_tasks];
  std::ranges::fill(ones, 1.0f);
  kernels.log_moments(multipliers.empty() ? ones : multipliers.data(), 1, count, beta_, mean, square);
  for (std::size_t t = 0; t < tasks; ++t) rest[t] = static_cast<float>(mean[t]);
}

// m / (n + m): the share of the scenario's fallback weights in the served weights.
float Policy::shrinkage(std::span<const float> inputs) const {
  float count = inputs[evidence_input_];
  if (evidence_scale_ != Evidence::count) {
    PYGRADE_KERNELS(policy_kernels).exp(&count, 1);
    if (evidence_scale_ == Evidence::log1p) count -= 1.0f;
  }
  return evidence_prior_ / ((count > 0.0f ? count : 0.0f) + evidence_prior_);
}

void Policy::evaluate(std::span<const float> inputs, std::optional<std::string_view> scenario, Workspace& workspace,
                      std::span<float> concentration, std::span<float> weights) const {
  const std::size_t tasks = tasks_.size();
  require(inputs.size() == num_inputs(), "inputs must have num_inputs() values");
  require(concentration.size() == tasks && weights.size() == tasks, "concentration and weights must be of T values");
  const detail::FloatEnvironment environment;
  if (workspace.activations.size() < 2 * widest_) workspace.activations.resize(2 * widest_);
  float* x = workspace.activations.data();
  float* y = x + widest_;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    float value = (inputs[i] - input_mean_[i]) / input_std_[i];
    value = value < -input_clip ? -input_clip : value;
    value = value > input_clip ? input_clip : value;
    x[i] = std::isnan(value) ? 0.0f : value;  // unknown: the mean
  }
  const detail::PolicyKernels& kernels = PYGRADE_KERNELS(policy_kernels);
  for (const Layer& layer : layers_) {
    kernels.linear(x, layer.inputs, layer.weights.data(), layer.bias.data(), layer.outputs, y);
    if (&layer != &layers_.back()) kernels.silu(y, layer.outputs);
    std::swap(x, y);
  }
  const float highest = *std::max_element(x, x + tasks);
  for (std::size_t t = 0; t < tasks; ++t) x[t] -= highest;
  kernels.exp(x, static_cast<std::int64_t>(tasks));
  float total = 0.0f;
  for (std::size_t t = 0; t < tasks; ++t) total += x[t];
  float sum = 0.0f;
  for (std::size_t t = 0; t < tasks; ++t) sum += weights[t] = floor_ + total_ * (x[t] / total);
  if (evidence_prior_ > 0.0f) {
    const float share = shrinkage(inputs);
    const auto target = fallback(scenario).weights;
    float shrunk = 0.0f;
    for (std::size_t t = 0; t < tasks; ++t) shrunk += weights[t] += share * (sum * target[t] - weights[t]);
    sum = shrunk;
  }
  float factor = 1.0f;
  for (std::size_t s = 0; scenario && s < explored_scenarios_.size(); ++s)
    if (explored_scenarios_[s] == *scenario) factor = exploration_[s];
  for (std::size_t t = 0; t < tasks; ++t) {
    concentration[t] = weights[t] * factor;
    weights[t] /= sum;
  }
  project_weights(weights, lower_, upper_);
}

}  // namespace pygrade::inline v0_2
