// Products of matrices by warpgroups of sm_90a (wgmma), which run while their threads go on.
//
// A warpgroup is four warps, the first of which has a number divisible by four. All its threads call these functions
// together. The order of calls, without which a result is undefined:
//
//     write operands to shared memory, proxy_fence(), a barrier of all who wrote and all who multiply
//     wgmma_fence(sums, ...)       the registers below are final: sums that are added to, left operands
//     wgmma(sums, left, right)     some products, which add to the same sums in order
//     wgmma_commit()               they are a group
//     wgmma_wait<1>(sums, ...)     all groups but the last one have ended: their sums may be used, their operands written
//
// Layout of sums (64, N) with N = 2 SUMS: thread t of the warpgroup holds in sums[i] the element of
//
//     row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4) + i % 2
//
// and a left operand in registers is that of 16 columns, two neighbouring elements a register. So sums rounded to 16
// bits are left operands: registers i, of sums 2 i and 2 i + 1, from 4 k to 4 k + 3 are columns 16 k to 16 k + 15.
#pragma once

#include <common/instructions.cuh>

#include <type_traits>

namespace unmask {

constexpr int WARPGROUP = 128;

// Whether the code is compiled for a GPU that has these instructions; kernels for it are empty elsewhere.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool HAS_WGMMA = true;
#else
constexpr bool HAS_WGMMA = false;
#endif

// Return the dynamic shared memory of the block, aligned to where the swizzle begins anew.
__device__ __forceinline__ void* swizzled_shared_memory() {
  extern __shared__ __align__(1024) unsigned char swizzled_bytes[];
  return swizzled_bytes;
}

// Describe an operand in shared memory whose lines have 64 elements of 16 bits.
//
// 16-byte piece c of line r lies at piece c ^ (r % 8): the 128-byte swizzle, which begins anew every 1024 bytes.
// Plain operands have the 16 elements that are multiplied in a line, from `start` on, and a line for each row (of the
// left one) or column (of the right one). Transposed operands have a line for each of those 16, at multiples of 1024
// bytes, and the rows or columns along the line.
//
// `stride`: bytes between lines r and r + 8. `leading`: of transposed operands wider than 64, bytes to the next 64.
__device__ __forceinline__ unsigned long long wgmma_operand(
    const void* start, unsigned stride = 1024, unsigned leading = 16) {
  const unsigned long long address = __cvta_generic_to_shared(start);
  return (address & 0x3ffff) >> 4 | static_cast<unsigned long long>(leading >> 4) << 16 |
         static_cast<unsigned long long>(stride >> 4) << 32 | 1ull << 62;
}

// Return the operand that begins so many bytes behind another one.
__device__ __forceinline__ unsigned long long wgmma_advance(unsigned long long operand, unsigned bytes) {
  return operand + (bytes >> 4);
}

// Keep the compiler from moving what defines or uses registers across this place.
template <int COUNT>
__device__ __forceinline__ void pin(float (&values)[COUNT]) {
#pragma unroll
  for (int at = 0; at < COUNT; ++at) asm volatile("" : "+f"(values[at])::"memory");
}
template <int COUNT>
__device__ __forceinline__ void pin(unsigned (&values)[COUNT]) {
#pragma unroll
  for (int at = 0; at < COUNT; ++at) asm volatile("" : "+r"(values[at])::"memory");
}
template <int STEPS>
__device__ __forceinline__ void pin(unsigned (&values)[STEPS][4]) {
#pragma unroll
  for (int step = 0; step < STEPS; ++step) pin(values[step]);
}

// Order accesses to these registers before the products that follow.
template <typename... Registers>
__device__ __forceinline__ void wgmma_fence(Registers&... registers) {
  (pin(registers), ...);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Make a group of the products since the last one.
__device__ __forceinline__ void wgmma_commit() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Wait until all groups but the last LEFT ones have ended. The registers are those of products that have.
template <int LEFT, typename... Registers>
__device__ __forceinline__ void wgmma_wait(Registers&... registers) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
#endif
  (pin(registers), ...);
}

// Make what the thread wrote to shared memory, or copied and waited for, visible to products behind the next barrier.
__device__ __forceinline__ void proxy_fence() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#define UNMASK_D16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define UNMASK_D32                                                                                     \
  UNMASK_D16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define UNMASK_D64                                                                                     \
  UNMASK_D32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "      \
             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define UNMASK_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define UNMASK_16(i) UNMASK_4(i), UNMASK_4(i + 4), UNMASK_4(i + 8), UNMASK_4(i + 12)
#define UNMASK_SUMS16 UNMASK_16(0)
#define UNMASK_SUMS32 UNMASK_16(0), UNMASK_16(16)
#define UNMASK_SUMS64 UNMASK_16(0), UNMASK_16(16), UNMASK_16(32), UNMASK_16(48)
#define UNMASK_WGMMA(N, TYPE, SUMS, LEFT, RIGHT, ADDS, TRANSPOSED)                                     \
  "{\n.reg .pred %%p_adds;\nsetp.ne.b32 %%p_adds, " ADDS ", 0;\n"                                      \
  "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" SUMS "}, " LEFT ", " RIGHT      \
  ", %%p_adds, 1, 1, " TRANSPOSED ";\n}\n"
// the operands behind the sums are numbers L, R, ... of the instruction
#define UNMASK_FROM_SHARED(SUMS, N, L, R, ADDS, TRANSPOSES_L, TRANSPOSES_R)                            \
  if constexpr (COUNT == SUMS && BRAIN) {                                                              \
    asm volatile(UNMASK_WGMMA(N, "bf16", UNMASK_D##SUMS, L, R, ADDS, TRANSPOSES_L ", " TRANSPOSES_R)   \
                 : UNMASK_SUMS##SUMS                                                                   \
                 : "l"(left), "l"(right), "r"(int(adds)), "n"(TRANSPOSED_LEFT), "n"(TRANSPOSED_RIGHT)); \
  } else if constexpr (COUNT == SUMS) {                                                                \
    asm volatile(UNMASK_WGMMA(N, "f16", UNMASK_D##SUMS, L, R, ADDS, TRANSPOSES_L ", " TRANSPOSES_R)    \
                 : UNMASK_SUMS##SUMS                                                                   \
                 : "l"(left), "l"(right), "r"(int(adds)), "n"(TRANSPOSED_LEFT), "n"(TRANSPOSED_RIGHT)); \
  }
#define UNMASK_FROM_REGISTERS(SUMS, N, L, R, ADDS, TRANSPOSES_R)                                       \
  if constexpr (COUNT == SUMS && BRAIN) {                                                              \
    asm volatile(UNMASK_WGMMA(N, "bf16", UNMASK_D##SUMS, L, R, ADDS, TRANSPOSES_R)                     \
                 : UNMASK_SUMS##SUMS                                                                   \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(int(adds)), \
                   "n"(TRANSPOSED_RIGHT));                                                             \
  } else if constexpr (COUNT == SUMS) {                                                                \
    asm volatile(UNMASK_WGMMA(N, "f16", UNMASK_D##SUMS, L, R, ADDS, TRANSPOSES_R)                      \
                 : UNMASK_SUMS##SUMS                                                                   \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(int(adds)), \
                   "n"(TRANSPOSED_RIGHT));                                                             \
  }

// sums = left (64, 16) right^T (N, 16), and + sums if it adds; both operands in shared memory, elements Bf16 or Fp16.
template <typename Element, bool TRANSPOSED_LEFT, bool TRANSPOSED_RIGHT, int COUNT>
__device__ __forceinline__ void wgmma(
    float (&sums)[COUNT], unsigned long long left, unsigned long long right, bool adds) {
  static_assert(COUNT == 16 || COUNT == 32 || COUNT == 64, "N is 32, 64 or 128");
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr bool BRAIN = std::is_same_v<Element, Bf16>;
  UNMASK_FROM_SHARED(16, 32, "%16", "%17", "%18", "%19", "%20")
  UNMASK_FROM_SHARED(32, 64, "%32", "%33", "%34", "%35", "%36")
  UNMASK_FROM_SHARED(64, 128, "%64", "%65", "%66", "%67", "%68")
#endif
}

// The same with the left operand in registers.
template <typename Element, bool TRANSPOSED_RIGHT, int COUNT>
__device__ __forceinline__ void wgmma(
    float (&sums)[COUNT], const unsigned (&left)[4], unsigned long long right, bool adds) {
  static_assert(COUNT == 16 || COUNT == 32 || COUNT == 64, "N is 32, 64 or 128");
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr bool BRAIN = std::is_same_v<Element, Bf16>;
  UNMASK_FROM_REGISTERS(16, 32, "{%16, %17, %18, %19}", "%20", "%21", "%22")
  UNMASK_FROM_REGISTERS(32, 64, "{%32, %33, %34, %35}", "%36", "%37", "%38")
  UNMASK_FROM_REGISTERS(64, 128, "{%64, %65, %66, %67}", "%68", "%69", "%70")
#endif
}

#undef UNMASK_D16
#undef UNMASK_D32
#undef UNMASK_D64
#undef UNMASK_4
#undef UNMASK_16
#undef UNMASK_SUMS16
#undef UNMASK_SUMS32
#undef UNMASK_SUMS64
#undef UNMASK_WGMMA
#undef UNMASK_FROM_SHARED
#undef UNMASK_FROM_REGISTERS

}  // namespace unmask
