// Arithmetic by CUDA's names. Approximations such as __expf are computed exactly here.
#pragma once

#include "host_machine.h"

HOST_MACHINE_INLINE unsigned __float_as_uint(float x) { return unsigned(host_machine::bits_of(x)); }
HOST_MACHINE_INLINE int __float_as_int(float x) { return int(host_machine::bits_of(x)); }
HOST_MACHINE_INLINE float __uint_as_float(unsigned x) { return host_machine::value_of<float>(x); }
HOST_MACHINE_INLINE float __int_as_float(int x) { return host_machine::value_of<float>(unsigned(x)); }
HOST_MACHINE_INLINE long long __double_as_longlong(double x) { return (long long)(host_machine::bits_of(x)); }
HOST_MACHINE_INLINE double __longlong_as_double(long long x) { return host_machine::value_of<double>(std::uint64_t(x)); }

HOST_MACHINE_INLINE float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
HOST_MACHINE_INLINE double rsqrt(double x) { return 1.0 / std::sqrt(x); }
HOST_MACHINE_INLINE float __frsqrt_rn(float x) { return float(1.0 / std::sqrt(double(x))); }
HOST_MACHINE_INLINE float __fsqrt_rn(float x) { return std::sqrt(x); }
HOST_MACHINE_INLINE double __dsqrt_rn(double x) { return std::sqrt(x); }
HOST_MACHINE_INLINE float __fadd_rn(float x, float y) { return x + y; }
HOST_MACHINE_INLINE float __fsub_rn(float x, float y) { return x - y; }
HOST_MACHINE_INLINE float __fmul_rn(float x, float y) { return x * y; }
HOST_MACHINE_INLINE float __fdiv_rn(float x, float y) { return x / y; }
HOST_MACHINE_INLINE float __frcp_rn(float x) { return 1.0f / x; }
HOST_MACHINE_INLINE float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
HOST_MACHINE_INLINE double __dadd_rn(double x, double y) { return x + y; }
HOST_MACHINE_INLINE double __dmul_rn(double x, double y) { return x * y; }
HOST_MACHINE_INLINE double __ddiv_rn(double x, double y) { return x / y; }
HOST_MACHINE_INLINE double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
HOST_MACHINE_INLINE float __fdividef(float x, float y) { return x / y; }
HOST_MACHINE_INLINE float __expf(float x) { return std::exp(x); }
HOST_MACHINE_INLINE float __logf(float x) { return std::log(x); }
HOST_MACHINE_INLINE float __log2f(float x) { return std::log2(x); }
HOST_MACHINE_INLINE float __powf(float x, float y) { return std::pow(x, y); }
HOST_MACHINE_INLINE float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

HOST_MACHINE_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
HOST_MACHINE_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
HOST_MACHINE_INLINE int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
HOST_MACHINE_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)(x)) : 64; }
HOST_MACHINE_INLINE int __ffs(int x) { return __builtin_ffs(x); }
HOST_MACHINE_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
HOST_MACHINE_INLINE unsigned __umulhi(unsigned x, unsigned y) { return unsigned((std::uint64_t(x) * y) >> 32); }
HOST_MACHINE_INLINE int __mulhi(int x, int y) { return int((std::int64_t(x) * y) >> 32); }
HOST_MACHINE_INLINE unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1u) << (31 - i);
  return result;
}
HOST_MACHINE_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((std::uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
HOST_MACHINE_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((std::uint64_t(high) << 32 | low) >> (shift & 31));
}

#define HOST_MACHINE_MIN_MAX(TYPE)                                           \
  HOST_MACHINE_INLINE TYPE min(TYPE a, TYPE b) { return b < a ? b : a; }     \
  HOST_MACHINE_INLINE TYPE max(TYPE a, TYPE b) { return a < b ? b : a; }
HOST_MACHINE_MIN_MAX(int)
HOST_MACHINE_MIN_MAX(unsigned)
HOST_MACHINE_MIN_MAX(long)
HOST_MACHINE_MIN_MAX(unsigned long)
HOST_MACHINE_MIN_MAX(long long)
HOST_MACHINE_MIN_MAX(unsigned long long)
#undef HOST_MACHINE_MIN_MAX
HOST_MACHINE_INLINE float min(float a, float b) { return std::fmin(a, b); }
HOST_MACHINE_INLINE float max(float a, float b) { return std::fmax(a, b); }
HOST_MACHINE_INLINE double min(double a, double b) { return std::fmin(a, b); }
HOST_MACHINE_INLINE double max(double a, double b) { return std::fmax(a, b); }

namespace host_machine {

// conversions of 16-bit numbers, by their bits; rounding is to nearest, ties to even
std::uint16_t fp32_to_bf16(float value) noexcept __attribute__((const));
std::uint16_t fp32_to_fp16(float value) noexcept __attribute__((const));
float fp16_to_fp32(std::uint16_t bits) noexcept __attribute__((const));

}  // namespace host_machine

using std::isfinite;
using std::isinf;
using std::isnan;
