#include <limits>
#include <stdexcept>

#include "check.hpp"
#include "pygrade/ranking.hpp"

using namespace pygrade;

namespace {

constexpr float missing = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

struct Page {
  std::vector<float> values;
  std::vector<std::int32_t> indices;
};

Page rank_of(const Scores& scores, const std::vector<float>& weights, std::int64_t k, const PageRules& rules = {},
             int threads = 1) {
  const auto size = static_cast<std::size_t>(scores.batch * k);
  Page page{std::vector<float>(size, missing), std::vector<std::int32_t>(size, -7)};
  rank(scores, weights, k, {}, rules, page.values, page.indices, threads);
  return page;
}

Scores one_request(const std::vector<float>& scores, std::int64_t tasks = 1) {
  return Scores::dense(scores.data(), ScoreType::float32, 1, static_cast<std::int64_t>(scores.size()) / tasks, tasks);
}

const std::vector<float> one = {1.0f};

}  // namespace

TEST(a_page_is_fused_masked_boosted_and_ordered) {
  const std::vector<float> scores = {1, 1, 4, 0, 0, 3, 2, 2};  // four candidates of two tasks
  const std::vector<std::uint8_t> mask = {1, 0, 1, 1};
  const std::vector<float> mul = {1, 1, 2, 1};
  const std::vector<float> add = {0, 0, 0.5f, 1};
  PageRules rules;
  rules.mask = mask;
  const auto plain = rank_of(one_request(scores, 2), {1, 0.5f}, 5, rules);
  CHECK_EQUAL(plain.indices, (std::vector<std::int32_t>{3, 0, 2, -1, -1}));
  CHECK_EQUAL(plain.values, (std::vector<float>{3, 1.5f, 1.5f, -infinity, -infinity}));
  rules.boost_mul = mul;
  rules.boost_add = add;
  const auto boosted = rank_of(one_request(scores, 2), {1, 0.5f}, 2, rules);
  CHECK_EQUAL(boosted.indices, (std::vector<std::int32_t>{3, 2}));
  CHECK_EQUAL(boosted.values, (std::vector<float>{4, 3.5f}));
}

TEST(a_boost_never_demotes_and_a_factor_below_1_never_promotes) {
  const std::vector<float> scores = {-2, -1, -0.0f, 1, 3, -infinity, missing, infinity};
  const auto boosted = [&](float factor) {
    const std::vector<float> mul(scores.size(), factor);
    const auto page = rank_of(one_request(scores), one, 8, {{}, mul, {}, {}, {}});
    std::vector<float> by_row(scores.size());
    for (std::size_t i = 0; i < scores.size(); ++i) by_row[static_cast<std::size_t>(page.indices[i])] = page.values[i];
    return by_row;
  };
  const std::vector<float> twice = boosted(2), half = boosted(0.5f), none = boosted(0);
  CHECK_EQUAL(std::vector<float>(twice.begin(), twice.begin() + 6),
              (std::vector<float>{-1, -0.5f, 0, 2, 6, -infinity}));
  CHECK_EQUAL(std::vector<float>(half.begin(), half.begin() + 6),
              (std::vector<float>{-4, -2, 0, 0.5f, 1.5f, -infinity}));
  CHECK_EQUAL(std::vector<float>(none.begin(), none.begin() + 6),
              (std::vector<float>{-infinity, -infinity, 0, 0, 0, -infinity}));
  CHECK(twice[6] != twice[6] && twice[7] == infinity && none[7] != none[7]);
  const auto third = boosted(3);
  CHECK_EQUAL(third[1], -1.0f / 3.0f);  // a division, not the product with a reciprocal
}

TEST(nan_comes_last_and_ties_keep_their_order) {
  const auto page = rank_of(one_request({missing, 0.0f, -infinity, -0.0f, 1.0f, 1.0f}), one, 6);
  CHECK_EQUAL(page.indices, (std::vector<std::int32_t>{4, 5, 1, 3, 2, 0}));
  CHECK(page.values[5] != page.values[5]);
}

TEST(caps_hold_whatever_the_values_are) {
  std::vector<float> scores(3000);
  std::vector<std::int32_t> groups(2 * scores.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    scores[i] = static_cast<float>(scores.size() - i);
    groups[2 * i] = i < 2900 ? std::numeric_limits<std::int32_t>::max() : static_cast<std::int32_t>(i << 16);
    groups[2 * i + 1] = i % 2 == 0 ? -1 : 5;
  }
  const std::vector<std::int32_t> caps = {1, 3};
  PageRules rules;
  rules.groups = groups;
  rules.caps = caps;
  const auto page = rank_of(one_request(scores), one, 8, rules);
  CHECK_EQUAL(page.indices, (std::vector<std::int32_t>{0, 2900, 2901, 2902, 2903, 2904, 2905, 2906}));
  const std::vector<std::int32_t> none = {0, -1};
  rules.caps = none;
  CHECK_EQUAL(rank_of(one_request({3, 2, 1}), one, 2, {{}, {}, {}, std::span(groups).first(6), none}).indices,
              (std::vector<std::int32_t>{-1, -1}));
}

TEST(jagged_requests_threads_and_lone_requests_agree) {
  const std::vector<std::int64_t> offsets = {0, 40, 40, 41, 1500, 3000};
  std::vector<float> scores(3000 * 3);
  std::vector<std::int32_t> groups(3000);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>((i * 2654435761u) % 997) / 64.0f;
  for (std::size_t i = 0; i < groups.size(); ++i) groups[i] = static_cast<std::int32_t>(i % 7);
  const std::vector<float> weights = {1, 2, 3, 1, 0, 1, 0.5f, 0.25f, 1, 3, 1, 2, 1, 1, 1};
  const std::vector<std::int32_t> caps = {4};
  PageRules rules;
  rules.groups = groups;
  rules.caps = caps;
  const Scores batch = Scores::jagged(scores.data(), ScoreType::float32, 3000, 3, offsets);
  const auto page = rank_of(batch, weights, 20, rules);
  const auto threaded = rank_of(batch, weights, 20, rules, 4);
  CHECK(page.values == threaded.values && page.indices == threaded.indices);
  for (std::size_t b = 0; b < 5; ++b) {
    const auto first = static_cast<std::size_t>(offsets[b]);
    const std::int64_t count = offsets[b + 1] - offsets[b];
    rules.groups = std::span(groups).subspan(first, static_cast<std::size_t>(count));
    const auto alone =
        rank_of(Scores::dense(scores.data() + 3 * first, ScoreType::float32, 1, count, 3),
                {weights.begin() + 3 * b, weights.begin() + 3 * (b + 1)}, 20, count > 0 ? rules : PageRules{});
    CHECK_EQUAL(alone.indices,
                std::vector<std::int32_t>(page.indices.begin() + 20 * b, page.indices.begin() + 20 * (b + 1)));
  }
}

TEST(what_does_not_fit_is_refused_before_anything_is_written) {
  const std::vector<float> scores = {1, 2, 3};
  std::vector<float> values = {7, 7};
  std::vector<std::int32_t> indices = {7, 7};
  const auto refuses = [&](const char* part, std::int64_t k, const PageRules& rules, const FusionOptions& options = {},
                           std::size_t room = 2) {
    CHECK_THROWS(std::invalid_argument, part,
                 rank(one_request(scores), one, k, options, rules, std::span(values).first(room), indices));
  };
  const std::vector<std::uint8_t> mask = {1};
  const std::vector<std::int32_t> groups = {1, 2, 3};
  const std::vector<std::int32_t> caps = {-2};
  refuses("k is 0", 0, {});
  refuses("values holds 1 values; want 2", 2, {}, {}, 1);
  refuses("mask holds 1 values; want 3", 2, {mask, {}, {}, {}, {}});
  refuses("groups holds 3 values; want 0", 2, {{}, {}, {}, groups, {}});
  refuses("caps[0] is -2", 2, {{}, {}, {}, groups, caps});
  for (const float wrong : {-1.0f, missing, infinity}) {
    const std::vector<float> factors = {1, wrong, 0};
    refuses("at candidate 1; want a finite factor >= 0", 2, {{}, factors, {}, {}, {}});
  }
  const std::vector<float> negative = {1, -2, 3};
  CHECK_THROWS(std::invalid_argument, "negative",
               rank(one_request(negative), one, 2, {Transform::log}, {}, values, indices));
  CHECK_EQUAL(values, (std::vector<float>{7, 7}));
  CHECK_EQUAL(indices, (std::vector<std::int32_t>{7, 7}));
}
