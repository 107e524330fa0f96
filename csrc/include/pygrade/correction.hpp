// Corrects the predictions of a request by its context: maps of each task, then log odds that move with the context,
// the mean of the candidates, and what sets a candidate apart from it; then trees move all predictions of a candidate
// by one factor. pygrade/reference/correction.py has the formula.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
namespace detail {
// A test in a tree of a correction, see Correction::Parts.
struct TreeNode {
  std::int32_t input;  // place among a candidate's inputs, or behind them among the request's
  float threshold;
  std::int32_t mask;
};
}  // namespace detail

// Immutable: any number of threads may use one at once. T tasks, F features, I item columns, K indicators of missing
// features; X = F + K inputs of the context, V = T + I of a candidate, Z = 1 + X + V, U = 1 + V.
class PYGRADE_API Correction {
 public:
  enum class Form : std::uint8_t { none, marginal, conditional };  // of the maps
  static constexpr std::array<std::string_view, 3> form_names{"", "marginal", "conditional"};
  static constexpr std::size_t knots = 5;            // of a map
  static constexpr std::size_t max_variables = 128;  // V
  static constexpr std::size_t tree_nodes = 7;       // of a tree, with a leaf more
  static constexpr std::int64_t max_trees = 4096;

  struct Structure {
    std::vector<std::string> items;        // [I] names
    std::vector<std::int64_t> parents;     // [T] the task that a task needs; -1: none
    std::vector<bool> amounts;             // [T] tasks without a parent that predict an amount, no probability
    std::vector<std::int64_t> indicators;  // [K] places of features, rising
    Form form = Form::none;
    std::int64_t trees = 0;  // G

    // std::invalid_argument for parents that are no task, form a cycle or are amounts, for amounts with a parent, and
    // for indicators that do not rise below `features`.
    PYGRADE_API void check(std::size_t features) const;
  };

  // Finite numbers; those of std are positive. A node of a tree compares an input with a threshold, and its mask has
  // the bits of the leaves, from the left, that are left if the input is larger; 255: no node. The lowest bit that all
  // nodes leave is the candidate's leaf. Inputs [D = V + V + X + V]: a candidate's standardized variables, these less
  // the mean of the request, the standardized context, and the means.
  struct Parts {
    Structure structure;
    std::vector<float> median;                                     // [F]
    std::vector<float> x_mean, x_std;                              // [X]
    std::vector<float> l_mean, l_std;                              // [V]
    std::vector<float> weights;                                    // [T, Z, U]
    std::vector<float> map_mean, map_std, map_knots, map_weights;  // [T], [T], [T, 5], [T, 7]; any if there are no maps
    std::vector<float> tree_inputs, tree_thresholds, tree_masks;   // [G, 7] each: places in D, numbers, 1 to 255
    std::vector<float> tree_leaves;                                // [G, 8] summed, logarithms of the factor
  };

  // Working memory of `apply`, reused.
  struct Workspace {
    std::vector<float> columns;
    std::span<const float> sums;  // [N] of the trees' leaves, of the last request; empty: there are no trees
  };

  // std::invalid_argument as of Structure::check, and for sizes and numbers that are not as above.
  explicit Correction(Parts parts);

  std::size_t num_tasks() const { return parts_.structure.parents.size(); }
  std::size_t num_features() const { return parts_.median.size(); }
  std::size_t num_items() const { return parts_.structure.items.size(); }
  const Parts& parts() const { return parts_; }

  // The corrected predictions of one request into result[N, T], which may be `predictions`. context[F], with what is
  // not finite unknown; empty or all unknown: the weights of the context count as if it were the mean. predictions
  // [N, T]: finite. items[N, I], with what is not finite unknown, the mean; empty: all unknown. std::invalid_argument
  // for sizes that do not fit. Same bits on every instruction set.
  void apply(std::span<const float> context, std::span<const float> predictions, std::span<const float> items,
             Workspace& workspace, std::span<float> result) const;

  // Applies it to requests whose rows are offsets[r] to offsets[r + 1], of context[R, F] or none, predictions[M, T] and
  // items[M, I] or none; predictions that are not finite are refused, too.
  void apply(std::span<const float> context, std::span<const float> predictions, std::span<const std::int64_t> offsets,
             std::span<const float> items, std::span<float> result, int num_threads) const;

  // Inputs of the trees for each candidate of the requests, into result[M, D]; arguments as of `apply`.
  void tree_inputs(std::span<const float> context, std::span<const float> predictions,
                   std::span<const std::int64_t> offsets, std::span<const float> items, std::span<float> result) const;
  std::size_t num_tree_inputs() const { return 3 * parts_.l_mean.size() + parts_.x_mean.size(); }  // D

  // Shifts that `apply` adds to the conditional log odds of the candidates of such a request: S[T, 1 + V]. That of task
  // t is S_0 + Σ_v S_v u_v of a candidate's variables u (log odds after the maps, item columns; standardized, cut to
  // ±4). Without predictions the candidates' mean counts as that of the average request.
  std::vector<double> shifts(std::span<const float> context, std::span<const float> predictions,
                             std::span<const float> items) const;

 private:
  struct Run;  // where the workspace has what a request gave
  Run run(std::span<const float> context, std::span<const float> predictions, std::span<const float> items,
          Workspace& workspace, std::span<float> result) const;

  Parts parts_;
  std::vector<detail::TreeNode> nodes_;         // of all trees, in each those on candidates first
  std::vector<std::int32_t> tree_ends_;         // [G, 2] of a tree's nodes on candidates, and of all
  std::vector<std::int64_t> order_;             // [T] parents before their children
  std::vector<std::uint8_t> amounts_;           // [T]
  std::vector<float> packed_;                   // [Z, T · U, padded to whole vectors]
  std::vector<float> l_inverse_, map_inverse_;  // 1 / std
  std::size_t width_ = 0;                       // of a row of `packed_`
};

// Σ h_i (z_r ⊗ u_i)(z_r ⊗ u_i)ᵀ into result[Z · U, Z · U], over the requests r of z[R, Z] and their rows i, offsets[r]
// to offsets[r + 1], of u[M, U] and h[M]; place z · U + u. Same bits on every instruction set and any number of
// threads. std::invalid_argument for sizes that do not fit.
PYGRADE_API void correction_gram(std::span<const double> z, std::span<const double> u, std::span<const double> h,
                                 std::span<const std::int64_t> offsets, std::span<double> result, int num_threads);
}  // namespace pygrade::inline v0_2
