// The calls that -fsanitize=thread puts in front of loads and stores, and those of -fsanitize=bounds and of overflow.
#include "state.h"

using machine::current;

#define HERE reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))

namespace {

// what a thread keeps on its stack is nobody else's
bool is_own(const void* address) {
  return !current || reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(current->stack) <
                         machine::STACK_BYTES;
}

inline void plain(const void* address, std::size_t bytes, unsigned flags, std::uintptr_t pc) {
  if (is_own(address)) {
    if (current && current->multiplier) {
      machine::touch(reinterpret_cast<std::uintptr_t>(address), bytes, flags & machine::WRITES, pc);
    }
    return;
  }
  machine::preempt();
  machine::access(reinterpret_cast<std::uintptr_t>(address), bytes, flags, pc);
}

inline void strong(const void* address, std::size_t bytes, bool writes, std::uintptr_t pc) {
  if (is_own(address)) return;
  machine::volatile_access(address, bytes, writes, pc);
}

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define ACCESSES(BYTES)                                                                            \
  void __tsan_read##BYTES(void* address) { plain(address, BYTES, machine::READS, HERE); }          \
  void __tsan_write##BYTES(void* address) { plain(address, BYTES, machine::WRITES, HERE); }        \
  void __tsan_unaligned_read##BYTES(void* address) {                                               \
    plain(address, BYTES, machine::READS | machine::ANY_ALIGNMENT, HERE);                          \
  }                                                                                                \
  void __tsan_unaligned_write##BYTES(void* address) {                                              \
    plain(address, BYTES, machine::WRITES | machine::ANY_ALIGNMENT, HERE);                         \
  }                                                                                                \
  void __tsan_volatile_read##BYTES(void* address) { strong(address, BYTES, false, HERE); }         \
  void __tsan_volatile_write##BYTES(void* address) { strong(address, BYTES, true, HERE); }         \
  void __tsan_unaligned_volatile_read##BYTES(void* address) { strong(address, BYTES, false, HERE); } \
  void __tsan_unaligned_volatile_write##BYTES(void* address) { strong(address, BYTES, true, HERE); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void* address, unsigned long bytes) {
  plain(address, bytes, machine::READS | machine::ANY_ALIGNMENT, HERE);
}
void __tsan_write_range(void* address, unsigned long bytes) {
  plain(address, bytes, machine::WRITES | machine::ANY_ALIGNMENT, HERE);
}

void __ubsan_handle_out_of_bounds(void*, void* index) {
  if (!current) return;
  machine::report("out of bounds of an array", HERE,
                  "index " + std::to_string(reinterpret_cast<std::intptr_t>(index)));
  machine::abandon();
}

#define OVERFLOW(NAME)                                                                        \
  void __ubsan_handle_##NAME(void*, void*, void*) {                                           \
    if (current) machine::report("integer overflow", HERE, "a signed integer overflows here"); \
  }
OVERFLOW(add_overflow)
OVERFLOW(sub_overflow)
OVERFLOW(mul_overflow)
OVERFLOW(negate_overflow)
OVERFLOW(divrem_overflow)

}  // extern "C"
