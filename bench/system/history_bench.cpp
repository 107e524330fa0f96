// Times the columns of history of a page from LMDB: history_bench DIRECTORY CANDIDATES CALLS, printed as JSON. Users
// have full records of 200 exposures; items are known of the last step, as in a server's steady state. `least_us`: of
// the medians of tenths of the calls, for machines that do other things, too.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <vector>

#include "pygrade/history_store.hpp"

using namespace pygrade;
using Clock = std::chrono::steady_clock;

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "expected DIRECTORY CANDIDATES CALLS\n"), 2;
  const auto candidates = static_cast<std::size_t>(std::atoll(argv[2])),
             calls = static_cast<std::size_t>(std::atoll(argv[3]));
  constexpr std::int64_t users = 2'000, start = 1'700'000'000'000;
  const auto items = static_cast<std::int64_t>(20 * candidates);
  History::Spec spec;
  spec.tasks = {"click", "like", "share", "follow", "cart", "order"};
  spec.categories = true;
  spec.expected.assign(History::groups * 6, 1.0f);
  spec.user = spec.item = spec.category = std::vector<float>(6, 20.0f);
  const auto history = std::make_shared<StoredHistory>(History(spec));
  HistoryStore store(open_store("lmdb:" + std::string(argv[1]), {.create = true}));
  std::mt19937_64 random(1);
  const auto any = [&](std::int64_t count) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(count));
  };
  const float predictions[] = {0.1f, 0.05f, 0.02f, 0.01f, 0.01f, 0.005f};
  for (std::int64_t user = 0; user < users; ++user) {
    std::vector<History::Exposure> rows;
    for (std::int64_t row = 0; row < 200; ++row) {
      rows.push_back(history->history().exposure(start + 1'000 * row, history_key(user), history_key(any(items)),
                                                 history_key(any(30)), static_cast<std::int32_t>(row % 20),
                                                 predictions));
      rows.back().events = row % 7 == 0;
    }
    store.add_exposures(history, history_key(user), std::move(rows));
    if (user % 100 == 99) store.flush();
  }
  const std::int64_t now = start + 2 * spec.half_life;
  HistoryBuffer buffer;
  std::vector<std::int64_t> page(candidates), categories(candidates);
  std::vector<double> seconds;
  for (std::size_t call = 0; call < 2'000 + calls; ++call) {
    for (std::size_t i = 0; i < candidates; ++i)
      page[i] = history_key(any(items)), categories[i] = history_key(any(30));
    const std::int64_t user = history_key(any(users));
    const auto begin = Clock::now();
    store.read(*history, user, now, page, categories, buffer);
    if (call >= 2'000) seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  double least = 1.0;
  for (std::size_t tenth = 0; tenth < 10; ++tenth) {
    const std::span part(seconds.data() + tenth * calls / 10, calls / 10);
    std::ranges::sort(part);
    least = std::min(least, part[part.size() / 2]);
  }
  std::ranges::sort(seconds);
  std::printf("{\"candidates\": %zu, \"median_us\": %.2f, \"least_us\": %.2f, \"p10_us\": %.2f, \"p99_us\": %.2f}\n",
              candidates, 1e6 * seconds[seconds.size() / 2], 1e6 * least, 1e6 * seconds[seconds.size() / 10],
              1e6 * seconds[seconds.size() * 99 / 100]);
}
