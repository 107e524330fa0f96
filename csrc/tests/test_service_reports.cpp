// What a service says of itself: metrics, status, readiness.
#include "check.hpp"
#include "service_run.hpp"

namespace {

using namespace pygrade;
using namespace pygrade::tests;

Response get(Service& service, std::string_view path) { return service.handle({"GET", path, ""}); }

std::string metrics_of(Service& service) { return get(service, "/metrics").body; }

TEST(a_server_adds_its_own_figures) {
  const ServiceRun run;
  const auto service = run.serve();
  const std::string series = "\npygrade_connections 3\n";
  CHECK(metrics_of(*service).find("pygrade_connections") == std::string::npos);
  service->set_gauges([](std::vector<Gauge>& out) {
    out.push_back({"pygrade_connections", "Open connections.", 3.0});
    out.push_back({"pygrade_requests_shed_total", "Requests that were answered with 503.", 2.0});
  });
  const std::string text = metrics_of(*service);
  CHECK(text.find("# HELP pygrade_connections Open connections.\n# TYPE pygrade_connections gauge" + series) !=
        std::string::npos);
  CHECK(text.find("# TYPE pygrade_requests_shed_total counter\npygrade_requests_shed_total 2\n") != std::string::npos);
  const auto status = json_of(get(*service, "/v1/status"));
  CHECK_EQUAL(status.object_at("counters").finite_at("pygrade_connections"), 3.0);
  service->set_gauges({});
  CHECK(metrics_of(*service).find("pygrade_connections") == std::string::npos);
}

}  // namespace
