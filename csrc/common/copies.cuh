// Copies from global into shared memory that do not wait and take no registers (cp.async).
//
// A thread waits for its own copies. What they bring is there for the others behind the barrier that follows.
#pragma once

#include <cuda_runtime.h>

namespace unmask {

// Begin to copy 4, 8 or 16 bytes between addresses aligned to as many. Only the first `valid` of them are read; the
// others become 0, so `valid` 0 reads nothing.
template <int BYTES>
__device__ __forceinline__ void copy_async(void* to, const void* from, int valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "copies have 4, 8 or 16 bytes");
  const unsigned place = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (BYTES == 16) {
    // not into the first cache: each byte is read once
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(valid) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(place), "l"(from), "n"(BYTES), "r"(valid)
                 : "memory");
  }
}

// Make a group of the thread's copies since the last one.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until all groups of the thread but the last LEFT ones have arrived.
template <int LEFT>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

}  // namespace unmask
