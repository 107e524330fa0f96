#include "features/numbers.hpp"

#include <cmath>

#include "util/blake2b.hpp"

namespace pygrade::inline v0_2::detail {

std::int64_t text_code(std::string_view text) {
  const auto code = static_cast<std::int64_t>(digest_bits(text));
  return code == null_code ? 0 : code;
}

std::int64_t to_fixed(double value) {
  constexpr double largest = 0x1p31;
  const double limited = value < -largest ? -largest : value > largest ? largest : value;
  return static_cast<std::int64_t>(std::nearbyint(limited * fixed_scale));
}

}  // namespace pygrade::inline v0_2::detail
