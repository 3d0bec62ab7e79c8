// csrc/common/instructions.cuh for the host machine: what each instruction of the GPU does, as C++.
#pragma once

#include <cuda_runtime.h>

namespace unmask {

struct Bf16 {
  unsigned short bits;
};
struct Fp16 {
  unsigned short bits;
};

HOST_MACHINE_INLINE void* dynamic_shared_memory() { return host_machine::dynamic_shared(); }

template <typename Stored>
HOST_MACHINE_INLINE Stored* in_global_memory(Stored* address) {
  return address;
}

HOST_MACHINE_INLINE unsigned load_acquire(const unsigned* counter) {
  return host_machine::atomic_load(counter, host_machine::Order::acquire, host_machine::Scope::device);
}

HOST_MACHINE_INLINE unsigned add_acquire_release(unsigned* counter, unsigned value) {
  return host_machine::atomic_update(
      counter, [value](unsigned old) { return old + value; }, host_machine::Order::both, host_machine::Scope::device);
}

// weaker ones, which no kernel may use: mutations put them in the place of those above
HOST_MACHINE_INLINE unsigned load_relaxed(const unsigned* counter) {
  return host_machine::atomic_load(counter, host_machine::Order::relaxed, host_machine::Scope::device);
}

HOST_MACHINE_INLINE unsigned add_acquire(unsigned* counter, unsigned value) {
  return host_machine::atomic_update(
      counter, [value](unsigned old) { return old + value; }, host_machine::Order::acquire,
      host_machine::Scope::device);
}

HOST_MACHINE_INLINE unsigned add_release(unsigned* counter, unsigned value) {
  return host_machine::atomic_update(
      counter, [value](unsigned old) { return old + value; }, host_machine::Order::release,
      host_machine::Scope::device);
}

HOST_MACHINE_INLINE void pause() { host_machine::pause(); }

HOST_MACHINE_INLINE int fresh_thread() { return int(threadIdx.x); }

HOST_MACHINE_INLINE float widen(float value) { return value; }

HOST_MACHINE_INLINE float widen(Bf16 value) { return __uint_as_float(unsigned(value.bits) << 16); }

HOST_MACHINE_INLINE float widen(Fp16 value) { return host_machine::fp16_to_fp32(value.bits); }

HOST_MACHINE_INLINE void narrow(float value, Bf16& narrow) { narrow.bits = host_machine::fp32_to_bf16(value); }

HOST_MACHINE_INLINE void narrow(float value, Fp16& narrow) { narrow.bits = host_machine::fp32_to_fp16(value); }

template <typename Element>
HOST_MACHINE_INLINE unsigned pack(float low, float high) {
  Element first, second;
  narrow(low, first), narrow(high, second);
  return first.bits | unsigned(second.bits) << 16;
}

HOST_MACHINE_INLINE float exp2_approximate(float value) {
  const float power = std::exp2(value);
  return power < 0x1p-126f ? 0.0f : power;
}

}  // namespace unmask
