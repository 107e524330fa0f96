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

std::span<const float> Policy::task_values() const {
  if (trade_offs_) return task_values_;
  const Baseline* expected = expected_value();
  return expected == nullptr ? std::span<const float>() : std::span(expected->weights);
}

bool Policy::takes_prices() const {
  if (!mixture_) return !priced_.empty();
  const Baseline* challenger = mixture_->counted_challenger();
  return !mixture_->baseline.priced.empty() || (challenger != nullptr && !challenger->priced.empty()) ||
         (mixture_->uses_network() && !priced_.empty());
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

std::shared_ptr<const Policy> Policy::with_mixture_weight(double mixture_weight) const {
  require(mixture_weight >= 0.0 && mixture_weight <= 1.0, "mixture_weight is outside 0 … 1");
  require(mixture_ || mixture_weight == 1.0, "mixture_weight is below 1, and the policy has no baseline to mix with");
  auto other = std::make_shared<Policy>(*this);
  if (other->mixture_) other->mixture_->mixture_weight = mixture_weight;
  return other;
}

void Policy::put_history(std::span<const float> of_request, std::span<const float> of_items, std::span<float> features,
                         std::span<float> rows) const {
  for (const auto& [place, column] : history_features_) features[place] = of_request[column];
  const std::size_t width = items().size(), made = history_->item_columns().size();
  for (std::size_t row = 0; row * width < rows.size(); ++row)
    for (const auto& [place, column] : history_items_) rows[row * width + place] = of_items[row * made + column];
}

std::shared_ptr<const Policy> Policy::with_ranking(std::string_view name) const {
  std::vector<const Baseline*> known;
  std::string control;
  if (mixture_) {
    known.push_back(&mixture_->baseline);
    if (mixture_->challenger) known.push_back(&*mixture_->challenger);
    for (const Baseline& other : mixture_->baselines) known.push_back(&other);
    control = mixture_->control.empty() ? mixture_->baseline.name : mixture_->control;
  }
  const std::string_view wanted = name == "control" ? control : name;
  const auto found = std::ranges::find(known, wanted, &Baseline::name);
  const bool given = found == known.end() && (wanted == Baseline::production_score || wanted == "production");
  if (found == known.end() && !given) {
    require(mixture_.has_value(), "ranking is given, and the policy has no rankings: it was not compared with any");
    std::string message = "ranking is '" + std::string(name) + "'";
    if (name == "control") message += " ('" + control + "', by which nothing can be served)";
    std::set<std::string> names;
    for (const Baseline* entry : known) names.insert("'" + entry->name + "'");
    message += "; expected 'control'";
    for (const std::string& other : names) message += ", " + other;
    throw std::invalid_argument(message);
  }
  auto other = std::make_shared<Policy>(*this);
  if (given)
    other->mixture_ = Mixture{.mixture_weight = 0.0,
                              .baseline = {.name = std::string(Baseline::production_score),
                                           .weights = std::vector<float>(tasks_.size(), 0.0f),
                                           .given = true}};
  else
    other->mixture_ = Mixture{.mixture_weight = 0.0, .baseline = **found, .unproven = mixture_->unproven};
  other->own_values_.assign(tasks_.size(), std::numeric_limits<float>::quiet_NaN());
  other->valued_scenarios_.clear();
  other->has_values_ = false;
  other->boosts_.clear();
  other->boosted_scenarios_.clear();
  other->page_terms_.reset();
  return other;
}

void Policy::find_values(std::span<const float> given, std::optional<std::string_view> scenario,
                         RequestValues& memory) const {
  const std::size_t tasks = tasks_.size();
  auto& [values, multipliers] = memory;
  values.clear();
  multipliers.clear();
  if (given.empty() && !has_values_ && !trade_offs_) return;
  const auto worth = task_values();
  require(given.empty() || !worth.empty(),
          "values is given; the policy does not read them (trade_offs) and ranks by no expected value");
  require(given.empty() || given.size() == tasks, "values must have one number for each task of the policy, or none");
  if (worth.empty()) return;
  std::size_t row = 0;
  for (std::size_t s = 0; scenario && s < valued_scenarios_.size(); ++s)
    if (valued_scenarios_[s] == *scenario) row = s + 1;
  const auto refuse = [&](std::size_t t, const char* wanted) {
    throw std::invalid_argument("values is " + std::to_string(values[t]) + " for task " + tasks_[t] + "; expected " +
                                wanted);
  };
  for (std::size_t t = 0; t < tasks; ++t) {
    const float own = own_values_[row * tasks + t];
    values.push_back(!given.empty() && !std::isnan(given[t]) ? given[t] : std::isnan(own) ? worth[t] : own);
    if (!std::isfinite(values[t])) refuse(t, "a finite number");
    if (!trade_offs_) continue;
    multipliers.push_back(values[t] == worth[t] ? 1.0f : values[t] / worth[t]);
    if (!std::isfinite(multipliers[t])) refuse(t, "0, as the policy's network (trade_offs) has seen no other");
    if (multipliers[t] < 0.0f)
      refuse(t, worth[t] > 0.0f ? "a number >= 0, as the policy's network (trade_offs) has seen no other"
                                : "a number <= 0, as the policy's network (trade_offs) has seen no other");
  }
  require(std::ranges::any_of(trade_offs_ ? multipliers : values, [](float value) { return value != 0.0f; }),
          "values is 0 for every task; expected at least one that is not");
}

void Policy::request_inputs(std::span<const float> context, std::span<const float> predictions, Workspace& workspace,
                            std::span<float> inputs, std::span<const float> multipliers) const {
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
  const auto width = static_cast<std::int64_t>(tasks);
  auto& [activations, logs, moments] = workspace;
  if (!context_only_) {
    const std::size_t rows = predictions.size() / tasks;
    logs.resize(predictions.size());
    moments.resize(2 * tasks);
    float *const mean = moments.data(), *const square = mean + tasks;
    kernels.log_moments(predictions.data(), static_cast<std::int64_t>(rows), width, beta_, logs.data(), mean, square);
    for (std::size_t t = 0; t < tasks; ++t) {
      rest[t] = mean[t];
      rest[tasks + t] = std::sqrt(square[t] / static_cast<float>(rows));
    }
    rest = rest.subspan(2 * tasks);
  }
  if (!trade_offs_) return;
  float ones[max_tasks], unused[max_tasks];
  std::ranges::fill(ones, 1.0f);
  kernels.log_moments(multipliers.empty() ? ones : multipliers.data(), 1, width, beta_, unused, rest.data(), unused);
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
