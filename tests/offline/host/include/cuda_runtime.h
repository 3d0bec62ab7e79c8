// The part of CUDA's runtime header that kernels and launchers use, for the host machine.
#pragma once

#include "host_machine.h"
#include "host_numbers.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __restrict__ __restrict
// a variable of this kind would belong to all blocks at once
#define __shared__ shared_memory_comes_from_dynamic_shared_memory

#define threadIdx (::host_machine::thread_index())
#define blockIdx (::host_machine::block_index())
#define blockDim (::host_machine::block_size())
#define gridDim (::host_machine::grid_size())
#define warpSize 32

#include "host_vectors.h"
#include "host_threads.h"
#include "host_launch.h"
