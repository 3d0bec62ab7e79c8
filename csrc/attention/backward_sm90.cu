// The backward of attention for documents up to 512 tokens on sm_90a, with wgmma.
//
// A block takes a document and a head. It goes over tiles of 128 columns, and in each over tiles of 64 rows:
//
//     S^T = k q^T      dP^T = v dout^T      (columns, rows), 64 columns for each of its two warpgroups
//     dv += P^T dout   dk += dS^T q         P^T and dS^T rounded, from registers
//     dq^T += k^T dS^T                      dS^T through shared memory, dq^T by the warpgroups in turn
//
// Fast: each product is formed once. dq stays in shared memory, in fp32 and in the order in which threads hold it, which
// saves the traffic of a scratch. S^T of the next tile is issued before dS^T of this one, so tensor cores work while
// threads exponentiate. Copies of the rows that come next run meanwhile.
//
// Deterministic: an element of dq, dk and dv is summed up by one thread, in an order that the document's length gives.
// It cannot hang: no block waits for another.
//
// Past the end of a document rows and columns are zeros in shared memory. Rows there have P = 1, and give dv and dk
// nothing. Columns there have P = exp2(-lse), which may be infinite, so P^T and dS^T are zeros by a mask.
#include <attention/tiles.cuh>
#include <common/launch.h>
#include <common/wgmma.cuh>

namespace unmask::attention {

namespace {

constexpr int THREADS = 2 * WARPGROUP;
constexpr int ROWS = 64;
constexpr int COLUMNS = 128;
constexpr int MOST = 512;  // tokens of a document
constexpr int STEPS = 4;   // products of 16 elements along a line
constexpr int SUMS = 32;   // of a thread, in a product (64, 64)

// How dropout's words lie; see attention.h.
enum class Keep : int { ALL = 0, BY_ROW = 1, BY_COLUMN = 2 };

// A document and a head, for which all tensors begin at its first token. It is in shared memory, because registers are few.
struct Document {
  const void *q, *out, *dout;
  void* dq;
  const float* lse;
  const unsigned* keep;
  int length;
};

// Lines are rows of 128 bytes in the 128-byte swizzle: piece c of line r lies at c ^ (r % 8). They begin at multiples of
// 1024 bytes. Behind this structure lies dq, for each tile of rows (SUMS / 4, WARPGROUP) times four values.
struct Shared {
  uint4 k[COLUMNS][PIECES], v[COLUMNS][PIECES];
  uint4 q[3][ROWS][PIECES];
  uint4 dout[2][ROWS][PIECES];
  uint4 ds[COLUMNS][PIECES];  // dS^T: 64 rows of each column
  float lse[MOST], delta[MOST];
  Document document;
  int next;  // item
};
constexpr int DQ_TILE = SUMS / 4 * WARPGROUP;  // times 16 bytes

// What a thread knows of its place: `part` of the two neighbouring rows, `line` of the lower one of its two columns.
struct Place {
  int group, thread, line, part;
};

// Begin to copy lines of a document, zeros for those past its end.
template <typename Element, int COUNT>
__device__ __forceinline__ void load_lines(
    uint4 (*to)[PIECES], const Element* from, int first, int length, long long stride) {
  constexpr int LINES = THREADS / PIECES;  // at a time
  const int line = threadIdx.x / PIECES, piece = threadIdx.x % PIECES;
  uint4* const target = &to[line][piece ^ (line % 8)];
  const Element* source = from + (first + line) * stride + piece * 8;
#pragma unroll
  for (int turn = 0; turn < COUNT / LINES; ++turn) {
    copy_async<16>(target + turn * LINES * PIECES, source, first + line + turn * LINES < length ? 16 : 0);
    source += LINES * stride;
  }
}

// Put rows of lse and delta into shared memory, zeros behind the last row. delta = (1 - p) rowsum(dout * out).
template <typename Element>
__device__ __forceinline__ void load_statistics(Shared& shared, const BackwardParameters& p) {
  const Document& document = shared.document;
  const int rows = (document.length + ROWS - 1) / ROWS * ROWS;
  const long long width = p.heads * WIDTH;
  for (int row = threadIdx.x / PIECES; row < rows; row += THREADS / PIECES) {
    const bool inside = row < document.length;
    float sum = 0.0f;
    if (inside) {
      const long long place = row * width + static_cast<int>(threadIdx.x % PIECES) * 8;
      const auto* const out = in_global_memory(static_cast<const Element*>(document.out)) + place;
      const auto* const dout = in_global_memory(static_cast<const Element*>(document.dout)) + place;
      sum = dot<Element>(*reinterpret_cast<const uint4*>(out), *reinterpret_cast<const uint4*>(dout));
    }
    for (int distance = PIECES / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (threadIdx.x % PIECES == 0) {
      shared.delta[row] = sum * p.keep_probability;
      shared.lse[row] = inside ? in_global_memory(document.lse)[row] : 0.0f;
    }
  }
}

// What dropout keeps of a thread's elements: bit 8 (j % 4) + 2 (j / 4) + e of word h is that of column h and row 8 j + e.
template <Keep KEEP>
__device__ __forceinline__ void load_keep(
    unsigned (&words)[2], const BackwardParameters& p, const Document& document, const Place& place, int row,
    int column) {
  const unsigned* const keep = in_global_memory(document.keep);
  const long long plane = p.heads * p.tokens;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int line = column + place.line + 8 * h;
    words[h] = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int first = row + 32 * half;
      if constexpr (KEEP == Keep::BY_COLUMN) {
        unsigned word = 0;
        if (line < document.length && first < document.length) word = keep[first / 32 * plane + line];
        words[h] |= (word >> place.part & 0x03030303u) << (2 * half);
      } else {
#pragma unroll 1
        for (int at = 0; at < 8; ++at) {
          const int of_row = first + place.part + 8 * (at / 2) + at % 2;
          if (line < document.length && of_row < document.length) {
            words[h] |= (keep[line / 32 * plane + of_row] >> (line % 32) & 1u) << (8 * (at / 2) + at % 2 + 2 * half);
          }
        }
      }
    }
  }
}

// Whether dropout keeps element e of pair `at` in a word of `load_keep`.
__device__ __forceinline__ bool keeps(unsigned word, int at, int e) {
  return word >> (8 * (at % 4) + at / 4 * 2 + e) & 1u;
}

// Return the operand of the next 16 elements of all lines, or of the next 16 lines, `step` times.
__device__ __forceinline__ unsigned long long along_lines(unsigned long long operand, int step) {
  return wgmma_advance(operand, 32 * step);
}
__device__ __forceinline__ unsigned long long across_lines(unsigned long long operand, int step) {
  return wgmma_advance(operand, 16 * 128 * step);
}

// sums = left right^T of lines (64, 64) each.
template <typename Element>
__device__ __forceinline__ void multiply_lines(
    float (&sums)[SUMS], unsigned long long left, unsigned long long right) {
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    wgmma<Element, false, false>(sums, along_lines(left, step), along_lines(right, step), step > 0);
  }
}

// sums += left lines, of a left operand (64, 64) in registers and 64 lines.
template <typename Element>
__device__ __forceinline__ void add_lines(
    float (&sums)[SUMS], const unsigned (&left)[STEPS][4], unsigned long long lines) {
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    wgmma<Element, true>(sums, left[step], across_lines(lines, step), true);
  }
}

// Round sums of columns, and store those inside the document: 64 elements from `to` on for each column. Each warp does
// so for its 16 columns, through the lines of `stage` that only it uses.
template <typename Element>
__device__ __forceinline__ void store_columns(
    uint4 (*stage)[PIECES], Element* to, const float (&sums)[SUMS], float factor, const Place& place, int column,
    int length, long long stride) {
#pragma unroll
  for (int at = 0; at < SUMS / 2; ++at) {
    const int line = place.line + 8 * (at % 2), piece = at / 2;
    reinterpret_cast<unsigned*>(&stage[line][piece ^ (line % 8)])[place.part / 2] =
        pack<Element>(sums[2 * at] * factor, sums[2 * at + 1] * factor);
  }
  __syncwarp();
  const int lane = threadIdx.x % WARP, first = threadIdx.x / WARP * 16;
#pragma unroll
  for (int at = lane / PIECES; at < 16; at += WARP / PIECES) {
    const int line = first + at, piece = lane % PIECES;
    if (column + line < length) {
      Element* const there = in_global_memory(to) + (column + line) * stride + piece * 8;
      *reinterpret_cast<uint4*>(there) = stage[line][piece ^ (line % 8)];
    }
  }
}

// A thread's part of a block's work on a tile of columns.
template <typename Element, Keep KEEP>
struct Columns {
  const BackwardParameters& p;
  Shared& shared;
  float4* dq;
  const Place& place;
  int column, tiles;
  float dk[SUMS], dv[SUMS];

  __device__ __forceinline__ void load_q(int tile) {
    if (tile < tiles) load_rows(shared.q[tile % 3], shared.document.q, tile, 3);
  }
  __device__ __forceinline__ void load_dout(int tile) {
    if (tile < tiles) load_rows(shared.dout[tile % 2], shared.document.dout, tile, 1);
  }
  __device__ __forceinline__ void load_rows(uint4 (*to)[PIECES], const void* from, int tile, int parts) {
    const long long stride = p.heads * WIDTH * parts;
    load_lines<Element, ROWS>(to, static_cast<const Element*>(from), tile * ROWS, shared.document.length, stride);
  }
  __device__ __forceinline__ void multiply_scores(float (&scores)[SUMS], int tile) {
    multiply_lines<Element>(
        scores, wgmma_operand(shared.k[64 * place.group]), wgmma_operand(shared.q[tile % 3]));
    wgmma_commit();
  }

  // Add a tile of rows, whose scores are in flight or there. Afterwards `next` are those of the next tile, if there is one.
  template <bool HAS_NEXT>
  __device__ __forceinline__ void add_rows(float (&scores)[SUMS], float (&next)[SUMS], int tile) {
    // q of the next tile and dout of this one are there; all have done what the tile before needs
    copy_wait<0>();
    proxy_fence();
    __syncthreads();
    load_q(tile + 2);
    load_dout(tile + 1);
    copy_commit();
    unsigned keep[2];
    if constexpr (KEEP != Keep::ALL) load_keep<KEEP>(keep, p, shared.document, place, tile * ROWS, column);

    float dp[SUMS];
    const unsigned long long here = wgmma_operand(shared.dout[tile % 2]);
    wgmma_fence();
    multiply_lines<Element>(dp, wgmma_operand(shared.v[64 * place.group]), here);
    wgmma_commit();
    if constexpr (HAS_NEXT) multiply_scores(next, tile + 1);

    // scores become P
    wgmma_wait<HAS_NEXT ? 2 : 1>(scores);
    unsigned kept[STEPS][4], ds[STEPS][4];
    const unsigned inside[2] = {
        column + place.line < shared.document.length ? ~0u : 0u,
        column + place.line + 8 < shared.document.length ? ~0u : 0u};
#pragma unroll
    for (int at = 0; at < SUMS / 4; ++at) {
      const float2 lse = *reinterpret_cast<const float2*>(&shared.lse[tile * ROWS + 8 * at + place.part]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float* const pair = &scores[4 * at + 2 * h];
        pair[0] = exp2_approximate(pair[0] * p.scale_log2 - lse.x);
        pair[1] = exp2_approximate(pair[1] * p.scale_log2 - lse.y);
        float first = pair[0], second = pair[1];
        if constexpr (KEEP != Keep::ALL) {
          first = keeps(keep[h], at, 0) ? first : 0.0f;
          second = keeps(keep[h], at, 1) ? second : 0.0f;
        }
        kept[at / 2][at % 2 * 2 + h] = pack<Element>(first, second) & inside[h];
      }
    }
    wgmma_fence(dv, kept);
    add_lines<Element>(dv, kept, here);
    wgmma_commit();

    wgmma_wait<HAS_NEXT ? 2 : 1>(dp);
    // or else the compiler keeps a truth value for each element
    if constexpr (KEEP != Keep::ALL) pin(keep);
#pragma unroll
    for (int at = 0; at < SUMS / 4; ++at) {
      const float2 delta = *reinterpret_cast<const float2*>(&shared.delta[tile * ROWS + 8 * at + place.part]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float first = dp[4 * at + 2 * h], second = dp[4 * at + 2 * h + 1];
        if constexpr (KEEP != Keep::ALL) {
          first = keeps(keep[h], at, 0) ? first : 0.0f;
          second = keeps(keep[h], at, 1) ? second : 0.0f;
        }
        const float* const pair = &scores[4 * at + 2 * h];
        const unsigned both = pack<Element>(pair[0] * (first - delta.x), pair[1] * (second - delta.y)) & inside[h];
        ds[at / 2][at % 2 * 2 + h] = both;
        const int line = place.line + 8 * h;
        reinterpret_cast<unsigned*>(&shared.ds[line][at ^ (line % 8)])[place.part / 2] = both;
      }
    }
    proxy_fence();
    wgmma_fence(dk, ds);
    add_lines<Element>(dk, ds, wgmma_operand(shared.q[tile % 3]));
    wgmma_commit();
    // dS^T of both warpgroups is there
    __syncthreads();
    if (tile % 2 == place.group) {
      add_to_dq(tile);
    }
    if constexpr (HAS_NEXT) {
      wgmma_wait<0>(dv, dk, next);
    } else {
      wgmma_wait<0>(dv, dk);
    }
  }

  // dq^T (64, rows) += k^T dS^T
  __device__ __forceinline__ void add_to_dq(int tile) {
    const unsigned long long left = wgmma_operand(shared.k), right = wgmma_operand(shared.ds);
    float sums[SUMS];
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 2 * STEPS; ++step) {
      wgmma<Element, true, true>(sums, across_lines(left, step), across_lines(right, step), step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(sums);
    float4* const mine = dq + tile * DQ_TILE + place.thread;
#pragma unroll
    for (int at = 0; at < SUMS / 4; ++at) {
      float4 four = make_float4(sums[4 * at], sums[4 * at + 1], sums[4 * at + 2], sums[4 * at + 3]);
      if (column > 0) {
        const float4 before = mine[at * WARPGROUP];
        four = make_float4(four.x + before.x, four.y + before.y, four.z + before.z, four.w + before.w);
      }
      mine[at * WARPGROUP] = four;
    }
  }
};

// dk and dv of a tile of columns, and its part of dq.
template <typename Element, Keep KEEP>
__device__ __forceinline__ void add_columns(
    const BackwardParameters& p, Shared& shared, float4* dq, const Place& place, int column) {
  const int length = shared.document.length;
  const long long width = p.heads * WIDTH;
  Columns<Element, KEEP> work{p, shared, dq, place, column, (length + ROWS - 1) / ROWS, {}, {}};
  // everybody has done with the tile of columns before, or with the item before
  __syncthreads();
  const Element* const q = static_cast<const Element*>(shared.document.q);
  load_lines<Element, COLUMNS>(shared.k, q + width, column, length, 3 * width);
  load_lines<Element, COLUMNS>(shared.v, q + 2 * width, column, length, 3 * width);
  work.load_q(0);
  work.load_dout(0);
  copy_commit();
  work.load_q(1);
  copy_commit();
  copy_wait<1>();
  proxy_fence();
  __syncthreads();
  float scores[SUMS], next[SUMS];
  wgmma_fence(work.dk, work.dv);
  work.multiply_scores(scores, 0);
  int tile = 0;
  // documents that lie by row have one tile
  if constexpr (KEEP != Keep::BY_ROW) {
    for (; tile + 2 < work.tiles; tile += 2) {
      work.template add_rows<true>(scores, next, tile);
      work.template add_rows<true>(next, scores, tile + 1);
    }
    if (tile + 1 < work.tiles) {
      work.template add_rows<true>(scores, next, tile++);
      work.template add_rows<false>(next, scores, tile);
    } else {
      work.template add_rows<false>(scores, next, tile);
    }
  } else {
    work.template add_rows<false>(scores, next, tile);
  }
  // the other warpgroup has multiplied with all of k
  __syncthreads();
  Element* const dk = static_cast<Element*>(shared.document.dq) + width;
  store_columns(shared.k, dk, work.dk, p.scale_grad, place, column, shared.document.length, 3 * width);
  store_columns(shared.v, dk + width, work.dv, p.inverse_keep, place, column, shared.document.length, 3 * width);
}

// Round dq and store it, through lines of all rows in the place of what is no longer needed.
template <typename Element>
__device__ __forceinline__ void store_dq(
    const BackwardParameters& p, Shared& shared, const float4* dq, const Place& place) {
  const int length = shared.document.length;
  Element* const lines = reinterpret_cast<Element*>(&shared);
  const int tiles = (length + ROWS - 1) / ROWS;
  for (int tile = place.group; tile < tiles; tile += 2) {
#pragma unroll
    for (int at = 0; at < SUMS / 4; ++at) {
      const float4 four = dq[tile * DQ_TILE + at * WARPGROUP + place.thread];
      const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // element of a head, and row
        const int element = place.line % 64 + i / 2 * 8, piece = element / 8;
        const int row = tile * ROWS + 8 * at + place.part + i % 2;
        narrow(values[i] * p.scale_grad, lines[(row * PIECES + (piece ^ (row % 8))) * 8 + element % 8]);
      }
    }
  }
  __syncthreads();
  const long long stride = 3 * p.heads * WIDTH;
  Element* const to = static_cast<Element*>(shared.document.dq);
  for (int at = threadIdx.x; at < length * PIECES; at += THREADS) {
    const int row = at / PIECES, piece = at % PIECES;
    *reinterpret_cast<uint4*>(in_global_memory(to) + row * stride + piece * 8) =
        *reinterpret_cast<const uint4*>(&lines[(row * PIECES + (piece ^ (row % 8))) * 8]);
  }
}

// The document of a line of the work list, and a head.
template <typename Element>
__device__ __forceinline__ Document document_of(const BackwardParameters& p, const int4& line, int head) {
  const long long width = p.heads * WIDTH, first = line.z;
  const long long in_qkv = first * 3 * width + head * WIDTH, in_out = first * width + head * WIDTH;
  const long long row = head * p.tokens + first;
  return {
      static_cast<const Element*>(p.qkv) + in_qkv, static_cast<const Element*>(p.out) + in_out,
      static_cast<const Element*>(p.dout) + in_out, static_cast<Element*>(p.dqkv) + in_qkv,
      p.lse + row, p.keep == nullptr ? nullptr : p.keep + row, line.w};
}

template <typename Element, Keep KEEP>
__global__ void __launch_bounds__(THREADS, 1) backward_sm90_kernel(const __grid_constant__ BackwardParameters p) {
  if (HAS_WGMMA) {
    Shared& shared = *static_cast<Shared*>(swizzled_shared_memory());
    float4* const dq = reinterpret_cast<float4*>(&shared + 1);
    // all lanes of a warp have the same one, which the compiler does not know
    const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / WARP, 0);
    const int lane = threadIdx.x % WARP;
    const Place place{warp / 4, static_cast<int>(threadIdx.x) % WARPGROUP, 16 * warp + lane / 4, lane % 4 * 2};
    const int first = p.tiles[p.upper].x, items = (p.tiles[p.lower].x - first) * p.heads;
    int item = blockIdx.x;
    while (item < items) {
      if (threadIdx.x == 0) {
        shared.next = static_cast<int>(gridDim.x + atomicAdd(p.ticket, 1u));
        shared.document = document_of<Element>(p, p.tiles[LINES_HEAD + first + item / p.heads], item % p.heads);
      }
      __syncthreads();
      load_statistics<Element>(shared, p);
      for (int column = 0; column < shared.document.length; column += COLUMNS) {
        add_columns<Element, KEEP>(p, shared, dq, place, column);
      }
      __syncthreads();
      item = shared.next;
      store_dq<Element>(p, shared, dq, place);
      // everybody has done with this document
      __syncthreads();
    }
  }
}

template <typename Element, Keep KEEP>
void start(const BackwardParameters& parameters, long long most_items, cudaStream_t stream) {
  const auto kernel = backward_sm90_kernel<Element, KEEP>;
  const int tiles = 1 << (parameters.upper - 1);
  const std::size_t bytes = sizeof(Shared) + tiles * DQ_TILE * sizeof(float4);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "unmask_kernels._C: attention's backward does not get its shared memory");
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "unmask_kernels._C: the current device is not known");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "unmask_kernels._C: the number of multiprocessors is not known");
  const auto blocks = static_cast<unsigned>(most_items < multiprocessors ? most_items : multiprocessors);
  launch(kernel, blocks, THREADS, bytes, stream, "backward_sm90", parameters);
}

template <typename Element>
void start(const BackwardParameters& parameters, long long most_items, cudaStream_t stream) {
  if (parameters.keep == nullptr) {
    start<Element, Keep::ALL>(parameters, most_items, stream);
  } else if (parameters.upper == 1) {
    start<Element, Keep::BY_ROW>(parameters, most_items, stream);
  } else {
    start<Element, Keep::BY_COLUMN>(parameters, most_items, stream);
  }
}

}  // namespace

void backward_sm90(Dtype dtype, const BackwardParameters& parameters, long long most_items, cudaStream_t stream) {
  if (dtype == Dtype::BF16) {
    start<Bf16>(parameters, most_items, stream);
  } else {
    start<Fp16>(parameters, most_items, stream);
  }
}

}  // namespace unmask::attention
