// Rankings that make the scores of a request: the policy's network, a challenger in its place, a baseline, a mixture.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pygrade/ranker.hpp"

namespace pygrade::inline v0_2::detail {
struct ScoreSources {
  const Baseline* baseline = nullptr;    // null: none
  const Baseline* challenger = nullptr;  // or what alone ranks by the request's values; null: none
  bool network = true;                   // the policy's network
  bool by_values = false;                // an expected value, the challenger, alone ranks by the request's values
  const Mixture* mixture = nullptr;      // of baseline and the other one; null: there is one source
  std::span<const float> boosts;         // [I] added to the standardized scores; empty: scores are as they are

  ScoreSources(const Policy& policy, const pygrade::Request& request) : boosts(policy.boosts(request.scenario)) {
    const auto& mixed = policy.mixture();
    if ((!request.values.empty() || policy.has_values()) && policy.expected_value() != nullptr) {
      challenger = policy.expected_value();
      network = false;
      by_values = true;
    } else if (mixed) {
      baseline = mixed->counted_baseline();
      challenger = mixed->counted_challenger();
      network = mixed->uses_network();
      if (baseline != nullptr && baseline->given) {  // alone, and as they are
        challenger = std::exchange(baseline, nullptr);
      } else if (baseline != nullptr) {
        mixture = &*mixed;
      }
    }
  }

  // Source of the contributions to the scores: what stands in the network's place, or the baseline if it has all of the
  // mixture_weight. Null: the network.
  const Baseline* lead() const { return challenger != nullptr ? challenger : network ? nullptr : baseline; }
  // The baseline if it has a share beside the lead. Null: one ranking makes the scores.
  const Baseline* mixed_in() const { return lead() == baseline ? nullptr : baseline; }
  // Names of both; "policy" for the network.
  std::vector<std::string> names() const {
    std::vector<std::string> result{lead() == nullptr ? "policy" : lead()->name};
    if (mixed_in() != nullptr) result.push_back(mixed_in()->name);
    return result;
  }
  // Share of the network or what stands in its place; the rest is the baseline's.
  double share() const { return mixture == nullptr ? 1.0 : mixture->mixture_weight; }
  bool network_alone() const { return baseline == nullptr && challenger == nullptr && boosts.empty(); }

  // Whether a source is an expected value of corrected predictions, of which page terms move a part.
  static bool has_root(const Baseline& entry) {
    return entry.corrected && entry.transform == Transform::identity && !entry.logarithm;
  }
  bool network_has_root(const Policy& policy) const {
    return network && policy.corrected() && find_transform(policy.transform()) == Transform::identity;
  }
  // The page terms that count: those of a request that says something of its candidates, if a source has a root part.
  // Null: the page is in the order of the scores.
  const PageTerms* page_terms(const Policy& policy, const pygrade::Request& request) const {
    if (!policy.page_terms() || !request.page_terms) return nullptr;
    if (request.categories.empty() && request.embeddings.empty()) return nullptr;
    return network_has_root(policy) || any(has_root) ? &*policy.page_terms() : nullptr;
  }

  template <class Condition>
  bool any(Condition condition) const {
    return (baseline != nullptr && condition(*baseline)) || (challenger != nullptr && condition(*challenger));
  }
  // Whether scores depend on corrected predictions; on the columns of histories, in these or in the network's inputs.
  bool read_corrected(const Policy& policy) const {
    return (network && policy.corrected()) || any([](const Baseline& entry) { return entry.corrected; });
  }
  bool read_history(const Policy& policy) const { return policy.history() && (network || read_corrected(policy)); }
  bool take_corrected(const Policy& policy) const {
    return policy.corrected() || any([](const Baseline& entry) { return entry.corrected; });
  }
  bool take_given() const {
    return any([](const Baseline& entry) { return entry.given; });
  }
  bool take_prices(const Policy& policy) const {
    return (network && !policy.priced().empty()) || any([](const Baseline& entry) { return !entry.priced.empty(); });
  }
  // Whether predictions must not be negative: corrected ones never are.
  bool take_logarithms(const Policy& policy) const {
    return (network && !policy.corrected() && traits_of(find_transform(policy.transform()).value()).nonnegative) ||
           any([](const Baseline& entry) { return !entry.corrected && entry.takes_logarithm(); });
  }
};

// Refuses a request whose fields do not fit the policy or that lacks what its scores read. places: k, or 0 where no
// page is made.
void check_request(const Policy& policy, const pygrade::Request& request, std::size_t places);
}  // namespace pygrade::inline v0_2::detail
