// The options of pygraded: the command line over the table [serve] of pygrade.toml, which `pygrade serve` reads, too.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace pygrade::server {

struct Settings {
  // std::invalid_argument names the option.
  static Settings parse(int argc, char** argv);
  static std::string help();

  bool wants_help = false, wants_version = false;
  std::filesystem::path run;
  std::string host = "127.0.0.1";
  int port = 8080;        // 0: a free one
  int connections = 512;  // at once, a thread each
  std::size_t max_body_bytes = std::size_t{1} << 20;
  std::optional<std::filesystem::path> token_file, tls_cert, tls_key;
  std::filesystem::path console;  // the page of /console
  double drain_seconds = 5.0;     // after SIGTERM: /readyz is 503 and requests are still answered
  double refresh_seconds = 1.0;   // between looks at the artifact and the policies
  enum class Log { all, errors, none } log = Log::all;
  std::string core = "{}";           // JSON, for the service
  std::vector<std::string> ignored;  // keys that only `pygrade serve` has
};

}  // namespace pygrade::server
