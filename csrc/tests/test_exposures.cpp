// The queue, the thread and the files of the exposure log; tests/serving/test_exposures.py reads what it writes.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "check.hpp"
#include "pygrade/exposures.hpp"
#include "serving.hpp"
#include "serving/exposures_queue.hpp"

using namespace pygrade;
using namespace pygrade::tests;

namespace {
struct Directory {
  Directory() {
    path = (std::filesystem::temp_directory_path() / "pygrade_exposures_XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) std::abort();
  }
  ~Directory() { std::filesystem::remove_all(path); }

  // Names of complete files, and of hidden ones.
  std::vector<std::string> files(bool hidden = false) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      const std::string name = entry.path().filename();
      if (name.starts_with('.') == hidden) names.push_back(name);
    }
    std::ranges::sort(names);
    return names;
  }

  std::string path;
};

bool is_whole(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  const std::string content(std::istreambuf_iterator<char>(stream), {});
  return content.starts_with("PAR1") && content.ends_with("PAR1");
}

// A policy and one request that it ranked.
struct Served {
  explicit Served(std::size_t candidates = 500)
      : policy(make_policy()), ranker(policy), predictions(make_predictions(candidates)), memory(10) {
    request.context = context;
    request.predictions = predictions;
    page = ranker.rank(request, memory);
  }

  bool append(ExposureLog& log, const std::string& id, std::chrono::microseconds wait = {}) {
    LogIds ids;
    ids.request_id = id;
    ids.user_id = "user";
    return log.append(*policy, request, memory, page, ids, wait);
  }

  std::shared_ptr<const Policy> policy;
  Ranker ranker;
  std::vector<float> predictions;
  std::vector<float> context = {0.5f, 2.0f};
  PageMemory memory;
  Request request;
  Page page;
};
}  // namespace

TEST(a_queue_keeps_every_record_of_many_threads) {
  detail::RecordQueue queue(4096);
  constexpr int threads = 4, count = 3000;
  std::vector<std::jthread> producers;
  for (int t = 0; t < threads; ++t)
    producers.emplace_back([&, t] {
      for (int i = 0; i < count; ++i) {
        const std::size_t size = 8 + static_cast<std::size_t>(i * 37 + t) % 700;
        std::byte* record = queue.reserve(size);
        while (record == nullptr) {
          std::this_thread::yield();
          record = queue.reserve(size);
        }
        const int head[2] = {t, i};
        std::memcpy(record, head, sizeof head);
        std::memset(record + 8, t + i % 50, size - 8);
        queue.publish(record);
      }
    });
  std::vector<int> next(threads, 0);
  int wrong = 0;
  for (int seen = 0; seen < threads * count;) {
    const auto record = queue.front();
    if (record.empty()) continue;
    int head[2];
    std::memcpy(head, record.data(), sizeof head);
    const std::size_t size = 8 + static_cast<std::size_t>(head[1] * 37 + head[0]) % 700;
    wrong += head[1] != next[static_cast<std::size_t>(head[0])]++ || record.size() < size;
    for (std::size_t i = 8; i < size; ++i) wrong += record[i] != static_cast<std::byte>(head[0] + head[1] % 50);
    queue.pop();
    ++seen;
  }
  CHECK_EQUAL(wrong, 0);
  CHECK(queue.front().empty());
}

TEST(a_full_queue_refuses_and_goes_on) {
  detail::RecordQueue queue(1024);
  CHECK(queue.reserve(queue.largest() + 1) == nullptr);
  for (int round = 0; round < 100; ++round) {
    int count = 0;
    for (std::byte* record; (record = queue.reserve(100 + static_cast<std::size_t>(round))) != nullptr; ++count)
      queue.publish(record);
    CHECK(count >= 3 && count <= 8);
    const auto mark = queue.mark();
    for (; count > 0; --count) {
      CHECK(!queue.passed(mark));
      CHECK(!queue.front().empty());
      queue.pop();
    }
    CHECK(queue.front().empty());
    CHECK(queue.passed(mark));
  }
}

TEST(requests_are_in_complete_files_after_a_flush) {
  const Directory directory;
  Served served;
  ExposureOptions options;
  options.share = 1.0;
  ExposureLog log(directory.path + "/made/here", options);
  for (int i = 0; i < 100; ++i) CHECK(served.append(log, std::to_string(i)));
  log.flush();
  const ExposureCounters now = log.counters();
  CHECK_EQUAL(now.requests, 100u);
  CHECK_EQUAL(now.complete, 100u);
  CHECK_EQUAL(now.rows, 50'000u);
  CHECK_EQUAL(now.files, 1u);
  CHECK_EQUAL(now.dropped + now.lost + now.errors, 0u);
  Directory made;
  std::filesystem::remove_all(made.path);
  std::filesystem::rename(directory.path + "/made/here", made.path);
  CHECK_EQUAL(made.files().size(), 1u);
  CHECK_EQUAL(made.files(true).size(), 0u);
  CHECK(is_whole(made.path + "/" + made.files()[0]));
  CHECK_EQUAL(std::filesystem::file_size(made.path + "/" + made.files()[0]), now.bytes);
  log.flush();
  CHECK_EQUAL(log.counters().files, 1u);
}

TEST(threads_that_append_lose_nothing) {
  const Directory directory;
  ExposureOptions options;
  options.share = 0.5;
  options.queue_bytes = 1 << 18;
  options.group_rows = 5000;
  options.file_bytes = 1 << 20;
  ExposureLog log(directory.path, options);
  std::atomic<int> taken = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        Served served;
        for (int i = 0; i < 500; ++i)
          taken += served.append(log, std::to_string(t) + "-" + std::to_string(i), std::chrono::seconds(60));
      });
  }
  log.close();
  const ExposureCounters now = log.counters();
  CHECK_EQUAL(taken.load(), 2000);
  CHECK_EQUAL(now.requests, 2000u);
  CHECK_EQUAL(now.rows, now.complete * 500 + (now.requests - now.complete) * 10);
  CHECK(now.complete > 850 && now.complete < 1150);
  CHECK(now.files > 5);
  CHECK_EQUAL(directory.files().size(), now.files);
  CHECK_EQUAL(directory.files(true).size(), 0u);
  for (const auto& name : directory.files()) CHECK(is_whole(directory.path + "/" + name));
}

TEST(what_does_not_fit_or_comes_late_is_dropped_and_counted) {
  const Directory directory;
  Served large(3000);  // 36 KB of predictions
  Served small(20);
  ExposureOptions options;
  options.share = 1.0;
  options.queue_bytes = 1 << 16;
  ExposureLog log(directory.path, options);
  CHECK(!large.append(log, "1", std::chrono::seconds(60)));
  CHECK(small.append(log, "2"));
  log.close();
  CHECK(!small.append(log, "3", std::chrono::seconds(60)));
  log.flush();
  CHECK_EQUAL(log.counters().dropped, 2u);
  CHECK_EQUAL(log.counters().rows, 20u);
}

TEST(the_share_of_complete_requests_follows_from_their_ids) {
  const Directory directory;
  std::vector<bool> first;
  for (const double share : {0.0, 0.1, 0.3, 1.0}) {
    ExposureOptions options;
    options.share = share;
    const ExposureLog log(directory.path, options);
    int count = 0;
    for (int i = 0; i < 20'000; ++i) count += log.in_full("request-" + std::to_string(i));
    CHECK_NEAR(count / 20'000.0, share, share == 0.0 || share == 1.0 ? 0.0 : 0.01);
    for (int i = 0; share == 0.3 && i < 1000; ++i)
      CHECK(!first[static_cast<std::size_t>(i)] || log.in_full("request-" + std::to_string(i)));
    first.clear();
    for (int i = 0; i < 1000; ++i) first.push_back(log.in_full("request-" + std::to_string(i)));
  }
}

TEST(a_file_is_complete_after_its_time) {
  const Directory directory;
  Served served(50);
  ExposureOptions options;
  options.file_time = std::chrono::milliseconds(50);
  options.group_time = std::chrono::milliseconds(10);
  ExposureLog log(directory.path, options);
  served.append(log, "1");
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (directory.files().empty() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK_EQUAL(directory.files().size(), 1u);
}

TEST(errors_of_the_disk_are_counted_and_end) {
  const Directory parent;
  const std::string path = parent.path + "/log";
  Served served;
  ExposureOptions options;
  options.share = 1.0;
  ExposureLog log(path, options);
  std::filesystem::remove_all(path);
  CHECK(served.append(log, "1"));
  log.flush();
  CHECK(served.append(log, "2"));  // while the thread rests
  log.flush();
  ExposureCounters now = log.counters();
  CHECK(now.errors >= 1);
  CHECK_EQUAL(now.lost, 2u);
  CHECK_EQUAL(now.files, 0u);
  CHECK(log.last_error().find("No such file or directory") != std::string::npos);
  std::filesystem::create_directory(path);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (int i = 3; log.counters().files == 0 && std::chrono::steady_clock::now() < end; ++i) {
    CHECK(served.append(log, std::to_string(i)));
    log.flush();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  CHECK_EQUAL(log.counters().files, 1u);
}

#if !defined(__SANITIZE_THREAD__)  // a forked child may start no threads under it
TEST(a_killed_process_leaves_no_file_under_its_name) {
  const Directory directory;
  const pid_t child = fork();
  if (child == 0) {
    Served served;
    ExposureOptions options;
    options.share = 1.0;
    options.group_rows = 1000;
    ExposureLog log(directory.path, options);
    for (int i = 0; i < 100; ++i) served.append(log, std::to_string(i), std::chrono::seconds(10));
    log.flush();
    for (int i = 0; i < 100; ++i) served.append(log, std::to_string(i), std::chrono::seconds(10));
    while (directory.files(true).empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  CHECK_EQUAL(waitpid(child, &status, 0), child);
  CHECK(WIFSIGNALED(status));
  CHECK_EQUAL(directory.files().size(), 1u);
  CHECK(is_whole(directory.path + "/" + directory.files()[0]));
  CHECK_EQUAL(directory.files(true).size(), 1u);
}

TEST(a_forked_child_drops_what_its_parent_writes) {
  const Directory directory;
  Served served(50);
  ExposureOptions options;
  options.share = 1.0;
  auto log = std::make_unique<ExposureLog>(directory.path, options);
  served.append(*log, "1");
  const pid_t child = fork();
  if (child == 0) {
    const bool dropped = !served.append(*log, "2", std::chrono::seconds(60));
    log->flush();
    log.reset();
    _exit(dropped ? 0 : 1);
  }
  int status = 1;
  CHECK_EQUAL(waitpid(child, &status, 0), child);
  CHECK_EQUAL(status, 0);
  log->close();
  CHECK_EQUAL(log->counters().rows, 50u);
  CHECK_EQUAL(directory.files().size(), 1u);
}
#endif

TEST(wrong_arguments_are_named_and_nothing_is_taken) {
  const Directory directory;
  Served served(30);
  ExposureLog log(directory.path);
  LogIds ids;
  const auto append = [&](const Request& request, const PageBuffer& buffer) {
    return log.append(*served.policy, request, buffer, served.page, ids);
  };
  CHECK_THROWS(std::invalid_argument, "request_id is empty", append(served.request, served.memory));
  ids.request_id = "1";
  PageBuffer buffer = served.memory;
  buffer.weights = {};
  CHECK_THROWS(std::invalid_argument, "needs the weights", append(served.request, buffer));
  Request request = served.request;
  request.predictions = request.predictions.first(3);
  CHECK_THROWS(std::invalid_argument, "not one of its candidates", append(request, served.memory));
  const std::int64_t items[2] = {1, 2};
  ids.item_id = items;
  CHECK_THROWS(std::invalid_argument, "item_id must have one entry", append(served.request, served.memory));
  ids.item_id = {};
  const float prices[2] = {1, 2};
  request = served.request;
  request.item_values = prices;
  CHECK_THROWS(std::invalid_argument, "item_values must have one value", append(request, served.memory));
  const auto corrected = parse(corrected_artifact().draw());
  const auto columns = make_predictions(30, 2), values = make_predictions(30, 1);
  request = served.request;
  request.item_values = values;
  request.items = std::span(columns).first(59);
  CHECK_THROWS(std::invalid_argument, "items must have one value for each candidate and item column",
               log.append(*corrected, request, served.memory, served.page, ids));
  CHECK_EQUAL(log.counters().requests, 0u);

  const auto open = [&](auto change) {
    ExposureOptions options;
    change(options);
    return std::make_unique<ExposureLog>(directory.path, options);
  };
  for (const double share : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS(std::invalid_argument, "share is", open([&](auto& options) { options.share = share; }));
  for (const char* name : {"", ".hidden", "a/b"})
    CHECK_THROWS(std::invalid_argument, "name is", open([&](auto& options) { options.name = name; }));
  CHECK_THROWS(std::invalid_argument, "queue_bytes is", open([](auto& options) { options.queue_bytes = 1; }));
  CHECK_THROWS(std::invalid_argument, "is 0", open([](auto& options) { options.group_rows = 0; }));
  CHECK_THROWS(std::invalid_argument, "is not above 0", open([](auto& options) { options.file_time = {}; }));
}
