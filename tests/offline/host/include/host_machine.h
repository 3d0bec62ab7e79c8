// What kernels call on the host machine in the place of CUDA's built-in variables and functions.
//
// A thread of a kernel is a fiber. Everything here that waits, orders memory or exchanges values enters the scheduler;
// loads and stores enter it too, through the calls that -fsanitize=thread puts in front of them.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define HOST_MACHINE 1
#define HOST_MACHINE_INLINE inline __attribute__((always_inline))

namespace host_machine {

struct Index {
  unsigned x, y, z;
};

// of the thread that runs; constant as far as its own code can see
Index thread_index() noexcept __attribute__((const));
Index block_index() noexcept __attribute__((const));
Index block_size() noexcept __attribute__((const));
Index grid_size() noexcept __attribute__((const));
unsigned lane_index() noexcept __attribute__((const));

// the shared memory of the block, as many bytes as the launch asks for
void* dynamic_shared() noexcept;

// threads 0 means the whole block; an arriving thread does not wait
enum class Combine { none, count, all, any };
int block_barrier(const char* name, unsigned id, unsigned threads, bool waits, Combine combine, int value);
void grid_barrier();

// rendezvous of the lanes of `mask`; only the barrier orders memory, as CUDA documents it
void warp_barrier(unsigned mask);
std::uint64_t warp_shuffle(const char* name, unsigned mask, std::uint64_t value, unsigned source);
unsigned warp_vote(const char* name, unsigned mask, bool value);
void warp_collect(const char* name, unsigned mask, std::uint64_t value, std::uint64_t* values_of_32_lanes);

// memory order
enum class Scope { block, device };
enum class Order { relaxed, acquire, release, both };
void fence(Scope scope);
void atomic_access(const volatile void* address, std::size_t bytes, bool reads, bool writes, Order order, Scope scope);
void raw_copy(void* to, const volatile void* source, std::size_t bytes);
void pause();

// asynchronous copies of a thread into shared memory; bytes behind `valid` become zero
void copy_async(void* to, const void* source, unsigned bytes, unsigned valid);
void copy_commit();
void copy_wait(unsigned groups_in_flight);

// matrices of a warp; see common/matrices.cuh
void load_matrices(unsigned* to, unsigned count, bool transposed, const void* row);
void multiply(float* sums, const unsigned* left, unsigned right0, unsigned right1, bool brain);

// barriers in shared memory
void mbarrier_init(void* barrier, unsigned count);
void mbarrier_invalidate(void* barrier);
std::uint64_t mbarrier_arrive(void* barrier, unsigned count);
bool mbarrier_test(void* barrier, bool parity);
void mbarrier_wait(void* barrier, bool parity);
// the copies of the thread so far arrive at the barrier when they land, as cp.async.mbarrier.arrive.noinc does
void mbarrier_arrive_after_copies(void* barrier);

// a product of a warpgroup: operands in shared memory by their descriptors
struct Product {
  unsigned columns;
  bool half, left_in_registers, left_transposed, right_transposed, adds;
  std::uint64_t left, right;

  bool operator==(const Product& other) const {
    return columns == other.columns && half == other.half && left_in_registers == other.left_in_registers &&
           left_transposed == other.left_transposed && right_transposed == other.right_transposed &&
           adds == other.adds && left == other.left && right == other.right;
  }
};
void wgmma(const Product& product, float* sums, const unsigned* left);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(unsigned groups_in_flight);
void proxy_fence();

[[noreturn]] void trap(const char* message);

template <class T>
HOST_MACHINE_INLINE std::uint64_t bits_of(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  raw_copy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
HOST_MACHINE_INLINE T value_of(std::uint64_t bits) {
  T value;
  raw_copy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
HOST_MACHINE_INLINE T atomic_load(const T* address, Order order, Scope scope) {
  atomic_access(address, sizeof(T), true, false, order, scope);
  T value;
  raw_copy(&value, address, sizeof(T));
  return value;
}

template <class T>
HOST_MACHINE_INLINE void atomic_store(T* address, T value, Order order, Scope scope) {
  atomic_access(address, sizeof(T), false, true, order, scope);
  raw_copy(address, &value, sizeof(T));
}

// the value before; nothing runs between the read and the write
template <class T, class Function>
HOST_MACHINE_INLINE T atomic_update(T* address, Function function, Order order, Scope scope) {
  atomic_access(address, sizeof(T), true, true, order, scope);
  T before;
  raw_copy(&before, address, sizeof(T));
  T after = function(before);
  raw_copy(address, &after, sizeof(T));
  return before;
}

}  // namespace host_machine
