// The C ABI of the ranker.
#include <algorithm>
#include <cstdio>

#include "pygrade/isa.hpp"
#include "pygrade/ranker.hpp"
#include "pygrade/version.hpp"
#include "serving/c_abi.hpp"
#include "serving/request_fields.hpp"

using namespace pygrade;
using namespace pygrade::c_abi;

struct pygrade_ranker {
  explicit pygrade_ranker(std::shared_ptr<const pygrade::Policy> policy, const pygrade::RankerOptions& options)
      : ranker(policy, options), tasks(policy->tasks()), features(policy->features()) {}

  pygrade::Ranker ranker;
  const std::vector<std::string> tasks, features;  // copies: the names that callers hold outlive a reload
};

namespace {
thread_local char last_error[512] = "";

RankerOptions options_of(const pygrade_ranker_options* given) {
  RankerOptions options;
  if (given == nullptr) return options;
  const auto known = read_struct(given, "options");
  require_flags("options.flags", known.flags, PYGRADE_OPTION_SEED);
  if (known.flags & PYGRADE_OPTION_SEED) options.seed = known.seed;
  return options;
}

// The caller's array, or nothing; of texts in `names`, which live as long as the request.
template <class T>
std::span<const T> span_of(const T* given, std::size_t size, std::vector<std::string_view>&) {
  return optional_span(given, size);
}
std::span<const std::string_view> span_of(const char* const* given, std::size_t size,
                                          std::vector<std::string_view>& names) {
  for (const char* name : optional_span(given, size)) names.emplace_back(name == nullptr ? "" : name);
  return names;
}

// Values of the options of a request, which are flags in C, by the option's name.
struct Options {
  const pygrade_request& given;
  bool has(std::uint32_t flag) const { return (given.flags & flag) != 0; }
  std::optional<std::string_view> scenario() const {
    if (given.scenario == nullptr) return {};
    return std::string_view(given.scenario, given.scenario_size);
  }
  bool explore() const { return has(PYGRADE_REQUEST_EXPLORE); }
  std::optional<std::uint64_t> draw() const {
    return has(PYGRADE_REQUEST_DRAW) ? std::optional(given.draw) : std::nullopt;
  }
  bool page_terms() const { return !has(PYGRADE_REQUEST_NO_PAGE_TERMS); }
  bool as_logged() const { return has(PYGRADE_REQUEST_AS_LOGGED); }
};

// A request of a page of k places. Does not compile where C lacks a member that C++ has.
Request request_of(const pygrade_ranker& ranker, const pygrade_request& given, std::size_t places,
                   std::vector<std::string_view>& names) {
  require_flags(
      "request.flags", given.flags,
      PYGRADE_REQUEST_EXPLORE | PYGRADE_REQUEST_DRAW | PYGRADE_REQUEST_NO_PAGE_TERMS | PYGRADE_REQUEST_AS_LOGGED);
  require_range("request.reserved", given.reserved, 0, 0);
  require_range("request.tasks", given.tasks, ranker.tasks.size(), ranker.tasks.size());
  if (given.context != nullptr)
    require_range("request.features", given.features, ranker.features.size(), ranker.features.size());
  require_range("request.candidates", given.candidates, 0, longest_text);
  require(given.predictions != nullptr || given.candidates == 0, "request.predictions is NULL");
  if (given.scenario != nullptr) require_range("request.scenario_size", given.scenario_size, 0, longest_text);
  if (given.items != nullptr) require_range("request.item_columns", given.item_columns, 0, Correction::max_variables);
  if (given.embeddings != nullptr) require_range("request.embedding_size", given.embedding_size, 1, 4096);
  const detail::FieldSizes sizes{.candidates = given.candidates,
                                 .places = places,
                                 .features = given.features,
                                 .tasks = given.tasks,
                                 .item_columns = given.item_columns,
                                 .embedding_size = given.embedding_size};
  const Options options{given};
  Request request;
#define PYGRADE_FIELD(type, name, rows, width, text) \
  request.name = span_of(given.name, sizes.rows * sizes.width, names);
#define PYGRADE_RULES request.rules = rules_of(given, given.candidates);
#define PYGRADE_OPTION(type, name, value, text) request.name = options.name();
#include "pygrade/request.def"
  return request;
}

// Describes the mixture in the struct of a page, or in a pygrade_mixture.
template <class Struct>
void describe(const Page& page, Struct& to) {
  static_assert(sizeof to.baseline == sizeof page.baseline_name);
  to.mixture_weight = page.mixture_weight;
  to.verdict = static_cast<std::int32_t>(page.verdict);
  std::memcpy(to.baseline, page.baseline_name.data(), sizeof to.baseline);
}

PageBuffer buffer_of(const pygrade_ranker& ranker, const pygrade_page& given) {
  require_range("page.k", given.k, 1, longest_text);
  require(given.values != nullptr && given.indices != nullptr, "page.values or page.indices is NULL");
  return {{given.values, given.k},
          {given.indices, given.k},
          optional_span(given.weights, ranker.tasks.size()),
          optional_span(given.concentration, ranker.tasks.size())};
}

// The result of a ranking, read back from the caller's struct.
Page page_of(const Policy& policy, const pygrade_page& given) {
  require_range("page.filled", std::int64_t{given.filled}, 0, static_cast<std::int64_t>(given.k));
  require(given.weights != nullptr && given.concentration != nullptr, "page.weights or page.concentration is NULL");
  Page page;
  page.set_policy(policy);
  page.filled = given.filled;
  page.explored = given.explored != 0;
  page.shuffled = given.shuffled != 0;
  page.seed = given.seed;
  static_assert(sizeof page.policy_version < sizeof given.policy_version);
  std::memcpy(page.policy_version.data(), given.policy_version, sizeof page.policy_version);
  for (const char c : page.policy_version)
    require((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'), "page.policy_version is not one");
  require_range("page.mixture_weight", given.mixture_weight, 0.0f, 1.0f);
  require_range("page.verdict", given.verdict, 0, static_cast<std::int32_t>(verdict_names.size()) - 1);
  require(std::memchr(given.baseline, 0, sizeof given.baseline) != nullptr, "page.baseline does not end with 0");
  page.mixture_weight = given.mixture_weight;
  page.verdict = static_cast<Verdict>(given.verdict);
  std::memcpy(page.baseline_name.data(), given.baseline, sizeof given.baseline);
  return page;
}

void write_page(const Page& ranked, pygrade_page& result, pygrade_page* to) {
  result.filled = ranked.filled;
  result.missing_predictions = ranked.missing_predictions;
  result.fallback = static_cast<int32_t>(ranked.fallback);
  result.explored = ranked.explored;
  result.searched = ranked.searched;
  result.shuffled = 0;
  result.missing_items = ranked.missing_items;
  result.seed = ranked.seed;
  std::memset(result.policy_version, 0, sizeof result.policy_version);
  ranked.version().copy(result.policy_version, sizeof result.policy_version - 1);
  describe(ranked, result);
  write_struct(result, to);
}

LogIds ids_of(const pygrade_log_ids& given, std::size_t candidates) {
  require_flags("ids.flags", given.flags, PYGRADE_LOG_TIMESTAMP);
  require_range("ids.reserved", given.reserved, 0, 0);
  if (given.request_id != nullptr) require_range("ids.request_id_size", given.request_id_size, 0, longest_text);
  if (given.user_id != nullptr) require_range("ids.user_id_size", given.user_id_size, 0, longest_text);
  LogIds ids;
  if (given.request_id != nullptr) ids.request_id = {given.request_id, given.request_id_size};
  if (given.user_id != nullptr) ids.user_id = {given.user_id, given.user_id_size};
  ids.item_id = optional_span(given.item_id, candidates);
  if (given.flags & PYGRADE_LOG_TIMESTAMP) ids.timestamp = given.timestamp;
  return ids;
}

void make(std::shared_ptr<const Policy> policy, const RankerOptions& options, pygrade_ranker** ranker) {
  *ranker = new pygrade_ranker(std::move(policy), options);
}
}  // namespace

namespace pygrade::inline v0_2::c_abi {
void clear_error() noexcept { last_error[0] = '\0'; }

pygrade_status fail(pygrade_status status, const char* message, ErrorBuffer error) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", message);
  if (error.text != nullptr && error.size > 0) std::snprintf(error.text, error.size, "%s", message);
  return status;
}

void with_page(const pygrade_ranker* ranker, const pygrade_request* request, const pygrade_page* page,
               const pygrade_log_ids* ids, LogCall log) {
  require(ranker != nullptr, "ranker is NULL");
  const auto policy = ranker->ranker.policy();
  std::vector<std::string_view> names;
  const auto given = read_struct(page, "page");
  const auto asked = request_of(*ranker, read_struct(request, "request"), given.k, names);
  const auto known = read_struct(ids, "ids");
  log(*policy, asked, buffer_of(*ranker, given), page_of(*policy, given),
      ids_of(known, asked.predictions.size() / ranker->tasks.size()));
}
}  // namespace pygrade::inline v0_2::c_abi

extern "C" {

int32_t pygrade_abi_version(void) { return PYGRADE_ABI_VERSION; }

int64_t pygrade_stable_id(const char* name, size_t size) { return name == nullptr ? 0 : stable_id({name, size}); }

const char* pygrade_version(void) { return PYGRADE_VERSION; }

const char* pygrade_isa(void) {
  const char* name = "";
  guarded({}, [&] { name = isa_name(active_isa()).data(); });
  return name;
}

const char* pygrade_last_error(void) { return last_error; }

pygrade_status pygrade_ranker_load(const char* directory, const pygrade_ranker_options* options,
                                   pygrade_ranker** ranker) {
  return guarded(error_of(options), [&] {
    require(directory != nullptr, "directory is NULL");
    require(ranker != nullptr, "ranker is NULL");
    const RankerOptions known = options_of(options);
    make(Policy::load(directory), known, ranker);
  });
}

pygrade_status pygrade_ranker_create(const char* json, size_t json_size, const void* tensors, size_t tensors_size,
                                     const pygrade_ranker_options* options, pygrade_ranker** ranker) {
  return guarded(error_of(options), [&] {
    require(json != nullptr && tensors != nullptr, "json or tensors is NULL");
    require(ranker != nullptr, "ranker is NULL");
    const RankerOptions known = options_of(options);
    make(Policy::parse({json, json_size}, {static_cast<const std::byte*>(tensors), tensors_size}), known, ranker);
  });
}

pygrade_status pygrade_ranker_reload(pygrade_ranker* ranker, const char* directory, char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(ranker != nullptr, "ranker is NULL");
    require(directory != nullptr, "directory is NULL");
    auto policy = Policy::load(directory);
    if (policy->tasks() != ranker->tasks || policy->features() != ranker->features)
      throw ArtifactError(std::string(directory) + " has other tasks or features than the policy that it replaces");
    ranker->ranker.swap(std::move(policy));
  });
}

pygrade_status pygrade_ranker_policy(const pygrade_ranker* ranker, pygrade_policy** policy, char* error,
                                     size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(ranker != nullptr, "ranker is NULL");
    require(policy != nullptr, "policy is NULL");
    *policy = new pygrade_policy{ranker->ranker.policy()};
  });
}

pygrade_status pygrade_ranker_swap(pygrade_ranker* ranker, const pygrade_policy* policy, char* error,
                                   size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(ranker != nullptr, "ranker is NULL");
    require(policy != nullptr, "policy is NULL");
    ranker->ranker.swap(policy->policy);
  });
}

void pygrade_ranker_free(pygrade_ranker* ranker) { delete ranker; }

size_t pygrade_ranker_num_tasks(const pygrade_ranker* ranker) { return ranker == nullptr ? 0 : ranker->tasks.size(); }

size_t pygrade_ranker_num_features(const pygrade_ranker* ranker) {
  return ranker == nullptr ? 0 : ranker->features.size();
}

const char* pygrade_ranker_task(const pygrade_ranker* ranker, size_t index) {
  return index < pygrade_ranker_num_tasks(ranker) ? ranker->tasks[index].c_str() : nullptr;
}

const char* pygrade_ranker_feature(const pygrade_ranker* ranker, size_t index) {
  return index < pygrade_ranker_num_features(ranker) ? ranker->features[index].c_str() : nullptr;
}

pygrade_status pygrade_ranker_rank(pygrade_ranker* ranker, const pygrade_request* request, pygrade_page* page) {
  return guarded(error_of(request), [&] {
    require(ranker != nullptr, "ranker is NULL");
    const auto known = read_struct(request, "request");
    auto result = read_struct(page, "page");
    std::vector<std::string_view> names;
    std::vector<PageEffect> effects;
    PageBuffer buffer = buffer_of(*ranker, result);
    if (result.effects != nullptr) effects.resize(result.k), buffer.effects = effects;
    const Page ranked = ranker->ranker.rank(request_of(*ranker, known, result.k, names), buffer);
    if (ranked.searched) write_effects(effects, result.effects);
    write_page(ranked, result, page);
  });
}

pygrade_status pygrade_ranker_rank_batch(pygrade_ranker* ranker, const pygrade_batch* batch) {
  return guarded(error_of(batch), [&] {
    require(ranker != nullptr, "ranker is NULL");
    const auto known = read_struct(batch, "batch");
    require_flags("batch.flags", known.flags, 0);
    require_range("batch.num_threads", known.num_threads, 1, std::numeric_limits<std::int32_t>::max());
    require_range("batch.count", known.count, 0, longest_text);
    if (known.count == 0) return;
    require(known.requests != nullptr && known.pages != nullptr, "batch.requests or batch.pages is NULL");
    std::vector<Request> requests(known.count);
    std::vector<std::vector<std::string_view>> names(known.count);
    std::vector<PageBuffer> buffers(known.count);
    std::vector<pygrade_page> results(known.count);
    std::vector<std::vector<PageEffect>> effects(known.count);
    std::vector<Page> pages(known.count);
    for (std::size_t b = 0; b < known.count; ++b) try {
        results[b] = read_struct(element(known.pages, b, "page"), "page");
        buffers[b] = buffer_of(*ranker, results[b]);
        if (results[b].effects != nullptr) effects[b].resize(results[b].k), buffers[b].effects = effects[b];
        requests[b] =
            request_of(*ranker, read_struct(element(known.requests, b, "request"), "request"), results[b].k, names[b]);
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("request " + std::to_string(b) + ": " + error.what());
      }
    ranker->ranker.rank(requests, buffers, pages, known.num_threads);
    for (std::size_t b = 0; b < known.count; ++b) {
      if (pages[b].searched) write_effects(effects[b], results[b].effects);
      write_page(pages[b], results[b], element(known.pages, b, "page"));
    }
  });
}

pygrade_status pygrade_ranker_mixture(const pygrade_ranker* ranker, pygrade_mixture* mixture, char* error,
                                      size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(ranker != nullptr, "ranker is NULL");
    auto known = read_struct(mixture, "mixture");
    Page page;
    page.set_policy(*ranker->ranker.policy());
    describe(page, known);
    write_struct(known, mixture);
  });
}

pygrade_status pygrade_ranker_log_header(const pygrade_ranker* ranker, char* text, size_t capacity, size_t* length,
                                         char* error, size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(ranker != nullptr, "ranker is NULL");
    require(length != nullptr && (text != nullptr || capacity == 0), "text or length is NULL");
    std::string header;
    append_log_header(*ranker->ranker.policy(), header);
    write_text(header, text, capacity, length);
  });
}

pygrade_status pygrade_ranker_log_rows(const pygrade_ranker* ranker, const pygrade_request* request,
                                       const pygrade_page* page, const pygrade_log_ids* ids, char* text,
                                       size_t capacity, size_t* length) {
  return guarded(error_of(request), [&] {
    require(length != nullptr && (text != nullptr || capacity == 0), "text or length is NULL");
    std::string rows;
    with_page(ranker, request, page, ids,
              [&](const Policy& policy, const Request& asked, const PageBuffer& buffer, const Page& ranked,
                  const LogIds& known) { append_log_rows(policy, asked, buffer, ranked, known, rows); });
    write_text(rows, text, capacity, length);
  });
}

pygrade_status pygrade_ranker_counters(const pygrade_ranker* ranker, pygrade_counters* counters, char* error,
                                       size_t error_size) {
  return guarded({error, error_size}, [&] {
    require(ranker != nullptr, "ranker is NULL");
    auto known = read_struct(counters, "counters");
    const RankerCounters now = ranker->ranker.counters();
    known = {known.size,          now.requests,     now.fallback_scenario,
             now.fallback_global, now.explored,     now.missing_predictions,
             now.empty_pages,     now.missing_items};
    write_struct(known, counters);
  });
}

}  // extern "C"
