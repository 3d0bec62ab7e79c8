// Errors of the CUDA runtime as exceptions, with CUDA's own words.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace unmask {

// Throw std::runtime_error unless `status` is cudaSuccess. `what` says what was tried.
inline void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  // else the next call would report it again
  static_cast<void>(cudaGetLastError());
  throw std::runtime_error(what + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
}

}  // namespace unmask
