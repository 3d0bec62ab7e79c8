// What kernels of several families need: sums over a block, accesses of four elements, waiting for other blocks.
#pragma once

#include <common/instructions.cuh>

namespace unmask {

constexpr int WARP = 32;

// Return the block's dynamic shared memory as one structure.
template <typename Layout>
__device__ __forceinline__ Layout& shared_memory() {
  return *static_cast<Layout*>(dynamic_shared_memory());
}

// Return the sum over the warp to all its threads. Every run adds in the same order.
template <typename Value>
__device__ __forceinline__ Value warp_sum(Value value) {
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

// Return the sum over the block to all its threads. Every run adds in the same order.
//
// `scratch` is shared memory for one value a warp. It may be used again at once.
template <int THREADS, typename Value>
__device__ __forceinline__ Value block_sum(Value value, Value (&scratch)[THREADS / WARP]) {
  value = warp_sum(value);
  // another sum may still be read from there
  __syncthreads();
  if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
  __syncthreads();
  Value sum = scratch[0];
  for (int warp = 1; warp < THREADS / WARP; ++warp) sum += scratch[warp];
  return sum;
}

// Load four elements of global memory as fp32. WHOLE: `from` is aligned to four elements. Else `count` elements come
// one by one, and 0 for the rest.
template <bool WHOLE, typename Stored>
__device__ __forceinline__ void load_four(float (&to)[4], const Stored* from, int count) {
  from = in_global_memory(from);
  static_assert(sizeof(Stored) == 4 || sizeof(Stored) == 2, "four elements are 16 or 8 bytes");
  if constexpr (WHOLE && sizeof(Stored) == 4) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
  } else if constexpr (WHOLE) {
    const ushort4 four = *reinterpret_cast<const ushort4*>(from);
    to[0] = widen(Stored{four.x}), to[1] = widen(Stored{four.y});
    to[2] = widen(Stored{four.z}), to[3] = widen(Stored{four.w});
  } else {
    for (int at = 0; at < 4; ++at) to[at] = at < count ? widen(from[at]) : 0.0f;
  }
}

// Store four fp32 values, rounded to nearest; the counterpart of `load_four`.
template <bool WHOLE>
__device__ __forceinline__ void store_four(float* to, const float (&values)[4], int count) {
  to = in_global_memory(to);
  if constexpr (WHOLE) {
    *reinterpret_cast<float4*>(to) = make_float4(values[0], values[1], values[2], values[3]);
  } else {
    for (int at = 0; at < 4; ++at) {
      if (at < count) to[at] = values[at];
    }
  }
}

template <bool WHOLE, typename Stored>
__device__ __forceinline__ void store_four(Stored* to, const float (&values)[4], int count) {
  to = in_global_memory(to);
  Stored rounded[4];
  for (int at = 0; at < 4; ++at) narrow(values[at], rounded[at]);
  if constexpr (WHOLE) {
    *reinterpret_cast<ushort4*>(to) =
        make_ushort4(rounded[0].bits, rounded[1].bits, rounded[2].bits, rounded[3].bits);
  } else {
    for (int at = 0; at < 4; ++at) {
      if (at < count) to[at] = rounded[at];
    }
  }
}

// Whether an address may be read 16 bytes at a time, or four elements of a narrower type. Null counts as aligned.
template <int BYTES>
__device__ __forceinline__ bool is_aligned(const void* address) {
  return reinterpret_cast<unsigned long long>(address) % BYTES == 0;
}

// Wait until a counter has a value. Every thread of the block then sees what was published with it.
//
// The caller must know that those who count run already: blocks may start in any order, and not all fit at once.
__device__ __forceinline__ void block_wait(const unsigned* counter, unsigned value) {
  if (threadIdx.x == 0) {
    while (load_acquire(counter) != value) pause();
  }
  __syncthreads();
}

}  // namespace unmask
