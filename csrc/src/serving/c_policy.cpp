// The C ABI of a policy: loading it and looking at it.
#include "serving/c_abi.hpp"

using namespace pygrade;
using namespace pygrade::c_abi;

namespace {
size_t size_of(const pygrade_policy* policy, const std::vector<std::string>& (Policy::*names)() const) {
  return policy == nullptr ? 0 : ((*policy->policy).*names)().size();
}

const char* name_of(const pygrade_policy* policy, const std::vector<std::string>& (Policy::*names)() const,
                    size_t index) {
  return index < size_of(policy, names) ? ((*policy->policy).*names)()[index].c_str() : nullptr;
}
}  // namespace

extern "C" {

pygrade_status pygrade_policy_load(const pygrade_policy_source* source, pygrade_policy** policy) {
  return guarded(error_of(source), [&] {
    const auto known = read_struct(source, "source");
    require(policy != nullptr, "policy is NULL");
    if (known.directory != nullptr) {
      require(known.json == nullptr && known.tensors == nullptr,
              "source has a directory and the content of files; expected one of them");
      *policy = new pygrade_policy{Policy::load(known.directory)};
    } else {
      require(known.json != nullptr && known.tensors != nullptr, "source.json or source.tensors is NULL");
      const auto* tensors = static_cast<const std::byte*>(known.tensors);
      *policy = new pygrade_policy{Policy::parse({known.json, known.json_size}, {tensors, known.tensors_size})};
    }
  });
}

void pygrade_policy_free(pygrade_policy* policy) { delete policy; }

const char* pygrade_policy_version(const pygrade_policy* policy) {
  return policy == nullptr ? "" : policy->policy->version().c_str();
}

const char* pygrade_policy_schema_hash(const pygrade_policy* policy) {
  return policy == nullptr ? "" : policy->policy->schema_hash().c_str();
}

size_t pygrade_policy_num_tasks(const pygrade_policy* policy) { return size_of(policy, &Policy::tasks); }

size_t pygrade_policy_num_features(const pygrade_policy* policy) { return size_of(policy, &Policy::features); }

size_t pygrade_policy_num_scenarios(const pygrade_policy* policy) { return size_of(policy, &Policy::scenarios); }

const char* pygrade_policy_task(const pygrade_policy* policy, size_t index) {
  return name_of(policy, &Policy::tasks, index);
}

const char* pygrade_policy_feature(const pygrade_policy* policy, size_t index) {
  return name_of(policy, &Policy::features, index);
}

const char* pygrade_policy_scenario(const pygrade_policy* policy, size_t index) {
  return name_of(policy, &Policy::scenarios, index);
}

size_t pygrade_policy_num_items(const pygrade_policy* policy) {
  return policy == nullptr ? 0 : policy->policy->items().size();
}

const char* pygrade_policy_item(const pygrade_policy* policy, size_t index) {
  return index < pygrade_policy_num_items(policy) ? policy->policy->items()[index].c_str() : nullptr;
}

const char* pygrade_policy_unproven(const pygrade_policy* policy) {
  return policy == nullptr || !policy->policy->mixture() ? "" : policy->policy->mixture()->unproven.c_str();
}

pygrade_status pygrade_policy_formula(const pygrade_policy* policy, pygrade_formula* formula, char* error,
                                      size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(policy != nullptr, "policy is NULL");
    auto known = read_struct(formula, "formula");
    const Policy& read = *policy->policy;
    std::memset(known.transform, 0, sizeof known.transform);
    read.transform().copy(known.transform, sizeof known.transform - 1);
    known.beta = read.beta();
    known.epsilon = read.epsilon();
    known.flags = (read.context_only() ? static_cast<std::uint32_t>(PYGRADE_POLICY_CONTEXT_ONLY) : 0) |
                  (read.trade_offs() ? static_cast<std::uint32_t>(PYGRADE_POLICY_TRADE_OFFS) : 0);
    known.num_inputs = static_cast<std::uint32_t>(read.num_inputs());
    known.slope = read.slope().data();
    write_struct(known, formula);
  });
}

pygrade_status pygrade_policy_static_weights(const pygrade_policy* policy, const char* scenario, size_t scenario_size,
                                             float* weights, char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(policy != nullptr, "policy is NULL");
    require(weights != nullptr, "weights is NULL");
    if (scenario != nullptr) require_range("scenario_size", scenario_size, 0, longest_text);
    std::optional<std::string_view> name;
    if (scenario != nullptr) name = std::string_view(scenario, scenario_size);
    const auto found = policy->policy->fallback(name).weights;
    std::copy(found.begin(), found.end(), weights);
  });
}

}  // extern "C"
