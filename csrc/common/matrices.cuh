// Products of small matrices by a warp (mma.sync), and the loads that bring their operands (ldmatrix).
//
// All lanes of a warp call these functions together. Lane l holds of each matrix, with g = l / 4 and t = l % 4:
//
//     left (16, 16)    registers 0 to 3: rows g, g + 8, g, g + 8; columns 2 t and 2 t + 1, in registers 2 and 3 plus 8
//     right (16, 8)    registers 0 and 1: rows 2 t and 2 t + 1, in register 1 plus 8; column g
//     sums (16, 8)     values 0 to 3: row g, in values 2 and 3 plus 8; columns 2 t, 2 t + 1, 2 t, 2 t + 1
//
// A register has two elements of 16 bits, the first in the lower half. So sums rounded to 16 bits are left operands: those
// of two neighbouring products (16, 8) are one (16, 16), register i of sums 2 (i % 2) and 2 (i % 2) + 1 of product i / 2.
#pragma once

#include <common/instructions.cuh>

#include <type_traits>

namespace unmask {

// An address in shared memory in 32 bits, for arithmetic in one instruction.
using SharedPlace = unsigned;

__device__ __forceinline__ SharedPlace shared_place(const void* address) {
  return static_cast<unsigned>(__cvta_generic_to_shared(address));
}

// Load 1, 2 or 4 matrices of 8 x 8 elements of 16 bits from shared memory, a register each.
//
// Lane 8 m + r gives where row r of matrix m is: 16 bytes, aligned. Register m of lane l gets elements 2 (l % 4) and
// 2 (l % 4) + 1 of row l / 4 of matrix m; TRANSPOSED: of its column l / 4.
template <bool TRANSPOSED, int COUNT>
__device__ __forceinline__ void load_matrices(unsigned (&to)[COUNT], SharedPlace row) {
  static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4, "1, 2 or 4 matrices are loaded");
#define UNMASK_LOAD(FORM, TO) asm volatile("ldmatrix.sync.aligned.m8n8." FORM ".shared.b16 " TO
  if constexpr (COUNT == 1 && !TRANSPOSED) {
    UNMASK_LOAD("x1", "{%0}, [%1];") : "=r"(to[0]) : "r"(row) : "memory");
  } else if constexpr (COUNT == 1) {
    UNMASK_LOAD("x1.trans", "{%0}, [%1];") : "=r"(to[0]) : "r"(row) : "memory");
  } else if constexpr (COUNT == 2 && !TRANSPOSED) {
    UNMASK_LOAD("x2", "{%0, %1}, [%2];") : "=r"(to[0]), "=r"(to[1]) : "r"(row) : "memory");
  } else if constexpr (COUNT == 2) {
    UNMASK_LOAD("x2.trans", "{%0, %1}, [%2];") : "=r"(to[0]), "=r"(to[1]) : "r"(row) : "memory");
  } else if constexpr (!TRANSPOSED) {
    UNMASK_LOAD("x4", "{%0, %1, %2, %3}, [%4];")
        : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
  } else {
    UNMASK_LOAD("x4.trans", "{%0, %1, %2, %3}, [%4];")
        : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(row) : "memory");
  }
#undef UNMASK_LOAD
}

// sums (16, 8) += left (16, 16) right (16, 8), of Bf16 or Fp16.
template <typename Element>
__device__ __forceinline__ void multiply(
    float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
#define UNMASK_MULTIPLY(TYPE)                                                                                    \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
      "{%0, %1, %2, %3};"                                                                                        \
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                               \
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1))
  if constexpr (std::is_same_v<Element, Bf16>) {
    UNMASK_MULTIPLY("bf16");
  } else {
    UNMASK_MULTIPLY("f16");
  }
#undef UNMASK_MULTIPLY
}

}  // namespace unmask
