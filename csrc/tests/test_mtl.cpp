#include <fcntl.h>

#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <thread>

#include "../../devtools/allocations.hpp"
#include "check.hpp"
#include "mtl_artifact.hpp"

using namespace pygrade;
using namespace pygrade::tests;

namespace {

constexpr float missing = std::numeric_limits<float>::quiet_NaN();
constexpr std::size_t num_rows = 130;

// Every kind of network, funnel, calibration and columns.
std::vector<MtlArtifact> artifacts() {
  std::vector<MtlArtifact> made(8);
  made[1].funnel = {{0, 1}, {1, 2}};
  made[1].levels = 3;
  made[2].network = "mmoe";
  made[2].experts = 3;
  made[2].beta = {{0.5, 2.0, 0.25}, {1.0, 1.0, 0.0}, {2.0, 0.5, -1.0}};
  made[2].calibration = R"({"beta": [[0.5, 2.0, 0.25], [1, 1, 0], [2, 0.5, -1]], "knots": []})";
  made[3].task_experts = 2;
  made[3].shared_experts = 3;
  made[3].levels = 2;
  made[3].funnel = {{2, 0}, {2, 1}};
  made[3].curves = {{{0.0}, {1.0}}, {{-1.0, 1.0}, {-3.0, 0.5}}, {{-4.0, -2.0, 0.5}, {-2.0, -1.0, 7.0}}};
  made[3].calibration = R"({"beta": [[1, 1, 0], [1, 1, 0], [1, 1, 0]],
                            "knots": [[[0], [1]], [[-1, 1], [-3, 0.5]], [[-4, -2, 0.5], [-2, -1, 7]]]})";
  made[4].network = "mmoe";
  made[4].experts = 1;
  made[4].hidden = 64;
  made[4].output = 32;
  made[4].tower = 16;
  made[5].dense = {};
  made[5].request_dense = 0;
  made[6].ids = {};
  made[6].vocabulary = {};
  made[6].request_ids = 0;
  made[7].request_dense = 3;
  made[7].request_ids = 2;
  made[7].vocabulary = {};
  for (unsigned i = 0; i < made.size(); ++i) {
    made[i].seed = i;
    made[i].draw();
  }
  return made;
}

struct Rows {
  std::vector<float> dense;
  std::vector<std::int64_t> ids;
  std::size_t d, f, t;

  // The first 50 rows have one request, those from 96 on another, the others each their own.
  explicit Rows(const MtlArtifact& artifact, std::size_t count = num_rows)
      : dense(count * artifact.dense.size()),
        ids(count * artifact.ids.size()),
        d(artifact.dense.size()),
        f(artifact.ids.size()),
        t(artifact.tasks.size()) {
    std::mt19937 random(7);
    for (float& v : dense) v = static_cast<float>(random() >> 8) * 0x1p-22f - 2.0f;
    for (std::size_t i = 0; i < dense.size(); i += 11) dense[i] = missing;
    for (std::int64_t& v : ids) v = static_cast<std::int64_t>(random() % 12) - 2;
    for (std::size_t r = 0; r < count; ++r) {
      const auto at = [](std::size_t place) { return static_cast<std::ptrdiff_t>(place); };
      const std::size_t of = r < 50 ? 0 : r < 96 ? r : 96;
      std::copy_n(dense.begin() + at(of * d), artifact.request_dense, dense.begin() + at(r * d));
      std::copy_n(ids.begin() + at(of * f), artifact.request_ids, ids.begin() + at(r * f));
    }
  }
  std::span<const float> dense_of(std::size_t first, std::size_t count) const {
    return std::span(dense).subspan(first * d, count * d);
  }
  std::span<const std::int64_t> ids_of(std::size_t first, std::size_t count) const {
    return std::span(ids).subspan(first * f, count * f);
  }
};

std::vector<float> predict(const MultiTaskModel& model, const Rows& rows, std::size_t first, std::size_t count,
                           bool calibrated = true, int num_threads = 1) {
  std::vector<float> result(count * rows.t, missing);
  model.predict(rows.dense_of(first, count), rows.ids_of(first, count), result, calibrated, num_threads);
  return result;
}

std::vector<float> predict_request(const MultiTaskModel& model, const Rows& rows, std::size_t first,
                                   std::size_t count) {
  const std::size_t qd = model.request_dense(), qf = model.request_ids();
  std::vector<float> dense;
  std::vector<std::int64_t> ids;
  for (std::size_t r = first; r < first + count; ++r) {
    const auto row = rows.dense_of(r, 1).subspan(qd);
    const auto row_ids = rows.ids_of(r, 1).subspan(qf);
    dense.insert(dense.end(), row.begin(), row.end());
    ids.insert(ids.end(), row_ids.begin(), row_ids.end());
  }
  std::vector<float> result(count * rows.t, missing);
  model.predict_request(rows.dense_of(first, 1).first(qd), rows.ids_of(first, 1).first(qf), dense, ids, result);
  return result;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::uint64_t fingerprint(std::span<const float> values) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const float v : values) hash = (hash ^ std::bit_cast<std::uint32_t>(v)) * 0x100000001b3ull;
  return hash;
}

struct TemporaryFolder {
  TemporaryFolder() { std::filesystem::create_directory(path); }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("pygrade_test_mtl_" + std::to_string(std::random_device{}()));
};

}  // namespace

TEST(probabilities_are_those_of_the_formulas) {
  for (const MtlArtifact& artifact : artifacts()) {
    const auto model = parse(artifact);
    const Rows rows(artifact);
    const auto actual = predict(*model, rows, 0, num_rows);
    float low = 1.0f, high = 0.0f;
    for (std::size_t r = 0; r < num_rows; ++r) {
      const auto expected = artifact.expected(rows.dense_of(r, 1).data(), rows.ids_of(r, 1).data());
      for (std::size_t t = 0; t < rows.t; ++t) {
        CHECK_NEAR(actual[r * rows.t + t], expected[t], 2e-6 + 2e-5 * expected[t]);
        low = std::min(low, actual[r * rows.t + t]);
        high = std::max(high, actual[r * rows.t + t]);
      }
    }
    CHECK(high - low > 0.1f);
  }
}

TEST(a_row_has_the_same_bits_alone_among_others_and_in_its_request) {
  for (const MtlArtifact& artifact : artifacts()) {
    const auto model = parse(artifact);
    const Rows rows(artifact);
    const auto together = predict(*model, rows, 0, num_rows);
    for (std::size_t r = 0; r < num_rows; ++r) {
      const auto row = std::span(together).subspan(r * rows.t, rows.t);
      CHECK(same_bits(predict(*model, rows, r, 1), row));
      CHECK(same_bits(predict_request(*model, rows, r, 1), row));
    }
    for (const std::size_t count : {2, 16, 17, 33, 47, 48, 49, 50})
      CHECK(same_bits(predict_request(*model, rows, 0, count), std::span(together).first(count * rows.t)));
    CHECK(same_bits(predict(*model, rows, 40, 90), std::span(together).subspan(40 * rows.t)));
  }
}

TEST(threads_change_nothing) {
  MtlArtifact artifact;
  artifact.draw();
  const auto model = parse(artifact);
  const Rows rows(artifact, 5000);
  const auto one = predict(*model, rows, 0, 5000);
  for (const int threads : {2, 3, 8}) CHECK(same_bits(predict(*model, rows, 0, 5000, true, threads), one));
  std::vector<std::jthread> readers;
  std::atomic<int> equal = 0;
  for (int i = 0; i < 4; ++i) readers.emplace_back([&] { equal += same_bits(predict(*model, rows, 0, 5000), one); });
  readers.clear();
  CHECK_EQUAL(equal.load(), 4);
}

// The same on every instruction set and machine.
TEST(bits_are_known) {
  std::vector<std::uint64_t> found;
  for (const MtlArtifact& artifact : artifacts())
    found.push_back(fingerprint(predict(*parse(artifact), Rows(artifact), 0, num_rows)));
  const std::vector<std::uint64_t> known = {3449647522065440472u,  12890802855365525890u, 18011353049934333394u,
                                            9349731273919694662u,  5512169279586886099u,  1890277504314888297u,
                                            11216563458862040085u, 1910639699965421421u};
  CHECK_EQUAL(found, known);
}

TEST(a_thread_allocates_once) {
  MtlArtifact artifact;
  const auto model = parse(artifact.draw());
  const Rows rows(artifact);
  std::vector<float> result(num_rows * rows.t);
  std::vector<float> dense(num_rows * 2);
  std::vector<std::int64_t> ids(num_rows);
  const auto run = [&] {
    model->predict_request(rows.dense_of(0, 1).first(1), rows.ids_of(0, 1).first(1), dense, ids, result);
    model->predict(rows.dense, rows.ids, result);
  };
  run();
  const auto before = allocations;
  run();
  CHECK_EQUAL(allocations, before);
}

TEST(no_value_of_a_row_leads_out_of_bounds) {
  for (MtlArtifact artifact : artifacts()) {
    if (artifact.dense.empty()) continue;
    artifact.tensors["scale"].values[0] = 0.0f;
    const auto model = parse(artifact);
    Rows rows(artifact, 16);
    const float extremes[] = {missing, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::max(), -std::numeric_limits<float>::max()};
    for (std::size_t i = 0; i < rows.dense.size(); ++i) rows.dense[i] = extremes[i % std::size(extremes)];
    for (std::size_t i = 0; i < rows.ids.size(); ++i)
      rows.ids[i] = i % 2 == 0 ? std::numeric_limits<std::int64_t>::min() : std::numeric_limits<std::int64_t>::max();
    for (const float base : {-1e20f, -800.0f, 0.0f, 800.0f, 1e20f}) {
      MtlArtifact shifted = artifact;
      for (float& value : shifted.tensors["base"].values) value = base;
      for (const float p : predict(*parse(shifted), rows, 0, 16))
        CHECK(p >= MultiTaskModel::min_prediction && p <= 1.0f);
    }
  }
}

TEST(the_funnel_bounds_a_child_by_its_parent) {
  MtlArtifact artifact;
  artifact.funnel = {{0, 1}, {1, 2}};
  for (const float base : {-3.0f, 0.0f, 10.0f, 30.0f}) {
    artifact.draw();
    for (float& value : artifact.tensors["base"].values) value = base;
    const auto p = predict(*parse(artifact), Rows(artifact), 0, num_rows);
    for (std::size_t r = 0; r < num_rows; ++r) CHECK(p[3 * r] >= p[3 * r + 1] && p[3 * r + 1] >= p[3 * r + 2]);
  }
}

TEST(columns_are_named) {
  const MtlArtifact artifact = MtlArtifact{}.draw();
  const auto model = parse(artifact);
  CHECK(model->tasks() == artifact.tasks && model->dense_columns() == artifact.dense);
  CHECK(model->id_columns() == artifact.ids && model->features() == "abc");
  CHECK(model->request_dense() == 1 && model->request_ids() == 1);
  CHECK_EQUAL(model->schema_hash(), artifact.schema_hash());
}

TEST(wrong_sizes_are_named) {
  MtlArtifact artifact;
  const auto model = parse(artifact.draw());
  const Rows rows(artifact, 4);
  std::vector<float> result(4 * rows.t);
  const auto all = [&](std::size_t dense, std::size_t ids, std::size_t out) {
    model->predict(rows.dense_of(0, dense), rows.ids_of(0, ids), std::span(result).first(out));
  };
  CHECK_THROWS(std::invalid_argument, "probabilities has room for 4 values; want a multiple of 3", (all(1, 1, 4), 0));
  CHECK_THROWS(std::invalid_argument, "dense has 3 values; want 2 rows of 3", (all(1, 2, 6), 0));
  CHECK_THROWS(std::invalid_argument, "ids has 6 values; want 2 rows of 2", (all(2, 3, 6), 0));
  const auto request = [&](std::size_t qd, std::size_t qf, std::size_t d, std::size_t f) {
    const std::span dense(rows.dense);
    const std::span ids(rows.ids);
    model->predict_request(dense.first(qd), ids.first(qf), dense.first(d), ids.first(f), std::span(result).first(6));
  };
  request(1, 1, 4, 2);
  CHECK_THROWS(std::invalid_argument, "request_dense has 2 values; want 1 rows of 1", (request(2, 1, 4, 2), 0));
  CHECK_THROWS(std::invalid_argument, "request_ids has 0 values; want 1 rows of 1", (request(1, 0, 4, 2), 0));
  CHECK_THROWS(std::invalid_argument, "dense has 6 values; want 2 rows of 2", (request(1, 1, 6, 2), 0));
  CHECK_THROWS(std::invalid_argument, "ids has 4 values; want 2 rows of 1", (request(1, 1, 4, 4), 0));
}

TEST(files_are_read_and_named_if_absent) {
  const TemporaryFolder folder;
  const MtlArtifact artifact = MtlArtifact{}.draw();
  const auto path = folder.path / "mtl";
  CHECK_THROWS(ArtifactMissing, "mtl.json does not exist", MultiTaskModel::load(path));
  artifact.write(path);
  const Rows rows(artifact);
  CHECK(same_bits(predict(*MultiTaskModel::load(path), rows, 0, 9), predict(*parse(artifact), rows, 0, 9)));
  std::filesystem::remove(path / "mtl.safetensors");
  CHECK_THROWS(ArtifactMissing, "mtl.safetensors does not exist", MultiTaskModel::load(path));
  std::filesystem::create_directory(path / "mtl.safetensors");
  CHECK_THROWS(ArtifactMissing, "mtl.safetensors does not exist or can't be read", MultiTaskModel::load(path));
  std::filesystem::remove(path / "mtl.json");
  CHECK_THROWS(ArtifactMissing, "mtl.json does not exist", MultiTaskModel::load(path));
}

#if defined(RENAME_EXCHANGE)
// As pygrade.mtl.save replaces a directory.
TEST(readers_see_one_save_while_others_are_made) {
  const TemporaryFolder folder;
  MtlArtifact artifacts[2];
  artifacts[1].tasks[2] = "buy";
  for (unsigned i = 0; i < 2; ++i) artifacts[i].draw();
  const auto path = folder.path / "mtl", next = folder.path / "next";
  artifacts[0].write(path);
  std::atomic<bool> done = false;
  std::jthread saver([&] {
    for (unsigned i = 1; i < 300; ++i) {
      artifacts[i % 2].write(next);
      CHECK_EQUAL(::renameat2(AT_FDCWD, next.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE), 0);
      std::filesystem::remove_all(next);
    }
    done = true;
  });
  do {
    const std::string hash = MultiTaskModel::load(path)->schema_hash();
    CHECK(hash == artifacts[0].schema_hash() || hash == artifacts[1].schema_hash());
  } while (!done);
}
#endif

TEST(what_does_not_fit_is_named) {
  const auto refused = [](const std::string& key, const std::string& value, const std::string& reason) {
    MtlArtifact artifact;
    artifact.replaced[key] = value;
    CHECK_THROWS(ArtifactError, reason, parse(artifact.draw()));
  };
  refused("format", "\"x\"", "mtl/mtl.json: it is \"x\" of version 1");
  refused("format_version", "2", "of version 2; this pygrade reads pygrade.MtlModel version 1");
  refused("sha256", "\"0\"", "'sha256' is not 64 hexadecimal digits");
  refused("sha256", "\"" + std::string(64, '0') + "\"", "mtl/mtl.safetensors has sha256");
  refused("schema_hash", "\"x\"", "'schema_hash' is \"x\"; 'schema' gives");
  refused("tasks", "[]", "'tasks' has 0 names; want 1 … 1024");
  refused("tasks", "[\"a\", \"a\"]", "'tasks' names \"a\" twice");
  refused("dense", "[\"a\", \"a\"]", "'dense' names \"a\" twice");
  refused("ids", "[1]", "'ids' holds something that is not a string");
  refused("features", "1", "'features' is not a string");
  refused("request_dense", "4", "'request_dense' is not an integer of 0 … 3");
  refused("request_ids", "0.5", "'request_ids' is not an integer of 0 … 2");
  refused("request_ids", "2", "'schema_hash' is");
  refused("vocabulary", "[1]", "'vocabulary' has 1 sizes; want 2");
  refused("vocabulary", "[-1, 0]", "'vocabulary' holds something that is not an integer");
  refused("funnel", "1", "'funnel' is not a list");
  refused("funnel", "[[\"click\"]]", "'funnel' holds something that is no pair");
  refused("funnel", "[[\"click\", \"buy\"]]", "'funnel' names \"buy\"");
  refused("funnel", "[[\"click\", \"cart\"], [\"order\", \"cart\"]]", "'funnel' gives \"cart\" two parents");
  refused("funnel", "[[\"click\", \"cart\"], [\"cart\", \"click\"]]", "'funnel' leads from a task back to itself");
  refused("funnel", "[[\"click\", \"click\"]]", "'funnel' leads from a task back to itself");
  refused("network", "\"esmm\"", "'network' is \"esmm\"; want ple or mmoe");
  refused("levels", "0", "'levels' is not an integer of 1 … 64");
  refused("levels", "2", "tensor \"layers.0.gates.weight\" is [12, 7]; want [16, 7]");
  refused("task_experts", "60000", "'task_experts' gives more than 65536 experts");
  refused("expert_hidden", "1e6", "'expert_hidden' is not an integer of 1 … 65536");
  refused("expert_hidden", "7", "tensor \"layers.0.hidden.weight\" is [24, 7]; want [28, 7]");
  refused("tower_hidden", "4", "tensor \"tower_in.weight\"");
  refused("embedding", "3", "tensor \"embedding.weight\" is [12, 2]; want [12, 3]");
  refused("buckets", "2147483647", "'vocabulary' and 'buckets' give more than 2^31 - 1 embeddings");
  refused("calibration", "1", "'calibration' is not an object");
  refused("calibration", "{}", "'beta' is absent");
  const auto calibrated = [&](const std::string& beta, const std::string& knots, const std::string& reason) {
    refused("calibration", "{\"beta\": " + beta + ", \"knots\": " + knots + "}", reason);
  };
  const std::string beta = "[[1, 1, 0], [1, 1, 0], [1, 1, 0]]";
  calibrated("[[1, 1, 0]]", "[]", "'calibration' has 1 rows of beta and 0 curves; want 3 tasks'");
  calibrated(beta, "[[[0], [1]]]", "'calibration' has 3 rows of beta and 1 curves");
  calibrated("[[1, 1, 0], [1, 1, 0], [1, 1]]", "[]", "'beta' holds something that is not three finite numbers");
  calibrated("[[1, 1, 0], [1, 1, 0], [1, 1, Infinity]]", "[]", "'beta' holds something that is not three finite");
  calibrated("[[1, 1, 0], [1, 1, 0], [1, 0, 0]]", "[]", "'beta' holds a factor that is not positive");
  const auto curve = [&](const std::string& axes, const std::string& reason) {
    calibrated(beta, "[[[0], [1]], [[0], [1]], " + axes + "]", reason);
  };
  curve("1", "'knots' holds something that is not [x, y]");
  curve("[[], []]", "'knots' holds an axis without knots");
  curve("[[0, 1], [0]]", "'knots' has a curve without as many x as y");
  curve("[[0, 0], [0, 1]]", "'knots' has a curve that does not increase");
  curve("[[0, 1], [0, NaN]]", "'knots' has a curve that does not increase");
  curve("[[0, 1e-300], [0, 1e300]]", "'knots' has a curve whose slope is not finite");
  const auto broken = [](const std::string& tensor, float value, const std::string& reason) {
    MtlArtifact artifact;
    artifact.draw().tensors[tensor].values[1] = value;
    CHECK_THROWS(ArtifactError, reason, parse(artifact));
  };
  for (const char* name : {"mean", "scale", "base", "embedding.weight", "layers.0.hidden.weight", "layers.0.gates.bias",
                           "layers.0.output.weight", "tower_in.bias", "tower_out.weight"})
    broken(name, missing, "tensor \"" + std::string(name) + "\" holds NaN or infinity");
  for (const char* name : {"layers.0.hidden.weight", "layers.0.gates.weight", "layers.0.output.weight"})
    broken(name, 3e38f, "tensor \"" + std::string(name) + "\" can make values overflow");
  broken("embedding.weight", 1e30f, "tensor \"layers.0.hidden.weight\" can make values overflow");
  MtlArtifact more;
  more.draw().tensors["more"] = {{1}, {1}};
  CHECK_THROWS(ArtifactError, "tensors that the model does not have", parse(more));
}

TEST(no_flipped_bit_of_the_tensors_is_accepted) {
  MtlArtifact artifact;
  const std::string json = artifact.draw().json(), tensors = artifact.safetensors();
  for (std::size_t i = 0; i < 8 * tensors.size(); i += 37) {
    std::string damaged = tensors;
    damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ 1 << i % 8);
    CHECK_THROWS(ArtifactError, "mtl.safetensors has sha256", MultiTaskModel::parse(json, bytes(damaged)));
  }
}
