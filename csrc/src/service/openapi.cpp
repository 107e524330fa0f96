#include "service/openapi.hpp"

#include <span>

#include "pygrade/version.hpp"
#include "service/api.hpp"
#include "service/json_writer.hpp"
#include "service/registry.hpp"

namespace pygrade::inline v0_2::detail {
namespace {
using namespace api;

constexpr std::string_view verdict = R"({"enum":["better","undecided","worse","undecidable","untested",null]})";
constexpr std::string_view degraded = R"({"enum":["store","deadline","version","history",null]})";
constexpr std::string_view fallback = R"({"enum":["scenario","global",null]})";
constexpr std::string_view store_state = R"({"enum":["reachable","unreachable","another version",null]})";
constexpr std::string_view texts_by_name = R"({"type":"object","additionalProperties":{"type":"string"}})";
constexpr std::string_view counts_by_status =
    R"({"type":"object","additionalProperties":{"type":"object","additionalProperties":{"type":"number"}}})";
constexpr std::string_view quantiles_by_name =
    R"({"type":"object","additionalProperties":{"$ref":"#/components/schemas/Quantiles"}})";
constexpr std::string_view counts_by_name =
    R"({"type":"object","additionalProperties":{"type":"integer","minimum":1}})";
constexpr std::string_view maybe_share = R"({"type":["number","null"],"minimum":0,"maximum":1})";
constexpr std::string_view any_object = R"({"type":["object","null"]})";

// A key that is in every answer.
constexpr Field always(std::string_view name, std::string_view schema, std::string_view description) {
  return {name, schema, description, {}, true};
}

// Fields of several answers.
constexpr Field ranked_by = always("ranked_by", texts, "policy, or a baseline's name: what makes the scores");
constexpr Field weights = always("weights", R"({"type":["object","null"],"additionalProperties":{"type":"number"}})",
                                 "of the policy, by task; null: what ranks has none, or its own");
constexpr Field mixture_weight =
    always("mixture_weight", maybe_share,
           "share of the policy, ranked_by[0], in the scores; null: none, the baseline ranks alone");
constexpr Field unknown_keys{
    "unknown_keys", texts,
    "of the request, such as context.hou, or context.device=mobil, a value that the policy never saw: nothing reads "
    "them; the first 16, if there are some"};

constexpr Field reason_fields[] = {
    always("argument", maybe_text, "the key that is wrong, such as events[3].timestamp; null: none"),
    always("message", text, "what it was and what is wanted"),
};
constexpr Field error_fields[] = {always("error", "#Reason", "what is wrong")};

constexpr Field page_fields[] = {
    always("request_id", text, "the id by which feedback is joined"),
    always("arm", text, "the arm that made the page"),
    always("items", ids, "in the order of the page: names, or the ids of items that have none"),
    always("scores", maybe_numbers, "of the items; null: a prediction is missing"),
    ranked_by,
    weights,
    mixture_weight,
    {"values", numbers_by_name, "of the tasks, in force, if some were asked for or the policy has its own"},
    always("artifact", maybe_text, "version of models and store; null: the run is a policy's"),
    always("policy", text, "version of the policy"),
    always("user", R"({"type":"string","enum":["known","unknown"]})",
           "whether the store has events of the user, or the request a context"),
    unknown_keys,
    {"missing_predictions", counts_by_name, "by task, how many candidates lack a prediction and rank last, if some do"},
    always("degraded", degraded,
           "store, deadline: the page has no features of the user; version: they are of another version; history: a "
           "ranking "
           "that reads no history made it; null: as usual"),
    always("fallback", fallback, "whose static weights were served; null: the policy's own"),
    always("explored", boolean, "whether the weights are a draw"),
    always("seed", count, "of the draw"),
    always("exploration", R"({"type":"string","enum":["none","dirichlet","shuffle"]})", "as in the log of pages"),
    always("searched", boolean, "whether what stands above an item counted: page terms made the page"),
    {"pinned", ids, "the pins that were placed, if some were asked for"},
    {"demoted", ids, "the demoted items that the page holds all the same, if some were asked for"},
    always("seconds", numbers_by_name, "by step"),
};

constexpr Field formula_fields[] = {
    always("request_id", maybe_text, "of the request"),
    always("arm", text, "the arm whose policy this is"),
    always("artifact", maybe_text, "version of models and store; null: the run is a policy's"),
    always("policy", text, "version of the policy"),
    always("user", R"({"type":"string","enum":["known","unknown"]})", "as in a page"),
    always("fallback", fallback, "whose static weights these are; null: the policy's own"),
    ranked_by,
    weights,
    mixture_weight,
    unknown_keys,
    always("concentration", R"({"type":["object","null"]})",
           "of the Dirichlet distribution whose mean the weights are"),
    {"values", numbers_by_name, "of the tasks, as in a page"},
    always("scores", R"(["#ScorePart"])", "the parts that add up"),
    always("beta", number, "added to predictions before a logarithm"),
    always("epsilon", number, "added to the standard deviation of a z-score"),
    always("slope", numbers_by_name, "of the transform log1p"),
    {"correction", "#Correction", "of the predictions that corrected parts take, if there is one"},
};
constexpr Field score_fields[] = {
    always("name", text, "policy, or the baseline's name"),
    always("share", share, "in the scores"),
    always("transform", text, "of the predictions"),
    always("weights", numbers_by_name, "by task, at the values in force"),
    always("priced", texts, "tasks whose prediction the item's value multiplies"),
    always("corrected", boolean, "whether it takes corrected predictions"),
    always("logarithm", boolean, "whether the score is the logarithm of the sum"),
    always("calibration", any_object, "by task: knots x, y and slope of a piecewise linear map of the prediction"),
};
constexpr Field correction_fields[] = {
    always("maps", text, "form of the maps before the correction: none, marginal or conditional"),
    always("variables", R"({"type":"array","items":{"type":"object"}})", "name, mean and std of each"),
    always("tasks", any_object,
           "by task: parent, amount, shift, multiplier (of an average candidate's odds, exp of the shift), slopes by "
           "variable, map"),
};

constexpr Field explained_fields[] = {
    always("item", id, ""),
    always("score", maybe_number, ""),
    always("predictions", maybe_numbers_by_name, "by task"),
    always("contributions", R"({"type":["object","null"]})",
           "weight times transformed prediction, by task, of what ranks; null: a prediction is missing"),
    {"fused", number, "sum of the contributions, or its logarithm: see ranking.score"},
    always("mixture", any_object,
           "shares of policy and baseline, which add up to the score; null: one ranking makes it"),
    {"page", any_object,
     "of a searched page: effect E of the items above (exp(E) multiplies what needs the root task), above (how many of "
     "them have a term of its sign), sorted_position (by the score alone, -1: not on the page), why"},
    {"boost", any_object, "factor mul and summand add that the score came through at last, if some were asked for"},
    {"history", any_object,
     "of a policy that reads history: reasons, the two largest factors on the item's predictions (of whose columns, "
     "task, factor, why), and facts, what its columns count"},
    {"slots", R"({"type":"object","additionalProperties":{"type":["integer","null"]}})",
     "of a test, by arm: its slot from 0 on the arm's page, null: it is not on it, or the arm cannot rank the request"},
};
constexpr Field ranking_fields[] = {
    always("by", texts, "policy, or a baseline's name: what makes the scores"),
    always("weighs", boolean, "whether the weights do; false: contributions are those of by[0]"),
    always("score", text, "how contributions make the score"),
    always("why", text, "what ranks, and why it does"),
};
constexpr Field explanation_fields[] = {
    always("candidates", count, "how many were ranked"),
    always("transform", text, "of the predictions before they are weighed"),
    always("ranking", "#Ranking", "what ranks, and why"),
    always("explanation", R"(["#Explained"])", "the items of the page, best first"),
    always("concentration", any_object, "of the weights' distribution, by task; null in a fallback"),
    always("inputs", any_object, "what the policy read, by name; null in a fallback"),
    always("mixture", any_object, "baseline, verdict and sentence of the policy"),
    always("static", R"({"type":"object"})",
           "what the static weights, or a ranking that reads no history, would have served"),
};

constexpr Field updated_fields[] = {
    always("events", count, "that were taken"),
    always("rows", count, "of features that were written"),
    always("unknown_items", count, "events on items that the catalog lacks, taken with unknown_items = \"count\""),
    unknown_keys,
};

constexpr Field removed_fields[] = {always("removed", boolean, "true, also of a user who had none")};

constexpr Field live_fields[] = {always("alive", boolean, "")};
constexpr Field ready_fields[] = {
    always("ready", boolean, "false while the service drains, or lacks its store while require_store asks for it"),
    always("draining", boolean, ""),
    always("artifact", maybe_text, "version of models and store"),
    always("policies", texts_by_name, "version by arm"),
    always("store", store_state, "null: a policy's run needs none"),
    always("reload_error", maybe_text, "why what is on disk could not be loaded; null: it is in service"),
    {"runs", any_object, "artifact, policies, store and reload_error of the other runs, by name"},
};

constexpr Field arm_status_fields[] = {
    always("name", text, ""),
    always("share", share, "of the users"),
    always("policy", text, "version"),
    always("mixture_weight", maybe_share, "as in a page"),
    always("ranking", texts, "policy, or a baseline's name: what makes the scores"),
    always("verdict", verdict, "of the training; null: none, or not of this mixture weight or ranking"),
    always("sentence", maybe_text, "the verdict in words"),
    always("explore", share, "of the arm's requests"),
    always("values", numbers_by_name, "of the tasks, by name"),
    always("pages", count, "since the start"),
    always("explored", count, "of these, with drawn weights"),
    always("capped", count, "kept from exploring by max_explore"),
    always("feedback", numbers_by_name, "events by task"),
    always("effective_samples", numbers_by_name, "of the last hour, by the policy that an estimate is for"),
};
constexpr Field shadow_status_fields[] = {
    always("name", text, ""),
    always("policy", text, "version"),
    always("mixture_weight", maybe_share, "as in a page"),
    always("ranking", texts, "as an arm's"),
    always("pages", count, "since the start"),
    always("replaced", maybe_number, "mean share of the page that it would replace"),
    always("overlap", maybe_number, "mean overlap of both pages over their depths"),
    always("correlation", maybe_number, "mean rank correlation of the common items"),
    always("own_score", maybe_number, "its mean score of its own page"),
    always("served_score", maybe_number, "its mean score of the served page"),
};
constexpr Field quantile_fields[] = {
    always("count", count, ""),
    always("p50", maybe_number, "seconds"),
    always("p90", maybe_number, "seconds"),
    always("p99", maybe_number, "seconds"),
    always("p999", maybe_number, "seconds"),
};
constexpr Field weights_fields[] = {
    always("scenario", text, "other: one that no policy knows; empty: none"),
    always("pages", count, ""),
    always("mean", maybe_numbers_by_name, "by task"),
    always("sd", maybe_numbers_by_name, "by task"),
};
constexpr Field reload_fields[] = {
    always("timestamp", integer, "milliseconds since 1970"),
    always("artifact", maybe_text, "version in service afterwards"),
    always("policies", texts, "versions in service afterwards, by arm"),
    always("error", maybe_text, "null: the load succeeded"),
};
constexpr Field status_fields[] = {
    always("version", text, "of pygrade"),
    always("kind", R"({"enum":["pipeline","policy"]})", "of the run"),
    always("artifact", maybe_text, "version of models and store"),
    always("store", maybe_text, "address of the store, without its password"),
    always("store_state", store_state, "null: a policy's run needs none"),
    always("ready", boolean, "as /readyz"),
    always("draining", boolean, ""),
    always("warnings", texts, "what to look at, such as arms that may rank identically and do"),
    always("window_seconds", number, "length of what is called the last hour"),
    always("timestamp", integer, "milliseconds since 1970"),
    always("tasks", texts, ""),
    always("arms", R"(["#ArmStatus"])", ""),
    always("shadows", R"(["#ShadowStatus"])", ""),
    always("requests", counts_by_status, "by endpoint and status, since the start"),
    always("latency", quantiles_by_name, "by endpoint, of the last hour"),
    always("steps", quantiles_by_name, "of a page, of the last hour"),
    always("degraded", numbers_by_name, "pages by what was missing"),
    always("fallback", numbers_by_name, "pages by whose static weights were served"),
    always("weights", R"(["#ServedWeights"])", "of the last hour"),
    always("drift", maybe_numbers_by_name, "population stability index of the predictions by task, of the last hour"),
    always("counters", numbers_by_name, "the series of /metrics that have no labels"),
    always("reloads", R"(["#Reload"])", "the last 20"),
    always("online", any_object, "record of the online learner, if one runs"),
    {"runs", any_object, "the same of the other runs, by name; error alone of one that could not be loaded"},
};

struct Component {
  std::string_view name, description;
  std::span<const Field> fields, more = {};  // more: of what it extends, before its own
  bool open = true;                          // other keys are no error
};

constexpr Component components[] = {
    {"RankRequest", "A page for a user. A key that is null counts as absent.", rank_fields},
    {"UpdateRequest", "Feedback. It is taken as a whole, or refused as a whole before anything is written.",
     update_fields},
    {"Rules",
     "Mask and caps hold always; then come pins, in the order of their positions; then scores; then demoted items.",
     rules_fields},
    {"Pin", "An item that takes a place whatever its score.", pin_fields},
    {"Event", "Feedback on an item.", event_fields},
    {"Page", "The items, best first, and how they were ranked.", page_fields},
    {"Explanation", "A page, and why it is as it is.", explanation_fields, page_fields},
    {"Ranking", "What ranks a page, and why.", ranking_fields},
    {"Explained", "An item of a page.", explained_fields},
    {"Weights", "The parts of the scores.", formula_fields},
    {"ScorePart",
     "Of the scores: weights times transformed predictions, with the item's price as a factor where priced. Several "
     "parts "
     "are standardized over the candidates and added by their shares.",
     score_fields},
    {"Correction",
     "The log odds of a task given its parent become l + shift + sum over v of slope_v u_v, u_v = (l_v - mean_v) / "
     "std_v "
     "cut to 4. Without predictions the candidates count as average ones.",
     correction_fields},
    {"Updated", "What was taken.", updated_fields},
    {"Removed", "The history is gone.", removed_fields},
    {"Live", "The process answers.", live_fields},
    {"Readiness", "Whether to send requests here.", ready_fields},
    {"Status", "State of the service.", status_fields},
    {"ArmStatus", "An arm.", arm_status_fields},
    {"ShadowStatus", "A shadow; means over its pages.", shadow_status_fields},
    {"Quantiles", "Durations.", quantile_fields},
    {"ServedWeights", "Weights that were served.", weights_fields},
    {"Reload", "A load of models.", reload_fields},
    {"Error", "An error.", error_fields},
    {"Reason", "What is wrong.", reason_fields},
    {"Options",
     "The service's options, in the configuration's JSON object beside those of pygraded.",
     service_options,
     {},
     false},
    {"Run", "A run with a name: its directory, and options of its own over those of all.", run_fields},
    {"Arm", "A policy and its users.", arm_fields, {}, false},
    {"Explore", "Shares of the pages that explore.", explore_fields, {}, false},
    {"Shadow", "A policy that is compared and never served.", shadow_fields, {}, false},
};

struct Operation {
  std::string_view path, method, summary, request, answer;  // answer: a component, or a content type
  std::string_view description;
};

constexpr std::string_view page_type = "text/html", metrics_type = "text/plain";
constexpr Operation operations[] = {
    {"/v1/rank", "post", "A page for a user", "RankRequest", "Page",
     "The page is counted and logged, and shadows rank it, too. {\"requests\": [...]} with up to max_batch requests is "
     "answered by {\"pages\": [...]}, each a page or an error. Content-Type application/safetensors: lists as tensors "
     "of their names (predictions [N, T], item_features.COLUMN, groups.NAME), the other keys as JSON in the "
     "metadata request; with Accept application/safetensors the answer has tensors items, scores and weights, and the "
     "rest as JSON in the metadata page."},
    {"/v1/explain", "post", "The same page with its reasons", "RankRequest", "Explanation",
     "Nothing is counted or logged."},
    {"/v1/weights", "post", "What scores are made of", "RankRequest", "Weights",
     "For engines that score by themselves, by predictions that a log would have: on no other scale. A policy that "
     "reads the candidates' predictions needs them; items and "
     "rules "
     "have no effect. Batches as of /v1/rank, answered under weights. Nothing is counted or logged."},
    {"/v1/update", "post", "Feedback", "UpdateRequest", "Updated",
     "Events go into the feedback log and into the features of later pages. Events of one user, item and request_id "
     "(or timestamp) are one row of features. Send task null for items that were shown without feedback: else every "
     "rate moves towards 1."},
    {"/v1/users/{id}", "delete", "Removes a user", "", "Removed",
     "The record of what the user was shown and did, by every policy that ever read one, is removed from the store of "
     "histories. A mark in the directory of exposures makes pygrade join and pygrade online drop the user's pages up "
     "to "
     "now, with their feedback. Counts of items stay. Sent again, it does no harm. 400 where the service has neither."},
    {"/v1/status", "get", "State of the service", "", "Status", "The figures of /metrics as JSON, and what is served."},
    {"/metrics", "get", "Figures for Prometheus", "", metrics_type, "Families are listed under x-metrics."},
    {"/livez", "get", "Whether the process answers", "", "Live", "Needs no token."},
    {"/readyz", "get", "Whether to send requests here", "", "Readiness", "Needs no token. 503 from the drain on."},
    {"/console", "get", "Page to look at the policy and the service", "", page_type, "Of pygraded; 404 without one."},
    {"/openapi.json", "get", "This document", "", "", ""},
    {"/docs", "get", "This document as a page", "", page_type, ""},
    {"/test", "get", "The decision on a test, and what it rests on", "", page_type,
     "As JSON with ?format=json or Accept: application/json. 404 without a test, or before pygrade serve --test has "
     "written a reading; 500 names one that is damaged."},
};

struct Failure {
  std::string_view status, description;
  bool of_posts = false, of_probes = true, retry = false;
};
constexpr Failure failures[] = {
    {"400", "an argument is wrong, or the request is malformed"},
    {"401", "a token is wanted: Authorization: Bearer TOKEN, or a token as the password of Basic", false, false},
    {"404", "there is no such path, or no console"},
    {"405", "the path needs another method"},
    {"408", "the head took more than 10 s, or the body more than 30 s"},
    {"413", "the body is larger than max_body_bytes", true},
    {"415", "the body is encoded; it is wanted plain", true},
    {"429", "the tenant whose token this is is over its limit of pages in progress or requests a second", false, false,
     true},
    {"431", "the head is larger than 64 KiB or has more than 100 fields"},
    {"500", "a fault of the service", true},
    {"503", "too many requests are in progress, or connections open; or the store or the feedback log failed an update",
     false, true, true},
};

void write_reference(std::string_view name, JsonWriter& out) {
  out.begin_object().key("$ref").value("#/components/schemas/" + std::string(name)).end_object();
}

// The schema of a field with its description and default: {"type":…,"description":…}.
void write_schema(const Field& field, JsonWriter& out) {
  std::string text;
  if (field.schema.starts_with('#')) {
    text = R"({"$ref":"#/components/schemas/)" + std::string(field.schema.substr(1)) + "\"}";
  } else if (field.schema.starts_with("[\"#")) {
    const auto name = field.schema.substr(3, field.schema.size() - 5);
    text = R"({"type":"array","items":{"$ref":"#/components/schemas/)" + std::string(name) + "\"}}";
  } else {
    text = field.schema;
  }
  text.pop_back();
  if (!field.description.empty()) {
    JsonWriter quoted;
    quoted.value(field.description);
    text += ",\"description\":" + quoted.take();
  }
  if (!field.default_value.empty()) text += ",\"default\":" + std::string(field.default_value);
  out.raw(text + "}");
}

void write_component(const Component& component, JsonWriter& out) {
  out.key(component.name).begin_object().field("type", "object").field("description", component.description);
  out.known_key("properties").begin_object();
  for (const auto fields : {component.more, component.fields})
    for (const Field& field : fields) write_schema(field, out.known_key(field.name));
  out.end_object().known_key("required").begin_list();
  for (const auto fields : {component.more, component.fields})
    for (const Field& field : fields)
      if (field.required) out.value(field.name);
  out.end_list();
  if (!component.open) out.field("additionalProperties", false);
  out.end_object();
}

void write_content(std::string_view type, std::string_view component, JsonWriter& out, bool tensors = false) {
  out.known_key("content").begin_object().known_key(type).begin_object().known_key("schema");
  if (component.empty())
    out.raw(type == "application/json" ? R"({"type":"object"})" : R"({"type":"string"})");
  else
    write_reference(component, out);
  out.end_object();
  if (tensors)  // of the names in the description
    out.known_key("application/safetensors").raw(R"({"schema":{"type":"string","format":"binary"}})");
  out.end_object();
}

void write_operation(const Operation& operation, JsonWriter& out) {
  const bool is_post = operation.method == "post", is_page = operation.answer.find('/') != std::string_view::npos;
  const bool is_ranked = operation.path == "/v1/rank";
  const bool is_probe = operation.path == "/livez" || operation.path == "/readyz";
  out.known_key(operation.path).begin_object().known_key(operation.method).begin_object();
  const bool is_user = operation.path == "/v1/users/{id}";
  out.field("operationId", is_user ? "removeUser" : operation.path.substr(operation.path.rfind('/') + 1));
  out.field("summary", operation.summary);
  if (!operation.description.empty()) out.field("description", operation.description);
  if (is_probe) out.known_key("security").begin_list().end_list();
  if (is_user)
    out.known_key("parameters")
        .raw(R"([{"name":"id","in":"path","required":true,"description":"as user in requests",)"
             R"("schema":{"type":"string"}}])");
  if (is_post) {
    out.known_key("parameters").raw(R"([{"$ref":"#/components/parameters/RequestId"}])");
    out.known_key("requestBody").begin_object().field("required", true);
    write_content("application/json", operation.request, out, is_ranked);
    out.end_object();
  }
  out.known_key("responses").begin_object().known_key("200").begin_object().field("description", operation.summary);
  write_content(is_page ? operation.answer : "application/json", is_page ? "" : operation.answer, out, is_ranked);
  out.end_object();
  if (operation.path == "/readyz") {
    out.known_key("503").begin_object().field("description", "the service drains: send no more requests");
    write_content("application/json", operation.answer, out);
    out.end_object();
  } else {
    for (const Failure& failure : failures) {
      if ((failure.of_posts && !is_post) || (!failure.of_probes && is_probe)) continue;
      const std::string name = "#/components/responses/" + std::string(failure.status);
      out.known_key(failure.status).begin_object().field("$ref", std::string_view(name)).end_object();
    }
  }
  out.end_object();
  if (operation.path == "/metrics") {
    out.known_key("x-metrics").begin_list();
    for (const Family& family : all_families())
      out.begin_object()
          .field("name", family.name)
          .field("type", family.type)
          .field("help", family.help)
          .field("labels", family.labels)
          .end_object();
    out.end_list();
  }
  out.end_object().end_object();
}
}  // namespace

std::string openapi_document() {
  JsonWriter out;
  out.begin_object().field("openapi", "3.1.0").known_key("info").begin_object().field("title", "pygrade");
  out.field("version", PYGRADE_VERSION).field("summary", "Ranks pages for users by learned task weights.");
  out.known_key("license").raw(R"({"name":"Apache License 2.0","identifier":"Apache-2.0"})").end_object();
  out.known_key("servers").raw(R"([{"url":"/"}])");
  out.known_key("security").raw(R"([{"bearer":[]},{"basic":[]},{}])").known_key("paths").begin_object();
  for (const Operation& operation : operations) write_operation(operation, out);
  out.end_object().known_key("components").begin_object().known_key("schemas").begin_object();
  for (const Component& component : components) write_component(component, out);
  out.end_object().known_key("responses").begin_object();
  for (const Failure& failure : failures) {
    out.known_key(failure.status).begin_object().field("description", failure.description);
    if (failure.retry)
      out.known_key("headers").raw(
          R"({"Retry-After":{"description":"seconds to wait","schema":{"type":"integer","minimum":1}}})");
    write_content("application/json", "Error", out);
    out.end_object();
  }
  out.end_object().known_key("parameters").begin_object().known_key("RequestId");
  out.raw(R"({"name":"X-Request-Id","in":"header","description":"request_id of a request that names none; the answer )"
          R"(has it, too","schema":{"type":"string","maxLength":256}})");
  out.end_object().known_key("securitySchemes");
  out.raw(R"({"bearer":{"type":"http","scheme":"bearer"},"basic":{"type":"http","scheme":"basic",)"
          R"("description":"any name, and a token as the password"}})");
  out.end_object().end_object();
  return out.take();
}
}  // namespace pygrade::inline v0_2::detail
