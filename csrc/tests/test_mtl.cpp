#include <fcntl.h>

#include <atomic>
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

struct Rows {
  std::vector<float> dense;
  std::vector<std::int64_t> ids;
  std::size_t d, f, t;

  explicit Rows(const MtlArtifact& artifact, std::size_t count = num_rows)
      : dense(count * artifact.dense.size()),
        ids(count * artifact.ids.size()),
        d(artifact.dense.size()),
        f(artifact.ids.size()),
        t(artifact.tasks.size()) {
    std::mt19937 random(7);
    for (float& v : dense) v = static_cast<float>(random() >> 8) * 0x1p-22f - 2.0f;
    for (std::int64_t& v : ids) v = static_cast<std::int64_t>(random() % 12) - 2;
  }
  std::span<const float> dense_of(std::size_t first, std::size_t count) const {
    return std::span(dense).subspan(first * d, count * d);
  }
  std::span<const std::int64_t> ids_of(std::size_t first, std::size_t count) const {
    return std::span(ids).subspan(first * f, count * f);
  }
};

struct TemporaryFolder {
  TemporaryFolder() { std::filesystem::create_directory(path); }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("pygrade_test_mtl_" + std::to_string(std::random_device{}()));
};
}  // namespace

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

TEST(wrong_sizes_are_named) {
  MtlArtifact artifact;
  const auto model = parse(artifact.draw());
  const Rows rows(artifact, 4);
  std::vector<float> result(4 * rows.t);
  const auto all = [&](std::size_t dense, std::size_t ids, std::size_t out) {
    model->predict(rows.dense_of(0, dense), rows.ids_of(0, ids), std::span(result).first(out));
  };
  CHECK_THROWS(std::invalid_argument, "probabilities has room for 4 values; expected a multiple of 3",
               (all(1, 1, 4), 0));
  CHECK_THROWS(std::invalid_argument, "dense has 3 values; expected 2 rows of 3", (all(1, 2, 6), 0));
  CHECK_THROWS(std::invalid_argument, "ids has 6 values; expected 2 rows of 2", (all(2, 3, 6), 0));
  const std::size_t sizes[][4] = {{2, 1, 4, 2}, {1, 0, 4, 2}, {1, 1, 6, 2}, {1, 1, 4, 4}};
  const char* const messages[] = {"request_dense has 2 values; expected 1 rows of 1",
                                  "request_ids has 0 values; expected 1 rows",
                                  "dense has 6 values; expected 2 rows of 2", "ids has 4 values; expected 2 rows of 1"};
  const std::span dense(rows.dense);
  const std::span ids(rows.ids);
  for (std::size_t i = 0; i < std::size(sizes); ++i) {
    const auto [rd, rf, d, f] = sizes[i];
    CHECK_THROWS(std::invalid_argument, messages[i],
                 (model->predict_request(dense.first(rd), ids.first(rf), dense.first(d), ids.first(f),
                                         std::span(result).first(6)),
                  0));
  }
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
  refused("tasks", "[]", "'tasks' has 0 names; expected 1 … 1024");
  refused("tasks", "[\"a\", \"a\"]", "'tasks' names \"a\" twice");
  refused("dense", "[\"a\", \"a\"]", "'dense' names \"a\" twice");
  refused("ids", "[1]", "'ids' holds something that is not a string");
  refused("features", "1", "'features' is not a string");
  refused("request_dense", "4", "'request_dense' is not an integer of 0 … 3");
  refused("request_ids", "0.5", "'request_ids' is not an integer of 0 … 2");
  refused("request_ids", "2", "'schema_hash' is");
  refused("vocabulary", "[1]", "'vocabulary' has 1 sizes; expected 2");
  refused("vocabulary", "[-1, 0]", "'vocabulary' holds something that is not an integer");
  refused("funnel", "1", "'funnel' is not a list");
  refused("funnel", "[[\"click\"]]", "'funnel' holds something that is no pair");
  refused("funnel", "[[\"click\", \"buy\"]]", "'funnel' names \"buy\"");
  refused("funnel", "[[\"click\", \"cart\"], [\"order\", \"cart\"]]", "'funnel' gives \"cart\" two parents");
  refused("funnel", "[[\"click\", \"cart\"], [\"cart\", \"click\"]]", "'funnel' leads from a task back to itself");
  refused("funnel", "[[\"click\", \"click\"]]", "'funnel' leads from a task back to itself");
  refused("vocabulary", "[5, 0]", "'vocabulary' holds a size of 0");
  refused("task_experts", "60000", "'task_experts' gives more than 65536 experts");
  refused("expert_hidden", "1e6", "'expert_hidden' is not an integer of 1 … 65536");
  refused("expert_hidden", "7", "tensor \"experts.hidden.weight\" is [24, 7]; expected [28, 7]");
  refused("tower_hidden", "4", "tensor \"tower_in.weight\"");
  refused("embedding", "3", "tensor \"embedding.weight\" is [12, 2]; expected [12, 3]");
  refused("calibration", "1", "'calibration' is not a list of 3 tasks");
  refused("calibration", "[[1, 1, 0]]", "'calibration' is not a list of 3 tasks");
  refused("calibration", "[[1, 1, 0], [1, 1, 0], [1, 1]]", "holds something that is not three finite numbers");
  refused("calibration", "[[1, 1, 0], [1, 1, 0], [1, 1, Infinity]]", "holds something that is not three finite");
  refused("calibration", "[[1, 1, 0], [1, 1, 0], [1, 0, 0]]", "holds a factor that is not positive");
  const auto broken = [](const std::string& tensor, float value, const std::string& reason) {
    MtlArtifact artifact;
    artifact.draw().tensors[tensor].values[1] = value;
    CHECK_THROWS(ArtifactError, reason, parse(artifact));
  };
  for (const char* name : {"mean", "scale", "base", "embedding.weight", "experts.hidden.weight", "experts.gates.bias",
                           "experts.output.weight", "tower_in.bias", "tower_out.weight"})
    broken(name, missing, "tensor \"" + std::string(name) + "\" holds NaN or infinity");
  for (const char* name : {"experts.hidden.weight", "experts.gates.weight", "experts.output.weight"})
    broken(name, 3e38f, "tensor \"" + std::string(name) + "\" can make values overflow");
  broken("embedding.weight", 1e30f, "tensor \"experts.hidden.weight\" can make values overflow");
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
