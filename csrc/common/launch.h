// Starting kernels: on a device, on a stream, checked.
//
// Kernels start through cudaLaunchKernel and not through <<<>>>, so that any C++ compiler can read the file.
#pragma once

#include <common/check.h>
#include <cuda_runtime.h>

#include <cstddef>

namespace unmask {

// Makes a device the current one, and gives the old one back at the end of the scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "unmask_kernels._C: the current device is not known");
    if (before_ != device) check(cudaSetDevice(device), "unmask_kernels._C: cannot use device " + std::to_string(device));
  }
  ~DeviceGuard() { static_cast<void>(cudaSetDevice(before_)); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

// Start `blocks` blocks of a kernel that takes one structure, with `shared_bytes` of dynamic shared memory each.
template <typename Parameters>
void launch(void (*kernel)(Parameters), unsigned blocks, unsigned threads, std::size_t shared_bytes,
            cudaStream_t stream, const char* name, Parameters parameters) {
  if (blocks == 0) return;
  void* arguments[] = {&parameters};
  const cudaError_t status = cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), arguments, shared_bytes, stream);
  check(status, std::string("unmask_kernels._C: kernel ") + name + " did not start");
}

}  // namespace unmask
