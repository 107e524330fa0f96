#include <algorithm>
#include <cmath>
#include <limits>

#include "check.hpp"
#include "serving.hpp"
#include "serving/policy.hpp"

using namespace pygrade;
using namespace pygrade::tests;

namespace {
constexpr float missing = std::numeric_limits<float>::quiet_NaN();

std::shared_ptr<const Policy> policy_of(Artifact artifact) { return parse(artifact.draw()); }

struct Evaluation {
  std::vector<float> inputs, concentration, weights;
};

Evaluation evaluate(const Policy& policy, const std::vector<float>& context, const std::vector<float>& predictions,
                    std::optional<std::string_view> scenario = {}, const std::vector<float>& values = {}) {
  const std::size_t tasks = policy.tasks().size();
  Evaluation result{std::vector<float>(policy.num_inputs(), missing), std::vector<float>(tasks, missing),
                    std::vector<float>(tasks, missing)};
  Policy::Workspace workspace;
  Policy::RequestValues in_force;
  policy.find_values(values, scenario, in_force);
  policy.request_inputs(context, predictions, workspace, result.inputs, in_force.multipliers);
  policy.evaluate(result.inputs, scenario, workspace, result.concentration, result.weights);
  return result;
}
}  // namespace

TEST(values_are_the_request_s_else_the_scenario_s_else_the_policy_s) {
  const auto policy = parse(mixed_artifact());  // trained with 1, 0.5 and 20
  Policy::RequestValues in_force;
  const auto values = [&](const std::vector<float>& given, std::optional<std::string_view> scenario) {
    policy->find_values(given, scenario, in_force);
    return in_force.values;
  };
  CHECK_EQUAL(values({}, {}), (std::vector<float>{1, 0.5f, 40}));
  CHECK_EQUAL(values({}, "other"), (std::vector<float>{1, 0.5f, 40}));
  CHECK_EQUAL(values({}, "search"), (std::vector<float>{0.5f, 0.5f, 40}));
  CHECK_EQUAL(values({missing, 0, missing}, "search"), (std::vector<float>{0.5f, 0, 40}));
  CHECK_EQUAL(in_force.multipliers, (std::vector<float>{0.5f, 0, 2}));
  CHECK_THROWS(std::invalid_argument, "values is -1.000000 for task cart; expected a number >= 0",
               values({1, -1, 1}, {}));
  CHECK_THROWS(std::invalid_argument, "values is inf", values({1, 1, HUGE_VALF}, {}));
  CHECK_THROWS(std::invalid_argument, "values is 0 for every task", values({0, 0, 0}, {}));
  CHECK_THROWS(std::invalid_argument, "values must have one number", values({1, 1}, {}));
  auto harm = mixed_artifact();
  harm.task_values = "[-1, 0, 20]";
  harm.values = harm.scenario_values = "{}";
  const auto other = parse(harm);
  other->find_values(std::vector<float>{-2, missing, 20}, {}, in_force);
  CHECK_EQUAL(in_force.multipliers, (std::vector<float>{2, 1, 1}));
  const std::vector<float> positive = {2, 0, 20}, unknown = {-1, 3, 20};
  CHECK_THROWS(std::invalid_argument, "values is 2.000000 for task click", other->find_values(positive, {}, in_force));
  CHECK_THROWS(std::invalid_argument, "values is 3.000000 for task cart", other->find_values(unknown, {}, in_force));
  CHECK_THROWS(std::invalid_argument, "values is given", policy_of({})->find_values(positive, {}, in_force));
  policy_of({})->find_values({}, {}, in_force);
  CHECK(in_force.values.empty() && in_force.multipliers.empty());
}

TEST(logarithms_of_values_over_those_of_the_training_are_inputs) {
  const auto policy = parse(mixed_artifact());
  const std::vector<float> predictions = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f};
  const auto result = evaluate(*policy, {1, 2}, predictions, "search", {missing, 0.0f, 60.0f});
  CHECK_EQUAL(result.inputs.size(), std::size_t{2 + 3 * 3});
  for (std::size_t t = 0; t < 3; ++t) {
    const double u[] = {0.5, 0.0, 3.0};
    CHECK_NEAR(result.inputs[8 + t], std::log(u[t] + 1e-7), 1e-6);
  }
  CHECK(result.weights != evaluate(*policy, {1, 2}, predictions, "search").weights);
}

TEST(a_policy_of_the_context_alone_needs_no_predictions) {
  Artifact artifact;
  artifact.context_only = true;
  const auto policy = policy_of(artifact);
  CHECK_EQUAL(evaluate(*policy, {1, 2}, {}).weights, evaluate(*policy, {1, 2}, {0.1f, 0.2f, 0.3f}).weights);
  CHECK_THROWS(std::invalid_argument, "N ≥ 1 rows", evaluate(*policy_of({}), {1, 2}, {}));
}

TEST(every_instruction_set_gives_these_bits) {
  const auto policy = policy_of({});
  std::vector<float> predictions(300);
  for (std::size_t i = 0; i < predictions.size(); ++i) predictions[i] = static_cast<float>(i * 7919 % 1000) / 1000;
  const auto result = evaluate(*policy, {0.25f, -1}, predictions);
  const auto check = [](const std::vector<float>& actual, const std::string& expected) {
    CHECK_EQUAL(Artifact::sha256({reinterpret_cast<const char*>(actual.data()), actual.size() * 4}).substr(0, 16),
                expected);
  };
  check(result.inputs, "eced1c2579d26f4b");
  check(result.concentration, "687e189460dc21d7");
  Artifact shrunk;
  shrunk.evidence_scale = "log1p";
  shrunk.evidence_prior = "0.3";
  check(evaluate(*policy_of(shrunk), {-1, 0.25f}, predictions, "search").concentration, "ee4bf218d6fafa2f");
}

TEST(no_flipped_bit_is_accepted) {
  Artifact artifact;
  artifact.hidden = {1};
  const std::string json = artifact.draw().json(), tensors = artifact.safetensors();
  for (std::size_t i = 0; i < 8 * json.size(); ++i) {
    std::string damaged = json;
    damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ 1 << i % 8);
    CHECK_THROWS(ArtifactError, "policy.json", Policy::parse(damaged, bytes(tensors)));
  }
}

TEST(the_version_is_of_the_section_that_is_served) {
  Artifact artifact = mixed_artifact();
  const std::string version = parse(artifact.draw())->version();
  CHECK_EQUAL(version, artifact.version());
  CHECK(parse(mixed_artifact({}, "0.5"))->version() != version);
  artifact.replaced["beta"] = "1e-3";
  CHECK(policy_of(artifact)->version() != version);
}

TEST(what_does_not_fit_is_named) {
  const auto refused = [](const std::string& key, const std::string& value, const std::string& reason) {
    Artifact artifact;
    artifact.replaced[key] = value;
    CHECK_THROWS(ArtifactError, reason, policy_of(artifact));
  };
  refused("format_version", "2", "reads pygrade.FusionPolicy version 1: it was made by a newer pygrade");
  refused("format_version", "0.5", "of version 0.5");
  refused("schema_hash", "\"a\"", "'schema_hash' is \"a\"; 'schema' gives " + Artifact().draw().schema_hash());
  refused("tasks", "[]", "'tasks' has 0 names");
  refused("hidden", "[8]", "\"head.weight\" is [3, 5]; expected [3, 8]");
  refused("hidden", "[0]", "'hidden' must be");
  refused("hidden", "[99999999]", "'hidden' must be");
  refused("transform", "\"cube\"", "'transform' is \"cube\"");
  refused("beta", "-1", "'beta' is not positive");
  refused("total_concentration", "1e39", "'total_concentration' is not positive");
  refused("scenario_exploration", "{\"feed\": 0}", "'feed' is not positive");
  refused("context_only", "1", "'context_only' is not true or false");
  refused("slope", "[1, 2]", "'slope' has 2 numbers; expected one, or 3");
  refused("slope", "[1, 2, -1]", "'slope' holds something that is not a number");
  refused("slope", "1e39", "'slope' holds something that is not a number");
  refused("slope", "null", "'slope' holds something that is not a number");
  refused("evidence_prior", "-1", "'evidence_prior' is not positive");
  refused("evidence_prior", "1e39", "'evidence_prior' is not positive");
  refused("evidence_prior", "NaN", "'evidence_prior' is not finite");
  const auto evidence = [](const std::string& feature, const std::string& scale, const std::string& reason) {
    Artifact artifact;
    artifact.evidence_prior = "1";
    artifact.evidence_feature = feature;
    artifact.evidence_scale = scale;
    CHECK_THROWS(ArtifactError, reason, policy_of(artifact));
  };
  evidence("age", "count", "'evidence_feature' is not a feature");
  evidence("intent", "root", "'evidence_scale' is not");
  refused("epsilon", "Infinity", "'epsilon' is not finite");
  refused("tensors_sha256", "\"0\"", "not 64 hexadecimal digits");
  refused("tensors_sha256", "\"" + std::string(64, '0') + "\"",
          "policy/policy-0000000000000000.safetensors has sha256");
  refused("lower", "[0.1]", "'lower' has 1 numbers; expected one, or 3");
  refused("upper", "true", "'upper' holds something that is not a number");
  refused("minimum", "{\"buy\": 0.1}", "'minimum' names \"buy\", which is not a task");
  refused("frozen", "{\"buy\": 0.1}", "'frozen' names \"buy\", which is not a task");
  refused("frozen", "{\"cart\": 0.1}", "\"bounds\" is not what 'lower', 'upper', 'minimum' and 'frozen' give");
  refused("values", "{\"cart\": 2}", "'values' needs a policy with trade_offs");
  refused("mixture", "[]", "'mixture' is not an object");
  refused("mixture", mixture_json({}, "1.5"), "'mixture_weight' is not a number from 0 to 1");
  refused("mixture", mixture_json({}, "NaN"), "'mixture_weight' is not finite");
  const auto baseline = [](const std::string& key, const std::string& value, const std::string& reason) {
    CHECK_THROWS(ArtifactError, reason, parse(mixed_artifact({{key, value}})));
  };
  baseline("name", "\"\"", "'name' is not of 1 to 63 bytes");
  baseline("name", "\"" + std::string(64, 'x') + "\"", "'name' is not of 1 to 63 bytes");
  baseline("transform", "\"cube\"", "'transform' is \"cube\"");
  baseline("transform", "\"log\"", "'logarithm' needs the identity");
  baseline("weights", "[1, 1]", "'weights' has 2 numbers; expected 3");
  baseline("weights", "[0, 0, 0]", "not all 0");
  baseline("weights", "[1, 1, 1e39]", "'weights' is no list of finite numbers");
  baseline("weights", "[1, -1, 1]", "'logarithm' needs");
  baseline("logarithm", "1", "'logarithm' is not true or false");
  baseline("value_tasks", "[\"buy\"]", "'value_tasks' names \"buy\"");
  const std::pair<const char*, const char*> knots[] = {{"[[0, 1]]", "[x, y]"},
                                                       {"[[0, 1], [0]]", "as many x as y"},
                                                       {"[[0], [0]]", "at least two knots"},
                                                       {"[[0.1, 1], [0, 1]]", "x that do not rise from 0"},
                                                       {"[[0, 1, 1], [0, 1, 1]]", "x that do not rise from 0"},
                                                       {"[[0, 1e-60], [0, 1]]", "x that do not rise from 0"},
                                                       {"[[0, 1], [0.5, 0.25]]", "y that fall"},
                                                       {"[[0, 1], [-0.5, 0.25]]", "y that fall or are negative"},
                                                       {"[[0, 1], [0, Infinity]]", "finite numbers"},
                                                       {"[[0, 1e-40], [0, 1]]", "slope is not finite"},
                                                       {"1", "[x, y]"}};
  for (const auto& [text, reason] : knots)
    baseline("calibration", "[" + std::string(text) + ", [[0, 1], [0, 1]], [[0, 1], [0, 1]]]", reason);
  baseline("calibration", "[[[0, 1], [0, 1]]]", "'calibration' is no list of one map for each task");
  const auto valued = [](const std::string& values, const std::string& scenarios, const std::string& reason) {
    Artifact artifact = mixed_artifact();
    artifact.values = values;
    artifact.scenario_values = scenarios;
    CHECK_THROWS(ArtifactError, reason, parse(artifact));
  };
  valued("{\"buy\": 1}", "{}", "'values' names \"buy\"");
  valued("{\"cart\": -1}", "{}", "values is -1.000000 for task cart");
  valued("{\"cart\": 1e39}", "{}", "'values' holds a number that is not finite");
  valued("{\"click\": 0, \"cart\": 0, \"order\": 0}", "{}", "values is 0 for every task");
  valued("{\"click\": 0, \"cart\": 0}", "{\"a\": {\"order\": 0}}", "values is 0 for every task");
  valued("{}", "{\"a\": 1}", "'a' is not an object");
  refused("minimum", "{\"cart\": 0.1}", "\"bounds\" is not what 'lower', 'upper', 'minimum' and 'frozen' give");
  refused("evidence_scale", "\"root\"", "'evidence_scale' is not");
  refused("scenarios", "[]", "scenario_table");
  const auto broken = [](const std::string& tensor, std::size_t index, float value, const std::string& reason) {
    Artifact artifact;
    artifact.draw().tensors[tensor].values[index] = value;
    CHECK_THROWS(ArtifactError, reason, parse(artifact));
  };
  broken("head.bias", 1, missing, "tensor \"head.bias\" holds NaN or infinity");
  broken("bounds", 0, 0.9f, "tensor \"bounds\"");
  broken("bounds", 3, 5.0f, "tensor \"bounds\"");
  broken("input_std", 1, 0.0f, "tensor \"input_std\" holds a number that is not positive");
  broken("static_weights", 0, -3.0f, "tensor \"static_weights\" holds a weight outside of the bounds");
  broken("scenario_table", 0, 0.69f, "tensor \"scenario_table\" holds weights whose sum is not 1");
  Artifact artifact;
  artifact.draw().tensors["more"] = {{1}, {1}};
  CHECK_THROWS(ArtifactError, "tensors that the policy does not have", parse(artifact));
}

TEST(a_policy_has_a_correction_a_challenger_prices_and_indicators) {
  const Artifact artifact = corrected_artifact().draw();
  const auto policy = parse(artifact);
  CHECK(policy->corrected() && policy->takes_prices());
  CHECK(policy->priced() == (std::vector<bool>{false, false, true}));
  CHECK_EQUAL(policy->indicators(), (std::vector<std::size_t>{1, 0}));
  CHECK_EQUAL(policy->items()[1], "stock");
  CHECK_EQUAL(policy->num_inputs(), 2u + 2 + 6);
  CHECK_EQUAL(policy->schema_hash(), artifact.schema_hash());
  const Correction& correction = *policy->correction();
  CHECK(correction.num_tasks() == 3 && correction.num_features() == 2 && correction.num_items() == 2);
  CHECK(correction.parts().structure.form == Correction::Form::conditional);
  CHECK_EQUAL(correction.parts().weights, artifact.tensors.at("correction.weights").values);
  const Mixture& mixture = *policy->mixture();
  CHECK(!mixture.baseline.corrected && mixture.challenger->corrected && mixture.challenger->name == "corrected");
  CHECK(!mixture.uses_network() && policy->expected_value() == &*mixture.challenger);
  CHECK(policy->with_mixture_weight(0.0)->expected_value()->name == "expected value");

  std::vector<float> inputs(policy->num_inputs());
  const std::vector<float> predictions(6, 0.5f);
  Policy::Workspace workspace;
  policy->request_inputs(std::vector<float>{2.0f, HUGE_VALF}, predictions, workspace, inputs);
  CHECK(inputs[0] == 2.0f && std::isnan(inputs[1]) && inputs[2] == 1.0f && inputs[3] == 0.0f);
}

TEST(a_wrong_correction_is_named) {
  const auto refused = [](const auto& change, const std::string& reason) {
    Artifact artifact = corrected_artifact();
    change(artifact);
    CHECK_THROWS(ArtifactError, reason, parse(artifact));
  };
  const auto structure = [&](std::string ArtifactCorrection::* key, const char* value, const std::string& reason) {
    refused([&](Artifact& a) { (*a.correction).*key = value, a.draw(); }, reason);
  };
  structure(&ArtifactCorrection::parents, "[-1, 0]", "'parents' has 2 numbers; expected one for each task");
  structure(&ArtifactCorrection::parents, "[-1, 3, -1]", "'correction' is wrong: the parent of task 1 is 3, no task");
  structure(&ArtifactCorrection::parents, "[1, 0, -1]",
            "'correction' is wrong: the parent of task 0 is 1, one of its own");
  structure(&ArtifactCorrection::parents, "[-1, 2, -1]", "'correction' is wrong: the parent of task 1 is 2, an amount");
  structure(&ArtifactCorrection::parents, "[-1, 0, 0]",
            "the parent of task 2 is 0, but the task is an amount; expected -1");
  structure(&ArtifactCorrection::parents, "[-1, 0.5, -1]", "'parents' holds no place");
  structure(&ArtifactCorrection::parents, "[-2, 0, -1]", "'parents' holds no place");
  structure(&ArtifactCorrection::amounts, "[0, 0, 1]", "'amounts' holds something else than true and false");
  structure(&ArtifactCorrection::amounts, "[true]", "parents and amounts must have one entry for each task");
  structure(&ArtifactCorrection::indicators, "[2]", "indicators must be rising places of features");
  structure(&ArtifactCorrection::indicators, "[1, 1]", "indicators must be rising places of features");
  structure(&ArtifactCorrection::form, "\"joint\"", "'form' is not");
  refused([](Artifact& a) { a.correction->items = {"age", "age"}, a.draw(); }, "'items' holds a name twice");
  refused([](Artifact& a) { a.correction->indicator_count = 2, a.draw(); },
          "\"correction.x_mean\" is [4]; expected [3]");
  refused([](Artifact& a) { a.correction.reset(), a.draw(); }, "'corrected' is true, and there is no correction");
  refused([](Artifact& a) { a.correction.reset(), a.corrected = false, a.draw(); },
          "'corrected' is true, and there is no correction");
  refused([](Artifact& a) { a.indicators = {"age"}, a.draw(); }, "'indicators' names \"age\", which is not a feature");
  refused([](Artifact& a) { a.indicators = {"hour", "hour"}, a.draw(); }, "'indicators' names \"hour\" twice");
  refused([](Artifact& a) { a.value_tasks = {"buy"}, a.draw(); }, "'value_tasks' names \"buy\", which is not a task");
  refused([](Artifact& a) { a.mixture = mixture_json({}, "0", "1"), a.draw(); }, "'challenger' is not an object");
  refused([](Artifact& a) { a.mixture = mixture_json({{"corrected", "1"}}), a.draw(); }, "'corrected' is not");
  for (const char* name :
       {"median", "x_mean", "x_std", "l_mean", "l_std", "weights", "map_mean", "map_std", "map_knots", "map_weights"}) {
    const std::string tensor = std::string("correction.") + name;
    refused([&](Artifact& a) { a.draw().tensors.erase(tensor); }, tensor);
    refused([&](Artifact& a) { a.draw().tensors[tensor].values[0] = missing; }, tensor + "\" holds NaN or infinity");
    refused([&](Artifact& a) { a.draw().tensors[tensor].shape.push_back(1); }, tensor);
    if (tensor.ends_with("std"))
      for (const float std : {0.0f, -1.0f, 1e-44f})
        refused([&](Artifact& a) { a.draw().tensors[tensor].values[0] = std; }, std::string(name) + " is ");
  }
  refused(
      [](Artifact& a) {
        a.correction.reset(), a.corrected = false, a.mixture = "null",
                              a.draw().tensors["correction.median"] = {{2}, {0, 0}};
      },
      "tensors that the policy does not have");
}
