// Launches and the part of CUDA's runtime that launchers call. The device is the host: an address is an address.
#pragma once

#include <cstddef>
#include <utility>

#include "host_machine.h"
#include "host_vectors.h"

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorIllegalAddress = 700,
  cudaErrorCooperativeLaunchTooLarge = 720,
  cudaErrorLaunchFailure = 719,
};
typedef struct CUstream_st* cudaStream_t;

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
struct cudaFuncAttributes {
  std::size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
  int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA, maxDynamicSharedSizeBytes;
};
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};
enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3,
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void *devicePointer, *hostPointer;
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaMemcpyAsync(
    void* to, const void* source, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = nullptr);

namespace host_machine {

struct Configuration {
  dim3 grid, block;
  std::size_t dynamic_bytes;
  bool cooperative;
};

// the arguments of a kernel as its launcher gives them, and the bytes of each
struct Passed {
  void* const* arguments;
  const std::size_t* bytes;
  std::size_t count;
};

// run `body(arguments)` in every thread, or let another machine run the kernel with what is passed to it
cudaError_t start(const Configuration& configuration, const void* kernel, void (*body)(void*), void* arguments,
                  const Passed& passed);
cudaError_t limit_dynamic_shared(const void* kernel, std::size_t bytes);
cudaError_t most_blocks(int* blocks, int threads, std::size_t dynamic_bytes);

template <class... Parameters, std::size_t... I>
cudaError_t launch_kernel(const Configuration& configuration, void (*kernel)(Parameters...), void** arguments,
                          std::index_sequence<I...>) {
  struct Call {
    void (*kernel)(Parameters...);
    void** arguments;
  } call{kernel, arguments};
  const std::size_t bytes[] = {sizeof(std::remove_reference_t<Parameters>)...};
  return start(
      configuration, reinterpret_cast<const void*>(kernel),
      // what the launcher keeps for the call is no memory of the device
      [](void* given) __attribute__((no_sanitize("thread"))) {
        Call call = *static_cast<Call*>(given);
        call.kernel(*static_cast<std::remove_reference_t<Parameters>*>(call.arguments[I])...);
      },
      &call, {arguments, bytes, sizeof...(Parameters)});
}

}  // namespace host_machine

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments,
                             std::size_t dynamic_bytes = 0, cudaStream_t = nullptr) {
  return host_machine::launch_kernel({grid, block, dynamic_bytes, false}, kernel, arguments,
                                     std::index_sequence_for<Parameters...>());
}
template <class... Parameters>
cudaError_t cudaLaunchCooperativeKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments,
                                        std::size_t dynamic_bytes = 0, cudaStream_t = nullptr) {
  return host_machine::launch_kernel({grid, block, dynamic_bytes, true}, kernel, arguments,
                                     std::index_sequence_for<Parameters...>());
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  return host_machine::limit_dynamic_shared(reinterpret_cast<const void*>(kernel), std::size_t(value));
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int threads, std::size_t dynamic_bytes) {
  return host_machine::most_blocks(blocks, threads, dynamic_bytes);
}
