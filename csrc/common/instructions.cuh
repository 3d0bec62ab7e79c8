// What C++ has no word for: instructions of the GPU, each as one function.
//
// All inline assembly of the project is in `common`: here, in copies.cuh, matrices.cuh and wgmma.cuh. A machine that runs
// the kernels on a CPU replaces these files and the CUDA headers, and nothing else.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

namespace unmask {

// Numbers of 16 bits as they lie in memory; kernels compute in fp32.
struct Bf16 {
  unsigned short bits;
};
struct Fp16 {
  unsigned short bits;
};

// Return the dynamic shared memory of the block, aligned to 16 bytes. There is no other shared memory.
__device__ __forceinline__ void* dynamic_shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
}

// Tell the compiler that an address lies in global memory. It cannot see that of an address that comes from a table.
template <typename Stored>
__device__ __forceinline__ Stored* in_global_memory(Stored* address) {
  __builtin_assume(__isGlobal(address));
  return address;
}

// Read a counter. What its writer wrote before is visible to the caller after this.
__device__ __forceinline__ unsigned load_acquire(const unsigned* counter) {
  unsigned value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

// Add to a counter and return what it was. It publishes what the caller wrote before, and acquires what others
// published before they added.
__device__ __forceinline__ unsigned add_acquire_release(unsigned* counter, unsigned value) {
  unsigned old;
  asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], %2;" : "=r"(old) : "l"(counter), "r"(value) : "memory");
  return old;
}

// Give way to other warps for a moment; for loops that wait.
__device__ __forceinline__ void pause() { asm volatile("nanosleep.u32 100;"); }

// Return threadIdx.x. The compiler asks again wherever this is called: it does not keep in registers, from one round of
// a loop to the next, the addresses that follow from it.
__device__ __forceinline__ int fresh_thread() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

__device__ __forceinline__ float widen(float value) { return value; }

__device__ __forceinline__ float widen(Bf16 value) { return __uint_as_float(unsigned(value.bits) << 16); }

__device__ __forceinline__ float widen(Fp16 value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}

// Round to the nearest, to the even one of two that are equally near.
__device__ __forceinline__ void narrow(float value, Bf16& narrow) {
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
}

__device__ __forceinline__ void narrow(float value, Fp16& narrow) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
}

// Round two values, and return them in one word, the first in the lower half.
template <typename Element>
__device__ __forceinline__ unsigned pack(float low, float high) {
  unsigned both;
  if constexpr (std::is_same_v<Element, Bf16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  }
  return both;
}

// Return 2 to the power of a value, off by about 2^-22 of it at most; subnormal numbers are 0.
__device__ __forceinline__ float exp2_approximate(float value) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(value));
  return power;
}

}  // namespace unmask
