// Kernels that use every function of common/instructions.cuh. The host machine runs them, and the PTX machine runs what
// nvcc makes of them.
#include <common/device.cuh>
#include <common/launch.h>

#include <exception>

namespace {

using namespace unmask;

// Numbers of all bits in bf16 and in fp16, and values rounded to both; two rows each, with bf16 first.
struct Conversions {
  const unsigned short* bits;  // (65536,)
  float* wide;                 // (2, 65536)
  const float* values;         // (2, count)
  unsigned short* narrow;      // (2, count)
  int count;
};

__global__ void conversions_kernel(const __grid_constant__ Conversions p) {
  for (int at = threadIdx.x; at < 65536; at += blockDim.x) {
    p.wide[at] = widen(Bf16{p.bits[at]});
    p.wide[65536 + at] = widen(Fp16{p.bits[at]});
  }
  for (int at = threadIdx.x; at < p.count; at += blockDim.x) {
    Bf16 brain;
    Fp16 half;
    narrow(widen(p.values[at]), brain);
    narrow(p.values[p.count + at], half);
    p.narrow[at] = brain.bits, p.narrow[p.count + at] = half.bits;
  }
}

// A block adds its part of x to what the blocks with smaller tickets have added: y (blocks,).
struct Chain {
  const float* x;  // (blocks, threads)
  float* y;
  unsigned* tickets;  // 0 before
  unsigned* done;     // 0 before
};

__global__ void chain_kernel(const __grid_constant__ Chain p) {
  unsigned* const ticket = static_cast<unsigned*>(dynamic_shared_memory());
  if (threadIdx.x == 0) {
    *ticket = add_acquire_release(p.tickets, 1);
    while (load_acquire(p.done) != *ticket) pause();
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = *ticket > 0 ? in_global_memory(p.y)[*ticket - 1] : 0.0f;
  for (unsigned at = 0; at < blockDim.x; ++at) sum += in_global_memory(p.x)[*ticket * blockDim.x + at];
  in_global_memory(p.y)[*ticket] = sum;
  add_acquire_release(p.done, 1);
}

// y = x / sum(x): all blocks wait for one another, at a barrier of the grid that is made of a counter.
struct Normalise {
  const float* x;     // (count,)
  float* y;           // (count,)
  float* left;        // what each thread leaves for all others, (blocks, threads)
  unsigned* arrived;  // 0 before
  int count;
};

__global__ void normalise_kernel(const __grid_constant__ Normalise p) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
  p.left[at] = at < p.count ? p.x[at] : 0.0f;
  __syncthreads();
  if (threadIdx.x == 0) add_acquire_release(p.arrived, 1);
  block_wait(p.arrived, gridDim.x);
  float total = 0.0f;
  for (int other = 0; other < threads; ++other) total += p.left[other];
  if (at < p.count) p.y[at] = p.x[at] / total;
}

template <typename Function>
int status_of(Function function) {
  try {
    function();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

}  // namespace

extern "C" {

int run_conversions(const unsigned short* bits, float* wide, const float* values, unsigned short* narrow, int count) {
  const Conversions parameters{bits, wide, values, narrow, count};
  return status_of([&] { launch(conversions_kernel, 1, 1024, 0, nullptr, "conversions", parameters); });
}
int run_chain(const float* x, float* y, unsigned* tickets, unsigned* done, int blocks, int threads) {
  const Chain parameters{x, y, tickets, done};
  return status_of([&] { launch(chain_kernel, blocks, threads, sizeof(unsigned), nullptr, "chain", parameters); });
}
int run_normalise(const float* x, float* y, float* left, unsigned* arrived, int count, int blocks, int threads) {
  Normalise parameters{x, y, left, arrived, count};
  void* arguments[] = {&parameters};
  // all blocks run at once
  return cudaLaunchCooperativeKernel(normalise_kernel, dim3(blocks), dim3(threads), arguments, 0, nullptr);
}

}  // extern "C"
