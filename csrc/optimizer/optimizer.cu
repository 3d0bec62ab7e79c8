// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), StableAdamW (Wortsman et al. 2023, arXiv:2304.13013) and LAMB
// (You et al. 2020, arXiv:1904.00962) over all parameters in two launches.
//
//     g  = gradient / grad_scale * min(1, max_norm / norm)              norm: of all gradients together
//     m  = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
//     u  = m_hat / (sqrt(v_hat) + eps)      m_hat = m / (1 - beta1^step), v_hat likewise; m and v without correction
//     AdamW         w = w - rate (decay w + u)
//     StableAdamW   the same with rate / max(1, rms(g / max(sqrt(v_hat), eps))), the mean over one parameter
//     LAMB          w = w - rate |w| / |u + decay w| (u + decay w), the norms over one parameter; a ratio of 1 if one of
//                   them is 0 or not finite
//
// Nothing changes if the norm is not finite or found_inf is set.
//
// Why it is fast. Every kernel waits for memory and for nothing else. Traffic for an element with fp32 gradients and a
// copy in bf16: the norm reads 4 bytes; AdamW reads 16 and writes 14. LAMB and StableAdamW read m, v and w again: 12
// bytes, from the L2 cache where a parameter fits, since the second pass over a parameter follows the first closely.
// Accesses have 16 bytes where all tensors of a row are aligned. A block takes CHUNK elements.
//
// Why it is deterministic. Each chunk has a place of its own for its sums. The block that finishes last, of all blocks
// or of those of a row, adds them in their order. Which block that is depends on timing, what it computes does not.
// An element belongs to the same thread whether its row is aligned or not.
//
// Why no block waits forever. Blocks take items by a ticket, in the order of the table. A block of a second pass waits
// for blocks with smaller tickets. These run already, and blocks of a first pass wait for nobody.

#include <common/device.cuh>
#include <common/launch.h>
#include <optimizer/optimizer.h>

#include <algorithm>
#include <cstddef>

namespace unmask::optimizer {

namespace {

constexpr int WARPS = THREADS / WARP;
constexpr int UNROLLED = 2;
// blocks of an update on a multiprocessor at once; 768 threads ask for 96 KB at a time, two times what hides the latency
constexpr int BLOCKS = 3;
constexpr int TILE = 4 * UNROLLED * THREADS;
static_assert(CHUNK % TILE == 0, "only the last chunk of a row has a tile that is not full");

// Shared memory of a block.
struct Shared {
  float sums[WARPS];
  double wide_sums[WARPS];
  unsigned word;
};

// The elements of a row that a block works on. Indices within a chunk have 32 bits; those of its begin have 64.
struct Chunk {
  float* weight;
  const void* gradient;
  float* first;
  float* second;
  void* copy;
  int count;
  Dtype gradient_dtype;
  Dtype copy_dtype;
  bool aligned;  // whether four elements may be accessed together
};

__device__ __forceinline__ int bytes_of(Dtype dtype) {
  return dtype == Dtype::NONE ? 0 : dtype == Dtype::FP32 ? 4 : 2;
}

__device__ __forceinline__ Chunk chunk_of(const Row& row, const Item& item) {
  const long long begin = first_element(item);
  Chunk chunk;
  chunk.weight = row.weight + begin;
  chunk.gradient = static_cast<const char*>(row.gradient) + begin * bytes_of(row.gradient_dtype);
  chunk.first = row.first + begin;
  chunk.second = row.second + begin;
  chunk.copy = static_cast<char*>(row.copy) + begin * bytes_of(row.copy_dtype);
  chunk.count = static_cast<int>(min(row.elements - begin, static_cast<long long>(CHUNK)));
  chunk.gradient_dtype = row.gradient_dtype;
  chunk.copy_dtype = row.copy_dtype;
  const bool moments = is_aligned<16>(row.weight) && is_aligned<16>(row.first) && is_aligned<16>(row.second);
  const bool gradient = row.gradient_dtype == Dtype::FP32 ? is_aligned<16>(row.gradient) : is_aligned<8>(row.gradient);
  chunk.aligned = moments && gradient && is_aligned<8>(row.copy);
  return chunk;
}

// How a thread accesses a tile: all its elements at once, four in one access; or what exists of four, one by one.
struct Whole {
  static constexpr bool whole = true;
  static constexpr int places = UNROLLED;
};
struct Part {
  static constexpr bool whole = false;
  static constexpr int places = 1;
};

// Call `body(access, at)` until the chunk is done: whole tiles first, then the rest. The thread owns `access.places`
// times four elements: from `at`, from `at + STRIDE` and so on. It loads them all before it waits for the first.
constexpr int STRIDE = 4 * THREADS;

template <typename Body>
__device__ __forceinline__ void for_each_tile(int count, bool aligned, Body body) {
  int at = 4 * static_cast<int>(threadIdx.x);
  if (aligned) {
#pragma unroll 1
    for (int tile = 0; tile + TILE <= count; tile += TILE, at += TILE) body(Whole{}, at);
  }
#pragma unroll 1
  for (; at < count; at += STRIDE) body(Part{}, at);
}

// Add 1 to a counter, and return to all threads of the block what it was. Everything that the block wrote before is
// published.
__device__ __forceinline__ unsigned block_count(unsigned* counter, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) shared.word = add_acquire_release(counter, 1);
  __syncthreads();
  return shared.word;
}

// ---------------------------------------------------------------------------------------------------------------------
// The table of rows, from the arguments of a launch: a captured graph keeps those, and no memory of the host

__global__ void __launch_bounds__(ROWS_AT_ONCE) rows_kernel(const __grid_constant__ RowsParameters p) {
  if (threadIdx.x < p.count) p.to[threadIdx.x] = p.rows[threadIdx.x];
}

// ---------------------------------------------------------------------------------------------------------------------
// The norm of the gradients

template <typename Gradient>
__device__ __forceinline__ float sum_of_squares(const Chunk& chunk) {
  const Gradient* const gradient = static_cast<const Gradient*>(chunk.gradient);
  float sum = 0.0f;
  for_each_tile(chunk.count, is_aligned<4 * sizeof(Gradient)>(gradient), [&](auto access, int begin) {
    constexpr int PLACES = decltype(access)::places;
    float values[PLACES][4];
    for (int place = 0; place < PLACES; ++place) {
      const int at = begin + place * STRIDE;
      load_four<decltype(access)::whole>(values[place], gradient + at, chunk.count - at);
    }
    for (int place = 0; place < PLACES; ++place) {
      for (int j = 0; j < 4; ++j) sum += values[place][j] * values[place][j];
    }
  });
  return sum;
}

__global__ void __launch_bounds__(THREADS) norm_kernel(const __grid_constant__ NormParameters p) {
  Shared& shared = shared_memory<Shared>();
  const Item item = p.items[blockIdx.x];
  const Chunk chunk = chunk_of(p.rows[item.row], item);
  float sum = 0.0f;
  switch (chunk.gradient_dtype) {
    case Dtype::BF16:
      sum = sum_of_squares<Bf16>(chunk);
      break;
    case Dtype::FP16:
      sum = sum_of_squares<Fp16>(chunk);
      break;
    default:
      sum = sum_of_squares<float>(chunk);
  }
  sum = block_sum<THREADS>(sum, shared.sums);
  if (threadIdx.x == 0) p.partials[blockIdx.x] = sum;
  if (block_count(p.finished, shared) + 1 != gridDim.x) return;

  double total = 0.0;
  for (unsigned at = threadIdx.x; at < gridDim.x; at += THREADS) total += p.partials[at];
  total = block_sum<THREADS>(total, shared.wide_sums);
  if (threadIdx.x != 0) return;
  const float norm = static_cast<float>(sqrt(total)) / (p.grad_scale == nullptr ? 1.0f : *p.grad_scale);
  const bool skips = !isfinite(norm) || (p.found_inf != nullptr && *p.found_inf != 0.0f);
  *p.norm = norm;
  if (p.skipped != nullptr) *p.skipped = skips ? 1.0f : 0.0f;
  *p.finished = 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// The update

// What all elements of a row have in common.
struct Factors {
  float gradient;              // gradients are multiplied by it
  float beta2;
  float complement1, complement2;
  float correction1;           // 1 / (1 - beta1^step)
  float root_correction2;      // 1 / sqrt(1 - beta2^step)
  float eps;
  float decay;
  float rate;
};

__device__ __forceinline__ bool skips(const UpdateParameters& p) {
  return (p.found_inf != nullptr && *p.found_inf != 0.0f) || (p.norm != nullptr && !isfinite(*p.norm));
}

__device__ __forceinline__ Factors factors_of(const UpdateParameters& p, const Row& row) {
  const Group& group = p.groups[row.group];
  float gradient = p.grad_scale == nullptr ? 1.0f : 1.0f / *p.grad_scale;
  // an infinite max_norm never clips
  if (p.norm != nullptr && *p.norm > p.max_norm) gradient *= p.max_norm / *p.norm;
  float bias1 = 1.0f, bias2 = 1.0f;
  if (group.corrects_bias) {
    // 1 - beta^step without the loss of digits near 1
    const float step = *row.step + 1.0f;
    bias1 = -expm1f(step * group.log_beta1);
    bias2 = -expm1f(step * group.log_beta2);
  }
  Factors factors;
  factors.gradient = gradient;
  factors.beta2 = group.beta2;
  factors.complement1 = group.complement1;
  factors.complement2 = group.complement2;
  factors.correction1 = 1.0f / bias1;
  factors.root_correction2 = 1.0f / sqrtf(bias2);
  factors.eps = group.eps;
  factors.decay = group.weight_decay;
  factors.rate = group.learning_rate_at == nullptr ? group.learning_rate : *group.learning_rate_at;
  return factors;
}

// Return m_hat / (sqrt(v_hat) + eps).
__device__ __forceinline__ float direction(float first, float second, const Factors& f) {
  return f.correction1 * first / (sqrtf(second) * f.root_correction2 + f.eps);
}

template <bool WHOLE>
__device__ __forceinline__ void store_weights(const Chunk& chunk, int at, const float (&weight)[4]) {
  const int count = chunk.count - at;
  store_four<WHOLE>(chunk.weight + at, weight, count);
  if (chunk.copy_dtype == Dtype::BF16) store_four<WHOLE>(static_cast<Bf16*>(chunk.copy) + at, weight, count);
  if (chunk.copy_dtype == Dtype::FP16) store_four<WHOLE>(static_cast<Fp16*>(chunk.copy) + at, weight, count);
}

// Update the moments of a chunk. AdamW: and its weights. Others: return the sums of this thread that the row needs,
// which are of w^2 and (u + decay w)^2 for LAMB, and of the squares that StableAdamW takes the mean of.
template <Rule RULE, typename Gradient>
__device__ __forceinline__ float2 first_pass(const Chunk& chunk, const Factors& f) {
  const Gradient* const gradients = static_cast<const Gradient*>(chunk.gradient);
  float2 sums = make_float2(0.0f, 0.0f);
  for_each_tile(chunk.count, chunk.aligned, [&](auto access, int begin) {
    constexpr bool WHOLE = decltype(access)::whole;
    constexpr int PLACES = decltype(access)::places;
    float weight[PLACES][4], gradient[PLACES][4], first[PLACES][4], second[PLACES][4];
    for (int place = 0; place < PLACES; ++place) {
      const int at = begin + place * STRIDE;
      load_four<WHOLE>(gradient[place], gradients + at, chunk.count - at);
      load_four<WHOLE>(first[place], chunk.first + at, chunk.count - at);
      load_four<WHOLE>(second[place], chunk.second + at, chunk.count - at);
      if (RULE != Rule::STABLE_ADAMW) load_four<WHOLE>(weight[place], chunk.weight + at, chunk.count - at);
    }
    for (int place = 0; place < PLACES; ++place) {
      const int at = begin + place * STRIDE;
      for (int j = 0; j < 4; ++j) {
        const float g = gradient[place][j] * f.gradient;
        float& m = first[place][j];
        float& v = second[place][j];
        m += f.complement1 * (g - m);
        v = f.beta2 * v + f.complement2 * g * g;
        if constexpr (RULE == Rule::ADAMW) {
          float& w = weight[place][j];
          w -= f.rate * f.decay * w;
          w -= f.rate * direction(m, v, f);
        } else if (WHOLE || at + j < chunk.count) {
          if constexpr (RULE == Rule::LAMB) {
            const float w = weight[place][j];
            const float u = direction(m, v, f) + f.decay * w;
            sums.x += w * w;
            sums.y += u * u;
          } else {
            const float relative = g / fmaxf(sqrtf(v) * f.root_correction2, f.eps);
            sums.x += relative * relative;
          }
        }
      }
      store_four<WHOLE>(chunk.first + at, first[place], chunk.count - at);
      store_four<WHOLE>(chunk.second + at, second[place], chunk.count - at);
      if constexpr (RULE == Rule::ADAMW) store_weights<WHOLE>(chunk, at, weight[place]);
    }
  });
  return sums;
}

// Update the weights of a chunk from its moments and the factor of its row.
template <Rule RULE>
__device__ __forceinline__ void second_pass(const Chunk& chunk, const Factors& f, float ratio) {
  const float rate = f.rate * ratio;
  for_each_tile(chunk.count, chunk.aligned, [&](auto access, int begin) {
    constexpr bool WHOLE = decltype(access)::whole;
    constexpr int PLACES = decltype(access)::places;
    float weight[PLACES][4], first[PLACES][4], second[PLACES][4];
    for (int place = 0; place < PLACES; ++place) {
      const int at = begin + place * STRIDE;
      load_four<WHOLE>(weight[place], chunk.weight + at, chunk.count - at);
      load_four<WHOLE>(first[place], chunk.first + at, chunk.count - at);
      load_four<WHOLE>(second[place], chunk.second + at, chunk.count - at);
    }
    for (int place = 0; place < PLACES; ++place) {
      for (int j = 0; j < 4; ++j) {
        float& w = weight[place][j];
        w -= rate * (direction(first[place][j], second[place][j], f) + f.decay * w);
      }
      store_weights<WHOLE>(chunk, begin + place * STRIDE, weight[place]);
    }
  });
}

// Leave the sums of this thread's chunk; the last block of the row turns all of them into the factor of the row.
template <Rule RULE>
__device__ __forceinline__ void reduce(const UpdateParameters& p, const Item& item, const Row& row, float2 sums,
                                       Shared& shared) {
  sums.x = block_sum<THREADS>(sums.x, shared.sums);
  sums.y = block_sum<THREADS>(sums.y, shared.sums);
  if (threadIdx.x == 0) p.partials[item.slot] = sums;
  const unsigned chunks = static_cast<unsigned>(chunk_count(row.elements));
  unsigned* const done = p.counters + FIRST_ROW_COUNTER + item.row;
  if (block_count(done, shared) + 1 != chunks) return;

  const float2* const partials = p.partials + (item.slot - item.chunk);
  double total_x = 0.0, total_y = 0.0;
  for (unsigned at = threadIdx.x; at < chunks; at += THREADS) {
    total_x += partials[at].x;
    total_y += partials[at].y;
  }
  total_x = block_sum<THREADS>(total_x, shared.wide_sums);
  total_y = block_sum<THREADS>(total_y, shared.wide_sums);
  if (threadIdx.x != 0) return;
  float ratio = 1.0f;
  if (p.groups[row.group].adapts) {
    if (RULE == Rule::LAMB && total_x > 0.0 && total_y > 0.0 && isfinite(total_x) && isfinite(total_y)) {
      ratio = static_cast<float>(sqrt(total_x / total_y));
    }
    if (RULE == Rule::STABLE_ADAMW) {
      ratio = 1.0f / fmaxf(1.0f, static_cast<float>(sqrt(total_x / static_cast<double>(row.elements))));
    }
  }
  p.ratios[item.row] = ratio;
  // one more than the chunks: the factor is there
  add_acquire_release(done, 1);
}

template <Rule RULE>
__device__ __forceinline__ void update(const UpdateParameters& p, const Item& item, Shared& shared) {
  const Row row = p.rows[item.row];
  const Factors factors = factors_of(p, row);
  const Chunk chunk = chunk_of(row, item);
  if (RULE != Rule::ADAMW && item.second_pass != 0) {
    block_wait(p.counters + FIRST_ROW_COUNTER + item.row, static_cast<unsigned>(chunk_count(row.elements)) + 1);
    second_pass<RULE>(chunk, factors, p.ratios[item.row]);
    return;
  }
  float2 sums;
  switch (chunk.gradient_dtype) {
    case Dtype::BF16:
      sums = first_pass<RULE, Bf16>(chunk, factors);
      break;
    case Dtype::FP16:
      sums = first_pass<RULE, Fp16>(chunk, factors);
      break;
    default:
      sums = first_pass<RULE, float>(chunk, factors);
  }
  if (RULE != Rule::ADAMW) reduce<RULE>(p, item, row, sums, shared);
}

template <Rule RULE>
__global__ void __launch_bounds__(THREADS, BLOCKS) update_kernel(const __grid_constant__ UpdateParameters p) {
  Shared& shared = shared_memory<Shared>();
  const bool skipped = skips(p);
  unsigned ticket = blockIdx.x;
  // only blocks that wait need the order
  if (RULE != Rule::ADAMW) ticket = block_count(p.counters + TICKET, shared);
  const Item item = p.items[ticket];
  if (!skipped) update<RULE>(p, item, shared);
  if (block_count(p.counters + FINISHED, shared) + 1 != gridDim.x) return;

  // all blocks have read what they need: count the steps, and leave the counters as they were
  for (int at = threadIdx.x; at < p.row_count; at += THREADS) {
    const Row& row = p.rows[at];
    if (row.counts_step && !skipped) *row.step += 1.0f;
    if (RULE != Rule::ADAMW) p.counters[FIRST_ROW_COUNTER + at] = 0;
  }
  if (threadIdx.x == 0) p.counters[TICKET] = p.counters[FINISHED] = 0;
}

template <Rule RULE>
constexpr const char* name_of() {
  return RULE == Rule::ADAMW ? "update_kernel<ADAMW>"
                             : RULE == Rule::LAMB ? "update_kernel<LAMB>" : "update_kernel<STABLE_ADAMW>";
}

template <Rule RULE>
void launch_rule(const UpdateParameters& parameters, unsigned items, cudaStream_t stream) {
  launch(update_kernel<RULE>, items, THREADS, sizeof(Shared), stream, name_of<RULE>(), parameters);
}

template <typename Function>
Kernel loaded(const char* name, Function* kernel) {
  Kernel found{name, {}};
  check(cudaFuncGetAttributes(&found.attributes, kernel), std::string("unmask_kernels._C: kernel ") + name);
  return found;
}

}  // namespace

std::vector<Kernel> load_kernels() {
  return {
      loaded("rows_kernel", rows_kernel),
      loaded("norm_kernel", norm_kernel),
      loaded(name_of<Rule::ADAMW>(), update_kernel<Rule::ADAMW>),
      loaded(name_of<Rule::STABLE_ADAMW>(), update_kernel<Rule::STABLE_ADAMW>),
      loaded(name_of<Rule::LAMB>(), update_kernel<Rule::LAMB>),
  };
}

void launch_rows(Row* to, const std::vector<Row>& rows, cudaStream_t stream) {
  for (std::size_t begin = 0; begin < rows.size(); begin += ROWS_AT_ONCE) {
    RowsParameters parameters{};
    parameters.to = to + begin;
    parameters.count = static_cast<unsigned>(std::min<std::size_t>(rows.size() - begin, ROWS_AT_ONCE));
    std::copy_n(rows.begin() + begin, parameters.count, parameters.rows);
    launch(rows_kernel, 1, ROWS_AT_ONCE, 0, stream, "rows_kernel", parameters);
  }
}

void launch_norm(const NormParameters& parameters, unsigned items, cudaStream_t stream) {
  launch(norm_kernel, items, THREADS, sizeof(Shared), stream, "norm_kernel", parameters);
}

void launch_update(Rule rule, const UpdateParameters& parameters, unsigned items, cudaStream_t stream) {
  switch (rule) {
    case Rule::ADAMW:
      return launch_rule<Rule::ADAMW>(parameters, items, stream);
    case Rule::STABLE_ADAMW:
      return launch_rule<Rule::STABLE_ADAMW>(parameters, items, stream);
    case Rule::LAMB:
      return launch_rule<Rule::LAMB>(parameters, items, stream);
  }
}

}  // namespace unmask::optimizer
