// Every op on awkward sizes in exact memory, for the sanitizers, each on one thread and on five. What the ops compute
// is tested from Python, on every instruction set (tests/ops).
#include <bit>
#include <limits>
#include <stdexcept>

#include "check.hpp"
#include "pygrade/advantage.hpp"
#include "pygrade/gain.hpp"
#include "pygrade/grpo.hpp"
#include "pygrade/lambdaloss.hpp"
#include "pygrade/page_search.hpp"

#define PYGRADE_ISA_NAMESPACE tests
#include "simd/numerics.hpp"

using namespace pygrade;

namespace {
using Values = std::vector<float>;
using Labels = std::vector<std::int32_t>;

constexpr float missing = std::numeric_limits<float>::quiet_NaN();

Values noise(std::int64_t count, unsigned seed = 1, float low = 0.0f) {
  Values values(static_cast<std::size_t>(count));
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = low + static_cast<float>(seed >> 8) * 0x1p-24f;
  }
  return values;
}

Labels labels(std::int64_t count, std::int32_t end, unsigned seed) {
  Labels values;
  for (const float value : noise(count, seed))
    values.push_back(static_cast<std::int32_t>(value * static_cast<float>(end + 1)) - 1);
  return values;
}

std::size_t size(std::int64_t count) { return static_cast<std::size_t>(count); }

// Bits of what a call with a number of threads writes to `count` floats (which all are written).
template <class Call>
Values written(std::int64_t count, Call&& call) {
  const float unwritten = std::bit_cast<float>(0x7fc0dead);
  Values one(size(count), unwritten), many(one);
  call(std::span(one), 1);
  call(std::span(many), 5);
  for (std::size_t i = 0; i < one.size(); ++i) {
    CHECK_EQUAL(std::bit_cast<std::uint32_t>(one[i]), std::bit_cast<std::uint32_t>(many[i]));
    CHECK(std::bit_cast<std::uint32_t>(one[i]) != 0x7fc0deadu);
  }
  return one;
}

struct Rows {
  std::int64_t batch, candidates;
  std::vector<std::int64_t> offsets;  // empty: dense
  std::int64_t count() const { return offsets.empty() ? batch * candidates : offsets.back(); }
  Scores scores(const void* data, std::int64_t tasks, ScoreType type, Layout layout = Layout::item_major) const {
    return offsets.empty() ? Scores::dense(data, type, batch, candidates, tasks, layout)
                           : Scores::jagged(data, type, count(), tasks, offsets, layout);
  }
};

const std::vector<Rows> all_rows = {{1, 1, {}},  {2, 0, {}},   {0, 5, {}},
                                    {3, 37, {}}, {1, 700, {}}, {4, 0, {0, 0, 65, 66, 400}}};
}  // namespace

TEST(scores_are_transformed_fused_and_ranked) {
  for (const Rows& rows : all_rows)
    for (const std::int64_t tasks : {1, 2, 7, 17, 64})
      for (const ScoreType type : {ScoreType::float32, ScoreType::float16, ScoreType::bfloat16})
        for (const Layout layout : {Layout::item_major, Layout::task_major}) {
          const std::int64_t count = rows.count();
          const Values wide = noise(count * tasks);
          std::vector<std::uint16_t> half(wide.size());
          for (std::size_t i = 0; i < half.size(); ++i)
            half[i] = static_cast<std::uint16_t>(0x3000 + static_cast<int>(wide[i] * 0x0f80));
          const bool whole = type == ScoreType::float32;
          const Scores scores =
              rows.scores(whole ? static_cast<const void*>(wide.data()) : half.data(), tasks, type, layout);
          for (const std::int64_t samples : {1, 5}) {
            const Values weights = noise(rows.batch * samples * tasks, 3), slope = noise(tasks, 4);
            const std::vector<std::uint8_t> mask(size(count), 1);
            for (int code = 0; code < static_cast<int>(transforms.size()); ++code) {
              const FusionOptions options{.transform = static_cast<Transform>(code), .slope = slope.data()};
              written(count * tasks, [&](auto out, int threads) { transform_scores(scores, options, out, threads); });
              written(count * samples,
                      [&](auto out, int threads) { fuse_scores(scores, weights, samples, options, out, threads); });
              Labels indices(size(rows.batch * samples * 9)), lists(indices);
              const auto best = written(rows.batch * samples * 9, [&](auto out, int threads) {
                fuse_topk(scores, weights, samples, 9, options, {}, out, indices, threads);
              });
              const auto masked = written(rows.batch * samples * 9, [&](auto out, int threads) {
                fuse_topk(scores, weights, samples, 9, options, mask, out, lists, threads);
              });
              CHECK_EQUAL(indices, lists);
              CHECK_EQUAL(best, masked);
            }
            const Values gains = noise(count * 2, 5), discount = noise(9, 6);
            const Labels none(2, -1);
            written(rows.batch * samples * 2, [&](auto out, int threads) {
              topk_gain(scores, weights, samples, gains, discount, {}, 0, none, 2, {}, out, threads);
            });
          }
        }
}

TEST(pages_obey_every_rule) {
  for (const Rows& rows : all_rows)
    for (const std::int64_t width : {0, 5, 64})
      for (const std::int64_t beam : {1, 6})
        for (const PageObjective objective : {PageObjective::page_value, PageObjective::mmr, PageObjective::log_det}) {
          const bool page_value = objective == PageObjective::page_value;
          if (beam > 1 && !page_value) continue;
          const std::int64_t count = rows.count(), k = 8;
          const Values value = noise(count), root = noise(count, 2), boost = noise(count, 3, 0.5f), slots = noise(k, 4);
          const Values pairs = noise(9, 5, -0.5f), decay = {0.5f, 1.0f};
          Values embeddings(size(count * width));
          for (std::int64_t i = 0; i < count && width > 0; ++i) embeddings[size(i * width + i % width)] = 1.0f;
          const Labels categories = labels(count, 3, 6), groups = labels(2 * count, 4, 7), caps = {1, 2},
                       tops = {3, -1};
          const Labels pins(size(rows.batch * k), -1);
          std::vector<std::uint8_t> mask(size(count), 1);
          for (std::size_t i = 0; i < mask.size(); i += 3) mask[i] = 0;
          const PageRules rules{mask, boost, boost, groups, caps, tops, decay};
          const PageCandidates candidates{rows.batch,
                                          rows.candidates,
                                          rows.offsets,
                                          value,
                                          page_value ? std::span<const float>(root) : std::span<const float>(),
                                          categories,
                                          embeddings,
                                          width};
          PageSearch search{.k = k, .pairs = pairs, .category_count = 3, .cosine = 0.5f, .objective = objective};
          search.beam = beam;
          if (page_value) search.attention = search.examination = slots;
          Labels page(size(rows.batch * k));
          written(rows.batch * k,
                  [&](auto out, int threads) { search_page(candidates, search, rules, pins, out, page, threads); });
          const Values weights(size(rows.batch), 1.0f);
          Labels ranked(page.size());
          const Scores scores = rows.scores(value.data(), 1, ScoreType::float32);
          written(rows.batch * k,
                  [&](auto out, int threads) { rank(scores, weights, k, {}, rules, out, ranked, threads); });
          for (const Labels& items : {page, ranked})
            for (std::int64_t b = 0; b < rows.batch; ++b) {
              const std::int64_t first = rows.offsets.empty() ? b * rows.candidates : rows.offsets[size(b)];
              Labels members(4);
              for (std::int64_t slot = 0; slot < k; ++slot) {
                const std::int32_t item = items[size(b * k + slot)];
                if (item < 0) continue;
                CHECK(mask[size(first + item)] != 0);
                const std::int32_t top = groups[size(2 * (first + item))], all = groups[size(2 * (first + item) + 1)];
                if (all >= 0) CHECK(++members[size(all)] <= 2);
                for (std::int64_t other = 0; other < slot && slot < 3 && top >= 0; ++other)
                  if (items[size(b * k + other)] >= 0)
                    CHECK(groups[size(2 * (first + items[size(b * k + other)]))] != top);
              }
            }
        }
}

TEST(draws_keep_their_bits_forever) {  // otherwise logged seeds no longer reproduce logged weights
  const auto words = [](std::uint64_t key, std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    const auto w = detail::tests::philox(key, a, b, c, d);
    return std::vector<std::uint32_t>{w.w0, w.w1, w.w2, w.w3};
  };  // the known answers of Random123
  CHECK_EQUAL(words(0, 0, 0, 0, 0), (std::vector<std::uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK_EQUAL(words(0x299f31d0a4093822, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344),
              (std::vector<std::uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  const Values concentration = {0.02f, 1.0f, 30.0f, 1e-30f, 1e6f, 0.5f};
  const Values logs = written(12, [&](auto out, int threads) {
    dirichlet_sample(concentration, {2, 2, 3}, (1ull << 63) + 12345, (1ull << 32) - 1, {}, out, {}, true, threads);
  });
  std::vector<std::uint32_t> bits;
  for (const float value : logs) bits.push_back(std::bit_cast<std::uint32_t>(value));
  CHECK_EQUAL(bits,
              (std::vector<std::uint32_t>{0xc1b17c46, 0xc0ce58d0, 0xbacfabaa, 0xc2a2b9bb, 0xc00ed748, 0xbde88416,
                                          0xf0de5171, 0xb3c21d20, 0xc181c0c1, 0xf0df0521, 0xb4789403, 0xc1747562}));
}

TEST(densities_and_losses) {
  for (const std::int64_t batch : {0, 1, 9})
    for (const std::int64_t samples : {1, 7, 70})
      for (const std::int64_t tasks : {1, 3, 8, 64}) {
        const DirichletShape shape{batch, samples, tasks};
        const std::int64_t lists = batch * samples, each = batch * tasks;
        const Values alpha = noise(each, 1, 0.1f), other = noise(each, 2, 0.1f), upstream = noise(lists, 3, -0.5f);
        Values gradient(size(each)), second(gradient), rest(size(batch)), value(size(lists));
        const Values logs = written(lists * tasks, [&](auto out, int threads) {
          dirichlet_sample(alpha, shape, 1, 0, {}, out, {}, true, threads);
        });
        const Values old = written(
            lists, [&](auto out, int threads) { dirichlet_log_prob(alpha, logs, shape, 1e-5, out, true, threads); });
        const Values score = written(each, [&](auto out, int threads) {
          dirichlet_score(alpha, logs, upstream, shape, 1e-5, value, out, true, threads);
        });
        CHECK_EQUAL(value, old);
        CHECK_EQUAL(score, written(each, [&](auto out, int threads) {
                      dirichlet_log_prob_backward(alpha, logs, upstream, shape, 1e-5, out, threads);
                    }));
        written(batch, [&](auto out, int threads) { dirichlet_entropy(alpha, tasks, out, gradient, true, threads); });
        written(batch, [&](auto out, int threads) {
          dirichlet_kl(alpha, other, tasks, out, gradient, second, true, threads);
        });
        written(lists * tasks, [&](auto out, int threads) { floor_log_weights(logs, tasks, 1e-3, out, threads); });
        written(batch, [&](auto out, int threads) {
          grpo_loss({alpha, logs, old, upstream, other}, shape, {}, {out, rest, rest, rest, rest, gradient}, true,
                    threads);
        });
        const Values rewards = noise(lists * 2, 6), importance = {1.0f, 0.5f}, discount = noise(5, 7);
        for (const Normalize normalize : {Normalize::none, Normalize::group, Normalize::batch, Normalize::component})
          for (const bool leave_one_out : {false, true})
            written(lists, [&](auto out, int threads) {
              group_advantage(rewards, importance, batch, samples, {normalize, leave_one_out}, out, false, threads);
            });
        Values slope(size(lists));
        written(batch, [&](auto out, int threads) {
          lambda_loss(upstream, old, {}, discount, batch, 1.0f, out, slope, false, threads);
        });
      }
}

TEST(what_does_not_fit_is_refused_by_name) {
  const Values four = noise(4), three(3);
  Values out(4);
  Labels indices(4);
  const Scores scores = Scores::dense(four.data(), ScoreType::float32, 1, 4, 1);
  const Values one = {1.0f};
  const auto ranked = [&](const PageRules& rules) { rank(scores, one, 4, {}, rules, out, indices); };
  CHECK_THROWS(std::invalid_argument, "values holds 3", transform_scores(scores, {}, std::span(out).first(3)));
  CHECK_THROWS(std::invalid_argument, "weights holds 3", fuse_scores(scores, three, 1, {}, out));
  CHECK_THROWS(std::invalid_argument, "boost_add holds 3", ranked({.boost_add = three}));
  CHECK_THROWS(std::invalid_argument, "groups is given alone", ranked({.groups = indices}));
  CHECK_THROWS(std::invalid_argument, "caps[0] is -2", ranked({.groups = indices, .caps = Labels{-2}}));
  CHECK_THROWS(std::invalid_argument, "cap_slots holds 1",
               ranked({.groups = indices, .cap_slots = Labels{1}, .decay = one}));
  CHECK_THROWS(std::invalid_argument, "decay[0] is nan", ranked({.groups = indices, .decay = Values{missing}}));
  CHECK_THROWS(std::invalid_argument, "concentration holds 4", dirichlet_sample(four, {2, 1, 3}, 1, 0, {}, {}, {}));
  CHECK_THROWS(std::invalid_argument, "rewards holds 4", group_advantage(four, one, 2, 3, {}, out));
  CHECK_THROWS(std::invalid_argument, "gains holds 3", lambda_loss(four, three, {}, one, 2, 1.0f, out, out));
  CHECK_THROWS(std::invalid_argument, "advantages holds 3",
               grpo_loss({four, four, Values(2), three, four}, {2, 1, 2}, {}, {}));
}
