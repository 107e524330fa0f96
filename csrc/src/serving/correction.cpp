#include "serving/correction.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "checks.hpp"
#include "serving/correction_tensors.hpp"
#include "util/fpenv.hpp"
#include "util/parallel.hpp"

namespace pygrade::inline v0_2 {
namespace {
using detail::GramBlock;
using detail::require;

constexpr float x_clip = 4.0f;

void require_numbers(std::span<const float> values, std::size_t size, const char* name) {
  if (values.size() != size)
    throw std::invalid_argument(std::string(name) + " has " + std::to_string(values.size()) + " numbers; expected " +
                                std::to_string(size));
  if (!std::ranges::all_of(values, [](float v) { return std::isfinite(v); }))
    throw std::invalid_argument(std::string(name) + " holds NaN or infinity");
}

// 1 / std.
std::vector<float> inverses(std::span<const float> values, const char* name) {
  std::vector<float> result;
  for (const float value : values) {
    result.push_back(1.0f / value);
    if (!(value > 0.0f && std::isfinite(result.back())))
      throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; expected a number above 0");
  }
  return result;
}

void require_offsets(std::span<const std::int64_t> offsets, std::size_t rows) {
  require(!offsets.empty() && offsets.front() == 0 && offsets.back() == static_cast<std::int64_t>(rows) &&
              std::ranges::is_sorted(offsets),
          "offsets must ascend from 0 to the number of rows");
}

// The place of the first number that is not finite; the size without one. Compilers vectorize a count, no early exit.
std::size_t first_missing(std::span<const float> values) {
  constexpr std::size_t block = 1024;
  for (std::size_t begin = 0; begin < values.size(); begin += block) {
    const auto part = values.subspan(begin, std::min(block, values.size() - begin));
    std::uint32_t missing = 0;
    for (const float value : part) missing += std::isfinite(value) ? 0u : 1u;
    if (missing > 0)
      return begin + static_cast<std::size_t>(std::ranges::find_if_not(part, [](float v) { return std::isfinite(v); }) -
                                              part.begin());
  }
  return values.size();
}

std::size_t padded(std::size_t size, std::size_t to) { return (size + to - 1) / to * to; }

template <class Float>
Float* aligned(std::vector<Float>& memory, std::size_t size) {
  constexpr std::size_t line = 64 / sizeof(Float);
  if (memory.size() < size + line) memory.resize(size + line);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (64 - address % 64) % 64 / sizeof(Float);
}

// x[X] of the context and its indicators, standardized; 0 if nothing is known of the request.
void standardize(const Correction::Parts& parts, std::span<const float> context, float* x) {
  const auto is_known = [&](std::size_t feature) { return std::isfinite(context[feature]); };
  const bool known = std::ranges::any_of(context, [](float v) { return std::isfinite(v); });
  for (std::size_t i = 0; i < parts.x_mean.size(); ++i) {
    float value = 0.0f;
    if (known && i < context.size())
      value = is_known(i) ? context[i] : parts.median[i];
    else if (known)
      value = is_known(static_cast<std::size_t>(parts.structure.indicators[i - context.size()])) ? 0.0f : 1.0f;
    x[i] = known ? std::clamp((value - parts.x_mean[i]) / parts.x_std[i], -x_clip, x_clip) : 0.0f;
  }
}

// A place of a tree's node.
[[noreturn]] void refuse_node(const char* what, float value, std::size_t place, const std::string& want) {
  const std::size_t nodes = Correction::tree_nodes;
  throw std::invalid_argument(std::string(what) + " of tree " + std::to_string(place / nodes) + ", node " +
                              std::to_string(place % nodes) + " is " + std::to_string(value) + "; expected " + want);
}
}  // namespace

// Where the workspace has what a request gave.
struct Correction::Run {
  std::span<const float> shifts;   // [T, 1 + V]
  const float *variables, *means;  // [V] columns, `stride` floats apart; [V]
  const float* x;                  // [X]
  std::size_t stride;
};

void Correction::Structure::check(std::size_t features) const {
  const auto tasks = static_cast<std::int64_t>(parents.size());
  require(tasks > 0 && amounts.size() == parents.size(), "parents and amounts must have one entry for each task");
  if (parents.size() + items.size() > max_variables)
    throw std::invalid_argument("there are " + std::to_string(parents.size()) + " tasks and " +
                                std::to_string(items.size()) + " items; expected at most 128 of both");
  for (std::int64_t t = 0; t < tasks; ++t) {
    std::int64_t parent = parents[static_cast<std::size_t>(t)];
    const auto fail = [&, stated = parent](const char* what) {
      throw std::invalid_argument("the parent of task " + std::to_string(t) + " is " + std::to_string(stated) + ", " +
                                  what);
    };
    if (parent < -1 || parent >= tasks) fail("no task; expected the place of one, or -1");
    if (parent >= 0 && amounts[static_cast<std::size_t>(parent)]) fail("an amount; expected -1 or another task");
    if (parent >= 0 && amounts[static_cast<std::size_t>(t)]) fail("but the task is an amount; expected -1");
    for (std::int64_t steps = 0; parent >= 0; parent = parents[static_cast<std::size_t>(parent)]) {
      if (parent < -1 || parent >= tasks) break;  // told when it is the task's turn
      if (++steps > tasks) fail("one of its own descendants; expected no cycle");
    }
  }
  if (trees < 0 || trees > max_trees)
    throw std::invalid_argument("trees is " + std::to_string(trees) + "; expected 0 to " + std::to_string(max_trees));
  for (std::size_t k = 0; k < indicators.size(); ++k)
    require(indicators[k] >= 0 && indicators[k] < static_cast<std::int64_t>(features) &&
                (k == 0 || indicators[k - 1] < indicators[k]),
            "indicators must be rising places of features");
}

Correction::Correction(Parts given) : parts_(std::move(given)) {
  Structure& s = parts_.structure;
  s.check(parts_.median.size());
  const std::size_t tasks = num_tasks(), inputs = num_features() + s.indicators.size();
  const std::size_t variables = tasks + num_items(), rows = 1 + inputs + variables, columns = tasks * (1 + variables);
  for (const auto& tensor : detail::correction_tensors) {
    if (tensor.of_maps && s.form == Form::none) continue;
    std::size_t size = 1;
    for (const std::int64_t length : detail::shape_of(tensor, s, num_features()))
      size *= static_cast<std::size_t>(length);
    require_numbers(parts_.*tensor.values, size, tensor.name);
  }
  inverses(parts_.x_std, "x_std");
  l_inverse_ = inverses(parts_.l_std, "l_std");
  if (s.form != Form::none) map_inverse_ = inverses(parts_.map_std, "map_std");
  amounts_.assign(s.amounts.begin(), s.amounts.end());
  // Parents first: by the number of ancestors, then by place.
  const auto depth = [&](std::int64_t task) {
    std::int64_t steps = 0;
    for (std::int64_t above = task; (above = s.parents[static_cast<std::size_t>(above)]) >= 0;) ++steps;
    return std::pair(steps, task);
  };
  for (std::size_t t = 0; t < tasks; ++t) order_.push_back(static_cast<std::int64_t>(t));
  std::ranges::sort(order_, {}, depth);
  const auto candidate_inputs = static_cast<float>(2 * variables), all_inputs = static_cast<float>(num_tree_inputs());
  for (std::size_t g = 0; g < static_cast<std::size_t>(s.trees); ++g) {
    for (const bool of_request : {false, true}) {
      for (std::size_t i = g * tree_nodes; i < (g + 1) * tree_nodes; ++i) {
        const float input = parts_.tree_inputs[i], mask = parts_.tree_masks[i];
        if (!(input >= 0.0f && input < all_inputs && input == std::floor(input)))
          refuse_node("the input", input, i, "the place of an input, below " + std::to_string(num_tree_inputs()));
        if (!(mask >= 1.0f && mask <= 255.0f && mask == std::floor(mask)))
          refuse_node("the mask", mask, i, "a number from 1 to 255");
        if (mask < 255.0f && (input >= candidate_inputs) == of_request)
          nodes_.push_back(
              {static_cast<std::int32_t>(input) - (of_request ? static_cast<std::int32_t>(2 * variables) : 0),
               parts_.tree_thresholds[i], static_cast<std::int32_t>(mask)});
      }
      tree_ends_.push_back(static_cast<std::int32_t>(nodes_.size()));
    }
  }
  width_ = padded(columns, 16);
  packed_.assign(rows * width_, 0.0f);
  for (std::size_t t = 0; t < tasks; ++t)
    for (std::size_t z = 0; z < rows; ++z)
      std::copy_n(parts_.weights.begin() + static_cast<std::ptrdiff_t>((t * rows + z) * (1 + variables)), 1 + variables,
                  packed_.begin() + static_cast<std::ptrdiff_t>(z * width_ + t * (1 + variables)));
}

Correction::Run Correction::run(std::span<const float> context, std::span<const float> predictions,
                                std::span<const float> items, Workspace& workspace, std::span<float> result) const {
  const Structure& s = parts_.structure;
  const std::size_t tasks = num_tasks(), rows = predictions.size() / tasks;
  require(context.empty() || context.size() == num_features(), "context must have one value for each feature, or none");
  require(predictions.size() % tasks == 0, "predictions must have one value for each candidate and task");
  require(items.empty() || items.size() == rows * num_items(),
          "items must have one value for each candidate and item column, or none");
  require(result.size() == predictions.size(), "result must have one place for each prediction");
  const detail::FloatEnvironment environment;
  const std::size_t inputs = parts_.x_mean.size(), variables = tasks + num_items();
  // An odd number of cache lines, so that columns do not compete for the same part of the cache.
  const std::size_t stride = padded(rows, detail::correction_block) + 16;
  const std::size_t before = (2 * tasks + detail::spilled_columns) * stride;
  const std::size_t columns = before + (variables + (s.trees > 0 ? variables + 1 : 0)) * stride;
  float* const memory = aligned(workspace.columns, columns + width_ + inputs + variables);
  float *const row = memory + columns, *const x = row + width_, *const means = x + inputs;
  standardize(parts_, context, x);
  const auto number = [](std::size_t n) { return static_cast<std::int64_t>(n); };
  PYGRADE_KERNELS(correction_kernels)
      .correct({number(tasks),
                number(num_items()),
                number(inputs),
                s.form,
                s.parents.data(),
                order_.data(),
                amounts_.data(),
                parts_.l_mean.data(),
                l_inverse_.data(),
                packed_.data(),
                number(width_),
                parts_.map_mean.data(),
                map_inverse_.data(),
                parts_.map_knots.data(),
                parts_.map_weights.data(),
                number(rows),
                number(stride),
                x,
                predictions.data(),
                items.empty() ? nullptr : items.data(),
                memory,
                means,
                row,
                result.data(),
                s.trees,
                nodes_.data(),
                tree_ends_.data(),
                parts_.tree_leaves.data()});
  workspace.sums = {memory + before + 2 * variables * stride, s.trees > 0 ? rows : 0};
  return {{row, tasks * (1 + variables)}, memory + before, means, x, stride};
}

void Correction::apply(std::span<const float> context, std::span<const float> predictions, std::span<const float> items,
                       Workspace& workspace, std::span<float> result) const {
  run(context, predictions, items, workspace, result);
}

std::vector<double> Correction::shifts(std::span<const float> context, std::span<const float> predictions,
                                       std::span<const float> items) const {
  Workspace workspace;
  std::vector<float> corrected(predictions.size());
  const auto row = run(context, predictions, items, workspace, corrected).shifts;
  return {row.begin(), row.end()};
}

void Correction::tree_inputs(std::span<const float> context, std::span<const float> predictions,
                             std::span<const std::int64_t> offsets, std::span<const float> items,
                             std::span<float> result) const {
  const std::size_t tasks = num_tasks(), features = num_features(), columns = num_items();
  const std::size_t variables = tasks + columns, inputs = parts_.x_mean.size(), width = num_tree_inputs();
  const std::size_t rows = predictions.size() / tasks;
  require_offsets(offsets, rows);
  require(result.size() == rows * width, "result must have one value for each candidate and input");
  require(items.empty() || items.size() == rows * columns,
          "items must have one value for each candidate and item column, or none");
  Workspace workspace;
  std::vector<float> corrected;
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
    const auto first = static_cast<std::size_t>(offsets[r]), size = static_cast<std::size_t>(offsets[r + 1]) - first;
    corrected.resize(size * tasks);
    const Run found = run(context.empty() ? context : context.subspan(r * features, features),
                          predictions.subspan(first * tasks, size * tasks),
                          items.empty() ? items : items.subspan(first * columns, size * columns), workspace, corrected);
    for (std::size_t i = 0; i < size; ++i) {
      float* const row = result.data() + (first + i) * width;
      for (std::size_t v = 0; v < variables; ++v) {
        row[v] = found.variables[v * found.stride + i];
        row[variables + v] = row[v] - found.means[v];
      }
      std::copy_n(found.x, inputs, row + 2 * variables);
      std::copy_n(found.means, variables, row + 2 * variables + inputs);
    }
  }
}

void Correction::apply(std::span<const float> context, std::span<const float> predictions,
                       std::span<const std::int64_t> offsets, std::span<const float> items, std::span<float> result,
                       int num_threads) const {
  const std::size_t tasks = num_tasks(), features = num_features(), columns = num_items();
  const std::size_t rows = predictions.size() / tasks;
  require_offsets(offsets, rows);
  const std::size_t requests = offsets.size() - 1;
  require(context.empty() || context.size() == requests * features,
          "context must have one value for each request and feature, or none");
  require(predictions.size() % tasks == 0 && result.size() == predictions.size(),
          "predictions and result must have one value for each candidate and task");
  require(items.empty() || items.size() == rows * columns,
          "items must have one value for each candidate and item column, or none");
  if (const std::size_t i = first_missing(predictions); i < predictions.size())
    throw std::invalid_argument("predictions is " + std::to_string(predictions[i]) + " in row " +
                                std::to_string(i / tasks) + ", column " + std::to_string(i % tasks) +
                                "; expected finite numbers");
  const double mean = static_cast<double>(rows) / static_cast<double>(std::max<std::size_t>(1, requests));
  const std::int64_t grain = detail::grain_of(300.0 + 2.0 * mean * static_cast<double>(tasks));
  const auto work = [&](std::int64_t begin, std::int64_t end) {
    Workspace workspace;
    for (auto r = static_cast<std::size_t>(begin); r < static_cast<std::size_t>(end); ++r) {
      const auto first = static_cast<std::size_t>(offsets[r]), size = static_cast<std::size_t>(offsets[r + 1]) - first;
      apply(context.empty() ? context : context.subspan(r * features, features),
            predictions.subspan(first * tasks, size * tasks),
            items.empty() ? items : items.subspan(first * columns, size * columns), workspace,
            result.subspan(first * tasks, size * tasks));
    }
  };
  detail::parallel_for(static_cast<std::int64_t>(requests), num_threads, grain, work);
}

void correction_gram(std::span<const double> z, std::span<const double> u, std::span<const double> h,
                     std::span<const std::int64_t> offsets, std::span<double> result, int num_threads) {
  const auto number = [](std::size_t n) { return static_cast<std::int64_t>(n); };
  require_offsets(offsets, h.size());
  const std::size_t requests = offsets.size() - 1;
  if (requests == 0 || h.empty()) {
    std::ranges::fill(result, 0.0);
    return;
  }
  const std::size_t width_z = z.size() / requests, width_u = u.size() / h.size();
  require(width_z > 0 && width_u > 0 && z.size() == requests * width_z && u.size() == h.size() * width_u,
          "z must have a row for each request, u one for each entry of h");
  const std::size_t size = width_z * width_u;
  require(result.size() == size * size, "result must have the squared number of the products of z and u");

  std::vector<std::int32_t> pairs;
  for (std::size_t a = 0; a < width_z; ++a)
    for (std::size_t b = a; b < width_z; ++b)
      pairs.insert(pairs.end(), {static_cast<std::int32_t>(a), static_cast<std::int32_t>(b)});
  const std::size_t pair_count = padded(pairs.size() / 2, detail::gram_pairs);
  pairs.resize(2 * pair_count, 0);
  const std::size_t width = padded(width_u * (width_u + 1) / 2, detail::gram_padding);
  std::vector<double> column_memory, moment_memory, sum_memory(pair_count * width);
  GramBlock block{number(width_z),
                  number(width_u),
                  z.data(),
                  u.data(),
                  h.data(),
                  offsets.data(),
                  0,
                  number(width),
                  aligned(column_memory, width_z * detail::gram_requests),
                  aligned(moment_memory, width * detail::gram_requests),
                  pairs.data(),
                  sum_memory.data()};
  const detail::GramKernels& kernels = PYGRADE_KERNELS(gram_kernels);
  for (std::size_t first = 0; first < requests; first += detail::gram_requests) {
    block.requests = std::min<std::int64_t>(detail::gram_requests, number(requests - first));
    block.z = z.data() + first * width_z;
    block.offsets = offsets.data() + first;
    const double rows = static_cast<double>(block.offsets[block.requests] - block.offsets[0]);
    const double products = static_cast<double>(width);
    detail::parallel_for(block.requests, num_threads,
                         detail::grain_of(rows / static_cast<double>(block.requests) * products * 0.3),
                         [&](std::int64_t begin, std::int64_t end) { kernels.gram_moments(block, begin, end); });
    detail::parallel_for(number(pair_count) / detail::gram_pairs, num_threads,
                         detail::grain_of(static_cast<double>(block.requests * detail::gram_pairs) * products * 0.05),
                         [&](std::int64_t begin, std::int64_t end) { kernels.gram_sums(block, begin, end); });
  }

  const auto pair_of = [](std::size_t a, std::size_t b, std::size_t count) {  // a ≤ b, row by row
    return a * count - a * (a + 1) / 2 + b;
  };
  for (std::size_t a = 0; a < width_z; ++a)
    for (std::size_t b = 0; b < width_z; ++b) {
      const double* from = sum_memory.data() + pair_of(std::min(a, b), std::max(a, b), width_z) * width;
      for (std::size_t i = 0; i < width_u; ++i)
        for (std::size_t j = 0; j < width_u; ++j)
          result[(a * width_u + i) * size + b * width_u + j] = from[pair_of(std::min(i, j), std::max(i, j), width_u)];
    }
}
}  // namespace pygrade::inline v0_2
