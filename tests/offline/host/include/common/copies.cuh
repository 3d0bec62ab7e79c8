// csrc/common/copies.cuh for the host machine.
#pragma once

#include <cuda_runtime.h>

namespace unmask {

template <int BYTES>
HOST_MACHINE_INLINE void copy_async(void* to, const void* from, int valid) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "copies have 4, 8 or 16 bytes");
  host_machine::copy_async(to, from, unsigned(BYTES), unsigned(valid));
}

HOST_MACHINE_INLINE void copy_commit() { host_machine::copy_commit(); }

template <int LEFT>
HOST_MACHINE_INLINE void copy_wait() {
  host_machine::copy_wait(LEFT);
}

}  // namespace unmask
