// Conversions of numbers of 16 bits: to nearest, ties to even.
#include <cstdint>
#include <cstring>

namespace host_machine {

std::uint16_t fp32_to_bf16(float value) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return std::uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

std::uint16_t fp32_to_fp16(float value) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const std::uint32_t sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return 0x7fff;
  if (size >= 0x47800000u) return std::uint16_t(sign | 0x7c00u);
  std::uint32_t mantissa, shift;
  if (size < 0x38800000u) {
    // below 2^-14 the steps are 2^-24
    const std::uint32_t exponent = size >> 23;
    if (exponent < 102) return std::uint16_t(sign);
    mantissa = (size & 0x7fffffu) | 0x800000u;
    shift = 126 - exponent;
  } else {
    mantissa = size - 0x38000000u;
    shift = 13;
  }
  const std::uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
  return std::uint16_t(sign | (kept + (rest > half || (rest == half && (kept & 1u)))));
}

float fp16_to_fp32(std::uint16_t bits) noexcept {
  const std::uint32_t sign = std::uint32_t(bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, mantissa = bits & 0x3ffu;
  std::uint32_t wide = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
  float value;
  if (exponent == 0) {
    value = float(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  std::memcpy(&value, &wide, 4);
  return value;
}

}  // namespace host_machine
