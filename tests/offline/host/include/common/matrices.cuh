// csrc/common/matrices.cuh for the host machine.
#pragma once

#include <common/instructions.cuh>

#include <type_traits>

namespace unmask {

using SharedPlace = std::uintptr_t;

HOST_MACHINE_INLINE SharedPlace shared_place(const void* address) { return reinterpret_cast<SharedPlace>(address); }

template <bool TRANSPOSED, int COUNT>
HOST_MACHINE_INLINE void load_matrices(unsigned (&to)[COUNT], SharedPlace row) {
  static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4, "1, 2 or 4 matrices are loaded");
  host_machine::load_matrices(to, COUNT, TRANSPOSED, reinterpret_cast<const void*>(row));
}

template <typename Element>
HOST_MACHINE_INLINE void multiply(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
  host_machine::multiply(sums, left, right0, right1, std::is_same_v<Element, Bf16>);
}

}  // namespace unmask
