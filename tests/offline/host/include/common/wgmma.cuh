// csrc/common/wgmma.cuh for the host machine. A thread's registers are arrays on its stack.
#pragma once

#include <common/instructions.cuh>

namespace unmask {

constexpr int WARPGROUP = 128;
constexpr bool HAS_WGMMA = true;

HOST_MACHINE_INLINE void* swizzled_shared_memory() { return host_machine::dynamic_shared(); }

HOST_MACHINE_INLINE unsigned long long wgmma_operand(
    const void* start, unsigned stride = 1024, unsigned leading = 16) {
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const std::uint64_t offset = address - reinterpret_cast<std::uintptr_t>(host_machine::dynamic_shared());
  return (offset & 0x3ffff) >> 4 | std::uint64_t(leading >> 4) << 16 | std::uint64_t(stride >> 4) << 32 | 1ull << 62;
}

HOST_MACHINE_INLINE unsigned long long wgmma_advance(unsigned long long operand, unsigned bytes) {
  return operand + (bytes >> 4);
}

template <typename Registers>
HOST_MACHINE_INLINE void pin(Registers&) {}

template <typename... Registers>
HOST_MACHINE_INLINE void wgmma_fence(Registers&...) {
  host_machine::wgmma_fence();
}

HOST_MACHINE_INLINE void wgmma_commit() { host_machine::wgmma_commit(); }

template <int LEFT, typename... Registers>
HOST_MACHINE_INLINE void wgmma_wait(Registers&...) {
  host_machine::wgmma_wait(LEFT);
}

HOST_MACHINE_INLINE void proxy_fence() { host_machine::proxy_fence(); }

template <typename Element, bool TRANSPOSED_LEFT, bool TRANSPOSED_RIGHT, int COUNT>
HOST_MACHINE_INLINE void wgmma(
    float (&sums)[COUNT], unsigned long long left, unsigned long long right, bool adds) {
  host_machine::wgmma(
      {2 * COUNT, std::is_same_v<Element, Fp16>, false, TRANSPOSED_LEFT, TRANSPOSED_RIGHT, adds, left, right}, sums,
      nullptr);
}

template <typename Element, bool TRANSPOSED_RIGHT, int COUNT>
HOST_MACHINE_INLINE void wgmma(
    float (&sums)[COUNT], const unsigned (&left)[4], unsigned long long right, bool adds) {
  host_machine::wgmma(
      {2 * COUNT, std::is_same_v<Element, Fp16>, true, false, TRANSPOSED_RIGHT, adds, 0, right}, sums, left);
}

}  // namespace unmask
