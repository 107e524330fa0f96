#include "features/numbers.hpp"

#include "util/blake2b.hpp"

namespace pygrade::inline v0_2::detail {
std::int64_t text_code(std::string_view text) {
  const auto code = static_cast<std::int64_t>(digest_bits(text));
  return code == null_code ? 0 : code;
}
}  // namespace pygrade::inline v0_2::detail
