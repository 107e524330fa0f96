// Times the C++ core alone and a bound of this machine on the same buffers: one read-only pass, a copy, or its peak
// rate of multiply-adds. The two take turns.
//
//   pygrade_core_bench SECONDS OP SIZES…     (the table in main lists the operations and their sizes)
//
// prints one JSON object: quantiles in µs for the core and, if there is one, for the bound. `python -m bench` builds
// and runs it. PYGRADE_ISA selects the instruction set of both.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "pygrade/advantage.hpp"
#include "pygrade/dirichlet.hpp"
#include "pygrade/fusion.hpp"
#include "pygrade/gain.hpp"
#include "pygrade/grpo.hpp"
#include "pygrade/isa.hpp"
#include "pygrade/page_search.hpp"
#include "pygrade/ranker.hpp"
#include "pygrade/ranking.hpp"

// naive_rank.cpp
void naive_rank(const float* context, int features, const float* predictions, int n, int tasks, int kind, int k,
                float* values, std::int32_t* indices);

namespace {
using Buffer = std::vector<float>;
using Sizes = std::vector<std::int64_t>;
using Work = std::function<void(std::size_t)>;  // works on input number i modulo the number of inputs

constexpr std::size_t rotations = 64;  // with fewer inputs the branch predictor learns the data
volatile float sink;

// --- timing

double now_us() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A block is as many calls as fill about 50 µs; a sample is the µs per call of one block. Contenders that take turns
// start at different inputs, so that none finds in the cache what the other has just read.
class Timed {
 public:
  explicit Timed(Work work, std::size_t first = 0) : work_(std::move(work)), number_(first) {
    for (int i = 0; i < 3; ++i) work_(number_++);
    const double start = now_us();
    work_(number_++);
    const double once = std::max(now_us() - start, 0.05);
    calls_ = std::clamp<std::size_t>(static_cast<std::size_t>(50.0 / once), 1, 1000);
  }

  void block() {
    const double start = now_us();
    for (std::size_t c = 0; c < calls_; ++c) work_(number_++);
    samples_.push_back((now_us() - start) / static_cast<double>(calls_));
  }

  std::size_t blocks() const { return samples_.size(); }

  // `scale` is the work of the core over the work that the bound timed.
  std::string json(double scale = 1.0) {
    std::ranges::sort(samples_);
    const auto at = [&](double q) { return scale * samples_[static_cast<std::size_t>(q * (samples_.size() - 1))]; };
    char text[160];
    std::snprintf(text, sizeof text, "{\"p20\": %.5f, \"p50\": %.5f, \"p80\": %.5f, \"blocks\": %zu}", at(0.2), at(0.5),
                  at(0.8), samples_.size());
    return text;
  }

 private:
  Work work_;
  std::size_t calls_ = 1, number_;
  std::vector<double> samples_;
};

struct Bound {
  const char* kind = "";  // read, copy, flop or naive loop; empty: none
  Work work = {};
  double scale = 1.0;
};

void compare(double seconds, const Work& core, const Bound& bound = {}) {
  Timed ours(core);
  std::vector<Timed> other;
  if (bound.work) other.emplace_back(bound.work, rotations / 2);
  for (const double end = now_us() + seconds * 1e6; now_us() < end || ours.blocks() < 7;) {
    ours.block();
    for (Timed& timed : other) timed.block();
  }
  std::printf("{\"isa\": \"%s\", \"core\": %s, \"bound\": %s, \"bound_kind\": \"%s\"}\n",
              std::string(pygrade::isa_name(pygrade::active_isa())).c_str(), ours.json().c_str(),
              other.empty() ? "null" : other[0].json(bound.scale).c_str(), bound.kind);
}

// --- what the machine allows

// One read-only pass with eight independent accumulators of the native width.
template <int bytes>
inline __attribute__((always_inline)) float read_pass(const float* data, std::size_t size) {
  typedef float Wide __attribute__((vector_size(bytes), aligned(4), may_alias));
  constexpr std::size_t lanes = bytes / sizeof(float);
  Wide sums[8] = {};
  std::size_t i = 0;
  for (; i + 8 * lanes <= size; i += 8 * lanes)
    for (std::size_t j = 0; j < 8; ++j) sums[j] += *reinterpret_cast<const Wide*>(data + i + lanes * j);
  float total = 0.0f;
  float lane_sums[8 * lanes];
  std::memcpy(lane_sums, sums, sizeof sums);
  for (float sum : lane_sums) total += sum;
  for (; i < size; ++i) total += data[i];
  return total;
}

constexpr std::int64_t flop_rounds = 5'000;
constexpr int chains = 12;  // independent, to hide the latency of multiply-add; they fit 16 registers

template <int lanes, bool fused>
inline __attribute__((always_inline)) float multiply_add(float start) {
  float values[chains][lanes];
  for (auto& chain : values)
    for (float& value : chain) value = start;
  for (std::int64_t round = 0; round < flop_rounds; ++round)
    for (auto& chain : values)
      for (float& value : chain) value = fused ? __builtin_fmaf(value, 0.999f, 0.001f) : value * 0.999f + 0.001f;
  float total = 0.0f;
  for (auto& chain : values)
    for (float value : chain) total += value;
  return total;
}

#if defined(__x86_64__)
#define V4 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"), optimize("O3")))
#define V3 __attribute__((target("arch=x86-64-v3"), optimize("O3")))
V4 float read_512(const float* data, std::size_t size) { return read_pass<64>(data, size); }
V3 float read_256(const float* data, std::size_t size) { return read_pass<32>(data, size); }
V4 float multiply_add_512(float start) { return multiply_add<16, true>(start); }
V3 float multiply_add_256(float start) { return multiply_add<8, true>(start); }
#endif

float read_once(const Buffer& buffer) {
#if defined(__x86_64__)
  if (pygrade::active_isa() == pygrade::Isa::avx512) return read_512(buffer.data(), buffer.size());
  if (pygrade::active_isa() == pygrade::Isa::avx2) return read_256(buffer.data(), buffer.size());
#endif
  return read_pass<16>(buffer.data(), buffer.size());
}

// The time of `flops` floating-point operations at the peak of this machine.
Bound flop_bound(double flops) {
  double lanes = 4.0;
  Work work = [](std::size_t i) { sink = multiply_add<4, false>(static_cast<float>(i & 7)); };
#if defined(__x86_64__)
  if (pygrade::active_isa() == pygrade::Isa::avx512) {
    lanes = 16.0;
    work = [](std::size_t i) { sink = multiply_add_512(static_cast<float>(i & 7)); };
  } else if (pygrade::active_isa() == pygrade::Isa::avx2) {
    lanes = 8.0;
    work = [](std::size_t i) { sink = multiply_add_256(static_cast<float>(i & 7)); };
  }
#endif
  return {"flop", work, flops / (2.0 * lanes * chains * static_cast<double>(flop_rounds))};
}

Bound read_bound(const std::vector<Buffer>& buffers) {
  return {"read", [&](std::size_t i) { sink = read_once(buffers[i % buffers.size()]); }};
}

// --- inputs

std::vector<Buffer> random_buffers(std::size_t count, std::int64_t size, float low = 0.0f, float high = 1.0f) {
  std::mt19937 generator(0);
  std::vector<Buffer> buffers(count, Buffer(static_cast<std::size_t>(size)));
  for (Buffer& buffer : buffers)
    for (float& value : buffer) value = low + (high - low) * static_cast<float>(generator() >> 8) * 0x1p-24f;
  return buffers;
}

// What an input of fuse_topk may be besides item-major float32.
struct Form {
  pygrade::Transform transform = pygrade::Transform::identity;
  pygrade::ScoreType type = pygrade::ScoreType::float32;
  pygrade::Layout layout = pygrade::Layout::item_major;
};

// Random scores of the type; halves are cut off after the bits that they keep.
std::vector<Buffer> random_scores(std::size_t count, std::int64_t size, pygrade::ScoreType type) {
  auto buffers = random_buffers(count, size, 0x1p-10f);
  if (type == pygrade::ScoreType::float32) return buffers;
  const bool brain = type == pygrade::ScoreType::bfloat16;
  for (Buffer& buffer : buffers) {
    std::vector<std::uint16_t> halves;
    for (const float value : buffer) {
      const auto bits = std::bit_cast<std::uint32_t>(value);
      halves.push_back(static_cast<std::uint16_t>(brain ? bits >> 16 : (bits >> 13) - (112u << 10)));
    }
    buffer.resize((halves.size() + 1) / 2);
    std::memcpy(buffer.data(), halves.data(), halves.size() * sizeof halves[0]);
  }
  return buffers;
}

pygrade::Scores view(const Buffer& scores, std::int64_t batch, std::int64_t candidates, std::int64_t tasks,
                     const Form& form = {}) {
  return pygrade::Scores::dense(scores.data(), form.type, batch, candidates, tasks, form.layout);
}

// --- the operations

// A batch holds many requests, so that few batches suffice as distinct inputs.
std::size_t inputs_of(std::int64_t batch) { return batch >= 16 ? 4 : rotations; }

void fuse_topk(double seconds, const Sizes& s, const Form& form) {
  const std::int64_t batch = s[0], samples = s[1], candidates = s[2], tasks = s[3], k = s[4];
  const auto scores = random_scores(inputs_of(batch), batch * candidates * tasks, form.type);
  const Buffer weights = random_buffers(1, batch * samples * tasks)[0];
  Buffer values(static_cast<std::size_t>(batch * samples * k));
  std::vector<std::int32_t> indices(values.size());
  pygrade::FusionOptions options;
  options.transform = form.transform;
  const Work work = [&](std::size_t i) {
    pygrade::fuse_topk(view(scores[i % scores.size()], batch, candidates, tasks, form), weights, samples, k, options,
                       {}, values, indices);
  };
  const double flops = 2.0 * static_cast<double>(batch * samples * candidates * tasks);
  compare(seconds, work, samples > 1 ? flop_bound(flops) : read_bound(scores));
}

void rank(double seconds, const Sizes& s) {
  const std::int64_t candidates = s[0], tasks = s[1], k = s[2], rules = s[3];
  const auto scores = random_buffers(rotations, candidates * tasks);
  const Buffer weights = random_buffers(1, tasks)[0];
  const Buffer boost = random_buffers(1, candidates, 0.5f, 1.5f)[0];
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(candidates));
  std::vector<std::int32_t> groups(mask.size());
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = i % 10 != 0, groups[i] = static_cast<std::int32_t>(i % 50);
  const std::int32_t cap = 3;
  pygrade::PageRules page;
  if (rules != 0) page = {mask, boost, boost, groups, {&cap, 1}};
  Buffer values(static_cast<std::size_t>(k));
  std::vector<std::int32_t> indices(values.size());
  const Work work = [&](std::size_t i) {
    pygrade::rank(view(scores[i % rotations], 1, candidates, tasks), weights, k, {}, page, values, indices);
  };
  compare(seconds, work, read_bound(scores));
}

// A page of one request; the bound is a pass over its embeddings.
void search_page(double seconds, const Sizes& s) {
  const std::int64_t candidates = s[0], width = s[1], k = s[2], categories = s[3], beam = s[4];
  const auto objective = static_cast<pygrade::PageObjective>(s[5]);
  const bool page_value = objective == pygrade::PageObjective::page_value;
  const auto value = random_buffers(rotations, candidates), root = random_buffers(rotations, candidates);
  auto embeddings = random_buffers(rotations, candidates * width, -1.0f, 1.0f);
  const Buffer centers = random_buffers(1, categories * width, -1.0f, 1.0f)[0];  // a cosine of .5 within a category
  std::mt19937 generator(0);
  std::vector<std::vector<std::int32_t>> category(rotations, std::vector<std::int32_t>(value[0].size()));
  for (std::size_t number = 0; number < rotations; ++number)
    for (std::int64_t i = 0; i < candidates; ++i) {
      const auto own = static_cast<std::int64_t>(generator() % static_cast<std::uint32_t>(categories));
      category[number][static_cast<std::size_t>(i)] = static_cast<std::int32_t>(own);
      float* vector = embeddings[number].data() + i * width;
      float square = 0.0f;
      for (std::int64_t d = 0; d < width; ++d) vector[d] += centers[static_cast<std::size_t>(own * width + d)];
      for (std::int64_t d = 0; d < width; ++d) square += vector[d] * vector[d];
      for (std::int64_t d = 0; d < width; ++d) vector[d] /= std::sqrt(square);
    }
  const Buffer pairs = random_buffers(1, categories * categories, -0.3f, 0.0f)[0];
  Buffer attention(static_cast<std::size_t>(k)), values(attention.size());
  for (std::size_t slot = 0; slot < attention.size(); ++slot)
    attention[slot] = 1.0f / std::sqrt(static_cast<float>(slot + 1));
  std::vector<std::int32_t> indices(attention.size());
  pygrade::PageSearch search;
  search.k = k;
  search.cosine = page_value ? -0.5f : 1.0f;
  search.objective = objective;
  search.beam = beam;
  if (page_value) {
    search.attention = search.examination = attention;
    search.pairs = pairs;
    search.category_count = categories;
  }
  const Work work = [&](std::size_t i) {
    pygrade::PageCandidates given;
    given.candidates = candidates;
    given.value = value[i % rotations];
    given.width = width;
    if (page_value) given.root = root[i % rotations], given.categories = category[i % rotations];
    if (width > 0) given.embeddings = embeddings[i % rotations];
    pygrade::search_page(given, search, {}, {}, values, indices);
  };
  compare(seconds, work, width > 0 ? read_bound(embeddings) : read_bound(value));
}

// From features and predictions to a page: all of Ranker::rank; `kind` of naive_rank, which then takes turns.
void policy_rank(double seconds, const Sizes& s, const char* directory, int kind = -1) {
  const std::int64_t candidates = s[0], tasks = s[1], features = s[2], k = s[3];
  const auto ranker = pygrade::Ranker::load(directory);
  const auto scores = random_buffers(rotations, candidates * tasks, 0.001f, 1.0f);
  const auto contexts = random_buffers(rotations, features, -1.0f, 1.0f);
  Buffer values(static_cast<std::size_t>(k));
  std::vector<std::int32_t> indices(values.size());
  const Work work = [&](std::size_t i) {
    pygrade::Request request;
    request.context = contexts[i % rotations];
    request.predictions = scores[i % rotations];
    ranker->rank(request, {values, indices});
  };
  const Work naive = [&](std::size_t i) {
    naive_rank(contexts[i % rotations].data(), static_cast<int>(features), scores[i % rotations].data(),
               static_cast<int>(candidates), static_cast<int>(tasks), kind, static_cast<int>(k), values.data(),
               indices.data());
  };
  compare(seconds, work, kind < 0 ? Bound{} : Bound{"naive loop", naive});
}

void topk_gain(double seconds, const Sizes& s) {
  const std::int64_t batch = s[0], samples = s[1], candidates = s[2], tasks = s[3], k = s[4], components = s[5];
  const auto scores = random_buffers(4, batch * candidates * tasks);
  const Buffer weights = random_buffers(1, batch * samples * tasks)[0];
  const Buffer gains = random_buffers(1, batch * candidates * components)[0];
  const Buffer discount = random_buffers(1, k)[0];
  Buffer gain(static_cast<std::size_t>(batch * samples * components));
  const Work work = [&](std::size_t i) {
    pygrade::topk_gain(view(scores[i % scores.size()], batch, candidates, tasks), weights, samples, gains, discount, {},
                       0, {}, components, {}, gain);
  };
  compare(seconds, work, flop_bound(2.0 * static_cast<double>(batch * samples * candidates * tasks)));
}

struct Draws {
  pygrade::DirichletShape shape;
  std::vector<Buffer> concentrations;
  Buffer weights, log_weights, log_prob, gradient;

  explicit Draws(const Sizes& s, float level = 1.0f)
      : shape{s[0], s[1], s[2]},
        concentrations(random_buffers(rotations, s[0] * s[2], 0.5f * level, 1.5f * level)),
        weights(static_cast<std::size_t>(s[0] * s[1] * s[2])),
        log_weights(weights.size()),
        log_prob(static_cast<std::size_t>(s[0] * s[1])),
        gradient(static_cast<std::size_t>(s[0] * s[2])) {
    draw(0);
  }

  void draw(std::size_t i) {
    pygrade::dirichlet_sample(concentrations[i % rotations], shape, i, 0, weights, log_weights, log_prob);
  }
};

void dirichlet_sample(double seconds, const Sizes& s) {
  Draws draws(s, static_cast<float>(s[3]) / 1000.0f);
  compare(seconds, [&](std::size_t i) { draws.draw(i); });
}

void dirichlet_score(double seconds, const Sizes& s) {
  Draws draws(s);
  compare(seconds, [&](std::size_t i) {
    const Buffer& concentration = draws.concentrations[i % rotations];
    pygrade::dirichlet_score(concentration, draws.log_weights, {}, draws.shape, 0.0, draws.log_prob, draws.gradient);
  });
}

void grpo_loss(double seconds, const Sizes& s) {
  Draws draws(s);
  const Buffer old = draws.log_prob;
  const Buffer advantages = random_buffers(1, s[0] * s[1], -1.0f, 1.0f)[0];
  std::vector<Buffer> outputs(5, Buffer(static_cast<std::size_t>(s[0])));
  pygrade::GrpoOptions options;
  options.weight_floor = 0.0;
  compare(seconds, [&](std::size_t i) {
    const pygrade::GrpoInputs inputs{draws.concentrations[i % rotations], draws.log_weights, old, advantages,
                                     draws.concentrations[0]};
    pygrade::grpo_loss(inputs, draws.shape, options,
                       {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4], draws.gradient});
  });
}

void group_advantage(double seconds, const Sizes& s, pygrade::Normalize normalize) {
  const auto rewards = random_buffers(rotations, s[0] * s[1]);
  const float one = 1.0f;
  Buffer advantage(rewards[0].size());
  pygrade::AdvantageOptions options;
  options.normalize = normalize;
  options.clip = 5.0f;
  const Work work = [&](std::size_t i) {
    pygrade::group_advantage(rewards[i % rotations], {&one, 1}, s[0], s[1], options, advantage);
  };
  const Work copy = [&](std::size_t i) {
    const Buffer& source = rewards[i % rotations];
    std::memcpy(advantage.data(), source.data(), source.size() * sizeof(float));
    sink = advantage[i % advantage.size()];
  };
  compare(seconds, work, {"copy", copy});
}

struct Operation {
  const char* name;
  const char* sizes;
  std::function<void(double, const Sizes&)> run;
};
}  // namespace

int main(int argc, char** argv) {
  using pygrade::Normalize;
  using pygrade::Transform;
  const char* directory = std::getenv("PYGRADE_BENCH_POLICY");
  const auto topk = [](Form form) { return [form](double t, const Sizes& s) { fuse_topk(t, s, form); }; };
  const std::vector<Operation> operations = {
      {"fuse_topk", "BGNTk", topk({})},
      {"fuse_topk_log", "BGNTk", topk({.transform = Transform::log})},
      {"fuse_topk_log1p", "BGNTk", topk({.transform = Transform::log1p})},
      {"fuse_topk_zscore", "BGNTk", topk({.transform = Transform::zscore})},
      {"fuse_topk_zlog", "BGNTk", topk({.transform = Transform::zlog})},
      {"fuse_topk_float16", "BGNTk", topk({.type = pygrade::ScoreType::float16})},
      {"fuse_topk_bfloat16", "BGNTk", topk({.type = pygrade::ScoreType::bfloat16})},
      {"fuse_topk_task-major", "BGNTk", topk({.layout = pygrade::Layout::task_major})},
      {"rank", "NTkR", rank},  // R: 0 no rules, 1 mask, boosts and a cap
      {"policy_rank", "NTFk", [=](double t, const Sizes& s) { policy_rank(t, s, directory ? directory : ""); }},
      {"naive_rank", "NTFkm",  // m: the kind
       [=](double t, const Sizes& s) { policy_rank(t, s, directory ? directory : "", static_cast<int>(s[4])); }},
      {"search_page", "NdkCwo", search_page},  // w: beam, o: objective
      {"topk_gain", "BGNTkC", topk_gain},
      {"dirichlet_sample", "BGTa", dirichlet_sample},  // a: mean concentration in thousandths
      {"dirichlet_score", "BGT", dirichlet_score},
      {"grpo_loss", "BGT", grpo_loss},
      {"group_advantage_group", "BG", [](double t, const Sizes& s) { group_advantage(t, s, Normalize::group); }},
      {"group_advantage_batch", "BG", [](double t, const Sizes& s) { group_advantage(t, s, Normalize::batch); }},
  };
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0.0;
  const std::string name = argc > 2 ? argv[2] : "";
  Sizes sizes;
  for (int i = 3; i < argc; ++i) sizes.push_back(std::atoll(argv[i]));
  for (const Operation& operation : operations)
    if (name == operation.name && sizes.size() == std::strlen(operation.sizes)) {
      operation.run(seconds, sizes);
      return 0;
    }
  std::fputs("expected SECONDS OP SIZES…, with one number for each letter:\n", stderr);
  for (const Operation& operation : operations) std::fprintf(stderr, "  %s %s\n", operation.name, operation.sizes);
  return 2;
}
