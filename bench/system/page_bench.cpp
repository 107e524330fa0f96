// Times pages without Python: page_bench ARTIFACT STORE REQUESTS [REPEATS] [THREADS], printed as JSON.
//
// REQUESTS has a line for each request: user, timestamp (ms), scenario ("-": none), candidates, k, and context columns
// as name=number or name="text". The requests are rotated. CPU times are the thread's, steps are by the wall clock.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "pygrade/isa.hpp"
#include "pygrade/pipeline.hpp"

namespace {

thread_local std::uint64_t allocations = 0;

}  // namespace

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace pygrade;

struct Line {
  std::int64_t user = 0, timestamp = 0;
  std::string scenario;
  std::size_t candidates = 0, k = 0;
  std::vector<std::pair<std::string, std::string>> columns;
};

std::vector<Line> read_lines(const char* path) {
  std::vector<Line> lines;
  std::ifstream file(path);
  for (std::string text; std::getline(file, text);) {
    std::istringstream words(text);
    Line line;
    if (!(words >> line.user >> line.timestamp >> line.scenario >> line.candidates >> line.k)) continue;
    for (std::string word; words >> word;)
      if (const auto sign = word.find('='); sign != word.npos)
        line.columns.emplace_back(word.substr(0, sign), word.substr(sign + 1));
    lines.push_back(std::move(line));
  }
  return lines;
}

// A request of a line, which must outlive it.
struct Given {
  std::vector<ContextValue> context;
  PipelineRequest request;

  explicit Given(const Line& line) {
    for (const auto& [name, value] : line.columns) {
      ContextValue column{.name = name};
      if (value.size() >= 2 && value.front() == '"')
        column.text = std::string_view(value).substr(1, value.size() - 2);
      else
        column.number = std::strtod(value.c_str(), nullptr);
      context.push_back(column);
    }
    request.user = {line.user, line.timestamp, {}, context};
    if (line.scenario != "-") request.user.scenario = line.scenario;
    request.candidates = line.candidates;
  }
  Given(const Given&) = delete;
  Given(Given&& other) noexcept : context(std::move(other.context)), request(other.request) {
    request.user.context = context;
  }
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

void print_times(const char* name, const std::vector<double>& times, const char* end) {
  std::printf("  \"%s\": {\"p50_us\": %.2f, \"p99_us\": %.2f}%s\n", name, quantile(times, 0.5), quantile(times, 0.99),
              end);
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
double throughput(Pipeline& pipeline, const std::vector<Given>& given, const std::vector<Line>& lines, int threads) {
  std::atomic<std::uint64_t> pages{0};
  std::atomic<bool> stop{false}, go{false};
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; ++t)
    workers.emplace_back([&, t] {
      PageWorkspace workspace;
      Buffers buffers;
      std::uint64_t made = 0;
      std::size_t r = static_cast<std::size_t>(t) * 7 % given.size();
      for (int warm = 0; warm < 20; ++warm) pipeline.rank(given[r].request, buffers.of(lines[r].k), workspace);
      while (!go) std::this_thread::yield();
      for (; !stop; r = (r + 1) % given.size(), ++made)
        pipeline.rank(given[r].request, buffers.of(lines[r].k), workspace);
      pages += made;
    });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  go = true;
  std::this_thread::sleep_for(std::chrono::seconds(1));
  stop = true;
  for (auto& worker : workers) worker.join();
  return static_cast<double>(pages.load());
}

int run(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: page_bench ARTIFACT STORE REQUESTS [REPEATS] [THREADS]\n");
    return 2;
  }
  const std::size_t repeats = argc > 4 ? std::strtoul(argv[4], nullptr, 10) : 2000;
  const int threads = argc > 5 ? std::atoi(argv[5]) : 1;
  const auto lines = read_lines(argv[3]);
  if (lines.empty() || repeats == 0 || threads < 1) {
    std::fprintf(stderr, "page_bench: %s holds no request, or REPEATS or THREADS is below 1\n", argv[3]);
    return 2;
  }
  const auto pipeline = Pipeline::load(argv[1], open_store(argv[2]), {.seed = 0});
  const std::vector<Given> given(lines.begin(), lines.end());
  PageWorkspace workspace;
  Buffers buffers;
  const auto page = [&](std::size_t i) {
    const std::size_t r = i % given.size();
    return pipeline->rank(given[r].request, buffers.of(lines[r].k), workspace);
  };
  for (std::size_t i = 0; i < 2 * given.size(); ++i) page(i);
  constexpr const char* names[] = {"features of the user", "prerank", "features of the items", "predictions",
                                   "policy and ranking"};
  std::vector<double> cpu, wall, parts[steps];
  cpu.reserve(repeats);
  wall.reserve(repeats);
  for (auto& part : parts) part.reserve(repeats);
  const std::uint64_t before = allocations;
  for (std::size_t i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const double from = cpu_now();
    const ServedPage served = page(i);
    cpu.push_back(cpu_now() - from);
    wall.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    for (std::size_t step = 0; step < steps; ++step)
      parts[step].push_back(1e6 * static_cast<double>(served.seconds[step]));
    if (served.degraded != Degraded::none) {
      std::fprintf(stderr, "page_bench: a page is degraded\n");
      return 1;
    }
  }
  const std::uint64_t allocated = allocations - before;
  std::printf("{\n  \"isa\": \"%s\",\n  \"pages\": %zu,\n  \"allocations\": %llu,\n",
              std::string(isa_name(active_isa())).c_str(), repeats, static_cast<unsigned long long>(allocated));
  print_times("cpu", cpu, ",");
  print_times("wall", wall, ",");
  for (std::size_t step = 0; step < steps; ++step) print_times(names[step], parts[step], ",");
  std::printf("  \"pages_per_second\": {\"1\": %.1f", throughput(*pipeline, given, lines, 1));
  if (threads > 1) std::printf(", \"%d\": %.1f", threads, throughput(*pipeline, given, lines, threads));
  std::printf("}\n}\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "page_bench: %s\n", error.what());
    return 1;
  }
}
