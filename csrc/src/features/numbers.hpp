// Numbers of features that have the same bits wherever they are computed.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "features/records.hpp"
#include "util/hash.hpp"

namespace pygrade::inline v0_2::detail {
inline constexpr std::int64_t null_code = std::numeric_limits<std::int64_t>::min();  // of a missing value

// A text's code, the same in every process and on every machine.
std::int64_t text_code(std::string_view text);

// One hash of several codes, in order; null_code if one of them is.
class Mix {
 public:
  void add(std::int64_t code) {
    state_ = splitmix64((state_ ^ static_cast<std::uint64_t>(code)) + 0x9e3779b97f4a7c15ull);
    absent_ |= code == null_code;
  }
  std::int64_t code() const { return absent_ ? null_code : static_cast<std::int64_t>(state_); }

 private:
  std::uint64_t state_ = 0;
  bool absent_ = false;
};

// a // b and a % b of Python, for b > 0.
inline std::int64_t floor_divide(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0); }
inline std::int64_t floor_modulo(std::int64_t a, std::int64_t b) { return a % b + (a % b < 0 ? b : 0); }
}  // namespace pygrade::inline v0_2::detail
