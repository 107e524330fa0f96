// rank POLICY_DIR: ranks 40 made-up candidates and prints the page: a candidate and the bits of its score a line.
#include <bit>
#include <cstdio>
#include <exception>
#include <pygrade/ranker.hpp>
#include <vector>

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: rank POLICY_DIR\n");
    return 2;
  }
  try {
    const auto ranker = pygrade::Ranker::load(arguments[1]);
    const auto policy = ranker->policy();
    std::vector<float> context(policy->features().size(), 0.5f), prices(40), predictions(40 * policy->tasks().size());
    for (std::size_t i = 0; i < prices.size(); ++i) prices[i] = static_cast<float>(1 + i % 8);
    for (std::size_t i = 0; i < predictions.size(); ++i) predictions[i] = static_cast<float>(1 + i * 7 % 50) / 64;
    std::vector<float> scores(10);
    std::vector<std::int32_t> indices(10);
    ranker->rank({.context = context, .predictions = predictions, .item_values = prices}, {scores, indices, {}, {}});
    for (std::size_t i = 0; i < 10; ++i) std::printf("%d %08x\n", indices[i], std::bit_cast<unsigned>(scores[i]));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
