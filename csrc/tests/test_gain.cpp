#include <stdexcept>

#include "check.hpp"
#include "pygrade/gain.hpp"

using namespace pygrade;

namespace {

const std::vector<float> scores = {0.1f, 0.4f, 0.3f, 0.2f};     // one request, four candidates, one task
const std::vector<float> gains = {1, 10, 2, 20, 4, 40, 8, 80};  // two components
const std::vector<float> discount = {1, 0.5f, 0.25f};

std::vector<float> gain_of(const std::vector<std::uint8_t>& masks = {}, const std::vector<std::int32_t>& list = {},
                           std::vector<float> weights = {1, -1}) {
  std::vector<float> gain(4, -1.0f);
  topk_gain(Scores::dense(scores.data(), ScoreType::float32, 1, 4, 1), weights, 2, gains, discount, masks,
            static_cast<std::int64_t>(masks.size() / 4), list, 2, {}, gain);
  return gain;
}

}  // namespace

TEST(gains_are_discounted_by_rank) {
  // rank 1, 2, 3 by weight 1: candidates 1, 2, 3; by weight -1: 0, 3, 2
  CHECK_EQUAL(gain_of(), (std::vector<float>{2 + 2 + 2, 20 + 20 + 20, 1 + 4 + 1, 10 + 40 + 10}));
}

TEST(each_component_ranks_its_list) {
  const std::vector<std::uint8_t> masks = {1, 1, 0, 0, 0, 0, 0, 0};  // the second list is empty
  CHECK_EQUAL(gain_of(masks, {0, -1}), (std::vector<float>{2 + 0.5f, 60, 1 + 1, 60}));
  CHECK_EQUAL(gain_of(masks, {-1, 1}), (std::vector<float>{6, 0, 6, 0}));
}

TEST(jagged_requests_read_their_own_columns_of_the_lists) {
  const std::vector<std::int64_t> offsets = {0, 1, 4};
  const std::vector<std::uint8_t> masks = {1, 0, 1, 1};
  const std::vector<std::int32_t> list = {0, 0};
  const std::vector<float> weights = {1, 1};
  std::vector<float> gain(4);
  topk_gain(Scores::jagged(scores.data(), ScoreType::float32, 4, 1, offsets), weights, 1, gains, discount, masks, 1,
            list, 2, {}, gain);
  CHECK_EQUAL(gain, (std::vector<float>{1, 10, 4 + 4, 40 + 40}));
}

TEST(what_does_not_fit_is_refused) {
  CHECK_THROWS(std::invalid_argument, "component_list[1] is 0; want -1 or a list below 0", gain_of({}, {-1, 0}));
  CHECK_THROWS(std::invalid_argument, "component_list[0] is -2", gain_of({}, {-2, -1}));
  CHECK_THROWS(std::invalid_argument, "weights holds 1 values; want 2", gain_of({}, {}, {1}));
}
