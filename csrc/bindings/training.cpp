// The fast path of the training ops. What the core refuses is left to the Python layer, whose checks word the errors.
#include <vector>

#include "dispatch.hpp"
#include "families.hpp"
#include "pygrade/advantage.hpp"
#include "pygrade/dirichlet.hpp"
#include "pygrade/grpo.hpp"

namespace pygrade::inline v0_2::bindings {
namespace {
// A CPU checks values unless it is told not to.
bool is_checked(py::handle validate) { return validate.is_none() || is_true(validate); }

// A new float32 array of the kind of `like`, and its memory.
struct Result {
  py::object object;
  std::span<float> values;

  Result(py::handle like, const Shape& shape)
      : object(new_array(like, Dtype::float32, shape)), values(any_array(object, "the result").span<float>()) {}
};

// Calls work(threads). Up to `brief` values are not worth a second thread or releasing the interpreter's lock.
template <class Work>
void run_training(std::int64_t values, py::handle num_threads, Work&& work) {
  constexpr std::int64_t brief = 4096;
  const int threads = num_threads.is_none() && values <= brief ? 1 : thread_count(num_threads);
  std::optional<py::gil_scoped_release> release;
  if (values > brief) release.emplace();
  try {
    work(threads);
  } catch (const std::invalid_argument& error) {
    release.reset();  // the refusal is Python's object
    throw ValueMisfit(error.what());
  }
}

// concentration[B, T] and log_weights[B, G, T] of a call.
struct Densities {
  std::span<const float> concentration, log_weights;
  DirichletShape shape;
  double weight_floor;

  Densities(py::handle alpha, py::handle logs, py::handle floor) : weight_floor(number(floor, "weight_floor")) {
    const Array given = array(logs, "log_weights", Dtype::float32, {any_size, any_size, any_size});
    shape = {given.shape[0], given.shape[1], given.shape[2]};
    log_weights = given.span<const float>();
    concentration = span_of<const float>(alpha, "concentration", {shape.batch, shape.tasks});
  }
  std::int64_t values() const { return shape.batch * shape.samples * shape.tasks; }
  Shape rows() const { return {shape.batch, shape.tasks}; }     // [B, T]
  Shape draws() const { return {shape.batch, shape.samples}; }  // [B, G]
};

py::object dirichlet_log_prob_fast_path(const Arguments<5>& arguments) {
  const auto& [alpha, logs, floor, validate, num_threads] = arguments;
  if (!may_run(alpha, logs) || wants_gradient({alpha, logs})) return py::none();
  const Densities d(alpha, logs, floor);
  const bool check = is_checked(validate);
  const Result log_prob(alpha, d.draws());
  run_training(d.values(), num_threads, [&](int threads) {
    dirichlet_log_prob(d.concentration, d.log_weights, d.shape, d.weight_floor, log_prob.values, check, threads);
  });
  return log_prob.object;
}

py::object dirichlet_log_prob_backward_fast_path(const Arguments<5>& arguments) {
  const auto& [alpha, logs, upstream, floor, num_threads] = arguments;
  if (!may_run(alpha, logs) || wants_gradient({alpha, upstream})) return py::none();
  const Densities d(alpha, logs, floor);
  const auto each = span_of<const float>(upstream, "gradient", d.draws());
  const Result gradient(alpha, d.rows());
  run_training(d.values(), num_threads, [&](int threads) {
    dirichlet_log_prob_backward(d.concentration, d.log_weights, each, d.shape, d.weight_floor, gradient.values,
                                threads);
  });
  return gradient.object;
}

py::object dirichlet_score_fast_path(const Arguments<6>& arguments) {
  const auto& [alpha, logs, coefficients, floor, validate, num_threads] = arguments;
  if (!may_run(alpha, logs) || wants_gradient({logs, coefficients})) return py::none();
  const Densities d(alpha, logs, floor);
  const auto each = optional_span<const float>(coefficients, "coefficients", d.draws());
  const bool check = is_checked(validate);
  const Result log_prob(alpha, d.draws()), gradient(alpha, d.rows());
  run_training(d.values(), num_threads, [&](int threads) {
    dirichlet_score(d.concentration, d.log_weights, each, d.shape, d.weight_floor, log_prob.values, gradient.values,
                    check, threads);
  });
  return py::make_tuple(log_prob.object, gradient.object);
}

Normalize normalize_of(py::handle name) {
  constexpr std::array<std::string_view, 4> names{"none", "group", "batch", "component"};  // as the enum
  for (std::size_t code = 0; code < names.size(); ++code)
    if (is_text(name, names[code])) return static_cast<Normalize>(code);
  throw ValueMisfit("normalize is not a known name");
}

py::object group_advantage_fast_path(const Arguments<7>& arguments) {
  const auto& [rewards, component_weights, normalize, leave_one_out, clip, validate, num_threads] = arguments;
  if (!may_run(rewards, rewards) || wants_gradient({rewards, component_weights})) return py::none();
  const Array r = array(rewards, "rewards", Dtype::float32, {any_size, any_size, any_size});
  auto weights = optional_span<const float>(component_weights, "component_weights", {r.shape[2]});
  std::vector<float> ones;
  if (component_weights.is_none()) weights = ones = std::vector<float>(static_cast<std::size_t>(r.shape[2]), 1.0f);
  const double bound = clip.is_none() ? std::numeric_limits<double>::infinity() : number(clip, "clip");
  if (!(bound >= 0.0)) throw ValueMisfit("clip is not a number >= 0");  // as a double: the core's is a float
  const AdvantageOptions options{normalize_of(normalize), is_true(leave_one_out), static_cast<float>(bound)};
  const bool check = is_checked(validate);
  const Result advantage(rewards, {r.shape[0], r.shape[1]});
  run_training(r.size(), num_threads, [&](int threads) {
    group_advantage(r.span<const float>(), weights, r.shape[0], r.shape[1], options, advantage.values, check, threads);
  });
  return advantage.object;
}

py::object grpo_loss_fast_path(const Arguments<13>& arguments) {
  const auto& [alpha, logs, old_log_prob, advantages, anchor, clip, clip_high, kl_coefficient, entropy_coefficient,
               floor, log_ratio_clamp, validate, num_threads] = arguments;
  if (!may_run(alpha, logs) || wants_gradient({alpha, logs, old_log_prob, advantages, anchor})) return py::none();
  const Densities d(alpha, logs, floor);
  const GrpoInputs inputs{d.concentration, d.log_weights, span_of<const float>(old_log_prob, "old_log_prob", d.draws()),
                          span_of<const float>(advantages, "advantages", d.draws()),
                          span_of<const float>(anchor, "reference_concentration", d.rows())};
  const GrpoOptions options{.clip = number(clip, "clip"),
                            .clip_high = number(clip_high.is_none() ? clip : clip_high, "clip_high"),
                            .kl_coefficient = number(kl_coefficient, "kl_coefficient"),
                            .entropy_coefficient = number(entropy_coefficient, "entropy_coefficient"),
                            .weight_floor = d.weight_floor,
                            .log_ratio_clamp = number(log_ratio_clamp, "log_ratio_clamp")};
  const bool check = is_checked(validate);
  const Shape batch{d.shape.batch};
  std::array<NewArray, 6> parts{{{batch}, {batch}, {batch}, {batch}, {batch}, {d.rows()}}};
  new_arrays(alpha, parts);
  auto& [loss, kl, entropy, fraction, ratio, gradient] = parts;
  const GrpoOutputs outputs{loss.values, kl.values, entropy.values, fraction.values, ratio.values, gradient.values};
  run_training(d.values(), num_threads,
               [&](int threads) { grpo_loss(inputs, d.shape, options, outputs, check, threads); });
  return py::make_tuple(loss.object, kl.object, entropy.object, fraction.object, ratio.object, gradient.object);
}
}  // namespace

void bind_training(py::module_& module) {
  def_positional<&dirichlet_log_prob_fast_path>(module, "dirichlet_log_prob_fast_path",
                                                "concentration, log_weights, weight_floor, validate, num_threads");
  def_positional<&dirichlet_log_prob_backward_fast_path>(
      module, "dirichlet_log_prob_backward_fast_path",
      "concentration, log_weights, gradient, weight_floor, num_threads");
  def_positional<&dirichlet_score_fast_path>(
      module, "dirichlet_score_fast_path",
      "concentration, log_weights, coefficients, weight_floor, validate, num_threads");
  def_positional<&group_advantage_fast_path>(
      module, "group_advantage_fast_path",
      "rewards, component_weights, normalize, leave_one_out, clip, validate, num_threads");
  def_positional<&grpo_loss_fast_path>(
      module, "grpo_loss_fast_path",
      "concentration, log_weights, old_log_prob, advantages, reference_concentration, clip, clip_high, "
      "kl_coefficient, entropy_coefficient, weight_floor, log_ratio_clamp, validate, num_threads");
}
}  // namespace pygrade::inline v0_2::bindings
