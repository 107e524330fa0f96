// Functions that the console calls in its page: policies from the bytes of their files, and the pages of requests by
// the core's own Ranker. pygrade/console/web/core.js is the other side.
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "pygrade/dirichlet.hpp"
#include "pygrade/ranker.hpp"
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

// R requests of M candidates in all, as the page writes them; columns but the first three may be null.
struct Batch {
  std::int32_t requests;
  const std::int32_t* offsets;   // [R + 1]
  const float* predictions;      // [M, T]
  const float* context;          // [R, F]
  const float* prices;           // [M]
  const float* items;            // [M, I]
  const float* embeddings;       // [M, d]
  const std::int32_t* scenario;  // [R] places of names, -1: none
  std::int32_t scenarios;
  const char* scenario_names;
  const std::int32_t* category;  // [M] the same
  std::int32_t categories;
  const char* category_names;
};

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

// A page of k for each request: indices[R, k] within it, -1 after the last, their scores, and the policy's
// weights[R, T]. search: by the page terms, if it has them.
PYGRADE_EXPORT(rank)
void rank(Ranker* ranker, const Batch* batch, std::int32_t k, bool search, std::int32_t* indices, float* scores,
          float* weights) {
  const auto policy = ranker->policy();
  const std::size_t tasks = policy->tasks().size(), places = static_cast<std::size_t>(k);
  const std::size_t dimension = policy->page_terms() ? policy->page_terms()->dimension : 0;
  const auto scenarios = names_of(batch->scenario_names, batch->scenarios);
  const auto categories = names_of(batch->category_names, batch->categories);
  std::vector<std::string_view> named;
  for (std::size_t b = 0; b < static_cast<std::size_t>(batch->requests); ++b) {
    const auto first = static_cast<std::size_t>(batch->offsets[b]);
    const auto rows = static_cast<std::size_t>(batch->offsets[b + 1]) - first;
    const auto part = [](const float* column, std::size_t start, std::size_t count, std::size_t width) {
      return column == nullptr ? std::span<const float>() : std::span(column + start * width, count * width);
    };
    Request request{.context = part(batch->context, b, 1, policy->features().size()),
                    .predictions = part(batch->predictions, first, rows, tasks),
                    .item_values = part(batch->prices, first, rows, 1),
                    .items = part(batch->items, first, rows, policy->items().size()),
                    .embeddings = part(batch->embeddings, first, rows, dimension),
                    .page_terms = search,
                    .as_logged = true};
    if (batch->scenario != nullptr && batch->scenario[b] >= 0)
      request.scenario = scenarios[static_cast<std::size_t>(batch->scenario[b])];
    named.clear();
    for (std::size_t row = first; batch->category != nullptr && row < first + rows; ++row)
      named.push_back(batch->category[row] < 0 ? "" : categories[static_cast<std::size_t>(batch->category[row])]);
    request.categories = named;
    ranker->rank(request, {.values = {scores + b * places, places},
                           .indices = {indices + b * places, places},
                           .weights = {weights + b * tasks, tasks}});
  }
}
