// Refusals of arguments: std::invalid_argument that names the argument, its value and what is wanted.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

namespace pygrade::inline v0_2::detail {
inline void require(bool good, const char* message) {
  if (!good) throw std::invalid_argument(message);
}

inline void check_size(std::size_t size, std::int64_t wanted, const std::string& name) {
  if (wanted < 0 || size != static_cast<std::size_t>(wanted))
    throw std::invalid_argument(name + " holds " + std::to_string(size) + " values; expected " +
                                std::to_string(wanted));
}

inline void check_number(bool good, const char* name, double value, const char* wanted) {
  if (!good) throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; expected " + wanted);
}

// The log of a floor of weights in [0, 1), -inf of 0.
inline double log_floor(double weight_floor) {
  if (!(weight_floor >= 0.0 && weight_floor < 1.0)) {
    std::ostringstream message;
    message << "weight_floor is " << weight_floor << "; expected a number in [0, 1)";
    throw std::invalid_argument(message.str());
  }
  return weight_floor > 0.0 ? std::log(weight_floor) : -std::numeric_limits<double>::infinity();
}
}  // namespace pygrade::inline v0_2::detail
