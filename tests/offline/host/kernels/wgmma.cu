// A kernel that uses every function of common/wgmma.cuh, once for each kind of operand. The host machine runs it, and
// the PTX machine runs what nvcc makes of it.
#include <common/launch.h>
#include <common/wgmma.cuh>

#include <exception>

namespace {

using namespace unmask;

constexpr int DEPTH = 64;  // what is summed over: four products of 16
constexpr int STEPS = DEPTH / 16;

// Images of operands in shared memory, and what each thread then holds. A block has `groups` warpgroups, each with a
// left operand of its own.
struct Products {
  const uint4* left;         // (groups, 8 KB), or the registers of each thread, (groups, 128, STEPS)
  const uint4* right;        // (Shared<N>::RIGHT,)
  const float* start;        // sums to add to, (groups, 128, N / 2)
  float* sums;               // (groups, 128, N / 2)
  unsigned left_step;        // bytes from one product's part of the left operand to the next
  unsigned right_step;       // likewise
  unsigned right_leading;    // bytes between parts of 64 columns, if they lie along the lines
};

// A transposed operand of fewer than 64 columns has whole lines all the same.
template <int N>
struct Shared {
  static constexpr int RIGHT = 8 * (N < 64 ? 64 : N);
  uint4 left[2][512];
  uint4 right[RIGHT];
};

template <typename Element, int N, bool IN_REGISTERS, bool TRANSPOSED_LEFT, bool TRANSPOSED_RIGHT>
__global__ void __launch_bounds__(256) products_kernel(const __grid_constant__ Products p) {
  Shared<N>& shared = *static_cast<Shared<N>*>(swizzled_shared_memory());
  const int group = threadIdx.x / WARPGROUP, thread = threadIdx.x % WARPGROUP;
  const long long place = static_cast<long long>(threadIdx.x) * (N / 2);
  unsigned registers[STEPS][4];
  float sums[N / 2];
  for (int at = 0; at < N / 2; ++at) sums[at] = p.start[place + at];
  if constexpr (IN_REGISTERS) {
    for (int step = 0; step < STEPS; ++step) {
      const uint4 four = p.left[threadIdx.x * STEPS + step];
      registers[step][0] = four.x, registers[step][1] = four.y, registers[step][2] = four.z;
      registers[step][3] = four.w;
    }
  } else {
    for (int at = thread; at < 512; at += WARPGROUP) shared.left[group][at] = p.left[group * 512 + at];
  }
  for (int at = threadIdx.x; at < Shared<N>::RIGHT; at += blockDim.x) shared.right[at] = p.right[at];
  proxy_fence();
  __syncthreads();
  const unsigned long long left = wgmma_operand(shared.left[group]);
  const unsigned long long right = wgmma_operand(shared.right, 1024, p.right_leading);
  if constexpr (IN_REGISTERS) {
    wgmma_fence(sums, registers);
  } else {
    wgmma_fence(sums);
  }
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    const unsigned long long part = wgmma_advance(right, step * p.right_step);
    if constexpr (IN_REGISTERS) {
      wgmma<Element, TRANSPOSED_RIGHT>(sums, registers[step], part, true);
    } else {
      wgmma<Element, TRANSPOSED_LEFT, TRANSPOSED_RIGHT>(sums, wgmma_advance(left, step * p.left_step), part, true);
    }
  }
  wgmma_commit();
  // a group of its own, which does not add: the first product alone
  float first[N / 2];
  if constexpr (IN_REGISTERS) {
    wgmma<Element, TRANSPOSED_RIGHT>(first, registers[0], right, false);
  } else {
    wgmma<Element, TRANSPOSED_LEFT, TRANSPOSED_RIGHT>(first, left, right, false);
  }
  wgmma_commit();
  wgmma_wait<1>(sums);
  for (int at = 0; at < N / 2; ++at) in_global_memory(p.sums)[place + at] = sums[at];
  wgmma_wait<0>(first);
  for (int at = 0; at < N / 2; ++at) in_global_memory(p.sums)[place + at] -= 2.0f * first[at];
  // all warpgroups have read what is written now
  __syncthreads();
  shared.right[threadIdx.x] = make_uint4(0, 0, 0, 0);
}

template <typename Element, int N, bool IN_REGISTERS, bool TRANSPOSED_LEFT, bool TRANSPOSED_RIGHT>
int run(const Products& parameters, int groups) {
  auto* const kernel = products_kernel<Element, N, IN_REGISTERS, TRANSPOSED_LEFT, TRANSPOSED_RIGHT>;
  try {
    launch(kernel, 1, groups * WARPGROUP, sizeof(Shared<N>), nullptr, "products", parameters);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

template <typename Element, int N>
int run(const Products& parameters, int groups, bool in_registers, bool transposed_left, bool transposed_right) {
  if (in_registers) {
    return transposed_right ? run<Element, N, true, false, true>(parameters, groups)
                            : run<Element, N, true, false, false>(parameters, groups);
  }
  if (transposed_left) {
    return transposed_right ? run<Element, N, false, true, true>(parameters, groups)
                            : run<Element, N, false, true, false>(parameters, groups);
  }
  return transposed_right ? run<Element, N, false, false, true>(parameters, groups)
                          : run<Element, N, false, false, false>(parameters, groups);
}

template <typename Element>
int run(const Products& p, int columns, int groups, bool in_registers, bool transposed_left, bool transposed_right) {
  if (columns == 32) return run<Element, 32>(p, groups, in_registers, transposed_left, transposed_right);
  if (columns == 64) return run<Element, 64>(p, groups, in_registers, transposed_left, transposed_right);
  return run<Element, 128>(p, groups, in_registers, transposed_left, transposed_right);
}

}  // namespace

extern "C" int run_products(
    const uint4* left, const uint4* right, const float* start, float* sums, int left_step, int right_step,
    int right_leading, int half, int columns, int groups, int in_registers, int transposed_left, int transposed_right) {
  const Products p{left, right, start, sums, unsigned(left_step), unsigned(right_step), unsigned(right_leading)};
  return half ? run<Fp16>(p, columns, groups, in_registers, transposed_left, transposed_right)
              : run<Bf16>(p, columns, groups, in_registers, transposed_left, transposed_right);
}
