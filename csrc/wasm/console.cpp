// Functions that the console calls in its page: policies from the bytes of their files, and the pages of requests by
// the core's own Ranker. pygrade/console/web/core.js is the other side.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <string_view>
#include <type_traits>
#include <vector>

#include "pygrade/dirichlet.hpp"
#include "pygrade/ranker.hpp"
#include "serving/request_fields.hpp"
#include "util/forks.hpp"
#include "util/parallel.hpp"
#include "util/sha256.hpp"

#define PYGRADE_EXPORT(name) extern "C" __attribute__((export_name(#name), visibility("default")))

namespace {
using namespace pygrade;

char error_text[512];

// Names one after the other, each ended by 0.
std::vector<std::string_view> names_of(const char* text, std::int32_t count) {
  std::vector<std::string_view> names;
  for (; count > 0; --count, text += names.back().size() + 1) names.emplace_back(text);
  return names;
}

// A column as the page writes it: values, or null; of texts the places of names, -1: none, and the names.
struct Column {
  const void* values;
  std::int32_t count;
  const char* names;
};

// R requests of M candidates in all, as the page writes them, in the order of `fields`.
struct Batch {
  std::int32_t requests;
  const std::int32_t* offsets;  // [R + 1]
  Column scenario;              // [R]
#define PYGRADE_FIELD(type, name, rows, width, text) Column name;
#include "pygrade/request.def"
};

using Texts = std::deque<std::vector<std::string_view>>;

// `count` rows of a column from `first` on; those of texts in memory of the request.
template <class T>
std::span<const T> read(const Column& column, std::size_t first, std::size_t count, std::size_t width, Texts& texts) {
  if (column.values == nullptr) return {};
  if constexpr (std::is_same_v<T, std::string_view>) {
    const auto names = names_of(column.names, column.count);
    const auto places = std::span(static_cast<const std::int32_t*>(column.values) + first, count);
    auto& row = texts.emplace_back();
    for (const std::int32_t place : places) row.push_back(place < 0 ? "" : names[static_cast<std::size_t>(place)]);
    return row;
  } else {
    return std::span(static_cast<const T*>(column.values) + first * width, count * width);
  }
}

Request request_of(const Batch& batch, const Policy& policy, std::size_t b, bool search, Texts& texts) {
  const detail::FieldSizes sizes{.features = policy.features().size(),
                                 .tasks = policy.tasks().size(),
                                 .item_columns = policy.items().size(),
                                 .embedding_size = policy.page_terms() ? policy.page_terms()->dimension : 0};
  const auto start = static_cast<std::size_t>(batch.offsets[b]);
  const struct {
    std::size_t one, candidates, places = 0;
  } first{b, start}, count{1, static_cast<std::size_t>(batch.offsets[b + 1]) - start};
  Request request{.page_terms = search, .as_logged = true};
  texts.clear();
#define PYGRADE_FIELD(type, name, rows, width, text) \
  request.name = read<type>(batch.name, first.rows, count.rows, sizes.width, texts);
#include "pygrade/request.def"
  const auto scenario = read<std::string_view>(batch.scenario, b, 1, 1, texts);
  if (!scenario.empty() && !scenario[0].empty()) request.scenario = scenario[0];
  return request;
}
}  // namespace

// The page has one thread, which never ends, and nothing here catches: an error ends the call, and `last_error` has it.
extern "C" {
int __cxa_thread_atexit(void (*)(void*), void*, void*) { return 0; }
void* __cxa_allocate_exception(std::size_t size) { return std::malloc(size); }
void __cxa_free_exception(void*) {}
void __cxa_throw(void* thrown, void*, void (*)(void*)) {
  std::strncpy(error_text, static_cast<const std::exception*>(thrown)->what(), sizeof error_text - 1);
  __builtin_trap();
}
}

namespace pygrade::inline v0_2::detail {
int fork_count() { return 0; }

void run_shares(std::int64_t shares, std::int64_t, void (*run)(const void* context, std::int64_t share),
                const void* context) {
  for (std::int64_t share = 0; share < shares; ++share) run(context, share);
}
}  // namespace pygrade::inline v0_2::detail

// No page of the console explores.
void pygrade::dirichlet_sample(std::span<const float>, const DirichletShape&, std::uint64_t, std::uint64_t,
                               std::span<float>, std::span<float>, std::span<float>, bool, int) {
  __builtin_trap();
}

PYGRADE_EXPORT(allocate) void* allocate(std::size_t bytes) { return std::malloc(bytes); }
PYGRADE_EXPORT(release) void release(void* memory) { std::free(memory); }
PYGRADE_EXPORT(last_error) const char* last_error() { return error_text; }

PYGRADE_EXPORT(sha256) void sha256(const std::byte* data, std::size_t size, char* digits) {
  detail::sha256_hex({data, size}).copy(digits, 64);
}

// The ranker of a policy: policy.json and the tensors that it names.
PYGRADE_EXPORT(make_ranker)
Ranker* make_ranker(const char* json, std::size_t json_size, const std::byte* tensors, std::size_t tensors_size) {
  return new Ranker(Policy::parse({json, json_size}, {tensors, tensors_size}), {0});
}
PYGRADE_EXPORT(delete_ranker) void delete_ranker(Ranker* ranker) { delete ranker; }

// Names of a batch's columns.
PYGRADE_EXPORT(fields) const char* fields() {
  return "scenario"
#define PYGRADE_FIELD(type, name, rows, width, text) " " #name
#include "pygrade/request.def"
      ;
}

// A page of k for each request: indices[R, k] within it, -1 after the last, their scores, and the policy's
// weights[R, T]. search: by the page terms, if it has them.
PYGRADE_EXPORT(rank)
void rank(Ranker* ranker, const Batch* batch, std::int32_t k, bool search, std::int32_t* indices, float* scores,
          float* weights) {
  const auto policy = ranker->policy();
  const std::size_t tasks = policy->tasks().size(), places = static_cast<std::size_t>(k);
  Texts texts;
  for (std::size_t b = 0; b < static_cast<std::size_t>(batch->requests); ++b)
    ranker->rank(request_of(*batch, *policy, b, search, texts), {.values = {scores + b * places, places},
                                                                 .indices = {indices + b * places, places},
                                                                 .weights = {weights + b * tasks, tasks}});
}

// Contributions[N, T] of the tasks to the scores of a request's candidates by weights[T].
PYGRADE_EXPORT(contributions)
void contributions(Ranker* ranker, const Batch* batch, std::int32_t request, const float* weights,
                   float* contributions) {
  const auto policy = ranker->policy();
  Texts texts;
  const Request given = request_of(*batch, *policy, static_cast<std::size_t>(request), false, texts);
  std::ranges::copy(Ranker::score_parts(*policy, given, {weights, policy->tasks().size()}).of_tasks(), contributions);
}
