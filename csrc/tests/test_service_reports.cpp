// Reports of a service on itself: metrics, status, readiness.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <thread>

#include "check.hpp"
#include "service/api.hpp"
#include "service/config.hpp"
#include "service/json_writer.hpp"
#include "service/metrics.hpp"
#include "service/registry.hpp"
#include "service_run.hpp"

namespace {
using namespace pygrade;
using namespace pygrade::detail;
using namespace pygrade::tests;

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
  const Series part{&registry, numbers};
  write_prometheus({&part, 1}, text);
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

Response send(Service& service, const char* path, const std::string& body) {
  return service.handle({"POST", path, body});
}

// --- feedback that must not be taken

TEST(feedback_that_must_not_be_taken_is_refused_as_a_whole) {
  const ServiceRun run;
  const auto service = run.serve(R"({"feedback": "feedback", "max_amount": 50})");
  const auto now = std::to_string(static_cast<long long>(std::time(nullptr)) * 1000);
  const auto refused = [&](const std::string& fields, const std::string& argument, const std::string& message) {
    const std::string good = R"({"user": 3, "item": 7, "task": "click", "scenario": "feed"})";
    const std::string body = R"({"events": [)" + good + R"(, {"user": 3, "scenario": "feed", )" + fields + "}]}";
    check_error(*service, body, "events[1]." + argument, message, "/v1/update");
  };
  const std::string seconds = now.substr(0, now.size() - 3), ahead = std::to_string(std::stoll(now) + 90'000'000);
  refused(R"("item": 7, "timestamp": )" + seconds, "timestamp",
          "timestamp is " + seconds + "; expected milliseconds since 1970");
  refused(R"("item": 7, "timestamp": )" + seconds, "timestamp", "looks like seconds, which times 1000");
  refused(R"("item": 7, "timestamp": )" + now + "000", "timestamp", "looks like microseconds, which divided by 1000");
  check_error(*service, R"({"user": 3, "timestamp": )" + seconds + "}", "timestamp", "looks like seconds");
  refused(R"("item": 7, "timestamp": )" + ahead, "timestamp",
          "expected milliseconds since 1970, from the year 2000 to a day");
  refused(R"("item": 7, "timestamp": -9007199254740992)", "timestamp", "expected milliseconds");
  refused(R"("item": 7, "amount": 51)", "amount", "amount is 51; expected a number from 0 to max_amount, 50");
  refused(R"("item": 7, "amount": -1)", "amount", "expected a number from 0 to max_amount");
  refused(R"("item": 4611686018427387904)", "item", "item is 4611686018427387904; expected an item of the catalog");
  const ServiceRun named(R"(["item"])");
  check_error(*named.serve(), R"({"events": [{"user": 3, "item": "p7"}]})", "events[0].item",
              R"(item is "p7"; expected an item of the catalog)", "/v1/update");
  CHECK_EQUAL(metric(*service, "pygrade_feature_updates_total"), 0.0);
  CHECK_EQUAL(metric(*service, "pygrade_feedback_logged_total"), 0.0);
  CHECK_EQUAL(metric(*service, R"(pygrade_feedback_events_total{arm="main",task="click"})"), 0.0);
  service->drain();
  CHECK(std::filesystem::is_empty(run.folder / "feedback"));
  CHECK_EQUAL(
      send(*service, "/v1/update",
           R"({"events": [{"user": 3, "item": 7, "amount": 50, "scenario": "feed", "timestamp": )" + now + "}]}")
          .status,
      200);
  const auto counting = run.serve(R"({"unknown_items": "count"})");
  const Json counted = json_of(send(*counting, "/v1/update",
                                    R"({"events": [{"user": 3, "item": 4611686018427387904, "scenario": "feed"},
      {"user": 3, "item": 7, "scenario": "feed"}]})"));
  CHECK_EQUAL(counted.finite_at("events"), 2.0);
  CHECK_EQUAL(counted.finite_at("unknown_items"), 1.0);
  CHECK_EQUAL(metric(*counting, "pygrade_update_unknown_items_total"), 1.0);
}

// --- a store that does not answer

TEST(a_service_starts_without_its_store_and_says_so) {
  const ServiceRun run;
  run.store->fail(true);
  const auto service = run.serve();
  const auto strict = run.serve(R"({"require_store": true})");
  const auto state = [](Service& of) { return json_of(get(of, "/readyz")).string_at("store"); };
  CHECK_EQUAL(state(*service), std::string("unreachable"));
  CHECK_EQUAL(get(*service, "/readyz").status, 200);
  CHECK_EQUAL(get(*strict, "/readyz").status, 503);
  CHECK_EQUAL(metric(*service, "pygrade_store_reachable"), 0.0);
  CHECK_EQUAL(json_of(send(*service, "/v1/rank", R"({"user": 3})")).string_at("degraded"), std::string("store"));
  CHECK(!service->refresh());
  run.store->fail(false);
  for (Service* one : {service.get(), strict.get()}) {
    CHECK(!one->refresh());
    CHECK_EQUAL(state(*one), std::string("reachable"));
    CHECK_EQUAL(get(*one, "/readyz").status, 200);
  }
  CHECK(json_of(send(*service, "/v1/rank", R"({"user": 3})")).at("degraded").type == Json::Type::null);
  CHECK_EQUAL(metric(*service, "pygrade_store_reachable"), 1.0);
  // It comes back with something else.
  run.store->fail(true);
  const auto late = run.serve();
  run.store->fail(false);
  run.store->copy_version(run.version, "other");
  run.store->switch_to("other");
  late->refresh();
  CHECK_EQUAL(state(*late), std::string("another version"));
  run.store->switch_to(run.version);
  late->refresh();
  CHECK_EQUAL(state(*late), std::string("reachable"));
}
}  // namespace
