#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <set>

#include "../../devtools/allocations.hpp"
#include "check.hpp"
#include "prerank.hpp"
#include "prerank/prerank.hpp"
#include "pygrade/prerank.hpp"

using namespace pygrade;
using namespace pygrade::tests;

namespace {
using Ids = std::vector<std::int64_t>;
using Floats = std::vector<float>;
constexpr float missing = std::numeric_limits<float>::quiet_NaN();

Floats numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  Floats values(count);
  for (float& v : values) v = static_cast<float>(random() >> 8) * 0x1p-23f - 1.0f;
  return values;
}

Ids every_third(std::size_t count) {
  Ids ids(count);
  for (std::size_t i = 0; i < count; ++i) ids[i] = static_cast<std::int64_t>(3 * i + 1);
  return ids;
}

float score_of(std::span<const float> vector, std::span<const float> item) {
  float score = 0.0f;
  for (std::size_t d = 0; d < vector.size(); ++d) score = std::fma(vector[d], item[d], score);
  return score;
}

// By sorting all items that pass.
Ids expected(const Ids& ids, const Floats& vectors, std::span<const float> vector, std::size_t n,
             const std::set<std::int64_t>& seen = {}, const std::set<std::int64_t>* eligible = nullptr) {
  std::vector<std::pair<float, std::int64_t>> all;
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (!seen.contains(ids[i]) && (eligible == nullptr || eligible->contains(ids[i])))
      all.emplace_back(-score_of(vector, std::span(vectors).subspan(i * vector.size(), vector.size())), ids[i]);
  std::ranges::sort(all);
  Ids best;
  for (std::size_t i = 0; i < std::min(n, all.size()); ++i) best.push_back(all[i].second);
  return best;
}

Ids found(const ItemIndex& index, std::span<const float> vector, std::size_t n, const Ids& seen = {},
          const std::optional<Ids>& eligible = {}) {
  Ids items(n, -7);
  std::optional<std::span<const std::int64_t>> allowed;
  if (eligible) allowed = *eligible;
  items.resize(index.search(vector, seen, allowed, items));
  return items;
}
}  // namespace

TEST(search_is_sorting_what_passes_the_filters) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    const std::size_t count = random() % 700, width = 1 + random() % (round % 2 == 0 ? 4 : 33), n = 1 + random() % 700;
    const Ids ids = every_third(count);
    Floats vectors = numbers(count * width, random()), vector = numbers(width, random());
    if (round % 2 == 0)  // ties
      for (Floats* values : {&vectors, &vector})
        for (float& v : *values) v = std::round(v);
    Ids seen, eligible;
    for (std::size_t i = 0; i < random() % 100; ++i) seen.push_back(static_cast<std::int64_t>(random() % 2100) - 2);
    for (std::size_t i = 0; i < random() % 400; ++i) eligible.push_back(static_cast<std::int64_t>(random() % 2100));
    const std::set<std::int64_t> left_out(seen.begin(), seen.end()), allowed(eligible.begin(), eligible.end());
    const auto index = ItemIndex::make(ids, vectors, width);
    CHECK_EQUAL(found(*index, vector, n, seen), expected(ids, vectors, vector, n, left_out));
    CHECK_EQUAL(found(*index, vector, n, seen, eligible), expected(ids, vectors, vector, n, left_out, &allowed));
  }
}

TEST(scores_are_those_of_the_chain_and_stay_within_the_memory_given) {
  const Floats vectors = numbers(50 * 9, 4), vector = numbers(9, 5);
  const auto index = ItemIndex::make(every_third(50), vectors, 9);
  Ids items(12, -7);
  Floats scores(13, missing);
  CHECK_EQUAL(index->search(vector, {}, {}, std::span(items).first(11), std::span(scores).first(12)), std::size_t{11});
  CHECK_EQUAL(items[11], -7);
  CHECK(std::isnan(scores[11]) && std::isnan(scores[12]));
  for (std::size_t i = 0; i < 11; ++i) {
    const auto place = static_cast<std::size_t>(items[i] / 3);
    CHECK_EQUAL(scores[i], score_of(vector, std::span(vectors).subspan(9 * place, 9)));
  }
}

TEST(an_empty_index_and_no_room_give_nothing) {
  const auto empty = ItemIndex::make({}, {}, 4);
  CHECK_EQUAL(found(*empty, Floats(4, 1.0f), 3), Ids{});
  const auto index = ItemIndex::make(Ids{5}, Floats{1.0f}, 1);
  CHECK_EQUAL(found(*index, Floats{2.0f}, 0), Ids{});
  CHECK_EQUAL(found(*index, Floats{2.0f}, 2, {5}), Ids{});
  CHECK_EQUAL(found(*index, Floats{2.0f}, 2, {}, Ids{}), Ids{});
  CHECK_EQUAL(found(*index, Floats{2.0f}, 2, {}, Ids{5, 5, 6}), Ids{5});
}

TEST(a_warm_prerank_allocates_nothing) {
  const PrerankFiles files = PrerankFiles{}.draw();
  const auto small = files.parse();
  const auto index = ItemIndex::make(every_third(5000), numbers(5000 * 6, 1), 6);
  const auto prerank = Prerank::make(small->tower(), index);
  const Floats dense(3, 0.5f);
  const Ids fields = {1, 1}, sequence = {2, 5, 9, -1}, seen = {4, 7}, eligible = every_third(3000);
  Ids items(400);
  Floats vector(6);
  for (int round = 0; round < 3; ++round) {
    const auto before = allocations;
    prerank->user_vector(dense, fields, sequence, vector);
    prerank->search(vector, seen, {}, items);
    prerank->search(vector, seen, std::span<const std::int64_t>(eligible), items);
    if (round > 0) CHECK_EQUAL(allocations, before);
  }
}

TEST(files_are_read_and_kept) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("pygrade_test_prerank_" + std::to_string(std::random_device{}()));
  const PrerankFiles files = PrerankFiles{}.draw();
  files.write(folder);
  const auto loaded = Prerank::load(folder);
  CHECK_EQUAL(loaded->schema_hash(), "schema-1");
  CHECK_EQUAL(loaded->width(), std::size_t{6});
  CHECK_EQUAL(loaded->num_items(), files.item_ids.size());
  std::filesystem::remove(folder / "prerank.safetensors");
  CHECK_THROWS(ArtifactMissing, "prerank.safetensors does not exist or can't be read; prerank.json",
               Prerank::load(folder));
  std::filesystem::remove_all(folder);
  const Floats vector = numbers(6, 3);
  CHECK_EQUAL(found(*loaded->index(), vector, 18), expected(files.item_ids, files.vectors, vector, 18));
  const ItemIndexLayout layout = loaded->index()->layout();
  for (const auto& owner : {std::shared_ptr<const void>(loaded), std::shared_ptr<const void>()}) {
    const auto again = ItemIndex::make(layout, owner);
    CHECK_EQUAL(again->layout().vectors.data() == layout.vectors.data(), owner != nullptr);
    CHECK_EQUAL(found(*again, vector, 18, {5}, Ids{5, 12, 62}), found(*loaded->index(), vector, 18, {5}, Ids{12, 62}));
  }
  CHECK_THROWS(ArtifactMissing, "prerank.json does not exist or can't be read; expected a directory",
               Prerank::load(folder));
}

TEST(files_that_do_not_fit_are_named) {
  struct Case {
    const char* message;
    void (*change)(PrerankFiles&);
  };
  for (const Case& c : std::initializer_list<Case>{
           {"prerank.json: it is \"pygrade.Prerank\" of version 2; this", [](auto& f) { f.version = 2; }},
           {"prerank.json: it is \"x\"", [](auto& f) { f.replaced["format"] = "\"x\""; }},
           {"its index is of kind \"ivf\", of an older pygrade", [](auto& f) { f.replaced["index_kind"] = "\"ivf\""; }},
           {"'width' is 1; expected a whole number from 2", [](auto& f) { f.config["width"] = "1"; }},
           {"'hidden' is 2e+06; expected a whole number", [](auto& f) { f.config["hidden"] = "2e6"; }},
           {"safetensors: item_table has 20 numbers; expected 24", [](auto& f) { f.config["width"] = "7"; }},
           {"tensor \"towers.user_tower.0.bias\" is absent",
            [](auto& f) { f.tensors.erase("towers.user_tower.0.bias"); }},
           {"request_fields.1.weight\" is [4, 2]; expected [5, 2]", [](auto& f) { f.sizes[1] = 5; }},
           {"item_ids has 2 after 9; expected ascending ids",
            [](auto& f) { f.item_ids = {1, 9, 2}, f.vectors.resize(18); }},
           {"item_ids holds -4; expected ids >= 0", [](auto& f) { f.known[0] = -4; }},
           {"output_bias is not finite at 2",
            [](auto& f) { f.tensors["towers.user_tower.3.bias"].values[2] = missing; }},
           {"vectors is not finite at 64", [](auto& f) { f.vectors[4] = missing; }},
           {"\"inputs.length\" is not one number >= 0", [](auto& f) { f.length = -1; }}}) {
    PrerankFiles files = PrerankFiles{}.draw();
    c.change(files);
    CHECK_THROWS(ArtifactError, c.message, files.parse());
  }
  const PrerankFiles files = PrerankFiles{}.draw();
  std::string tensors = files.safetensors(), json = files.json();
  tensors.back() ^= 1;
  CHECK_THROWS(ArtifactError, "prerank.safetensors has sha256", Prerank::parse(json, bytes(tensors)));
  json.replace(json.find("0.1"), 3, "0.2");
  CHECK_THROWS(ArtifactError, "it was changed after it was saved", Prerank::parse(json, bytes(files.safetensors())));
}

TEST(arguments_are_checked_by_name) {
  const auto prerank = PrerankFiles{}.draw().parse();
  Floats vector(6, 1.0f), bad(6, missing);
  Ids items(3), sequence(4), fields(2);
  const auto check = [](const char* message, const std::function<void()>& call) {
    CHECK_THROWS(std::invalid_argument, message, (call(), 0));
  };
  check("request_dense has 2 numbers; expected 3", [&] { prerank->user_vector(Floats(2), fields, sequence, vector); });
  check("request_ids has 4 numbers; expected 2", [&] { prerank->user_vector(Floats(3), sequence, sequence, vector); });
  check("sequence has 2 numbers; expected 4", [&] { prerank->user_vector(Floats(3), fields, fields, vector); });
  check("vector has 5 numbers; expected 6",
        [&] { prerank->user_vector(Floats(3), fields, sequence, std::span(vector).first(5)); });
  check("vector has 5 numbers; expected 6", [&] { prerank->search(std::span(vector).first(5), {}, {}, items); });
  check("vector is not finite at 0", [&] { prerank->search(bad, {}, {}, items); });
  check("scores has room for 2 numbers; expected 3", [&] {
    Floats scores(2);
    prerank->search(vector, {}, {}, items, scores);
  });
  check("width is 0; expected at least 1", [&] { ItemIndex::make({}, {}, 0); });
  check("vectors has 5 numbers; expected 1 times 6", [&] { ItemIndex::make(Ids{1}, Floats(5), 6); });
  check("index has vectors of width 5; expected that of the tower, 6",
        [&] { Prerank::make(prerank->tower(), ItemIndex::make({}, {}, 5)); });
  ItemIndexLayout layout = prerank->index()->layout();
  layout.item_ids = layout.item_ids.first(17);
  check("item_ids has 17 places for 17 ids; expected whole blocks", [&] { ItemIndex::make(layout, prerank); });
  const Ids middle = {1, -1, 2, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
  layout.item_ids = middle;
  check("item_ids has 16 places for 1 ids; expected whole blocks", [&] { ItemIndex::make(layout, prerank); });
  check("tower or index is null", [&] { Prerank::make(nullptr, prerank->index()); });
}
