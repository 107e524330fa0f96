// Reads the artifact of a trained system; pygrade/serving/artifact.py writes it and documents its manifest.
#include <algorithm>

#include "pygrade/pipeline.hpp"
#include "util/artifact_record.hpp"
#include "util/files.hpp"
#include "util/sha256.hpp"

namespace pygrade::inline v0_2 {
namespace {
namespace fs = std::filesystem;
using detail::Json;

constexpr std::string_view manifest_name = "manifest.json";
constexpr int tries = 3;

struct Manifest {
  std::string version, schema_hash;
  std::vector<std::pair<std::string, std::string>> files;  // path below the artifact, sha256
  bool own_predictions = false;                            // there is no multi-task model: the caller predicts
};

// Text that the version is a hash of: the manifest without the lines of its own head.
std::string hashed_text(std::string_view text) {
  std::string kept;
  kept.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    const std::string_view line = text.substr(at, end - at);
    const auto begins = [&](std::string_view key) { return line.starts_with(key); };
    if (!begins("  \"format\": ") && !begins("  \"format_version\": ") && !begins("  \"version\": ")) kept += line;
    at = end;
  }
  if (kept.ends_with(",\n}\n")) kept.erase(kept.size() - 4, 1);  // the version was the last entry
  return kept;
}

bool is_inside(const std::string& name) {
  const fs::path path(name);
  return !name.empty() && path.is_relative() && std::ranges::find(path, fs::path("..")) == path.end();
}

Manifest parse_manifest(std::string_view text, const std::string& path) {
  Manifest manifest;
  try {
    const Json record = detail::parse_artifact_record(text, "pygrade.Pipeline");
    manifest.version = record.string_at("version");
    manifest.schema_hash = record.string_at("schema_hash");
    const Json* mtl = record.find("mtl");
    manifest.own_predictions = mtl != nullptr && mtl->string == "own";
    const Json& files = record.object_at("files");
    for (std::size_t i = 0; i < files.keys.size(); ++i) {
      if (files.items[i].type != Json::Type::string || !is_inside(files.keys[i]))
        throw detail::JsonError("'files' names " + detail::json_quote(files.keys[i]) + " wrongly");
      manifest.files.emplace_back(files.keys[i], files.items[i].string);
    }
  } catch (const detail::JsonError& error) {
    throw ArtifactError(path + " is damaged: " + error.what());
  }
  const std::string hashed = hashed_text(text);
  if (detail::sha256_hex(std::as_bytes(std::span(hashed))).substr(0, 12) != manifest.version)
    throw ArtifactError(path + " is not what was written: its content does not give version " + manifest.version);
  return manifest;
}

const FileContent& file(const ArtifactFiles& files, std::string_view name, std::string_view artifact) {
  const auto found =
      std::ranges::find(files, name, [](const auto& entry) -> const std::string& { return entry.first; });
  if (found == files.end()) throw ArtifactMissing(std::string(artifact) + "/" + std::string(name) + " is missing");
  return found->second;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void require_equal(const std::string& stated, const std::string& wanted, std::string_view what) {
  if (stated != wanted) throw ArtifactError(std::string(what) + " " + stated + "; expected " + wanted);
}
}  // namespace

ArtifactFiles read_artifact(const std::string& directory) {
  const fs::path path = fs::path(directory) / manifest_name;
  ArtifactFiles files{
      {std::string(manifest_name),
       detail::OpenFile(path, "; expected an artifact that pygrade pipeline published").large_content()}};
  const Manifest manifest = parse_manifest(detail::text_of(files.front().second), path.string());
  for (const auto& [name, sha256] : manifest.files)
    files.emplace_back(name, detail::OpenFile(fs::path(directory) / name, "; manifest.json names it").large_content());
  return files;
}

Models Models::load(const std::string& directory) {
  for (int attempt = 1;; ++attempt) {
    const detail::OpenFile manifest(fs::path(directory) / manifest_name,
                                    "; expected an artifact that pygrade pipeline published");
    try {
      return parse(read_artifact(directory), directory);
    } catch (const ArtifactError&) {
      if (attempt == tries || !manifest.replaced()) throw;  // else another artifact was put in its place meanwhile
    }
  }
}

Models Models::parse(const ArtifactFiles& files, std::string_view name) {
  const std::string at(name);
  const Manifest manifest =
      parse_manifest(detail::text_of(file(files, manifest_name, at)), at + "/" + std::string(manifest_name));
  for (const auto& [path, sha256] : manifest.files)
    if (file(files, path, at).sha256() != sha256)
      throw ArtifactError(at + "/" + path +
                          " does not have the sha256 that manifest.json says (damaged, or of another artifact)");
  const auto text = [&](std::string_view path) { return detail::text_of(file(files, path, at)); };

  Models models;
  models.version = manifest.version;
  models.features =
      Features::parse(text("features/schema.json"), file(files, "features/fitted.safetensors", at), at + "/features");
  models.prerank =
      Prerank::parse(text("prerank/prerank.json"), file(files, "prerank/prerank.safetensors", at), at + "/prerank");
  if (!manifest.own_predictions)
    models.mtl = MultiTaskModel::parse(text("mtl/mtl.json"), file(files, "mtl/mtl.safetensors", at), at + "/mtl");
  const auto tensors = std::ranges::find_if(files, [](const auto& entry) {
    return entry.first.starts_with("policy/policy") && entry.first.ends_with(".safetensors");
  });
  if (tensors == files.end()) throw ArtifactMissing(at + "/policy has no tensors");
  models.policy = Policy::parse(text("policy/policy.json"), tensors->second, at + "/policy");
  require_equal(manifest.schema_hash, models.features->hash(), at + ": the manifest was written for schema");
  models.check();
  return models;
}

void Models::check() const {
  if (features == nullptr || policy == nullptr) throw ArtifactError("models lack the features or the policy");
  if (prerank != nullptr && !prerank->schema_hash().empty())
    require_equal(prerank->schema_hash(), features->hash(), "prerank was trained on schema");
  if (mtl != nullptr) {
    require_equal(mtl->features(), features->hash(), "mtl was trained on schema");
    require_equal(joined(policy->tasks()), joined(mtl->tasks()), "policy fuses tasks");
  }
  const FeatureInputs inputs(*features, policy->features(), true);
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (!inputs.known(i) && std::ranges::find(policy->history_features(), i, &Policy::HistoryColumn::place) ==
                                policy->history_features().end())
      throw ArtifactError("policy reads feature " + policy->features()[i] +
                          ", which the schema does not have: it has " + joined(features->request_features()));
  for (const auto& other : alternatives) {
    if (other == nullptr) throw ArtifactError("alternatives holds null; expected policies");
    const std::string name = "policy " + other->version();
    require_equal(joined(other->tasks()), joined(policy->tasks()), name + " fuses tasks");
    require_equal(joined(other->features()), joined(policy->features()), name + " reads features");
  }
}
}  // namespace pygrade::inline v0_2
