// The keys of requests, answers and options, each written down once: parsers take what they know from here, and
// openapi.cpp makes the document that /openapi.json serves and docs/openapi.json holds.
#pragma once

#include <string_view>

namespace pygrade::inline v0_2::detail::api {
// Text of a field in request.def.
consteval std::string_view text_of(std::string_view field) {
#define PYGRADE_FIELD(type, name, rows, width, text) \
  if (field == #name) return text;
#define PYGRADE_RULE(type, name, rows, width, json, text) PYGRADE_FIELD(type, name, rows, width, text)
#define PYGRADE_OPTION(type, name, value, text) \
  if (field == #name) return text;
#include "pygrade/request.def"
  return {};
}

// A key of a JSON object.
struct Field {
  std::string_view name;
  std::string_view schema;              // JSON Schema of its value; "#Event": that of fields named below
  std::string_view description;         // without a period
  std::string_view default_value = {};  // JSON; "": none
  bool required = false;
};

// --- schemas
inline constexpr std::string_view boolean = R"({"type":"boolean"})";
inline constexpr std::string_view integer = R"({"type":"integer"})";
inline constexpr std::string_view count = R"({"type":"integer","minimum":0})";
inline constexpr std::string_view positive = R"({"type":"integer","minimum":1})";
inline constexpr std::string_view number = R"({"type":"number"})";
inline constexpr std::string_view amount = R"({"type":"number","minimum":0})";
inline constexpr std::string_view share = R"({"type":"number","minimum":0,"maximum":1})";
inline constexpr std::string_view text = R"({"type":"string"})";
inline constexpr std::string_view key_text = R"({"type":"string","minLength":1,"maxLength":256})";
inline constexpr std::string_view maybe_text = R"({"type":["string","null"]})";
inline constexpr std::string_view maybe_number = R"({"type":["number","null"]})";
inline constexpr std::string_view id = R"({"type":["integer","string"]})";
inline constexpr std::string_view ids = R"({"type":"array","items":{"type":["integer","string"]}})";
inline constexpr std::string_view integers = R"({"type":"array","items":{"type":"integer"}})";
inline constexpr std::string_view amounts = R"({"type":"array","items":{"type":"number","minimum":0}})";
inline constexpr std::string_view maybe_numbers = R"({"type":"array","items":{"type":["number","null"]}})";
inline constexpr std::string_view vectors =
    R"({"type":"array","items":{"type":["array","null"],"items":{"type":"number"}}})";
inline constexpr std::string_view texts = R"({"type":"array","items":{"type":"string"}})";
inline constexpr std::string_view maybe_texts = R"({"type":"array","items":{"type":["string","null"]}})";
inline constexpr std::string_view numbers_by_name = R"({"type":"object","additionalProperties":{"type":"number"}})";
inline constexpr std::string_view maybe_numbers_by_name =
    R"({"type":"object","additionalProperties":{"type":["number","null"]}})";
inline constexpr std::string_view amounts_by_name =
    R"({"type":"object","additionalProperties":{"type":"number","minimum":0}})";
inline constexpr std::string_view context_values =
    R"({"type":"object","additionalProperties":{"type":["number","string","boolean","null"]}})";
inline constexpr std::string_view lists_by_name =
    R"({"type":"object","additionalProperties":{"type":"array","items":{"type":["number","null"]}}})";
inline constexpr std::string_view columns_by_name =
    R"({"type":"object","additionalProperties":{"type":"array","items":{"type":["number","string","null"]}}})";
inline constexpr std::string_view integers_by_name = R"({"type":"object","additionalProperties":{"type":"integer"}})";
inline constexpr std::string_view booleans = R"({"type":"array","items":{"type":"boolean"}})";
inline constexpr std::string_view numbers = R"({"type":"array","items":{"type":"number"}})";

// --- requests
inline constexpr Field pin_fields[] = {
    {"item", id, "one of items", {}, true},
    {"position", count, "its place on the page, from 0 on", {}, true},
};

// Names of a body's tensors, beside groups.NAME and lists of request.def; the other keys are JSON in the metadata
// "request".
inline constexpr std::string_view tensor_names[] = {"items",   "seen",        "eligible",
                                                    "context", "predictions", "item_features.COLUMN"};

// Lists have a value for each of items, null: unknown. Mask and caps hold always; then come pins, in the order of their
// positions; then scores, those of demoted items last.
inline constexpr Field rules_fields[] = {
#define PYGRADE_RULE(type, name, rows, width, json, text) {#name, json, text},
#include "pygrade/request.def"
    {"pins", R"(["#Pin"])", "items that take a place whatever their score; caps count them, a masked one is left out"},
    {"demote", ids, "items that come after all others, whatever their scores, in the order of these; a pin wins"},
};

inline constexpr Field rank_fields[] = {
    {"user", id, "whom the page is for: a number, or a name if the run's users have names", {}, true},
    {"k", positive, "items of the page, at most max_k", "10"},
    {"candidates", positive, "how many items the search finds, at most max_candidates", "500"},
    {"items", ids, "the candidates, without a search; at most max_candidates; a policy's run needs them"},
    {"predictions", lists_by_name,
     "a number for each of items by task, on the scale of the table that the policy learned from, null: missing; in "
     "place of the run's model"},
    {"item_features", columns_by_name, text_of("items")},
#define PYGRADE_COLUMN(type, name, rows, width, json, text) {#name, json, text},
#include "pygrade/request.def"
    {"page_terms", boolean, text_of("page_terms"), "true"},
    {"rules", "#Rules", "mask, boosts, caps, pins and demotions of items"},
    {"seen", ids, "items that the search leaves out, at most max_ids"},
    {"eligible", ids, "the only items to search, at most max_ids"},
    {"context", context_values, "columns of the request by name: c_… of a pipeline, those of the log of a policy"},
    {"scenario", key_text, text_of("scenario")},
    {"timestamp", integer, "milliseconds since 1970; now if absent"},
    {"explore", boolean, "true asks for drawn weights, false refuses them; absent: the arm's share decides"},
    {"values", numbers_by_name, text_of("values")},
    {"deadline_ms", amount,
     "after which the page of an unknown user is answered; deadline_ms of the service if absent"},
    {"arm", key_text, "an arm by name, instead of the user's own"},
    {"policy", key_text, "the run that answers, one of runs in the options; that without a name if absent"},
    {"request_id", key_text, "the id by which feedback is joined; a new one if absent"},
};

inline constexpr Field event_fields[] = {
    {"user", id, "who gave the feedback", {}, true},
    {"item", id, "on what", {}, true},
    {"task", maybe_text, "the kind of feedback, a task of the run's log; null: the item was shown, and that is all"},
    {"timestamp", integer, "milliseconds since 1970, from 2000 to a day from now; now if absent"},
    {"amount", amount, "how much, for the reward; at most max_amount"},
    {"request_id", key_text, "that of the page which showed the item"},
    {"event_id", key_text, "the same each time that the event is sent: it counts once"},
    {"scenario", key_text, "that of the page"},
    {"measures", numbers_by_name, "measures (m_…) of the event by name, such as seconds watched"},
};

inline constexpr Field update_fields[] = {
    {"events", R"(["#Event"])", "feedback, at most max_events", {}, true},
    {"policy", key_text, "the run whose pages the feedback is on; that without a name if absent"},
};

// --- options
inline constexpr Field explore_fields[] = {
    {"weights", share, "share of the requests with drawn weights, of arms that name none", "0"},
    {"shuffle", share, "share of the pages whose items are put in a random order", "0"},
};

inline constexpr Field arm_fields[] = {
    {"name", key_text, "letters, digits, _ and -; a label of metrics and a part of file names", {}, true},
    {"share", share, "of the users; shares sum to 1", "1"},
    {"policy", text, "directory of a policy, or a link to one; the run's own if absent"},
    {"values", numbers_by_name, "of the tasks, by name, where a request gives none"},
    {"mixture_weight", share, "of the policy in the scores; the policy's own if absent"},
    {"ranking", key_text,
     "of the policy's training, alone: a baseline's name, such as expected value, or control: that of the "
     "verdict; production: its weights, if the training knew them, else production_scores of the request, as always by "
     "production score"},
    {"allow_identical", boolean, "whether it may rank as another arm does; else that is refused", "false"},
    {"explore", share, "share of the arm's requests with drawn weights", "0"},
};

inline constexpr Field shadow_fields[] = {
    {"name", key_text, "as an arm's", {}, true},
    {"policy", text, "as an arm's"},
    {"values", numbers_by_name, "as an arm's"},
    {"mixture_weight", share, "as an arm's"},
    {"ranking", key_text, "as an arm's"},
    {"allow_identical", boolean, "whether it may rank as all arms do, or as another shadow; else that is refused",
     "false"},
};

// Options of the core; those of pygraded follow.
inline constexpr Field service_options[] = {
    {"store", text, "address of the store; the run's own if absent"},
    {"deadline_ms", number, "of requests that name none"},
    {"max_k", positive, "items of a page", "1000"},
    {"max_candidates", positive, "candidates of a request", "10000"},
    {"max_events", positive, "events of an update", "10000"},
    {"max_amount", amount, "amount of an event", "1000000"},
    {"max_ids", count, "items in seen, and in eligible", "200000"},
    {"max_batch", positive, "requests in one body", "100"},
    {"strict", boolean, "whether unknown keys of requests are refused; else they are ignored and counted", "false"},
    {"unknown_items", R"({"enum":["refuse","count"]})",
     "whether feedback on an item that the catalog lacks is refused, or taken and counted", R"("refuse")"},
    {"require_store", boolean, "whether /readyz is 503 while the store does not answer", "false"},
    {"allow_unproven", boolean, "whether arms may serve policies that their log does not prove", "false"},
    {"max_body_bytes", positive, "bytes of a request's body", "1048576"},
    {"arms", R"(["#Arm"])", "policies, each with a share of the users", R"([{"name":"main"}])"},
    {"shadow", R"(["#Shadow"])", "policies that rank the same candidates, are compared, and are never served", "[]"},
    {"test", boolean,
     "whether all arms rank the candidates of each page, and exposures hold each row's slot on their pages; needs two "
     "arms or more, and exposures",
     "false"},
    {"arm_by", R"({"enum":["user","request"]})", "what is dealt to the arms; request: by its request_id", R"("user")"},
    {"salt", text, "of the hash from user to arm; another one deals the users anew", R"("pygrade")"},
    {"explore", "#Explore", "what is explored", "{}"},
    {"max_explore", share, "share of all pages that may explore, whatever is asked", "0.1"},
    {"exposures", text, "directory of the log of pages"},
    {"history", text,
     "address of the store in which users' and items' histories lie, lmdb: relative to the run, where a policy reads "
     "them; lmdb:history in the directory of exposures if absent; none: callers send the columns"},
    {"history_days", amount, "after which a user's or item's history without a page is removed; never if absent"},
    {"exposure_share", share, "share of the pages that are logged with all candidates", "0.05"},
    {"file_seconds", number, "after which a file of a log is complete", "300"},
    {"feedback", text, "directory of the log of feedback"},
    {"seed", count, "of the exploration; the system's if absent"},
    {"runs", R"({"type":"object","additionalProperties":{"$ref":"#/components/schemas/Run"}})",
     "other runs, by the names that requests give in policy: run, its directory, and the run's own options over those "
     "above; arms, shadow, test, store and history are not handed down, and logs go to runs/NAME in the directories "
     "above",
     "{}"},
};

inline constexpr Field run_fields[] = {
    {"run", text, "directory of the run", {}, true},
};
}  // namespace pygrade::inline v0_2::detail::api
