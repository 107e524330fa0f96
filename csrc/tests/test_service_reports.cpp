// What a service says of itself: metrics, status, readiness.
#include <fcntl.h>
#include <unistd.h>

#include <ctime>
#include <thread>

#include "check.hpp"
#include "service/api.hpp"
#include "service/config.hpp"
#include "service/metrics.hpp"
#include "service/registry.hpp"
#include "service_run.hpp"

namespace {

using namespace pygrade;
using namespace pygrade::detail;
using namespace pygrade::tests;

Response get(Service& service, std::string_view path) { return service.handle({"GET", path, ""}); }

std::string metrics_of(Service& service) { return get(service, "/metrics").body; }

// The series of a name; -1: none.
double metric(Service& service, const std::string& name) {
  const std::string text = metrics_of(service);
  const auto at = text.find("\n" + name + " ");
  return at == text.npos ? -1.0 : std::stod(text.substr(at + name.size() + 2));
}

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

TEST(numbers_of_all_threads_are_summed) {
  Registry registry;
  const Cell pages = registry.count("pygrade_arm_pages_total", labels_of({{"arm", "a\"b"}}));
  const Cell sum = registry.real("pygrade_weight_sum");
  const Histogram steps = registry.histogram("pygrade_step_seconds", labels_of({{"step", "user"}}));
  CHECK_EQUAL(registry.count("pygrade_arm_pages_total", labels_of({{"arm", "a\"b"}})).index(), pages.index());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < shards + 4; ++i)  // more than there are shards: some share one
      threads.emplace_back([&] {
        for (int n = 0; n < 1000; ++n) {
          pages.add();
          sum.add_real(0.5);
          steps.observe(n % 2 == 0 ? 2e-5 : 100.0);
        }
      });
  }
  const auto numbers = registry.read();
  const double events = 1000.0 * (shards + 4);
  CHECK_EQUAL(numbers[pages.index()], events);
  CHECK_EQUAL(numbers[sum.index()], 0.5 * events);
  std::string text;
  write_prometheus(registry, numbers, {}, text);
  const auto has = [&](const std::string& line) { return text.find("\n" + line + "\n") != std::string::npos; };
  CHECK(has(R"(pygrade_arm_pages_total{arm="a\"b"} 20000)"));
  CHECK(has(R"(pygrade_step_seconds_bucket{step="user",le="1.5e-05"} 0)"));
  CHECK(has(R"(pygrade_step_seconds_bucket{step="user",le="2e-05"} 10000)"));
  CHECK(has(R"(pygrade_step_seconds_bucket{step="user",le="7"} 10000)"));
  CHECK(has(R"(pygrade_step_seconds_bucket{step="user",le="+Inf"} 20000)"));
  CHECK(has(R"(pygrade_step_seconds_count{step="user"} 20000)"));
  CHECK_NEAR(numbers[steps.bin(duration_bins).index()], events / 2 * 100.00002, 1e-3);
  CHECK_THROWS(std::logic_error, "no family of metrics is named pygrade_pages", registry.count("pygrade_pages"));
}

TEST(series_beyond_the_limit_are_counted_nowhere) {
  Registry registry;
  Cell last;
  for (std::size_t i = 0; registry.left_out() == 0; ++i)
    last = registry.count("pygrade_scenario_pages_total", labels_of({{"scenario", std::to_string(i)}}));
  last.add(7);
  const auto numbers = registry.read();
  CHECK(last.index() >= numbers.size());
  for (const double number : numbers) CHECK_EQUAL(number, 0.0);
}

TEST(the_process_tells_of_itself) {
  const ServiceRun run;
  const auto service = run.serve();
  const double now = static_cast<double>(std::time(nullptr));
  CHECK(metric(*service, "process_resident_memory_bytes") > 1e6);
  CHECK(metric(*service, "process_cpu_seconds_total") > 0.0);
  const double open = metric(*service, "process_open_fds");
  CHECK(open >= 3.0 && open < metric(*service, "process_max_fds"));
  const int file = ::open("/dev/null", O_RDONLY);
  CHECK_EQUAL(metric(*service, "process_open_fds"), open + 1.0);
  ::close(file);
  const double start = metric(*service, "process_start_time_seconds");
  CHECK(start > now - 600.0 && start <= now + 2.0);
}

TEST(the_interface_describes_itself) {
  const ServiceRun run;
  const auto service = run.serve();
  const Response document = get(*service, "/openapi.json");
  CHECK_EQUAL(document.status, 200);
  CHECK_EQUAL(document.body, Service::openapi());
  const Json paths = json_of(document).object_at("paths");
  for (std::size_t e = 0; e < on_other; ++e) CHECK(paths.find(endpoint_names[e]) != nullptr);
  const Response page = get(*service, "/docs");
  CHECK_EQUAL(page.status, 200);
  CHECK(page.content_type.starts_with("text/html"));
  CHECK(page.body.find("<script type=\"application/json\" id=\"api\">{") != std::string::npos);
}

// The defaults that the table of options names are those in force.
TEST(documented_defaults_are_in_force) {
  const ServiceConfig standard = ServiceConfig::parse("{}", "run");
  int checked = 0;
  for (const api::Field& option : api::service_options) {
    if (option.default_value.empty()) continue;
    const std::string given = "{\"" + std::string(option.name) + "\": " + std::string(option.default_value) + "}";
    CHECK(ServiceConfig::parse(given, "run") == standard);
    if (!(ServiceConfig::parse(given, "run") == standard)) std::fprintf(stderr, "%s\n", given.c_str());
    ++checked;
  }
  CHECK(checked >= 10);
  CHECK(!(ServiceConfig::parse(R"({"max_k": 999})", "run") == standard));
}

}  // namespace
