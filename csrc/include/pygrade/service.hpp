// A worker of the service without its HTTP: requests in JSON, pages, metrics, arms, logs and reloads.
//
// `pygrade serve` (Python) and `pygraded` (C++) are thin layers over this class, so they have the same API, errors and
// bytes. docs/SERVICE.md documents endpoints, configuration and metrics.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/store.hpp"

namespace pygrade::inline v0_2 {
// A request without its HTTP. All texts belong to the caller and live until `handle` returns.
struct ServiceRequest {
  std::string_view method, path, body;
  std::string_view content_type = {};  // "application/safetensors": tensors; anything else is read as JSON
  std::string_view accept = {};        // "application/safetensors": a page as tensors, else JSON
  std::string_view request_id = {};    // of the header X-Request-Id: used if the body names none
  // When the request arrived: its deadline counts from here, waiting included. nullopt: from the call.
  std::optional<std::chrono::steady_clock::time_point> arrival = {};
};

struct Response {
  int status = 200;
  std::string_view content_type = {};  // never freed
  std::string body = {};
  std::string request_id = {};  // of the page, or the header's; "": neither
};

// A figure of the program around a service, such as the number of its connections.
struct Gauge {
  std::string_view name;  // "pygrade_" and letters, digits or _; one that ends with _total is a counter
  std::string_view help;  // a sentence
  double value = 0.0;
  std::string labels = {};  // such as {tenant="a"}; figures of one name follow one another
};

class PYGRADE_API Service {
 public:
  // `run`: the directory that `pygrade pipeline` or `pygrade train` wrote, or a policy's; `config_json`: an object with
  // the keys of docs/SERVICE.md, "{}" for the defaults. `run` may be empty if the key `runs` names others.
  // ArtifactError, StoreError, or std::invalid_argument that names the key; of several runs one must load, and
  // `warnings` names others.
  Service(const std::string& run, std::string_view config_json);
  // Serves from a store that is open already.
  Service(const std::string& run, std::string_view config_json, std::shared_ptr<Store> store);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Answers a request, from any thread. It throws nothing: errors are answers, too.
  Response handle(const ServiceRequest& request) noexcept;

  // As `handle`, but of a batch in one body one page a call: the text of the next one, while `response` is not there
  // yet; then call again with the same request and `batch`, which is null at first.
  std::optional<std::string_view> handle_next(const ServiceRequest& request, std::shared_ptr<void>& batch,
                                              Response& response) noexcept;

  // An error as `handle` answers it, for what a server refuses by itself. argument "": none.
  static Response error(int status, std::string_view argument, std::string_view message);

  // Warnings for an operator, a sentence each: arms that may rank identically and do, policies that are not
  // proved.
  std::vector<std::string> warnings() const;

  // The interface as an OpenAPI document in JSON, the answer of /openapi.json.
  static std::string openapi();

  // Looks at each run's artifact and its arms' policies, loads what changed and publishes all of it in one step. True
  // if something changed. If a part can't be loaded everything of that run stays as it is; the failure is counted and
  // named in the body of /readyz. Call it every few seconds and on a signal. It throws nothing.
  bool refresh() noexcept;

  // From now on /readyz answers 503; other requests are still served. Flushes the logs.
  void drain() noexcept;

  // `read` appends figures to those of /metrics and /v1/status. It is called by one thread at a time, and no longer
  // once another function, or {}, is set.
  void set_gauges(std::function<void(std::vector<Gauge>&)> read);

 private:
  struct Impl;  // serves one run
  struct Runs;
  std::unique_ptr<Runs> runs_;
};
}  // namespace pygrade::inline v0_2
