// Small kernels on which the machine is tested: each barrier, wait, fence and bounds check in them is needed.
#include <common/instructions.cuh>

#include <cstdint>

namespace {

template <typename Value>
__device__ Value* shared() {
  return static_cast<Value*>(unmask::dynamic_shared_memory());
}

// The sum of each block's part of x, by shuffles and one value a warp in shared memory.
__global__ void block_sum(const float* x, float* sums, unsigned count) {
  float* partial = shared<float>();
  float sum = 0.0f;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) sum += x[i];
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) sum += partial[warp];
    sums[blockIdx.x] = sum;
  }
}

// y = transposed x, (size, size), a tile of 32 x 32 through shared memory with rows of `pitch`.
__global__ void transpose(const float* x, float* y, unsigned size, unsigned pitch) {
  float* tile = shared<float>();
  unsigned column = blockIdx.x * 32 + threadIdx.x;
  for (unsigned row = threadIdx.y; row < 32; row += blockDim.y) {
    tile[row * pitch + threadIdx.x] = x[(blockIdx.y * 32 + row) * size + column];
  }
  __syncthreads();
  column = blockIdx.y * 32 + threadIdx.x;
  for (unsigned row = threadIdx.y; row < 32; row += blockDim.y) {
    y[(blockIdx.x * 32 + row) * size + column] = tile[threadIdx.x * pitch + row];
  }
}

// y = x / sum(x) in one launch: all blocks wait for the sum.
__global__ void normalise(const float* x, float* y, float* sums, unsigned* arrived, unsigned count) {
  float* total = shared<float>();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (threadIdx.x == 0) {
    float sum = 0.0f;
    for (unsigned j = i; j < i + blockDim.x && j < count; ++j) sum += x[j];
    sums[blockIdx.x] = sum;
    unmask::add_acquire_release(arrived, 1);
    while (unmask::load_acquire(arrived) != gridDim.x) unmask::pause();
    sum = 0.0f;
    for (unsigned block = 0; block < gridDim.x; ++block) sum += sums[block];
    *total = sum;
  }
  __syncthreads();
  if (i < count) y[i] = x[i] / *total;
}

// y = x / sum(x) once more, with the barrier of the grid in the place of a counter.
__global__ void normalise_together(const float* x, float* y, float* sums, unsigned count) {
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  if (threadIdx.x == 0) {
    float sum = 0.0f;
    for (unsigned j = at; j < at + blockDim.x && j < count; ++j) sum += x[j];
    sums[blockIdx.x] = sum;
  }
  host_machine::grid_barrier();
  float total = 0.0f;
  for (unsigned block = 0; block < gridDim.x; ++block) total += sums[block];
  host_machine::grid_barrier();
  // everybody has read the sums, and may write in their place
  if (threadIdx.x == 0) sums[(blockIdx.x + 1) % gridDim.x] = total;
  host_machine::grid_barrier();
  if (at < count) y[at] = x[at] / sums[blockIdx.x];
}

// The sum of x: the block that is the last to arrive adds what the others left, as fences and a plain atomic allow.
__global__ void last_block_sum(const float* x, float* sums, unsigned* arrived, float* sum, unsigned count) {
  const unsigned i = blockIdx.x * 32 + threadIdx.x;
  float value = i < count ? x[i] : 0.0f;
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_down_sync(0xffffffffu, value, distance);
  if (threadIdx.x != 0) return;
  sums[blockIdx.x] = value;
  __threadfence();
  if (atomicAdd(arrived, 1u) != gridDim.x - 1) return;
  __threadfence();
  value = 0.0f;
  for (unsigned block = 0; block < gridDim.x; ++block) value += sums[block];
  *sum = value;
}

// y = prefix sums of x within each warp, through shared memory.
__global__ void warp_scan(const float* x, float* y) {
  float* values = shared<float>();
  values[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  for (unsigned distance = 1; distance < 32; distance *= 2) {
    const float before = threadIdx.x % 32 >= distance ? values[threadIdx.x - distance] : 0.0f;
    __syncwarp();
    values[threadIdx.x] += before;
    __syncwarp();
  }
  y[threadIdx.x] = values[threadIdx.x];
}

// y = 2 x, (chunks, 128): two chunks of asynchronous copies are in flight.
__global__ void pipeline(const float* x, float* y, unsigned chunks) {
  float* stages = shared<float>();
  for (unsigned chunk = 0; chunk < 2; ++chunk) {
    if (chunk < chunks) {
      host_machine::copy_async(stages + chunk * 128 + threadIdx.x * 4, x + chunk * 128 + threadIdx.x * 4, 16, 16);
    }
    host_machine::copy_commit();
  }
  for (unsigned chunk = 0; chunk < chunks; ++chunk) {
    float* stage = stages + chunk % 2 * 128;
    host_machine::copy_wait(1);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 128; i += 32) y[chunk * 128 + i] = 2.0f * stage[i];
    __syncthreads();
    if (chunk + 2 < chunks) {
      host_machine::copy_async(stage + threadIdx.x * 4, x + (chunk + 2) * 128 + threadIdx.x * 4, 16, 16);
    }
    host_machine::copy_commit();
  }
}

// The first warp fills a buffer and the second one empties it, `rounds` times: y = x + 1, (rounds, 32).
__global__ void hand_over(const float* x, float* y, unsigned rounds) {
  float* buffer = shared<float>();
  auto* full = reinterpret_cast<std::uint64_t*>(buffer + 32);
  auto* empty = full + 1;
  const unsigned lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    host_machine::mbarrier_init(full, 32);
    host_machine::mbarrier_init(empty, 32);
  }
  __syncthreads();
  for (unsigned round = 0; round < rounds; ++round) {
    if (threadIdx.x < 32) {
      if (round > 0) host_machine::mbarrier_wait(empty, (round - 1) % 2);
      buffer[lane] = x[round * 32 + lane];
      host_machine::mbarrier_arrive(full, 1);
    } else {
      host_machine::mbarrier_wait(full, round % 2);
      y[round * 32 + lane] = buffer[31 - lane] + 1.0f;
      host_machine::mbarrier_arrive(empty, 1);
    }
  }
}

// The same with named barriers: the first warp arrives at one and waits at the other.
__global__ void hand_over_named(const float* x, float* y, unsigned rounds) {
  constexpr auto none = host_machine::Combine::none;
  float* buffer = shared<float>();
  const unsigned lane = threadIdx.x % 32;
  for (unsigned round = 0; round < rounds; ++round) {
    if (threadIdx.x < 32) {
      buffer[lane] = x[round * 32 + lane];
      host_machine::block_barrier("bar.arrive", 1, 64, false, none, 0);
      host_machine::block_barrier("bar.sync", 2, 64, true, none, 0);
    } else {
      host_machine::block_barrier("bar.sync", 1, 64, true, none, 0);
      y[round * 32 + lane] = buffer[31 - lane] + 1.0f;
      host_machine::block_barrier("bar.arrive", 2, 64, false, none, 0);
    }
  }
}

template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, Arguments... arguments) {
  void* addresses[] = {&arguments...};
  const void* const address = reinterpret_cast<void*>(kernel);
  const bool waits_for_all = address == reinterpret_cast<void*>(&normalise) ||
                             address == reinterpret_cast<void*>(&normalise_together);
  return waits_for_all ? cudaLaunchCooperativeKernel(kernel, grid, block, addresses, shared_bytes)
                       : cudaLaunchKernel(kernel, grid, block, addresses, shared_bytes);
}

}  // namespace

extern "C" {

int run_block_sum(const float* x, float* sums, unsigned count, unsigned blocks, unsigned threads) {
  return launch(block_sum, dim3(blocks), dim3(threads), threads / 32 * sizeof(float), x, sums, count);
}
int run_transpose(const float* x, float* y, unsigned size, unsigned pitch) {
  return launch(transpose, dim3(size / 32, size / 32), dim3(32, 8), 32 * pitch * sizeof(float), x, y, size, pitch);
}
int run_normalise(const float* x, float* y, float* sums, unsigned* arrived, unsigned count, unsigned blocks) {
  return launch(normalise, dim3(blocks), dim3(64), sizeof(float), x, y, sums, arrived, count);
}
int run_normalise_together(const float* x, float* y, float* sums, unsigned count, unsigned blocks) {
  return launch(normalise_together, dim3(blocks), dim3(64), 0, x, y, sums, count);
}
int run_last_block_sum(const float* x, float* sums, unsigned* arrived, float* sum, unsigned count, unsigned blocks) {
  return launch(last_block_sum, dim3(blocks), dim3(32), 0, x, sums, arrived, sum, count);
}
int run_warp_scan(const float* x, float* y, unsigned threads) {
  return launch(warp_scan, dim3(1), dim3(threads), threads * sizeof(float), x, y);
}
int run_pipeline(const float* x, float* y, unsigned chunks) {
  return launch(pipeline, dim3(1), dim3(32), 2 * 128 * sizeof(float), x, y, chunks);
}
int run_hand_over(const float* x, float* y, unsigned rounds) {
  return launch(hand_over, dim3(1), dim3(64), 32 * sizeof(float) + 16, x, y, rounds);
}
int run_hand_over_named(const float* x, float* y, unsigned rounds) {
  return launch(hand_over_named, dim3(1), dim3(64), 32 * sizeof(float), x, y, rounds);
}

}  // extern "C"
