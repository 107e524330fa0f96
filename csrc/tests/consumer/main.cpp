// Uses the C++ API as a server would, and libpygrade_redis and libpygrade_tls if the directory argv[1] has them. Exit
// status 0: it works.
#include <cstdio>
#include <filesystem>
#include <pygrade/isa.hpp>
#include <pygrade/ranker.hpp>
#include <pygrade/store.hpp>
#include <pygrade/version.hpp>
#include <string_view>
#include <utility>
#include <vector>

int main(int argc, char** argv) {
  std::printf("pygrade %s, %s\n", PYGRADE_VERSION, pygrade::isa_name(pygrade::active_isa()).data());

  const std::vector<float> scores = {0.1f, 0.9f, 0.5f, 0.2f, 0.3f, 0.3f};  // three candidates, two tasks
  const std::vector<float> weights = {0.25f, 0.75f};
  std::vector<float> values(2);
  std::vector<std::int32_t> page(2);
  pygrade::rank(pygrade::Scores::dense(scores.data(), pygrade::ScoreType::float32, 1, 3, 2), weights, 2, {}, {}, values,
                page);
  if (page[0] != 0 || page[1] != 2) return 1;

  try {  // the library's exceptions are caught by type, also across a shared library
    pygrade::Ranker::load("no-such-directory");
    return 2;
  } catch (const pygrade::ArtifactMissing& error) {
    std::printf("as expected: %s\n", error.what());
  }

  for (const auto& [url, library] : {std::pair("redis://localhost:1/0", "libpygrade_redis.so"),
                                     std::pair("rediss://localhost:1/0", "libpygrade_tls.so")})
    try {
      pygrade::open_store(url);  // where nothing listens: the library has to be there first
      return 3;
    } catch (const pygrade::StoreError& error) {
      std::printf("as expected: %s\n", error.what());
      const bool loaded = std::string_view(error.what()).find("not reachable") != std::string_view::npos;
      if (argc == 2 && std::filesystem::exists(std::filesystem::path(argv[1]) / library) && !loaded) return 4;
    }
  return 0;
}
