// A whole page with the caller's candidates and predictions: page ARTIFACT STORE USER ITEM…
//
// Features of the user come from the store; the predictions, here made up, would come from a model server. Prints the
// page, an item a line.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <pygrade/pipeline.hpp>
#include <vector>

int main(int count, char** arguments) {
  if (count < 5) {
    std::fprintf(stderr, "usage: page ARTIFACT STORE USER ITEM...\n");
    return 2;
  }
  try {
    const auto pipeline = pygrade::Pipeline::load(arguments[1], pygrade::open_store(arguments[2]));
    const std::size_t tasks = pipeline->num_tasks();
    std::vector<std::int64_t> candidates;
    for (int i = 4; i < count; ++i) candidates.push_back(std::strtoll(arguments[i], nullptr, 10));
    std::vector<float> predictions;  // [n, T]
    for (const std::int64_t item : candidates)
      for (std::size_t t = 0; t < tasks; ++t)
        predictions.push_back(0.01f * static_cast<float>(1 + (item * 7 + static_cast<std::int64_t>(t) * 3) % 50));

    // What may be shown. The function must live as long as the request: a lambda with a name, none in place.
    std::vector<std::uint8_t> mask;
    const auto rules = [&](std::span<const std::int64_t> items) {
      mask.assign(items.size(), 1);
      for (std::size_t i = 0; i < items.size(); ++i) mask[i] = items[i] % 10 != 0;  // sold out, say
      pygrade::PageRules found;
      found.mask = mask;
      return found;
    };

    pygrade::PageWorkspace workspace;  // one for each thread, kept: warm after the first pages
    pygrade::PipelineRequest request;
    request.user = {
        .user_id = std::strtoll(arguments[3], nullptr, 10), .timestamp = 1'700'003'000'000, .scenario = "feed"};
    request.item_ids = candidates;
    request.predictions = predictions;
    request.rules = rules;
    request.arrival = std::chrono::steady_clock::now();  // when the RPC came in: waiting counts
    request.deadline = std::chrono::seconds(10);
    std::vector<std::int64_t> items(5);
    std::vector<float> scores(5);
    const pygrade::ServedPage page = pipeline->rank(request, {items, scores}, workspace);
    if (page.degraded != pygrade::Degraded::none) std::fprintf(stderr, "degraded\n");
    for (std::int32_t i = 0; i < page.filled; ++i)
      std::printf("%lld\n", static_cast<long long>(items[static_cast<std::size_t>(i)]));
    return 0;
  } catch (const std::exception& error) {  // also of a program whose handlers are elsewhere: load throws
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
