// csrc/common/matrices.cuh for the host machine.
#pragma once

#include <common/instructions.cuh>

#include <type_traits>

namespace unmask {

template <bool TRANSPOSED, int COUNT>
HOST_MACHINE_INLINE void load_matrices(unsigned (&to)[COUNT], const void* row) {
  static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4, "1, 2 or 4 matrices are loaded");
  host_machine::load_matrices(to, COUNT, TRANSPOSED, row);
}

template <typename Element>
HOST_MACHINE_INLINE void multiply(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
  host_machine::multiply(sums, left, right0, right1, std::is_same_v<Element, Bf16>);
}

}  // namespace unmask
