// The options of pygraded: a JSON object, and the command line over it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tenants.hpp"

namespace pygrade::inline v0_2::server {
struct Settings {
  // std::invalid_argument names the option.
  static Settings parse(int argc, char** argv);
  static std::string help();

  bool wants_help = false, wants_version = false;
  std::filesystem::path run;  // without a name; "": there are others alone
  std::string host = "127.0.0.1";
  int port = 8080;             // 0: a free one
  int threads = 0;             // that make pages; 0: the number of cores, at most 8
  int connections = 512;       // at once
  int connections_each = 256;  // of one address; 0: as many as there are
  int max_requests = 0;        // pages in progress, waiting ones included; 0: from the measured rate
  int max_body_bytes = 1 << 20;
  std::optional<std::filesystem::path> token_file, tls_cert, tls_key, console;  // console: the page of /console
  double drain_seconds = 5.0;    // after SIGTERM: /readyz is 503 and requests are still answered
  double refresh_seconds = 1.0;  // between looks at the artifact and the policies
  std::string log = "all";       // or errors, or none: requests that are logged
  bool public_address = false;   // an address that others reach needs no token
  std::vector<TenantLimits> tenants;
  std::string core = "{}";  // JSON: what the service itself takes

  bool loopback() const;  // true if `host` is reached from this machine alone
};
}  // namespace pygrade::inline v0_2::server
