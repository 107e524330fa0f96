// A run directory and a store in memory, for the tests of the service.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "artifact.hpp"
#include "check.hpp"
#include "pipeline_artifact.hpp"
#include "pygrade/pipeline.hpp"
#include "pygrade/service.hpp"
#include "util/json.hpp"
#include "versioned_store.hpp"

namespace pygrade::inline v0_2::tests {
// A directory, removed at the end.
struct RunFolder {
  RunFolder() {
    static int number = 0;
    folder = std::filesystem::temp_directory_path() /
             ("pygrade-service-" + std::to_string(::getpid()) + "-" + std::to_string(number++));
    std::filesystem::create_directories(folder);
  }
  ~RunFolder() { std::filesystem::remove_all(folder); }
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  std::filesystem::path folder;
};

class ServiceRun : public RunFolder {
 public:
  explicit ServiceRun(const std::string& named = "[]") {
    write("store.json", R"({"store": "memory:", "named": )" + named + "}");
    const Models models = Models::load(test_artifact("first"));
    version = models.version;
    store = std::make_shared<VersionedStore>(version);
    put_meta(models);
    point_to("first");
  }

  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((folder / name).parent_path());
    std::ofstream(folder / name, std::ios::binary) << text;
  }
  // RUN/artifact becomes a link to this directory, in one step.
  void link(const std::filesystem::path& target) const {
    std::filesystem::create_directory_symlink(target, folder / ".new");
    std::filesystem::rename(folder / ".new", folder / "artifact");
  }
  void point_to(const char* name) const { link(test_artifact(name)); }
  // The store serves the version of this artifact, too.
  void publish(const char* name) const {
    const Models models = Models::load(test_artifact(name));
    store->copy_version(version, models.version);
    put_meta(models);
    store->switch_to(models.version);
    point_to(name);
  }

  std::unique_ptr<Service> serve(const std::string& config = "{}") const {
    return std::make_unique<Service>(folder, config, store);
  }

  std::string version;
  std::shared_ptr<VersionedStore> store;

 private:
  void put_meta(const Models& models) const {
    store->put(models.version, "meta", 0,
               R"({"schema": ")" + models.features->hash() + R"(", "version": ")" + models.version + R"("})");
  }
};

// A run that `pygrade train` wrote, as far as serving reads it.
class PolicyRun : public RunFolder {
 public:
  explicit PolicyRun(const Artifact& artifact) { put(artifact); }

  void put(const Artifact& artifact) {
    artifact.write(folder / "policy");
    policy = Policy::load(folder / "policy");
  }
  std::unique_ptr<Service> serve(const std::string& config = "{}") const {
    return std::make_unique<Service>(folder, config);
  }

  std::shared_ptr<const Policy> policy;
};

// The answer's JSON. A body that is none ends the test program.
inline detail::Json json_of(const Response& response) { return detail::Json::parse(response.body); }

inline Response get(Service& service, std::string_view path) { return service.handle({"GET", path, ""}); }

inline detail::Json post(Service& service, const std::string& path, const std::string& body) {
  return json_of(service.handle({"POST", path, body}));
}

inline std::string text_at(const detail::Json& json, std::string_view key) {
  const detail::Json& value = json.at(key);
  return value.type == detail::Json::Type::string ? value.string
         : value.type == detail::Json::Type::null ? "null"
                                                  : "?";
}

// The series of a name in Prometheus text; -1: none.
inline double metric(Service& service, const std::string& name) {
  const std::string text = get(service, "/metrics").body;
  const auto at = text.find("\n" + name + " ");
  return at == text.npos ? -1.0 : std::stod(text.substr(at + name.size() + 2));
}

// An answer 400 about this argument, whose message has this part.
inline void check_error(const Response& response, const std::string& argument, const std::string& message) {
  CHECK_EQUAL(response.status, 400);
  const detail::Json error = json_of(response).at("error");
  CHECK_EQUAL(text_at(error, "argument"), argument);
  if (text_at(error, "message").find(message) == std::string::npos) CHECK_EQUAL(text_at(error, "message"), message);
}
inline void check_error(Service& service, const std::string& body, const std::string& argument,
                        const std::string& message, const char* path = "/v1/rank") {
  check_error(service.handle({"POST", path, body}), argument, message);
}
}  // namespace pygrade::inline v0_2::tests
