// CUDA's vector types: an aligned one is loaded and stored by one instruction.
#pragma once

#include "host_machine.h"

struct alignas(2) char2 { signed char x, y; };
struct alignas(4) char4 { signed char x, y, z, w; };
struct alignas(2) uchar2 { unsigned char x, y; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(4) short2 { short x, y; };
struct alignas(8) short4 { short x, y, z, w; };
struct alignas(4) ushort2 { unsigned short x, y; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct int3 { int x, y, z; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(16) longlong2 { long long x, y; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

HOST_MACHINE_INLINE float2 make_float2(float x, float y) { return {x, y}; }
HOST_MACHINE_INLINE float3 make_float3(float x, float y, float z) { return {x, y, z}; }
HOST_MACHINE_INLINE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
HOST_MACHINE_INLINE double2 make_double2(double x, double y) { return {x, y}; }
HOST_MACHINE_INLINE int2 make_int2(int x, int y) { return {x, y}; }
HOST_MACHINE_INLINE int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
HOST_MACHINE_INLINE uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
HOST_MACHINE_INLINE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
HOST_MACHINE_INLINE ushort2 make_ushort2(unsigned short x, unsigned short y) { return {x, y}; }
HOST_MACHINE_INLINE ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w) {
  return {x, y, z, w};
}
