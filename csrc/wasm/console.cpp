// What the console calls in its page: the core's own fusion, baselines, mixture, policy network and ranking, over plain
// arrays. pygrade/console/web/core.js is the other side. A batch of requests is given by offsets[batch + 1].
#include "fusion.hpp"
#include "pygrade/mixture.hpp"
#include "pygrade/policy.hpp"
#include "pygrade/ranking.hpp"
#include "serving/page_places.hpp"
#include "util/parallel.hpp"
#include "util/sha256.hpp"

#define PYGRADE_EXPORT(name) extern "C" __attribute__((export_name(#name), visibility("default")))

namespace {

char error_text[512];

}  // namespace

void pygrade::wasm::Thrown::operator=(const std::exception& error) const {
  std::strncpy(error_text, error.what(), sizeof error_text - 1);
  __builtin_trap();
}

// The one thread never ends.
extern "C" int __cxa_thread_atexit(void (*)(void*), void*, void*) { return 0; }

namespace pygrade::inline v0_2::detail {

void run_shares(std::int64_t shares, std::int64_t, void (*run)(const void* context, std::int64_t share),
                const void* context) {
  for (std::int64_t share = 0; share < shares; ++share) run(context, share);
}

}  // namespace pygrade::inline v0_2::detail

namespace pygrade::inline v0_2 {

// Fills a policy from arrays: its files are read and checked where the page is made.
class PolicyReader {
 public:
  struct Numbers {  // as the page writes it
    std::int32_t tasks, features, inputs, layers, scenarios, evidence_scale, evidence_input, context_only, trade_offs;
    float epsilon, floor, total, prior;
    double beta;
  };

  // values: input_mean, input_std, lower, upper, static_weights, scenario_table, then weights[outputs, inputs] and bias
  // of each layer.
  static Policy* make(const Numbers& n, const std::int32_t* widths, const float* values) {
    auto policy = std::unique_ptr<Policy>(new Policy);
    Policy& p = *policy;
    const auto take = [&](std::int64_t count) {
      const float* from = values;
      values += count;
      return std::vector<float>(from, from + count);
    };
    p.tasks_.resize(static_cast<std::size_t>(n.tasks));
    p.features_.resize(static_cast<std::size_t>(n.features));
    for (std::int32_t s = 0; s < n.scenarios; ++s) p.scenarios_.push_back(std::to_string(s));
    p.beta_ = n.beta;
    p.epsilon_ = n.epsilon;
    p.floor_ = n.floor;
    p.total_ = n.total;
    p.evidence_scale_ = static_cast<Policy::Evidence>(n.evidence_scale);
    p.evidence_input_ = static_cast<std::size_t>(n.evidence_input);
    p.evidence_prior_ = n.prior;
    p.context_only_ = n.context_only != 0;
    p.trade_offs_ = n.trade_offs != 0;
    p.input_mean_ = take(n.inputs);
    p.input_std_ = take(n.inputs);
    p.lower_ = take(n.tasks);
    p.upper_ = take(n.tasks);
    p.static_weights_ = take(n.tasks);
    p.scenario_table_ = take(std::int64_t{n.scenarios} * n.tasks);
    p.default_multipliers_.assign(static_cast<std::size_t>(n.tasks), 1.0f);
    std::int64_t inputs = n.inputs;
    for (std::int32_t i = 0; i < n.layers; ++i) {
      const std::int64_t outputs = widths[i], padded = (outputs + 15) / 16 * 16;
      const auto weights = take(outputs * inputs), bias = take(outputs);
      Policy::Layer& layer = p.layers_.emplace_back(Policy::Layer{inputs, padded, {}, bias});
      layer.weights.assign(static_cast<std::size_t>(inputs * padded), 0.0f);
      layer.bias.resize(static_cast<std::size_t>(padded), 0.0f);
      for (std::int64_t j = 0; j < outputs; ++j)
        for (std::int64_t k = 0; k < inputs; ++k)
          layer.weights[static_cast<std::size_t>(k * padded + j)] = weights[static_cast<std::size_t>(j * inputs + k)];
      p.widest_ = std::max({p.widest_, static_cast<std::size_t>(inputs), static_cast<std::size_t>(padded)});
      inputs = outputs;
    }
    return policy.release();
  }
};

}  // namespace pygrade::inline v0_2

namespace {

using namespace pygrade;

struct Formula {  // as the page writes it
  std::int32_t transform;
  float beta, epsilon;
  const float* slope;
};

FusionOptions options_of(const Formula& formula) {
  return {static_cast<Transform>(formula.transform), formula.beta, formula.epsilon, formula.slope};
}

std::vector<std::int64_t> wide(const std::int32_t* offsets, std::int32_t batch) {
  return {offsets, offsets + batch + 1};
}

// weights[batch, tasks], or one row for all of them.
std::vector<float> spread(const float* weights, bool shared, std::int32_t batch, std::int32_t tasks) {
  if (!shared) return {weights, weights + std::int64_t{batch} * tasks};
  std::vector<float> result;
  for (std::int32_t b = 0; b < batch; ++b) result.insert(result.end(), weights, weights + tasks);
  return result;
}

template <class T>
std::span<const T> optional(const T* values, std::int64_t count) {
  return values == nullptr ? std::span<const T>() : std::span(values, static_cast<std::size_t>(count));
}

struct Knots {  // of one task: count numbers each, in x and y
  std::int32_t count;
  const float *x, *y;
};

}  // namespace

PYGRADE_EXPORT(allocate) void* allocate(std::size_t bytes) { return std::malloc(bytes); }
PYGRADE_EXPORT(release) void release(void* memory) { std::free(memory); }
PYGRADE_EXPORT(last_error) const char* last_error() { return error_text; }

PYGRADE_EXPORT(sha256) void sha256(const std::byte* data, std::size_t size, char* digits) {
  detail::sha256_hex({data, size}).copy(digits, 64);
}

PYGRADE_EXPORT(transform)
void transform(const float* predictions, const std::int32_t* offsets, std::int32_t batch, std::int32_t tasks,
               const Formula* formula, float* values) {
  const auto bounds = wide(offsets, batch);
  const auto scores = Scores::jagged(predictions, ScoreType::float32, bounds.back(), tasks, bounds);
  transform_scores(scores, options_of(*formula), {values, static_cast<std::size_t>(bounds.back() * tasks)});
}

PYGRADE_EXPORT(fuse)
void fuse(const float* predictions, const std::int32_t* offsets, std::int32_t batch, std::int32_t tasks,
          const float* weights, bool shared, const Formula* formula, float* fused) {
  const auto bounds = wide(offsets, batch);
  const auto scores = Scores::jagged(predictions, ScoreType::float32, bounds.back(), tasks, bounds);
  fuse_scores(scores, spread(weights, shared, batch, tasks), 1, options_of(*formula),
              {fused, static_cast<std::size_t>(bounds.back())});
}

// multipliers[tasks], priced[tasks], prices[rows] and knots[tasks] may be null.
PYGRADE_EXPORT(baseline)
void baseline(const float* predictions, const std::int32_t* offsets, std::int32_t batch, std::int32_t tasks,
              const float* weights, const Formula* formula, bool logarithm, const float* multipliers,
              const std::uint8_t* priced, const float* prices, const Knots* knots, float* result) {
  Baseline made;
  made.transform = static_cast<Transform>(formula->transform);
  made.weights.assign(weights, weights + tasks);
  made.logarithm = logarithm;
  if (priced != nullptr) made.priced.assign(priced, priced + tasks);
  for (std::int32_t t = 0; knots != nullptr && t < tasks; ++t) {
    const auto count = static_cast<std::size_t>(knots[t].count);
    made.calibration.emplace_back(std::span(knots[t].x, count), std::span(knots[t].y, count));
  }
  Baseline::Workspace workspace;
  for (std::int32_t b = 0; b < batch; ++b) {
    const std::int64_t first = offsets[b], count = offsets[b + 1] - first;
    if (count == 0) continue;
    made.scores({predictions + first * tasks, static_cast<std::size_t>(count * tasks)}, {optional(multipliers, tasks)},
                prices == nullptr ? std::span<const float>() : optional(prices + first, count), options_of(*formula),
                workspace, {result + first, static_cast<std::size_t>(count)});
  }
}

// (1 - trust) z(base) + trust z(fused)
PYGRADE_EXPORT(mix)
void mix(const float* base, const float* fused, const std::int32_t* offsets, std::int32_t batch, double trust,
         float* result) {
  Mixture mixture;
  mixture.trust = trust;
  std::vector<float> pair;
  for (std::int32_t b = 0; b < batch; ++b) {
    const std::int32_t first = offsets[b], end = offsets[b + 1];
    pair.assign(base + first, base + end);
    pair.insert(pair.end(), fused + first, fused + end);
    mixture.mix(pair, {result + first, static_cast<std::size_t>(end - first)});
  }
}

PYGRADE_EXPORT(make_policy)
const Policy* make_policy(const PolicyReader::Numbers* numbers, const std::int32_t* widths, const float* values) {
  return PolicyReader::make(*numbers, widths, values);
}

// What `Ranker` serves: the policy's weights, or the scenario's static ones if all features are missing.
// scenarios[batch]: numbers, -1 for none; multipliers[tasks] may be null.
PYGRADE_EXPORT(policy_weights)
void policy_weights(const Policy* policy, const float* context, const float* predictions, const std::int32_t* offsets,
                    std::int32_t batch, const std::int32_t* scenarios, const float* multipliers, float* weights) {
  const std::size_t tasks = policy->tasks().size(), features = policy->features().size();
  Policy::Workspace workspace;
  std::vector<float> inputs(policy->num_inputs()), concentration(tasks);
  for (std::int32_t b = 0; b < batch; ++b) {
    const std::span given(context + static_cast<std::size_t>(b) * features, features);
    const std::span served(weights + static_cast<std::size_t>(b) * tasks, tasks);
    const std::string name = std::to_string(scenarios[b]);
    const std::optional<std::string_view> scenario =
        scenarios[b] < 0 ? std::nullopt : std::optional<std::string_view>(name);
    const std::span rows(predictions + static_cast<std::size_t>(offsets[b]) * tasks,
                         static_cast<std::size_t>(offsets[b + 1] - offsets[b]) * tasks);
    const auto missing = std::ranges::count_if(given, [](float value) { return !std::isfinite(value); });
    if (missing > 0 && missing == static_cast<std::int64_t>(features)) {
      std::ranges::copy(policy->fallback(scenario).weights, served.begin());
      continue;
    }
    policy->request_inputs(given, rows, inputs, optional(multipliers, static_cast<std::int64_t>(tasks)));
    policy->evaluate(inputs, scenario, workspace, concentration, served);
  }
}

// The page terms of a policy, as the page writes them.
struct Terms {
  std::int32_t slots, categories, dimension, beam;
  float cosine, strength;  // strength 0: the order of the scores, 1: as learned
  const float *attention, *pairs;
};

// A page of each request by page terms: indices[batch, k] within it. scores[rows], and root[rows] of them moved by what
// stands above; codes[rows], places of categories, and embeddings[rows, dimension] may be null, as the rules of `rank`.
PYGRADE_EXPORT(search)
void search(const Terms* given, const float* scores, const float* root, const std::int32_t* codes,
            const float* embeddings, const std::int32_t* offsets, std::int32_t batch, std::int32_t k,
            const float* boost_mul, const float* boost_add, const std::int32_t* groups, const std::int32_t* caps,
            std::int32_t columns, std::int32_t* indices) {
  const auto name = [](std::int32_t code) {
    return std::string(1, static_cast<char>(code / 128 + 1)) + static_cast<char>(code % 128 + 1);
  };
  PageTerms terms;
  terms.attention.assign(given->attention, given->attention + given->slots);
  for (std::int32_t c = 0; c < given->categories; ++c) terms.categories.push_back(name(c));
  terms.index_categories();
  terms.pairs.assign(given->pairs, given->pairs + std::int64_t{given->categories} * given->categories);
  for (float& pair : terms.pairs) pair *= given->strength;
  terms.cosine = given->cosine * given->strength;
  terms.beam = static_cast<std::size_t>(given->beam);
  terms.dimension = static_cast<std::size_t>(given->dimension);
  const auto places = static_cast<std::size_t>(k);
  std::vector<float> values(places);
  std::vector<std::string_view> names;
  detail::PageMemory memory;
  for (std::int32_t b = 0; b < batch; ++b) {
    const auto first = static_cast<std::size_t>(offsets[b]), end = static_cast<std::size_t>(offsets[b + 1]);
    const auto rows = static_cast<std::int64_t>(end - first);
    const auto of = [&](const auto* column, std::size_t width) {
      return optional(column == nullptr ? column : column + first * width, rows * static_cast<std::int64_t>(width));
    };
    Request request;
    request.rules = {{},
                     of(boost_mul, 1),
                     of(boost_add, 1),
                     of(groups, static_cast<std::size_t>(columns)),
                     optional(caps, groups == nullptr ? 0 : columns)};
    names.clear();
    for (const std::int32_t code : of(codes, 1))
      names.push_back(code < 0 ? std::string_view() : terms.categories[static_cast<std::size_t>(code)]);
    request.categories = names;
    request.embeddings = of(embeddings, terms.dimension);
    memory.root.assign(root + first, root + end);
    memory.value.assign(scores + first, scores + end);
    for (std::size_t i = 0; i < memory.value.size(); ++i) memory.value[i] -= memory.root[i];
    detail::place_candidates(&terms, request, memory,
                             {values, {indices + static_cast<std::size_t>(b) * places, places}});
  }
}

// The k best of each request by their scores[rows]: values[batch, k] and indices[batch, k] within the request.
// boost_mul[rows], boost_add[rows], groups[rows, columns] and caps[columns] may be null.
PYGRADE_EXPORT(rank)
void rank(const float* scores, const std::int32_t* offsets, std::int32_t batch, std::int32_t k, const float* boost_mul,
          const float* boost_add, const std::int32_t* groups, const std::int32_t* caps, std::int32_t columns,
          float* values, std::int32_t* indices) {
  const auto bounds = wide(offsets, batch);
  const std::vector<float> ones(static_cast<std::size_t>(batch), 1.0f);
  const PageRules rules{{},
                        optional(boost_mul, bounds.back()),
                        optional(boost_add, bounds.back()),
                        optional(groups, bounds.back() * columns),
                        optional(caps, groups == nullptr ? 0 : columns)};
  const auto places = static_cast<std::size_t>(std::int64_t{batch} * k);
  pygrade::rank(Scores::jagged(scores, ScoreType::float32, bounds.back(), 1, bounds), ones, k, {}, rules,
                {values, places}, {indices, places});
}
