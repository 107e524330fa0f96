// Two small artifacts of a pipeline, as Python writes them: the same features and models, different policies.
#pragma once

#include <unistd.h>

#include <map>

#include "feature_files.hpp"
#include "features/numbers.hpp"
#include "mtl_artifact.hpp"
#include "prerank.hpp"

namespace pygrade::inline v0_2::tests {
inline constexpr std::int64_t artifact_items = 120;  // ids from 0 on; the last 14 are too rare for the vocabulary

inline const std::string artifact_schema = R"json({
 "tasks": ["click", "like", "order"],
 "utc_offset_hours": 0.0,
 "dtypes": {"events.c_hour": "float"},
 "features": [
  {"name": "c_hour", "entity": "context", "kind": "dense", "source": "c_hour"},
  {"name": "scenario", "entity": "context", "kind": "categorical", "source": "scenario"},
  {"name": "user_count", "entity": "user", "kind": "count", "key": ["user_id"]},
  {"name": "user_click_rate", "entity": "user", "kind": "rate", "source": "y_click", "key": ["user_id"]},
  {"name": "recent_click", "entity": "user", "kind": "sequence", "source": "y_click", "length": 5},
  {"name": "item_id", "entity": "item", "kind": "categorical", "source": "item_id", "min_count": 9},
  {"name": "item_click_rate", "entity": "item", "kind": "rate", "source": "y_click", "key": ["item_id"]},
  {"name": "item_day_count", "entity": "item", "kind": "count", "key": ["item_id"], "transform": "log1p",
   "window_hours": 24.0}
 ]
})json";

inline void write_pipeline_artifact(const std::filesystem::path& target, unsigned seed) {
  const auto put = [&](const std::string& name, const std::string& content) {
    std::filesystem::create_directories((target / name).parent_path());
    std::ofstream(target / name, std::ios::binary) << content;
  };
  FittedFile fitted{detail::Schema::parse(artifact_schema).hash, {}, {}};
  for (const auto& [name, width] :
       {std::pair("request_dense", 3), std::pair("item_dense", 2), std::pair("cross_dense", 0)}) {
    fitted.doubles[std::string("mean.") + name] = std::vector<double>(static_cast<std::size_t>(width), 0.5);
    fitted.doubles[std::string("std.") + name] = std::vector<double>(static_cast<std::size_t>(width), 2.0);
  }
  auto& scenarios = fitted.codes["vocabulary.scenario"] = {detail::text_code("feed"), detail::text_code("search")};
  std::ranges::sort(scenarios);
  auto& known = fitted.codes["vocabulary.item_id"] = std::vector<std::int64_t>(artifact_items - 14);
  std::iota(known.begin(), known.end(), 0);
  put("features/schema.json", artifact_schema);
  put("features/fitted.safetensors", fitted.content());

  PrerankFiles prerank;
  prerank.width = prerank.hidden = 4;
  prerank.length = 5;
  prerank.sizes = {3};
  prerank.known = known;
  prerank.item_ids.resize(artifact_items);
  std::iota(prerank.item_ids.begin(), prerank.item_ids.end(), 0);
  prerank.replaced = {{"schema_hash", detail::json_quote(fitted.hash)}};
  prerank.draw().write(target / "prerank");

  MtlArtifact mtl;
  mtl.tasks = {"click", "like", "order"};
  mtl.dense = {"c_hour", "user_count", "user_click_rate", "item_click_rate", "item_day_count"};
  mtl.ids = {"scenario", "item_id"};
  mtl.vocabulary = {3, artifact_items - 13};
  mtl.features = fitted.hash;
  mtl.request_dense = 3;
  mtl.draw().write(target / "mtl");

  Artifact policy;
  policy.tasks = mtl.tasks;
  policy.features = {"c_hour", "user_count", "user_click_rate"};
  policy.hidden.assign(1, 4);
  policy.seed = seed;
  policy.exploration = "{}";
  policy.evidence_feature = "user_count";
  policy.evidence_prior = "10.0";
  policy.mixture = mixture_json({{"value_tasks", "[]"}, {"calibration", "[]"}, {"weights", "[1, 2, 10]"}}, "0.0");
  policy.draw().write(target / "policy");

  std::map<std::string, std::string> hashes;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(target)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string content(std::istreambuf_iterator<char>(file), {});
    hashes[std::filesystem::relative(entry.path(), target)] = "\"" + Artifact::sha256(content) + "\"";
  }
  std::map<std::string, std::string> manifest = {{"files", Artifact::object(hashes)},
                                                 {"schema_hash", detail::json_quote(fitted.hash)}};
  const std::string version = Artifact::sha256(Artifact::object(manifest) + "\n").substr(0, 12);
  manifest.insert({{"format", "\"pygrade.Pipeline\""}, {"format_version", "1"}, {"version", "\"" + version + "\""}});
  put("manifest.json", Artifact::object(manifest) + "\n");
}

// The artifact "first" or "second", written at the first use of a test program.
inline std::filesystem::path test_artifact(const std::string& name) {
  struct Written {
    std::filesystem::path folder =
        std::filesystem::temp_directory_path() / ("pygrade-artifacts-" + std::to_string(::getpid()));
    Written() {
      write_pipeline_artifact(folder / "first", 1);
      write_pipeline_artifact(folder / "second", 2);
    }
    ~Written() { std::filesystem::remove_all(folder); }
  };
  static const Written written;
  return written.folder / name;
}
}  // namespace pygrade::inline v0_2::tests
