#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "check.hpp"
#include "pygrade/page_search.hpp"

using namespace pygrade;

namespace {

using Floats = std::vector<float>;
using Ints = std::vector<std::int32_t>;

// Five candidates of three categories; a category satiates, and category 2 helps category 1.
const Floats root = {1.0f, 0.95f, 0.6f, 0.5f, 0.4f};
const Floats value(5, 0.0f);
const Ints categories = {0, 0, 1, 1, 2};
const Floats pairs = {-2, 0, 0, 0, -2, 0, 0, 3, -2};

struct Page {
  Ints items;
  Floats scores;
};

struct Call {
  PageCandidates candidates;
  PageSearch search;
  PageRules rules;
  Ints pins;

  Call() {
    candidates.candidates = 5;
    candidates.value = value;
    candidates.root = root;
    candidates.categories = categories;
    search.k = 3;
    search.pairs = pairs;
    search.category_count = 3;
  }
  Page run() const {
    const auto size = static_cast<std::size_t>(candidates.batch * search.k);
    Page page{Ints(size, -7), Floats(size, -7.0f)};
    search_page(candidates, search, rules, pins, page.scores, page.items);
    return page;
  }
};

// A page's scores by its definition, in double.
std::vector<double> scores_of(const Ints& items) {
  std::vector<double> scores;
  for (std::size_t slot = 0; slot < items.size(); ++slot) {
    double effect = 0.0;
    for (std::size_t above = 0; above < slot; ++above)
      effect += pairs[static_cast<std::size_t>(categories[items[above]] * 3 + categories[items[slot]])];
    scores.push_back(root[items[slot]] * std::exp(effect));
  }
  return scores;
}

}  // namespace

TEST(greedy_looks_only_at_the_next_slot) {
  const Page page = Call().run();
  CHECK_EQUAL(page.items, (Ints{0, 2, 4}));
  const auto wanted = scores_of(page.items);
  for (int slot = 0; slot < 3; ++slot) CHECK_NEAR(page.scores[slot], wanted[slot], 1e-6);
}

TEST(a_beam_that_keeps_every_prefix_finds_the_best_page) {
  Call call;
  call.search.beam = 64;
  const Page page = call.run();
  Ints order = {0, 1, 2, 3, 4}, best;
  double most = -1.0;
  do {
    const Ints items(order.begin(), order.begin() + 3);
    const auto scores = scores_of(items);
    if (const double total = std::accumulate(scores.begin(), scores.end(), 0.0); total > most)
      most = total, best = items;
  } while (std::ranges::next_permutation(order).found);
  CHECK_EQUAL(page.items, best);
}

TEST(the_closest_item_above_counts_against_a_candidate) {
  Call call;
  const Floats likeness = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  call.candidates.value = root;
  call.candidates.root = {};
  call.search.pairs = likeness;
  call.search.objective = PageObjective::mmr;
  CHECK_EQUAL(call.run().items, (Ints{0, 2, 4}));
  call.search.trade_off = 1.0f;
  CHECK_EQUAL(call.run().items, (Ints{0, 1, 2}));
}

TEST(a_determinant_leaves_out_what_is_alike) {
  const Floats embeddings = {1, 0, 0.6f, 0.8f, 1, 0, 0, 1, 0.8f, 0.6f};  // 0 and 2 are the same
  Call call;
  call.candidates.value = root;
  call.candidates.root = {};
  call.candidates.categories = {};
  call.candidates.embeddings = embeddings;
  call.candidates.width = 2;
  call.search.pairs = {};
  call.search.category_count = 0;
  call.search.cosine = 1.0f;
  call.search.objective = PageObjective::log_det;
  call.search.trade_off = 0.1f;
  call.search.k = 2;
  CHECK_EQUAL(call.run().items, (Ints{0, 3}));
  call.search.k = 5;  // beyond the rank of two: by value
  CHECK_EQUAL(call.run().items, (Ints{0, 3, 1, 2, 4}));
}

TEST(pins_keep_their_slots_and_count_for_the_caps) {
  Call call;
  const Ints groups = {7, 7, 8, 8, -1}, caps = {1};
  call.pins = {-1, 1, -1};
  for (const std::int64_t beam : {1, 4}) {
    call.search.beam = beam;
    call.rules = {};
    CHECK_EQUAL(call.run().items[1], 1);
    call.rules.groups = groups;
    call.rules.caps = caps;
    const Page page = call.run();
    CHECK_EQUAL(page.items[1], 1);
    CHECK(page.items[0] != 0 && page.items[2] != 0);
    CHECK_EQUAL(page.items[0] / 2 == 1, page.items[2] / 2 != 1);  // one of 2 and 3
  }
  const std::vector<std::uint8_t> mask = {1, 0, 1, 1, 1};
  call.rules.mask = mask;
  CHECK(call.run().items[1] != 1);  // ineligible: its slot is free
}

TEST(slots_without_a_candidate_stay_empty) {
  const std::vector<std::uint8_t> mask = {0, 0, 0, 1, 0};
  Call call;
  call.rules.mask = mask;
  for (const std::int64_t beam : {1, 3}) {
    call.search.beam = beam;
    const Page page = call.run();
    CHECK_EQUAL(page.items, (Ints{3, -1, -1}));
    CHECK_EQUAL(page.scores, (Floats{0.5f, -INFINITY, -INFINITY}));
  }
}

TEST(ties_go_to_the_lower_index_and_nan_comes_last) {
  const Floats equal = {NAN, 1, 1, -INFINITY, 1};
  const Ints none(5, -1);
  Call call;
  call.candidates.root = equal;
  call.candidates.categories = none;
  call.search.k = 5;
  for (const std::int64_t beam : {1, 2}) {
    call.search.beam = beam;
    CHECK_EQUAL(call.run().items, beam == 1 ? (Ints{1, 2, 4, 3, 0}) : call.run().items);
    CHECK_EQUAL(call.run().items.front(), 1);
  }
}

TEST(a_batch_is_its_requests) {
  Floats values(23), roots(23), embeddings;
  Ints cats(23), groups(23);
  for (int i = 0; i < 23; ++i) {
    values[i] = 0.01f * static_cast<float>(i * 7 % 23), roots[i] = 0.04f * static_cast<float>(i * 5 % 23);
    cats[i] = i % 4 - 1, groups[i] = i % 5;
    const float angle = 0.7f * static_cast<float>(i * i % 17);
    embeddings.insert(embeddings.end(), {std::cos(angle), std::sin(angle), 0.0f});
  }
  const std::vector<std::int64_t> offsets = {0, 3, 3, 23};
  const Ints caps = {2};
  const Floats attention = {1, 0.6f, 0.4f, 0.3f};
  Call call;
  call.candidates = {3, 0, offsets, values, roots, cats, embeddings, 3};
  call.search.k = 4;
  call.search.attention = call.search.examination = attention;
  call.search.cosine = -0.5f;
  call.rules.groups = groups;
  call.rules.caps = caps;
  for (const std::int64_t beam : {1, 8}) {
    call.search.beam = beam;
    const Page all = call.run();
    CHECK_EQUAL((Ints(all.items.begin() + 3, all.items.begin() + 8)), Ints(5, -1));
    Call last = call;
    last.candidates = {1,
                       20,
                       {},
                       std::span(values).subspan(3),
                       std::span(roots).subspan(3),
                       std::span(cats).subspan(3),
                       std::span(embeddings).subspan(9),
                       3};
    last.rules.groups = std::span(groups).subspan(3);
    const Page one = last.run();
    CHECK_EQUAL(one.items, Ints(all.items.begin() + 8, all.items.end()));
    CHECK_EQUAL(one.scores, Floats(all.scores.begin() + 8, all.scores.end()));
  }
}

TEST(what_does_not_fit_is_refused) {
  const auto refused = [](const char* message, const std::function<void(Call&)>& change) {
    Call call;
    change(call);
    CHECK_THROWS(std::invalid_argument, message, call.run());
  };
  const Ints wrong = {0, 0, 1, 3, 2};
  const Floats two = {1, 2}, negative = {1, 1, -1}, ten = {1, 0, 1, 0, 1, 1, 0, 0, 1, 0}, infinite(9, INFINITY);
  refused("k is 0; want at least 1", [](Call& c) { c.search.k = 0; });
  refused("beam is 65; want 1 to 64", [](Call& c) { c.search.beam = 65; });
  refused("beam is 2; want 1 to 64, and 1 but for page_value", [](Call& c) {
    c.search.objective = PageObjective::mmr;
    c.search.beam = 2;
  });
  refused("root holds 0 values; want 5", [](Call& c) { c.candidates.root = {}; });
  refused("root holds 5 values; want 0", [](Call& c) { c.search.objective = PageObjective::mmr; });
  refused("attention holds 2 values; want 3", [&](Call& c) { c.search.attention = two; });
  refused("examination is -1.000000 at 2; want a finite number >= 0",
          [&](Call& c) { c.search.examination = negative; });
  refused("attention and examination are read for page_value alone", [&](Call& c) {
    c.search.objective = PageObjective::log_det;
    c.search.attention = negative;
  });
  refused("categories is 3 at 3; want -1 or more, and below 3", [&](Call& c) { c.candidates.categories = wrong; });
  refused("categories and pairs go together", [](Call& c) { c.candidates.categories = {}; });
  refused("pairs is inf at 0; want a finite number", [&](Call& c) { c.search.pairs = infinite; });
  refused("embeddings is not of length 1 at candidate 2", [&](Call& c) {
    c.candidates.embeddings = ten;
    c.candidates.width = 2;
  });
  refused("embeddings has 0 components; want 1 to 256", [&](Call& c) { c.candidates.embeddings = ten; });
  refused("cosine is nan", [](Call& c) { c.search.cosine = NAN; });
  refused("trade_off is 1.5", [](Call& c) { c.search.trade_off = 1.5f; });
  refused("pins is 5 at 1; want -1 or more, and below 5", [](Call& c) { c.pins = {-1, 5, 0}; });
}
