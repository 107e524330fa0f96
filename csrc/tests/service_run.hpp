// A run directory and a store in memory, for the tests of the service.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "artifact.hpp"
#include "pygrade/pipeline.hpp"
#include "pygrade/service.hpp"
#include "util/json.hpp"
#include "versioned_store.hpp"

namespace pygrade::inline v0_2::tests {

// The artifacts that tests/pipeline/artifacts.py wrote: the same features and models, different policies.
inline std::filesystem::path test_artifact(const char* name) {
  return std::filesystem::path(PYGRADE_TEST_FOLDER) / "artifacts" / name;
}

class ServiceRun {
 public:
  explicit ServiceRun(const std::string& named = "[]") {
    static int number = 0;
    folder = std::filesystem::temp_directory_path() /
             ("pygrade-service-" + std::to_string(::getpid()) + "-" + std::to_string(number++));
    std::filesystem::create_directories(folder);
    write("store.json", R"({"store": "memory:", "named": )" + named + "}");
    const Models models = Models::load(test_artifact("first"));
    version = models.version;
    store = std::make_shared<VersionedStore>(version);
    put_meta(models);
    point_to("first");
  }
  ~ServiceRun() { std::filesystem::remove_all(folder); }
  ServiceRun(const ServiceRun&) = delete;
  ServiceRun& operator=(const ServiceRun&) = delete;

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

  std::filesystem::path folder;
  std::string version;
  std::shared_ptr<VersionedStore> store;

 private:
  void put_meta(const Models& models) const {
    store->put(models.version, "meta", 0,
               R"({"schema": ")" + models.features->hash() + R"(", "version": ")" + models.version + R"("})");
  }
};

// A run that `pygrade train` wrote, as far as serving reads it.
class PolicyRun {
 public:
  explicit PolicyRun(const Artifact& artifact) {
    static int number = 0;
    folder = std::filesystem::temp_directory_path() /
             ("pygrade-policy-run-" + std::to_string(::getpid()) + "-" + std::to_string(number++));
    std::filesystem::create_directories(folder);
    put(artifact);
  }
  ~PolicyRun() { std::filesystem::remove_all(folder); }
  PolicyRun(const PolicyRun&) = delete;
  PolicyRun& operator=(const PolicyRun&) = delete;

  void put(const Artifact& artifact) {
    artifact.write(folder / "policy");
    policy = Policy::load(folder / "policy");
  }
  std::unique_ptr<Service> serve(const std::string& config = "{}") const {
    return std::make_unique<Service>(folder, config);
  }

  std::filesystem::path folder;
  std::shared_ptr<const Policy> policy;
};

// The answer's JSON. A body that is none ends the test program.
inline detail::Json json_of(const Response& response) { return detail::Json::parse(response.body); }

inline detail::Json post(Service& service, const std::string& path, const std::string& body) {
  return json_of(service.handle({"POST", path, body}));
}

}  // namespace pygrade::inline v0_2::tests
