// Sizes of the fields of a request, see <pygrade/request.def>.
#pragma once

#include <cstddef>

#include "pygrade/ranker.hpp"

namespace pygrade::inline v0_2::detail {
struct FieldSizes {
  std::size_t candidates = 0, places = 0, features = 0, tasks = 0;
  std::size_t item_columns = 0, embedding_size = 0;
  std::size_t group_columns = 0;  // of rules, which the ops check
  std::size_t one = 1;
};

// std::invalid_argument names a field that is given in another size, and a pin that is no candidate.
void check_fields(const pygrade::Request& request, const FieldSizes& sizes);
}  // namespace pygrade::inline v0_2::detail
