// Barriers, warp operations, fences, atomics and cached accesses, by CUDA's names.
#pragma once

#include "host_machine.h"

// ---- barriers and fences
HOST_MACHINE_INLINE void __syncthreads() {
  host_machine::block_barrier("__syncthreads", 0, 0, true, host_machine::Combine::none, 0);
}
HOST_MACHINE_INLINE int __syncthreads_count(int value) {
  return host_machine::block_barrier("__syncthreads_count", 0, 0, true, host_machine::Combine::count, value);
}
HOST_MACHINE_INLINE int __syncthreads_and(int value) {
  return host_machine::block_barrier("__syncthreads_and", 0, 0, true, host_machine::Combine::all, value);
}
HOST_MACHINE_INLINE int __syncthreads_or(int value) {
  return host_machine::block_barrier("__syncthreads_or", 0, 0, true, host_machine::Combine::any, value);
}
HOST_MACHINE_INLINE void __syncwarp(unsigned mask = 0xffffffffu) { host_machine::warp_barrier(mask); }
HOST_MACHINE_INLINE void __threadfence_block() { host_machine::fence(host_machine::Scope::block); }
HOST_MACHINE_INLINE void __threadfence() { host_machine::fence(host_machine::Scope::device); }
HOST_MACHINE_INLINE void __threadfence_system() { host_machine::fence(host_machine::Scope::device); }
HOST_MACHINE_INLINE void __nanosleep(unsigned) { host_machine::pause(); }
[[noreturn]] HOST_MACHINE_INLINE void __trap() { host_machine::trap("__trap"); }

// ---- shuffles; a lane without a source keeps its own value
template <class T>
HOST_MACHINE_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  unsigned lane = host_machine::lane_index(), segment = lane & ~(unsigned(width) - 1);
  unsigned from = segment | (unsigned(source) & (unsigned(width) - 1));
  return host_machine::value_of<T>(
      host_machine::warp_shuffle("__shfl_sync", mask, host_machine::bits_of(value), from));
}
template <class T>
HOST_MACHINE_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  unsigned lane = host_machine::lane_index(), place = lane & (unsigned(width) - 1);
  unsigned from = place >= delta ? lane - delta : lane;
  return host_machine::value_of<T>(
      host_machine::warp_shuffle("__shfl_up_sync", mask, host_machine::bits_of(value), from));
}
template <class T>
HOST_MACHINE_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  unsigned lane = host_machine::lane_index(), place = lane & (unsigned(width) - 1);
  unsigned from = place + delta < unsigned(width) ? lane + delta : lane;
  return host_machine::value_of<T>(
      host_machine::warp_shuffle("__shfl_down_sync", mask, host_machine::bits_of(value), from));
}
template <class T>
HOST_MACHINE_INLINE T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32) {
  unsigned lane = host_machine::lane_index(), segment = lane & ~(unsigned(width) - 1);
  unsigned from = lane ^ unsigned(other);
  from = from < segment + unsigned(width) ? from : lane;
  return host_machine::value_of<T>(
      host_machine::warp_shuffle("__shfl_xor_sync", mask, host_machine::bits_of(value), from));
}

// ---- votes and reductions of a warp
HOST_MACHINE_INLINE unsigned __ballot_sync(unsigned mask, int value) {
  return host_machine::warp_vote("__ballot_sync", mask, value != 0);
}
HOST_MACHINE_INLINE int __any_sync(unsigned mask, int value) {
  return host_machine::warp_vote("__any_sync", mask, value != 0) != 0;
}
HOST_MACHINE_INLINE int __all_sync(unsigned mask, int value) {
  return host_machine::warp_vote("__all_sync", mask, value != 0) == mask;
}
template <class T>
HOST_MACHINE_INLINE unsigned __match_any_sync(unsigned mask, T value) {
  std::uint64_t values[32], mine = host_machine::bits_of(value);
  host_machine::warp_collect("__match_any_sync", mask, mine, values);
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; ++lane) same |= unsigned((mask >> lane & 1) && values[lane] == mine) << lane;
  return same;
}
namespace host_machine {
template <class T, class Function>
HOST_MACHINE_INLINE T reduce(const char* name, unsigned mask, T value, Function function) {
  std::uint64_t values[32];
  warp_collect(name, mask, bits_of(value), values);
  bool first = true;
  T result{};
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    T next = value_of<T>(values[lane]);
    result = first ? next : function(result, next);
    first = false;
  }
  return result;
}
}  // namespace host_machine
#define HOST_MACHINE_REDUCE(NAME, TYPE, EXPRESSION)                                               \
  HOST_MACHINE_INLINE TYPE NAME(unsigned mask, TYPE value) {                                      \
    return host_machine::reduce(#NAME, mask, value, [](TYPE a, TYPE b) -> TYPE { return EXPRESSION; }); \
  }
HOST_MACHINE_REDUCE(__reduce_add_sync, unsigned, a + b)
HOST_MACHINE_REDUCE(__reduce_add_sync, int, a + b)
HOST_MACHINE_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
HOST_MACHINE_REDUCE(__reduce_min_sync, int, a < b ? a : b)
HOST_MACHINE_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
HOST_MACHINE_REDUCE(__reduce_max_sync, int, a > b ? a : b)
HOST_MACHINE_REDUCE(__reduce_and_sync, unsigned, a & b)
HOST_MACHINE_REDUCE(__reduce_or_sync, unsigned, a | b)
HOST_MACHINE_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef HOST_MACHINE_REDUCE

// ---- atomics: relaxed, of the whole device or (_block) of the block
#define HOST_MACHINE_ATOMIC(NAME, EXPRESSION)                                                      \
  template <class T>                                                                               \
  HOST_MACHINE_INLINE T NAME(T* address, std::common_type_t<T> value) {                            \
    return host_machine::atomic_update(address, [value](T old) -> T { return EXPRESSION; },        \
                                       host_machine::Order::relaxed, host_machine::Scope::device); \
  }                                                                                                \
  template <class T>                                                                               \
  HOST_MACHINE_INLINE T NAME##_block(T* address, std::common_type_t<T> value) {                    \
    return host_machine::atomic_update(address, [value](T old) -> T { return EXPRESSION; },        \
                                       host_machine::Order::relaxed, host_machine::Scope::block);  \
  }
HOST_MACHINE_ATOMIC(atomicAdd, old + value)
HOST_MACHINE_ATOMIC(atomicSub, old - value)
HOST_MACHINE_ATOMIC(atomicExch, (void(old), value))
HOST_MACHINE_ATOMIC(atomicMin, old < value ? old : value)
HOST_MACHINE_ATOMIC(atomicMax, old > value ? old : value)
HOST_MACHINE_ATOMIC(atomicAnd, old & value)
HOST_MACHINE_ATOMIC(atomicOr, old | value)
HOST_MACHINE_ATOMIC(atomicXor, old ^ value)
HOST_MACHINE_ATOMIC(atomicInc, old >= value ? T(0) : T(old + 1))
HOST_MACHINE_ATOMIC(atomicDec, (old == 0 || old > value) ? value : T(old - 1))
#undef HOST_MACHINE_ATOMIC
template <class T>
HOST_MACHINE_INLINE T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  return host_machine::atomic_update(address, [=](T old) -> T { return old == expected ? value : old; },
                                     host_machine::Order::relaxed, host_machine::Scope::device);
}

// ---- accesses with a hint for the caches: they are loads and stores
#define HOST_MACHINE_LOAD(NAME)                              \
  template <class T>                                         \
  HOST_MACHINE_INLINE T NAME(const T* address) {             \
    return *address;                                         \
  }
HOST_MACHINE_LOAD(__ldg)
HOST_MACHINE_LOAD(__ldcg)
HOST_MACHINE_LOAD(__ldca)
HOST_MACHINE_LOAD(__ldcs)
HOST_MACHINE_LOAD(__ldlu)
HOST_MACHINE_LOAD(__ldcv)
#undef HOST_MACHINE_LOAD
#define HOST_MACHINE_STORE(NAME)                                            \
  template <class T>                                                        \
  HOST_MACHINE_INLINE void NAME(T* address, std::common_type_t<T> value) {  \
    *address = value;                                                       \
  }
HOST_MACHINE_STORE(__stwb)
HOST_MACHINE_STORE(__stcg)
HOST_MACHINE_STORE(__stcs)
HOST_MACHINE_STORE(__stwt)
#undef HOST_MACHINE_STORE
HOST_MACHINE_INLINE std::size_t __cvta_generic_to_shared(const void* address) {
  return reinterpret_cast<std::size_t>(address);
}
