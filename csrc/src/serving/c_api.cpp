#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>

#include "pygrade/isa.hpp"
#include "pygrade/pygrade.h"
#include "pygrade/ranker.hpp"
#include "pygrade/version.hpp"

struct pygrade_ranker {
  explicit pygrade_ranker(std::shared_ptr<const pygrade::Policy> policy, const pygrade::RankerOptions& options)
      : ranker(policy, options), tasks(policy->tasks()), features(policy->features()) {}

  pygrade::Ranker ranker;
  const std::vector<std::string> tasks, features;  // copies: the names that callers hold outlive a reload
};

namespace {

using namespace pygrade;

thread_local char last_error[512] = "";

pygrade_status fail(pygrade_status status, const char* message) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", message);
  return status;
}

// The caller's memory is too small for a text.
struct TooSmall : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Runs `call`; an exception becomes a status and a message.
template <class Call>
pygrade_status guarded(Call&& call) noexcept {
  last_error[0] = '\0';
  try {
    call();
    return PYGRADE_OK;
  } catch (const ArtifactMissing& error) {
    return fail(PYGRADE_NOT_FOUND, error.what());
  } catch (const ArtifactError& error) {
    return fail(PYGRADE_BAD_ARTIFACT, error.what());
  } catch (const TooSmall& error) {
    return fail(PYGRADE_BUFFER_TOO_SMALL, error.what());
  } catch (const std::invalid_argument& error) {
    return fail(PYGRADE_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(PYGRADE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::length_error&) {
    return fail(PYGRADE_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(PYGRADE_INTERNAL, error.what());
  } catch (...) {
    return fail(PYGRADE_INTERNAL, "unknown error");
  }
}

void require(bool good, const char* message) {
  if (!good) throw std::invalid_argument(message);
}

// The caller's struct with the members that this library knows: 0 for those that an older caller lacks; those that a
// newer one adds must be 0. `first` is the size of the struct in 0.1.0.
template <class Struct>
Struct read_struct(const Struct* given, std::size_t first, const char* null_message) {
  require(given != nullptr, null_message);
  const std::size_t size = given->size;
  require(size == first || (size >= sizeof(Struct) && size <= 4096), "size is not the sizeof of the struct");
  Struct known{};
  std::memcpy(&known, given, size < sizeof known ? size : sizeof known);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t i = sizeof known; i < size; ++i)
    require(bytes[i] == 0, "a struct of a newer header has members set that this library does not know");
  return known;
}

template <class Struct>
void write_struct(const Struct& known, std::size_t size, Struct* given) {
  std::memcpy(given, &known, size < sizeof known ? size : sizeof known);
}

RankerOptions options_of(const pygrade_ranker_options* given) {
  RankerOptions options;
  if (given == nullptr) return options;
  const auto known = read_struct(given, sizeof(pygrade_ranker_options), "options is NULL");
  constexpr std::uint32_t flags = PYGRADE_OPTION_SEED | PYGRADE_OPTION_IMPUTE;
  require((known.flags & ~flags) == 0, "options.flags has an unknown bit");
  if (known.flags & PYGRADE_OPTION_SEED) options.seed = known.seed;
  options.impute = known.flags & PYGRADE_OPTION_IMPUTE;
  return options;
}

// `count` elements; none for a null pointer.
template <class T>
std::span<T> optional_span(T* data, std::size_t count) {
  return {data, data == nullptr ? 0 : count};
}

Request request_of(const pygrade_ranker& ranker, const pygrade_request& given) {
  constexpr std::size_t limit = std::numeric_limits<std::int32_t>::max();
  constexpr std::uint32_t flags = PYGRADE_REQUEST_EXPLORE | PYGRADE_REQUEST_DRAW;
  require((given.flags & ~flags) == 0 && given.reserved == 0, "request.flags has an unknown bit");
  require(given.tasks == ranker.tasks.size(), "request.tasks is not the number of tasks of the policy");
  require(given.context == nullptr || given.features == ranker.features.size(),
          "request.features is not the number of features of the policy");
  require(given.candidates <= limit, "request.candidates is above 2^31 - 1");
  require(given.predictions != nullptr || given.candidates == 0, "request.predictions is NULL");
  require((given.groups == nullptr) == (given.caps == nullptr), "request.groups and request.caps belong together");
  require(given.groups == nullptr || (given.group_columns >= 1 && given.group_columns <= 64),
          "request.group_columns must be 1 … 64");
  require(given.scenario == nullptr || given.scenario_size <= limit, "request.scenario_size is above 2^31 - 1");
  Request request;
  request.context = optional_span(given.context, given.features);
  request.predictions = optional_span(given.predictions, given.candidates * given.tasks);
  request.rules.mask = optional_span(given.mask, given.candidates);
  request.rules.boost_mul = optional_span(given.boost_mul, given.candidates);
  request.rules.boost_add = optional_span(given.boost_add, given.candidates);
  request.rules.groups = optional_span(given.groups, given.candidates * given.group_columns);
  request.rules.caps = optional_span(given.caps, given.group_columns);
  if (given.scenario != nullptr) request.scenario = std::string_view(given.scenario, given.scenario_size);
  request.explore = given.flags & PYGRADE_REQUEST_EXPLORE;
  if (given.flags & PYGRADE_REQUEST_DRAW) request.draw = given.draw;
  request.values = optional_span(given.values, given.tasks);
  request.item_values = optional_span(given.item_values, given.candidates);
  return request;
}

// Sizes of the structs in 0.1.0, before members were added.
constexpr std::size_t first_request = offsetof(pygrade_request, values);
constexpr std::size_t first_page = offsetof(pygrade_page, trust);

// Of a page, or of a pygrade_mixture.
template <class Struct>
void describe(const Page& page, Struct& to) {
  static_assert(sizeof to.baseline == sizeof page.baseline_name);
  to.trust = page.trust;
  to.verdict = static_cast<std::int32_t>(page.verdict);
  std::memcpy(to.baseline, page.baseline_name.data(), sizeof to.baseline);
}

PageBuffer buffer_of(const pygrade_ranker& ranker, const pygrade_page& given) {
  require(given.k >= 1 && given.k <= std::numeric_limits<std::int32_t>::max(), "page.k must be 1 … 2^31 - 1");
  require(given.values != nullptr && given.indices != nullptr, "page.values or page.indices is NULL");
  return {{given.values, given.k},
          {given.indices, given.k},
          optional_span(given.weights, ranker.tasks.size()),
          optional_span(given.concentration, ranker.tasks.size())};
}

// The result of a ranking, read back from the caller's struct.
Page page_of(const Policy& policy, const pygrade_page& given) {
  require(given.filled >= 0 && static_cast<std::size_t>(given.filled) <= given.k, "page.filled is not in 0 … page.k");
  require(given.weights != nullptr && given.concentration != nullptr, "page.weights or page.concentration is NULL");
  Page page;
  page.set_policy(policy);
  page.filled = given.filled;
  page.explored = given.explored != 0;
  page.seed = given.seed;
  static_assert(sizeof page.policy_version < sizeof given.policy_version);
  std::memcpy(page.policy_version.data(), given.policy_version, sizeof page.policy_version);
  for (const char c : page.policy_version)
    require((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'), "page.policy_version is not one");
  if (given.size < sizeof given) return page;  // of an older caller, who has no more
  require(given.trust >= 0.0f && given.trust <= 1.0f, "page.trust is not in 0 … 1");
  require(given.verdict >= 0 && static_cast<std::size_t>(given.verdict) < verdict_names.size(),
          "page.verdict is not one");
  require(std::memchr(given.baseline, 0, sizeof given.baseline) != nullptr, "page.baseline does not end with 0");
  page.trust = given.trust;
  page.verdict = static_cast<Verdict>(given.verdict);
  std::memcpy(page.baseline_name.data(), given.baseline, sizeof given.baseline);
  return page;
}

LogIds ids_of(const pygrade_log_ids& given, std::size_t candidates) {
  constexpr std::size_t limit = std::numeric_limits<std::int32_t>::max();
  require((given.flags & ~std::uint32_t{PYGRADE_LOG_TIMESTAMP}) == 0 && given.reserved == 0,
          "ids.flags has an unknown bit");
  require(given.request_id == nullptr || given.request_id_size <= limit, "ids.request_id_size is above 2^31 - 1");
  require(given.user_id == nullptr || given.user_id_size <= limit, "ids.user_id_size is above 2^31 - 1");
  LogIds ids;
  if (given.request_id != nullptr) ids.request_id = {given.request_id, given.request_id_size};
  if (given.user_id != nullptr) ids.user_id = {given.user_id, given.user_id_size};
  ids.item_id = optional_span(given.item_id, candidates);
  if (given.flags & PYGRADE_LOG_TIMESTAMP) ids.timestamp = given.timestamp;
  return ids;
}

void write_text(const std::string& text, char* to, std::size_t capacity, std::size_t* length) {
  *length = text.size();
  if (text.size() > capacity) throw TooSmall("the text is longer than capacity");
  text.copy(to, text.size());
}

void make(std::shared_ptr<const Policy> policy, const RankerOptions& options, pygrade_ranker** ranker) {
  *ranker = new pygrade_ranker(std::move(policy), options);
}

}  // namespace

extern "C" {

int32_t pygrade_abi_version(void) { return PYGRADE_ABI_VERSION; }

const char* pygrade_version(void) { return PYGRADE_VERSION; }

const char* pygrade_isa(void) {
  const char* name = "";
  guarded([&] { name = isa_name(active_isa()).data(); });
  return name;
}

const char* pygrade_last_error(void) { return last_error; }

pygrade_status pygrade_ranker_load(const char* directory, const pygrade_ranker_options* options,
                                   pygrade_ranker** ranker) {
  return guarded([&] {
    require(directory != nullptr, "directory is NULL");
    require(ranker != nullptr, "ranker is NULL");
    const RankerOptions known = options_of(options);
    make(Policy::load(directory), known, ranker);
  });
}

pygrade_status pygrade_ranker_create(const char* json, size_t json_size, const void* tensors, size_t tensors_size,
                                     const pygrade_ranker_options* options, pygrade_ranker** ranker) {
  return guarded([&] {
    require(json != nullptr && tensors != nullptr, "json or tensors is NULL");
    require(ranker != nullptr, "ranker is NULL");
    const RankerOptions known = options_of(options);
    make(Policy::parse({json, json_size}, {static_cast<const std::byte*>(tensors), tensors_size}), known, ranker);
  });
}

pygrade_status pygrade_ranker_reload(pygrade_ranker* ranker, const char* directory) {
  return guarded([&] {
    require(ranker != nullptr, "ranker is NULL");
    require(directory != nullptr, "directory is NULL");
    auto policy = Policy::load(directory);
    if (policy->tasks() != ranker->tasks || policy->features() != ranker->features)
      throw ArtifactError(std::string(directory) + " has other tasks or features than the policy that it replaces");
    ranker->ranker.swap(std::move(policy));
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
  return guarded([&] {
    require(ranker != nullptr, "ranker is NULL");
    const auto known = read_struct(request, first_request, "request is NULL");
    auto result = read_struct(page, first_page, "page is NULL");
    const Page ranked = ranker->ranker.rank(request_of(*ranker, known), buffer_of(*ranker, result));
    result.filled = ranked.filled;
    result.missing_predictions = ranked.missing_predictions;
    result.fallback = static_cast<int32_t>(ranked.fallback);
    result.explored = ranked.explored;
    result.seed = ranked.seed;
    std::memset(result.policy_version, 0, sizeof result.policy_version);
    ranked.version().copy(result.policy_version, sizeof result.policy_version - 1);
    describe(ranked, result);
    write_struct(result, result.size, page);
  });
}

pygrade_status pygrade_ranker_mixture(const pygrade_ranker* ranker, pygrade_mixture* mixture) {
  return guarded([&] {
    require(ranker != nullptr, "ranker is NULL");
    auto known = read_struct(mixture, sizeof(pygrade_mixture), "mixture is NULL");
    Page page;
    page.set_policy(*ranker->ranker.policy());
    describe(page, known);
    write_struct(known, known.size, mixture);
  });
}

pygrade_status pygrade_ranker_log_header(const pygrade_ranker* ranker, char* text, size_t capacity, size_t* length) {
  return guarded([&] {
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
  return guarded([&] {
    require(ranker != nullptr, "ranker is NULL");
    require(length != nullptr && (text != nullptr || capacity == 0), "text or length is NULL");
    const auto policy = ranker->ranker.policy();
    const auto asked = request_of(*ranker, read_struct(request, first_request, "request is NULL"));
    const auto given = read_struct(page, first_page, "page is NULL");
    const PageBuffer buffer = buffer_of(*ranker, given);
    const Page ranked = page_of(*policy, given);
    const auto known = read_struct(ids, sizeof(pygrade_log_ids), "ids is NULL");
    std::string rows;
    append_log_rows(*policy, asked, buffer, ranked, ids_of(known, asked.predictions.size() / ranker->tasks.size()),
                    rows);
    write_text(rows, text, capacity, length);
  });
}

pygrade_status pygrade_ranker_counters(const pygrade_ranker* ranker, pygrade_counters* counters) {
  return guarded([&] {
    require(ranker != nullptr, "ranker is NULL");
    auto known = read_struct(counters, sizeof(pygrade_counters), "counters is NULL");
    const RankerCounters now = ranker->ranker.counters();
    known = {known.size,          now.requests, now.fallback_scenario,
             now.fallback_global, now.explored, now.missing_predictions,
             now.empty_pages};
    write_struct(known, known.size, counters);
  });
}

}  // extern "C"
