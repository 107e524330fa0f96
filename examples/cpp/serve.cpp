// The loop of an embedding server: ranks the requests of a file by a policy directory in several threads, takes a new
// policy from the directory on SIGHUP, and prints latency percentiles.
//
//   serve POLICY_DIR REQUESTS [--pages FILE] [--log FILE] [--threads 1] [--seconds 2]
//
// REQUESTS has the format of examples/request_file.py. --pages writes the page of each request in the format of that
// file, --log the rows of its log as CSV. --seconds 0 ranks no more than that.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <pygrade/ranker.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {
using Clock = std::chrono::steady_clock;

std::atomic<bool> reload_wanted{false};

struct Options {
  std::string policy = {}, requests = {}, pages = {}, log = {};
  unsigned threads = 1;
  double seconds = 2.0;
};

Options parse(int argc, char** argv) {
  if (argc < 3)
    throw std::invalid_argument(
        "usage: serve POLICY_DIR REQUESTS [--pages FILE] [--log FILE] [--threads 1] [--seconds 2]");
  Options options{.policy = argv[1], .requests = argv[2]};
  for (int i = 3; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) throw std::invalid_argument(name + " lacks a value");
    const std::string value = argv[i + 1];
    if (name == "--pages")
      options.pages = value;
    else if (name == "--log")
      options.log = value;
    else if (name == "--threads")
      options.threads = static_cast<unsigned>(std::stoul(value));
    else if (name == "--seconds")
      options.seconds = std::stod(value);
    else
      throw std::invalid_argument("unknown option " + name);
  }
  if (options.threads < 1) throw std::invalid_argument("--threads must be at least 1");
  return options;
}

// The requests of a file. Their arrays lie in its content.
struct Requests {
  std::vector<char> content;
  std::vector<pygrade::Request> requests;
  std::vector<std::size_t> k;  // places of their pages

  Requests(const std::string& path, const pygrade::Policy& policy) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::invalid_argument(path + " can't be read");
    content.assign(std::istreambuf_iterator<char>(file), {});
    if (std::string_view(take<char>(8).data(), 8) != "PGREQ001")
      throw std::invalid_argument(path + " is not a file of requests");
    const auto head = take<std::uint32_t>(3);
    features_ = head[1], tasks_ = head[2];
    if (features_ != policy.features().size() || tasks_ != policy.tasks().size())
      throw std::invalid_argument(path + " has requests for another policy");
    for (std::size_t i = 0; i < head[0]; ++i) read();
  }

 private:
  std::size_t at_ = 0, features_ = 0, tasks_ = 0;
  std::deque<std::vector<std::int64_t>> ids_;  // of the items, by their names

  template <class T>
  std::span<const T> take(std::size_t count) {
    const std::size_t size = (count * sizeof(T) + 3) / 4 * 4;
    if (size > content.size() - at_) throw std::invalid_argument("the file of requests ends early");
    at_ += size;
    return {reinterpret_cast<const T*>(content.data() + at_ - size), count};
  }

  void read() {
    enum { context = 1, mask = 2, mul = 4, add = 8, groups = 16, scenario = 32, explore = 64, values = 128 };
    constexpr std::uint32_t item_values = 256, names = 512;
    const auto head = take<std::uint32_t>(7);
    const std::size_t n = head[0], columns = head[3];
    const std::uint32_t parts = head[2];
    pygrade::Request request;
    if (parts & context) request.context = take<float>(features_);
    request.predictions = take<float>(n * tasks_);
    if (parts & mask) request.rules.mask = take<std::uint8_t>(n);
    if (parts & mul) request.rules.boost_mul = take<float>(n);
    if (parts & add) request.rules.boost_add = take<float>(n);
    if (parts & groups) request.rules.groups = take<std::int32_t>(n * columns);
    if (parts & groups) request.rules.caps = take<std::int32_t>(columns);
    if (parts & values) request.values = take<float>(tasks_);
    if (parts & item_values) request.item_values = take<float>(n);
    if (parts & names) {
      const auto text = take<char>(8 * n);
      auto& known = ids_.emplace_back(n);
      for (std::size_t i = 0; i < n; ++i) known[i] = pygrade::stable_id({text.data() + 8 * i, 8});
      request.item_ids = known;
    }
    if (parts & scenario) request.scenario = std::string_view(take<char>(head[4]).data(), head[4]);
    request.explore = parts & explore;
    if (request.explore) request.draw = std::uint64_t{head[5]} << 32 | head[6];
    requests.push_back(request);
    k.push_back(head[1]);
  }
};

struct Memory {
  std::vector<float> values, weights, concentration;
  std::vector<std::int32_t> indices;

  explicit Memory(const pygrade::Policy& policy)
      : weights(policy.tasks().size()), concentration(policy.tasks().size()) {}
  pygrade::PageBuffer buffer(std::size_t k) {
    values.resize(k);
    indices.resize(k);
    return {values, indices, weights, concentration};
  }
};

template <class T>
void append(std::string& out, std::span<const T> values) {
  out.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
}

void append_page(std::string& out, const pygrade::Page& page, const pygrade::PageBuffer& buffer) {
  const std::uint32_t head[] = {
      static_cast<std::uint32_t>(buffer.values.size()), static_cast<std::uint32_t>(page.filled),
      page.fallback != pygrade::Fallback::none,         page.explored,
      static_cast<std::uint32_t>(page.seed >> 32),      static_cast<std::uint32_t>(page.seed),
      static_cast<std::uint32_t>(page.missing_items)};
  append<std::uint32_t>(out, head);
  append(out, std::span(&page.mixture_weight, 1));
  append<char>(out, page.policy_version);
  append<float>(out, buffer.values);
  append<std::int32_t>(out, buffer.indices);
  append<float>(out, buffer.weights);
  append<float>(out, buffer.concentration);
}

void write(const std::string& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary);
  if (!(file << content).flush()) throw std::runtime_error(path + " can't be written");
}

// Ranks each request once, and writes pages and log rows.
void write_results(pygrade::Ranker& ranker, const Requests& given, const Options& options) {
  const auto policy = ranker.policy();
  Memory memory(*policy);
  std::string pages = "PGPAG001", log;
  const std::uint32_t head[] = {static_cast<std::uint32_t>(given.requests.size()),
                                static_cast<std::uint32_t>(policy->tasks().size())};
  append<std::uint32_t>(pages, head);
  pygrade::append_log_header(*policy, log);
  for (std::size_t i = 0; i < given.requests.size(); ++i) {
    const auto buffer = memory.buffer(given.k[i]);
    const auto page = ranker.rank(given.requests[i], buffer);
    append_page(pages, page, buffer);
    const std::string id = std::to_string(i);
    if (!options.log.empty()) pygrade::append_log_rows(*policy, given.requests[i], buffer, page, {id, id, {}, {}}, log);
  }
  if (!options.pages.empty()) write(options.pages, pages);
  if (!options.log.empty()) write(options.log, log);
}

// Ranks requests in turn from number `first` on until `stop`. Returns the latencies in nanoseconds.
std::vector<float> serve(pygrade::Ranker& ranker, const Requests& given, std::size_t first,
                         const std::atomic<bool>& stop) {
  Memory memory(*ranker.policy());
  std::vector<float> latencies;
  latencies.reserve(1 << 22);
  for (std::size_t i = first; !stop && latencies.size() < latencies.capacity(); ++i) {
    const std::size_t at = i % given.requests.size();
    const auto begin = Clock::now();
    ranker.rank(given.requests[at], memory.buffer(given.k[at]));
    latencies.push_back(std::chrono::duration<float, std::nano>(Clock::now() - begin).count());
  }
  return latencies;
}

void report(std::vector<float>& latencies, const pygrade::Ranker& ranker, unsigned threads, double seconds) {
  std::ranges::sort(latencies);
  const auto at = [&](double share) {
    return static_cast<double>(latencies[static_cast<std::size_t>(share * static_cast<double>(latencies.size() - 1))]) /
           1e3;
  };
  std::printf("%zu requests in %.2f s on %u threads: %.0f a second\n", latencies.size(), seconds, threads,
              static_cast<double>(latencies.size()) / seconds);
  std::printf("latency in µs: p50 %.2f  p90 %.2f  p99 %.2f  p99.9 %.2f  max %.2f\n", at(0.5), at(0.9), at(0.99),
              at(0.999), at(1.0));
  const auto counted = ranker.counters();
  std::printf("fallbacks: %llu scenario, %llu global; explored: %llu; missing predictions: %llu; empty pages: %llu\n",
              static_cast<unsigned long long>(counted.fallback_scenario),
              static_cast<unsigned long long>(counted.fallback_global),
              static_cast<unsigned long long>(counted.explored),
              static_cast<unsigned long long>(counted.missing_predictions),
              static_cast<unsigned long long>(counted.empty_pages));
}

// A policy that can't be read, or is for other requests, leaves the old one in service.
void reload(pygrade::Ranker& ranker, const std::string& directory) {
  try {
    ranker.swap(pygrade::Policy::load(directory));
    std::printf("reloaded: policy %s\n", ranker.policy()->version().c_str());
  } catch (const std::exception& error) {
    std::printf("not reloaded: %s\n", error.what());
  }
  std::fflush(stdout);
}

int run(const Options& options) {
  const auto ranker = pygrade::Ranker::load(options.policy);
  const auto policy = ranker->policy();
  const Requests given(options.requests, *policy);
  std::printf("policy %s: %zu features, %zu tasks, %s; %zu requests\n", policy->version().c_str(),
              policy->features().size(), policy->tasks().size(), policy->transform().c_str(), given.requests.size());
  std::fflush(stdout);
  write_results(*ranker, given, options);
  if (options.seconds <= 0 || given.requests.empty()) return 0;

  signal(SIGHUP, [](int) { reload_wanted = true; });
  std::atomic<bool> stop{false};
  std::vector<std::vector<float>> latencies(options.threads);
  std::vector<std::jthread> threads;
  const auto begin = Clock::now();
  for (unsigned t = 0; t < options.threads; ++t)
    threads.emplace_back(
        [&, t] { latencies[t] = serve(*ranker, given, t * given.requests.size() / options.threads, stop); });
  while (std::chrono::duration<double>(Clock::now() - begin).count() < options.seconds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (reload_wanted.exchange(false)) reload(*ranker, options.policy);  // here, not in a thread that serves
  }
  stop = true;
  threads.clear();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::vector<float> all;
  for (const auto& part : latencies) all.insert(all.end(), part.begin(), part.end());
  report(all, *ranker, options.threads, seconds);
  return 0;
}
}  // namespace

int main(int argc, char** argv) {
  try {
    return run(parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "serve: %s\n", error.what());
    return 2;
  }
}
