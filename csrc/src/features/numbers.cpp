#include "features/numbers.hpp"

#include <bit>
#include <cmath>

#include "util/blake2b.hpp"

namespace pygrade::inline v0_2::detail {

namespace {

// A number as the unevaluated sum of two doubles, with about 106 bits.
struct DoubleDouble {
  double high, low;
};

DoubleDouble two_sum(double a, double b) {
  const double sum = a + b;
  const double part = sum - a;
  return {sum, (a - (sum - part)) + (b - part)};
}

DoubleDouble two_product(double a, double b) {
  const double product = a * b;
  return {product, __builtin_fma(a, b, -product)};
}

DoubleDouble operator+(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble high = two_sum(a.high, b.high), low = two_sum(a.low, b.low);
  const DoubleDouble middle = two_sum(high.high, high.low + low.high);
  return two_sum(middle.high, middle.low + low.low);
}

DoubleDouble operator*(DoubleDouble a, DoubleDouble b) {
  const DoubleDouble product = two_product(a.high, b.high);
  return two_sum(product.high, product.low + (a.high * b.low + a.low * b.high));
}

DoubleDouble operator/(DoubleDouble a, double b) {
  const double quotient = a.high / b;
  const DoubleDouble back = two_product(quotient, b);
  const DoubleDouble rest = a + DoubleDouble{-back.high, -back.low};
  return two_sum(quotient, rest.high / b);
}

// term + term · (−x²) / ((k + 1)(k + 2)) + …: the Taylor series of sine (k = 1, term = x) or cosine (k = 0, term = 1).
DoubleDouble series(DoubleDouble square, DoubleDouble term, int k) {
  DoubleDouble sum = term;
  for (; k < 30; k += 2) {
    term = term * DoubleDouble{-square.high, -square.low} / static_cast<double>((k + 1) * (k + 2));
    sum = sum + term;
  }
  return sum;
}

DayAngles make_day_angles() {
  constexpr DoubleDouble half_pi{0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54};
  constexpr double half_pi_rest = -0x1.f1976b7ed8fbcp-110;
  constexpr double step = 2.0 * 3.141592653589793 / 1440.0;
  DayAngles made{};
  for (std::int64_t minute = 0; minute < DayAngles::minutes; ++minute) {
    const double angle = step * static_cast<double>(minute);
    const std::int64_t quarter = (minute + 180) / 360;
    const auto turns = -static_cast<double>(quarter);
    DoubleDouble x = DoubleDouble{angle, 0.0} + two_product(turns, half_pi.high);
    x = x + two_product(turns, half_pi.low) + DoubleDouble{turns * half_pi_rest, 0.0};
    const DoubleDouble square = x * x;
    const double sine = series(square, x, 1).high, cosine = series(square, {1.0, 0.0}, 0).high;
    const double around[] = {sine, cosine, -sine, -cosine};
    const auto place = static_cast<std::size_t>(minute);
    made.sine[place] = around[quarter % 4];
    made.cosine[place] = around[(quarter + 1) % 4];
  }
  return made;
}

}  // namespace

std::int64_t text_code(std::string_view text) {
  const auto code = static_cast<std::int64_t>(digest_bits(text));
  return code == null_code ? 0 : code;
}

std::int64_t to_fixed(double value) {
  constexpr double largest = 0x1p31;
  const double limited = value < -largest ? -largest : value > largest ? largest : value;
  return static_cast<std::int64_t>(std::nearbyint(limited * fixed_scale));
}

const DayAngles& angles_of_day() {
  static const DayAngles made = make_day_angles();
  return made;
}

}  // namespace pygrade::inline v0_2::detail
