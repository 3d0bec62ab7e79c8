// Kernels that use every function of common/instructions.cuh, copies.cuh and matrices.cuh. The host machine runs them, and the PTX machine runs what
// nvcc makes of them.
#include <common/copies.cuh>
#include <common/device.cuh>
#include <common/launch.h>
#include <common/matrices.cuh>

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
  for (int at = fresh_thread(); at < p.count; at += blockDim.x) {
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

// Two values a thread, to the power of two and rounded to one word of bf16 and one of fp16.
struct Words {
  const float* values;  // (threads, 2)
  float* powers;        // (threads,), of the first
  unsigned* words;      // (2, threads), of both
};

__global__ void words_kernel(const __grid_constant__ Words p) {
  const unsigned at = threadIdx.x;
  const float low = p.values[2 * at], high = p.values[2 * at + 1];
  p.powers[at] = exp2_approximate(low);
  p.words[at] = pack<Bf16>(low, high), p.words[blockDim.x + at] = pack<Fp16>(low, high);
}

// Two pieces a thread, each the first `valid` bytes of x and zeros, by copies that are waited for one after the other.
struct Copies {
  const unsigned char* x;  // (2, threads, BYTES)
  const int* valid;        // (2, threads)
  unsigned char* y;        // (2, threads, BYTES)
};

template <int BYTES>
__global__ void copies_kernel(const __grid_constant__ Copies p) {
  unsigned char* const pieces = static_cast<unsigned char*>(dynamic_shared_memory());
  const unsigned threads = blockDim.x, at = threadIdx.x;
  for (unsigned piece = at; piece < 2 * threads; piece += threads) {
    copy_async<BYTES>(pieces + piece * BYTES, p.x + piece * BYTES, p.valid[piece]);
    copy_commit();
  }
  copy_wait<1>();
  for (int byte = 0; byte < BYTES; ++byte) p.y[at * BYTES + byte] = pieces[at * BYTES + byte];
  copy_wait<0>();
  __syncthreads();
  // what another thread has copied
  const unsigned other = threads + (at + 1) % threads;
  for (int byte = 0; byte < BYTES; ++byte) p.y[other * BYTES + byte] = pieces[other * BYTES + byte];
}

// What lanes hold after each form of load: matrices (warps, 4, 8, 8) to registers (forms, warps, 32, 4).
struct Fragments {
  const uint4* matrices;
  uint4* registers;
};

template <bool TRANSPOSED, int COUNT>
__device__ void load_form(const uint4* rows, uint4* to) {
  unsigned loaded[4] = {}, some[COUNT];
  // lanes that give no row need no address
  load_matrices<TRANSPOSED>(some, threadIdx.x % WARP < 8 * COUNT ? shared_place(rows + threadIdx.x % WARP) : 0);
  for (int matrix = 0; matrix < COUNT; ++matrix) loaded[matrix] = some[matrix];
  *to = uint4{loaded[0], loaded[1], loaded[2], loaded[3]};
}

__global__ void fragments_kernel(const __grid_constant__ Fragments p) {
  uint4* const rows = static_cast<uint4*>(dynamic_shared_memory());
  const unsigned at = threadIdx.x, threads = blockDim.x;
  rows[at] = p.matrices[at];
  __syncthreads();
  const uint4* const own = rows + at / WARP * WARP;
  load_form<false, 1>(own, p.registers + at), load_form<true, 1>(own, p.registers + threads + at);
  load_form<false, 2>(own, p.registers + 2 * threads + at), load_form<true, 2>(own, p.registers + 3 * threads + at);
  load_form<false, 4>(own, p.registers + 4 * threads + at), load_form<true, 4>(own, p.registers + 5 * threads + at);
}

// Sums (warps, 32, 4) += products of operands as lanes hold them. Only the warps of `mask` multiply.
struct Products {
  const uint4* left;   // (warps, 32)
  const uint2* right;  // (warps, 32)
  float4* sums;        // (warps, 32)
  unsigned mask;
};

template <typename Element>
__global__ void products_kernel(const __grid_constant__ Products p) {
  const unsigned at = threadIdx.x;
  if ((p.mask >> at / WARP & 1) == 0) return;
  const uint4 left = p.left[at];
  const uint2 right = p.right[at];
  const float4 before = p.sums[at];
  const unsigned four[4] = {left.x, left.y, left.z, left.w};
  float sums[4] = {before.x, before.y, before.z, before.w};
  multiply<Element>(sums, four, right.x, right.y);
  p.sums[at] = make_float4(sums[0], sums[1], sums[2], sums[3]);
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
int run_words(const float* values, float* powers, unsigned* words, int threads) {
  const Words parameters{values, powers, words};
  return status_of([&] { launch(words_kernel, 1, threads, 0, nullptr, "words", parameters); });
}
int run_copies(const unsigned char* x, const int* valid, unsigned char* y, int threads, int bytes) {
  const Copies parameters{x, valid, y};
  const auto kernel = bytes == 4 ? copies_kernel<4> : bytes == 8 ? copies_kernel<8> : copies_kernel<16>;
  return status_of([&] { launch(kernel, 1, threads, 2 * threads * bytes, nullptr, "copies", parameters); });
}
int run_fragments(const uint4* matrices, uint4* registers, int threads) {
  const Fragments parameters{matrices, registers};
  return status_of([&] { launch(fragments_kernel, 1, threads, 16 * threads, nullptr, "fragments", parameters); });
}
int run_products(const uint4* left, const uint2* right, float4* sums, int threads, unsigned mask, int brain) {
  const Products parameters{left, right, sums, mask};
  const auto kernel = brain ? products_kernel<Bf16> : products_kernel<Fp16>;
  return status_of([&] { launch(kernel, 1, threads, 0, nullptr, "products", parameters); });
}

}  // extern "C"
