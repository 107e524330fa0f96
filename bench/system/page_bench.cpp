// Times pages without Python: page_bench ARTIFACT STORE REQUESTS CALLS, printed as JSON; bench/system/page.py calls it.
//
// REQUESTS is a JSON file: k, candidates, and requests of user_id, timestamp, scenario, context and seen, which are
// asked in turn. The CPU time is the thread's; steps are by the wall clock.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "../../devtools/allocations.hpp"
#include "pygrade/isa.hpp"
#include "pygrade/pipeline.hpp"
#include "util/files.hpp"
#include "util/json.hpp"

namespace {
using namespace pygrade;

using detail::Json;

// The requests of the file. Their texts are those of the document.
struct Asked {
  Json document;
  std::size_t k = 0;
  std::vector<std::vector<ContextValue>> contexts;
  std::vector<std::vector<std::int64_t>> seen;
  std::vector<PipelineRequest> requests;

  explicit Asked(const char* path) : document(Json::parse(detail::text_of(detail::OpenFile(path).content()))) {
    k = static_cast<std::size_t>(document.finite_at("k"));
    const Json& list = document.at("requests");
    contexts.resize(list.items.size());
    seen.resize(list.items.size());
    for (std::size_t r = 0; r < list.items.size(); ++r) {
      const Json& one = list.items[r];
      const Json& context = one.object_at("context");
      for (std::size_t c = 0; c < context.keys.size(); ++c) {
        ContextValue column{.name = context.keys[c]};
        if (context.items[c].type == Json::Type::string) column.text = context.items[c].string;
        if (context.items[c].type == Json::Type::number) column.number = context.items[c].number;
        contexts[r].push_back(column);
      }
      seen[r] = one.integers_at("seen");
      PipelineRequest request;
      request.user = {static_cast<std::int64_t>(one.finite_at("user_id")),
                      static_cast<std::int64_t>(one.finite_at("timestamp")),
                      {},
                      contexts[r]};
      if (one.at("scenario").type == Json::Type::string) request.user.scenario = one.at("scenario").string;
      request.candidates = static_cast<std::size_t>(document.finite_at("candidates"));
      request.seen = seen[r];
      requests.push_back(request);
    }
  }
  Asked(const Asked&) = delete;
};

double cpu_now() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

double quantile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values[std::min(values.size() - 1, static_cast<std::size_t>(share * static_cast<double>(values.size())))];
}

struct Times {
  std::vector<double> cpu, wall;  // µs
};

void print_row(const char* op, const Times& times, const char* end) {
  std::printf(
      "  {\"op\": \"%s\", \"cpu_p50_us\": %.4g, \"cpu_p99_us\": %.4g, \"wall_p50_us\": %.4g, \"calls\": %zu}%s\n", op,
      quantile(times.cpu, 0.5), quantile(times.cpu, 0.99), quantile(times.wall, 0.5), times.cpu.size(), end);
}

struct Buffers {
  std::vector<std::int64_t> items;
  std::vector<float> scores;
  PipelineBuffer of(std::size_t k) {
    items.resize(k);
    scores.resize(k);
    return {items, scores, {}, {}};
  }
};

// Pages a second of `threads` threads, which rank for a second.
double throughput(Pipeline& pipeline, const Asked& asked, int threads) {
  std::atomic<std::uint64_t> pages{0};
  std::atomic<bool> stop{false}, go{false};
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      PageWorkspace workspace;
      Buffers buffers;
      const auto page = [&](std::size_t r) {
        pipeline.rank(asked.requests[r % asked.requests.size()], buffers.of(asked.k), workspace);
      };
      std::size_t r = static_cast<std::size_t>(t) * 7;
      for (int warm = 0; warm < 20; ++warm) page(r++);
      while (!go) std::this_thread::yield();
      std::uint64_t made = 0;
      for (; !stop; ++made) page(r++);
      pages += made;
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  go = true;
  std::this_thread::sleep_for(std::chrono::seconds(1));
  stop = true;
  for (auto& worker : workers) worker.join();
  return static_cast<double>(pages.load());
}

int run(char** argv) {
  const Asked asked(argv[3]);
  const std::size_t calls = std::strtoul(argv[4], nullptr, 10);
  if (asked.requests.empty() || calls == 0) throw std::invalid_argument("there are no requests, or CALLS is below 1");
  const auto pipeline = Pipeline::load(argv[1], open_store(argv[2]), {.seed = 0});
  PageWorkspace workspace;
  Buffers buffers;
  const auto page = [&](std::size_t i) {
    const ServedPage served = pipeline->rank(asked.requests[i % asked.requests.size()], buffers.of(asked.k), workspace);
    if (served.degraded != Degraded::none) throw std::runtime_error("a page is degraded");
    return served;
  };
  std::printf("{\"items\": [");
  for (std::size_t r = 0; r < asked.requests.size(); ++r) {
    const ServedPage served = page(r);
    std::printf("%s[", r == 0 ? "" : ", ");
    for (std::int32_t i = 0; i < served.filled; ++i)
      std::printf("%s%lld", i == 0 ? "" : ", ", static_cast<long long>(buffers.items[static_cast<std::size_t>(i)]));
    std::printf("]");
  }
  constexpr const char* names[steps] = {"features of the user", "prerank", "features of the items", "predictions",
                                        "policy and ranking"};
  Times whole, parts[steps];
  for (auto* times : {&whole.cpu, &whole.wall}) times->reserve(calls);
  for (auto& part : parts) part.wall.reserve(calls);
  const std::uint64_t before = allocations;
  for (std::size_t i = 0; i < calls; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double from = cpu_now();
    const ServedPage served = page(i);
    whole.cpu.push_back(cpu_now() - from);
    whole.wall.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    for (std::size_t step = 0; step < steps; ++step)
      parts[step].wall.push_back(1e6 * static_cast<double>(served.seconds[step]));
  }
  std::printf("],\n \"allocations\": %llu,\n \"rows\": [\n", static_cast<unsigned long long>(allocations - before));
  print_row("page", whole, ",");
  for (std::size_t step = 0; step < steps; ++step) {
    parts[step].cpu = parts[step].wall;
    print_row(names[step], parts[step], step + 1 < steps ? "," : "");
  }
  const double one = throughput(*pipeline, asked, 1), two = throughput(*pipeline, asked, 2);
  std::printf(" ],\n \"pages_per_second\": {\"1\": %.4g, \"2\": %.4g}}\n", one, two);
  return 0;
}
}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: page_bench ARTIFACT STORE REQUESTS CALLS\n");
    return 2;
  }
  try {
    return run(argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "page_bench: %s\n", error.what());
    return 1;
  }
}
