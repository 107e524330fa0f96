// Splits the lists of a batch, G per request, over threads by their number of candidates, so that one request with many
// samples, or one much longer than the others, still occupies every thread.
#pragma once

#include "fusion.hpp"
#include "util/parallel.hpp"

namespace pygrade::inline v0_2::detail {
// Calls work(begin, end, first_sample, end_sample) on requests [begin, end), to process the samples in that range; the
// calls together cover every list once. The cost of a list is its number of candidates plus one.
template <class Work>
void parallel_for_lists(const Scores& scores, std::int64_t samples, int num_threads, Work&& work) {
  const std::int64_t batch = scores.batch;
  const auto cost_before = [&](std::int64_t b) {
    return ((scores.offsets != nullptr ? scores.offsets[b] : b * scores.candidates) + b) * samples;
  };
  const std::int64_t total = cost_before(batch);
  const auto list_at = [&](std::int64_t cost) {  // b · samples + g
    std::int64_t low = 0;
    std::int64_t high = batch;
    while (low < high) {  // the last request that begins at or before the cost
      const std::int64_t middle = high - (high - low) / 2;
      if (cost_before(middle) <= cost)
        low = middle;
      else
        high = middle - 1;
    }
    if (low == batch) return batch * samples;
    return low * samples + (cost - cost_before(low)) / (request_of(scores, low).count + 1);
  };
  const auto run = [&](std::int64_t from, std::int64_t to) {
    const std::int64_t first = from == 0 ? 0 : list_at(from);
    const std::int64_t last = to == total ? batch * samples : list_at(to);
    std::int64_t begin = first / samples;
    const std::int64_t end = last / samples;
    if (begin == end) {
      if (first < last) work(begin, begin + 1, first % samples, last % samples);
      return;
    }
    if (first % samples > 0) {
      work(begin, begin + 1, first % samples, samples);
      ++begin;
    }
    if (begin < end) work(begin, end, std::int64_t{0}, samples);
    if (last % samples > 0) work(end, end + 1, std::int64_t{0}, last % samples);
  };
  // Each share transforms the requests that it shares with others again: few requests are split no more than necessary.
  const std::int64_t per_thread = batch >= 4 * shares_per_thread * num_threads ? shares_per_thread : 1;
  parallel_for(total, num_threads, grain_of(candidate_cost(scores)), run, per_thread);
}
}  // namespace pygrade::inline v0_2::detail
