// The loop of an embedding server: ranks requests from a file with a saved policy, swaps the policy now and then as a
// deployment would, and prints latency percentiles.
//
//   serve POLICY_DIR REQUESTS.csv [--k 10] [--threads 1] [--seconds 2] [--reload] [--explore] [--log FILE]
//
// REQUESTS.csv has the columns of the log contract, with the rows of a request together: request_id, optional user_id,
// item_id, scenario, value and u_<task>, x_<feature> and p_<task> (convert a log with
// pyarrow.csv.write_csv(pyarrow.parquet.read_table(log), path)). --reload swaps the policy ten times a second.
// --explore serves Dirichlet draws. --log writes each request once, as ranked, in the columns of the log contract.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <pygrade/ranker.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string policy = {}, requests = {}, log = {};
  std::size_t k = 10;
  unsigned threads = 1;
  double seconds = 2.0;
  bool reload = false, explore = false;
};

struct Stream {  // everything a request needs; owns its memory
  std::string id, user, scenario;
  std::vector<float> context, predictions, values, item_values;
  std::vector<std::int64_t> items;
};

Options parse(int argc, char** argv) {
  if (argc < 3)
    throw std::invalid_argument(
        "usage: serve POLICY_DIR REQUESTS.csv [--k 10] [--threads 1] [--seconds 2] [--reload] [--explore] [--log "
        "FILE]");
  Options options{.policy = argv[1], .requests = argv[2]};
  for (int i = 3; i < argc; ++i) {
    const std::string name = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc) throw std::invalid_argument(name + " lacks a value");
      return argv[i];
    };
    if (name == "--k")
      options.k = std::stoul(value());
    else if (name == "--threads")
      options.threads = static_cast<unsigned>(std::stoul(value()));
    else if (name == "--seconds")
      options.seconds = std::stod(value());
    else if (name == "--log")
      options.log = value();
    else if (name == "--reload")
      options.reload = true;
    else if (name == "--explore")
      options.explore = true;
    else
      throw std::invalid_argument("unknown option " + name);
  }
  if (options.k < 1 || options.threads < 1) throw std::invalid_argument("--k and --threads must be at least 1");
  return options;
}

// The CSV record of `text` at `at`, which moves past it. Quoted fields may hold commas, quotes and line feeds.
std::vector<std::string> record(const std::string& text, std::size_t& at) {
  std::vector<std::string> fields(1);
  for (bool quoted = false; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"') {
      if (quoted && at + 1 < text.size() && text[at + 1] == '"')
        fields.back() += text[++at];
      else
        quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else if (c == '\n' && !quoted) {
      ++at;
      break;
    } else if (c != '\r' || quoted) {
      fields.back() += c;
    }
  }
  return fields;
}

float number(const std::string& text) {
  return text.empty() ? std::numeric_limits<float>::quiet_NaN() : std::stof(text);
}

std::vector<Stream> read_requests(const std::string& path, const pygrade::Policy& policy) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::invalid_argument(path + " can't be read");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::size_t at = 0;
  std::map<std::string, std::size_t> columns;
  for (const auto& name : record(text, at)) columns.emplace(name, columns.size());
  const auto column = [&](const std::string& name, bool needed = true) {
    const auto found = columns.find(name);
    if (found == columns.end() && needed) throw std::invalid_argument(path + " has no column " + name);
    return found == columns.end() ? columns.size() : found->second;
  };
  const std::size_t id = column("request_id");
  const std::size_t user = column("user_id", false), item = column("item_id", false);
  const std::size_t scenario = column("scenario", false), price = column("value", false);
  std::vector<std::size_t> features, tasks, multipliers;
  for (const auto& name : policy.features()) features.push_back(column("x_" + name));
  for (const auto& name : policy.tasks()) {
    tasks.push_back(column("p_" + name));
    if (policy.trade_offs()) multipliers.push_back(column("u_" + name, false));
  }

  std::vector<Stream> requests;
  for (std::size_t row = 2; at < text.size(); ++row) {
    auto fields = record(text, at);
    if (fields.size() != columns.size())
      throw std::invalid_argument(path + ", row " + std::to_string(row) + ": " + std::to_string(fields.size()) +
                                  " fields; want " + std::to_string(columns.size()));
    fields.emplace_back();  // the value of absent columns
    if (requests.empty() || requests.back().id != fields[id]) {
      requests.push_back({fields[id], fields[user], fields[scenario], {}, {}, {}, {}, {}});
      for (const std::size_t f : features) requests.back().context.push_back(number(fields[f]));
      for (const std::size_t u : multipliers) requests.back().values.push_back(number(fields[u]));
    }
    if (price < columns.size()) requests.back().item_values.push_back(number(fields[price]));
    for (const std::size_t t : tasks) requests.back().predictions.push_back(number(fields[t]));
    auto& items = requests.back().items;
    const std::string& name = fields[item];
    const bool whole = !name.empty() && name.find_first_not_of("0123456789") == std::string::npos;
    items.push_back(whole ? std::stoll(name) : static_cast<std::int64_t>(items.size()));
  }
  if (requests.empty()) throw std::invalid_argument(path + " holds no requests");
  return requests;
}

pygrade::Request request_of(const Stream& stream, bool explore) {
  pygrade::Request request{.context = stream.context, .predictions = stream.predictions};
  if (!stream.scenario.empty()) request.scenario = stream.scenario;
  request.explore = explore;
  request.values = stream.values;
  request.item_values = stream.item_values;
  return request;
}

struct Buffers {
  Buffers(const pygrade::Policy& policy, std::size_t k)
      : values(k), indices(k), weights(policy.tasks().size()), concentration(policy.tasks().size()) {}
  operator pygrade::PageBuffer() { return {values, indices, weights, concentration}; }

  std::vector<float> values;
  std::vector<std::int32_t> indices;
  std::vector<float> weights, concentration;
};

void write_log(pygrade::Ranker& ranker, const std::vector<Stream>& requests, const Options& options) {
  const auto policy = ranker.policy();
  Buffers buffers(*policy, options.k);
  std::string text;
  pygrade::append_log_header(*policy, text);
  for (const Stream& stream : requests) {
    const auto request = request_of(stream, options.explore);
    const auto page = ranker.rank(request, buffers);
    pygrade::append_log_rows(*policy, request, buffers, page, {stream.id, stream.user, stream.items, {}}, text);
  }
  std::ofstream file(options.log, std::ios::binary);
  if (!(file << text).flush()) throw std::runtime_error(options.log + " can't be written");
}

// Ranks requests in turn from number `first` on until `stop`. Returns the latencies in nanoseconds.
std::vector<float> serve(pygrade::Ranker& ranker, const std::vector<Stream>& requests, const Options& options,
                         std::size_t first, const std::atomic<bool>& stop) {
  Buffers buffers(*ranker.policy(), options.k);
  std::vector<float> latencies;
  latencies.reserve(1 << 22);
  for (std::size_t i = first; !stop && latencies.size() < latencies.capacity(); ++i) {
    const auto request = request_of(requests[i % requests.size()], options.explore);
    const auto begin = Clock::now();
    ranker.rank(request, buffers);
    latencies.push_back(std::chrono::duration<float, std::nano>(Clock::now() - begin).count());
  }
  return latencies;
}

void report(std::vector<float>& latencies, const pygrade::Ranker& ranker, const Options& options, double seconds) {
  std::ranges::sort(latencies);
  const auto at = [&](double share) {
    return static_cast<double>(latencies[static_cast<std::size_t>(share * static_cast<double>(latencies.size() - 1))]) /
           1e3;
  };
  std::printf("%zu requests in %.2f s on %u threads: %.0f a second\n", latencies.size(), seconds, options.threads,
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

int run(const Options& options) {
  const auto ranker = pygrade::Ranker::load(options.policy);
  const auto policy = ranker->policy();
  const auto requests = read_requests(options.requests, *policy);
  std::size_t rows = 0;
  for (const Stream& stream : requests) rows += stream.items.size();
  std::printf("policy %s: %zu features, %zu tasks, %s; %zu requests, %.0f candidates each, k = %zu\n",
              policy->version().c_str(), policy->features().size(), policy->tasks().size(), policy->transform().c_str(),
              requests.size(), static_cast<double>(rows) / static_cast<double>(requests.size()), options.k);
  if (!options.log.empty()) write_log(*ranker, requests, options);
  for (std::size_t i = 0; i < std::min<std::size_t>(requests.size(), 1000); ++i) {  // warm up
    Buffers buffers(*policy, options.k);
    ranker->rank(request_of(requests[i], options.explore), buffers);
  }

  std::atomic<bool> stop{false};
  std::vector<std::vector<float>> latencies(options.threads);
  std::vector<std::jthread> threads;
  const auto begin = Clock::now();
  for (unsigned t = 0; t < options.threads; ++t)
    threads.emplace_back(
        [&, t] { latencies[t] = serve(*ranker, requests, options, t * requests.size() / options.threads, stop); });
  while (std::chrono::duration<double>(Clock::now() - begin).count() < options.seconds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    if (options.reload) ranker->swap(pygrade::Policy::load(options.policy));
  }
  stop = true;
  threads.clear();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  std::vector<float> all;
  for (const auto& part : latencies) all.insert(all.end(), part.begin(), part.end());
  report(all, *ranker, options, seconds);
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
