// Numbers in half precision (IEEE 754 binary16), which not every compiler here has a type for.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace cospipe {

inline double number_of_float16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = (bits >> 15) != 0 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  if (exponent < 31) return sign * std::ldexp(1024 + fraction, exponent - 25);
  return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
}

// The nearest number in half precision, of two that are as near the even one. Infinite where it is too large.
inline uint16_t float16_of_number(double number) {
  constexpr double kFirstInfinite = 65520, kSmallestNormal = 0x1p-14;
  const unsigned sign = std::signbit(number) ? 0x8000 : 0;
  const double magnitude = std::fabs(number);
  if (std::isnan(number)) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= kFirstInfinite) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < kSmallestNormal) {
    return static_cast<uint16_t>(sign | static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, 24))));
  }
  const int exponent = std::ilogb(magnitude);
  const auto significand = static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign + (static_cast<unsigned>(exponent + 14) << 10) + significand);  // may carry
}

}  // namespace cospipe
