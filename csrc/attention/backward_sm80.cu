// The backward of attention for documents up to 256 tokens, by mma.sync: sm_80 and newer. attention.h has the formulas.
//
// A block takes a document and a head. A warp owns 32 columns of the scores, so a block of 2, 4 or 8 warps holds all
// columns of a document of up to 64, 128 or 256 tokens. It visits 32 rows at a time:
//
//     S^T = K Q^T, P^T         (32 columns, 32 rows) of each warp, in registers
//     dV += (P keep)^T dO      from registers; sums (32, 64) of each warp stay in registers over all rows
//     dP^T = V dO^T, dS^T
//     dK += dS^T Q             from registers, like dV
//     dQ = dS K                of these rows, by all warps: dS crosses them in shared memory
//
// Why it is fast. Since a block has all columns, dQ of 32 rows is complete after one visit: no sums in fp32 leave the
// registers, none is kept for a second tile of columns. q, k, v and dout of the whole document are in shared memory, and
// are read once. Rows of a head have 128 bytes there, pieces of 16 bytes change places by their row, and no access has a
// bank conflict. There is one barrier for 32 rows, because dS has two places. The other blocks of a multiprocessor work
// while one waits for its copies: two of 4 warps, or three of 2. Gradients take the places of what they are the
// gradients of, or of what nobody reads any more, and are stored from there, 16 bytes at a time.
//
// Why it is deterministic. An element of dqkv is written by one thread, and each sum has one order, which depends on the
// document's length alone: a packed document gets the bits that it gets alone. The ticket only says who works on what.
//
// Past the end of a document. Rows of q and dout are zeros there, and lse and delta are 0: their P is 1 and their dS 0,
// so they add nothing. P of columns there is set to 0, because lse may be so small that exp2 overflows.

#include <attention/tiles.cuh>
#include <common/launch.h>
#include <common/matrices.cuh>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace unmask::attention {

namespace {

constexpr int ROWS = 32;     // of a visit
constexpr int COLUMNS = 32;  // of a warp
constexpr int STEP = 16;     // depth of a product of matrices
constexpr int COLUMN_TILES = COLUMNS / 16;
constexpr int ROW_TILES = ROWS / 8;
constexpr int WIDTH_TILES = WIDTH / 8;
// warps of a multiprocessor: 65,536 registers, 255 a thread
constexpr int WARPS_AT_ONCE = 8;

// Shared memory of a block, for documents of up to 32 WARPS tokens.
template <int WARPS>
struct Shared {
  static constexpr int LONGEST = COLUMNS * WARPS;
  unsigned short q[LONGEST * WIDTH];     // and dq
  unsigned short k[LONGEST * WIDTH];
  unsigned short v[LONGEST * WIDTH];     // and dv
  unsigned short dout[LONGEST * WIDTH];  // and dk
  union {
    unsigned short ds[2][LONGEST * ROWS];  // (columns, 32 rows), in turn
    int next;                              // item; when nobody needs ds any more
  };
  float lse[LONGEST], minus_delta[LONGEST];
};
static_assert(sizeof(Shared<8>) <= 163 * 1024, "a block of sm_80 has 163 KB");
static_assert(2 * (sizeof(Shared<4>) + 1024) <= 164 * 1024, "two blocks share the 164 KB of a multiprocessor");

// Sums (16 COLUMN_TILES, 8 TILES) of a warp.
template <int TILES>
using Sums = float[COLUMN_TILES][TILES][4];

// Return at which element 8 rows of a column begin in dS. A column has 64 bytes, two of them the 128 bytes that shared
// memory gives at once. Pieces change places by every second column.
__device__ __forceinline__ int piece_of_ds(int column, int piece) {
  return column * ROWS + ((piece ^ (column / 2 % (ROWS / PIECE))) * PIECE);
}

// Bytes of elements.
__device__ __forceinline__ constexpr unsigned bytes_of(int elements) { return 2u * static_cast<unsigned>(elements); }

// Add 32 columns of `left` (columns, 64) times 32 rows of `right` (rows, 64), both in shared memory: scores^T.
template <typename Element>
__device__ __forceinline__ void add_scores(Sums<ROW_TILES>& sums, SharedPlace left, SharedPlace right) {
  const int lane = fresh_thread() % WARP;
  const int column = lane % 16, of_columns = lane / 16, row = lane / 16 * 8 + lane % 8, of_rows = lane / 8 % 2;
// no more at a time, or addresses fill the registers
#pragma unroll 2
  for (int step = 0; step < WIDTH / STEP; ++step) {
    unsigned rows[ROW_TILES / 2][4];
#pragma unroll
    for (int pair = 0; pair < ROW_TILES / 2; ++pair) {
      load_matrices<false>(rows[pair], right + bytes_of(piece_at(row, 2 * step ^ of_rows) + 16 * pair * WIDTH));
    }
#pragma unroll
    for (int tile = 0; tile < COLUMN_TILES; ++tile) {
      unsigned columns[4];
      load_matrices<false>(columns, left + bytes_of(piece_at(column, 2 * step ^ of_columns) + 16 * tile * WIDTH));
#pragma unroll
      for (int pair = 0; pair < ROW_TILES / 2; ++pair) {
        multiply<Element>(sums[tile][2 * pair], columns, rows[pair][0], rows[pair][1]);
        multiply<Element>(sums[tile][2 * pair + 1], columns, rows[pair][2], rows[pair][3]);
      }
    }
  }
}

// Add scores^T (32 columns, 32 rows), rounded in `words`, times 32 rows of `right` (rows, 64) in shared memory.
template <typename Element>
__device__ __forceinline__ void add_products(Sums<WIDTH_TILES>& sums, const unsigned (&words)[COLUMN_TILES][2][4],
                                             SharedPlace right) {
  const int lane = fresh_thread() % WARP, row = lane % 16, of_rows = lane / 16;
#pragma unroll
  for (int step = 0; step < ROWS / STEP; ++step) {
#pragma unroll
    for (int pair = 0; pair < WIDTH_TILES / 2; ++pair) {
      unsigned rows[4];
      load_matrices<true>(rows, right + bytes_of(piece_at(row, 2 * pair ^ of_rows) + STEP * step * WIDTH));
#pragma unroll
      for (int tile = 0; tile < COLUMN_TILES; ++tile) {
        multiply<Element>(sums[tile][2 * pair], words[tile][step], rows[0], rows[1]);
        multiply<Element>(sums[tile][2 * pair + 1], words[tile][step], rows[2], rows[3]);
      }
    }
  }
}

// Round scores^T to left operands: two products of 8 rows are one of 16.
template <typename Element>
__device__ __forceinline__ void round_scores(unsigned (&words)[COLUMN_TILES][2][4], const Sums<ROW_TILES>& scores) {
#pragma unroll
  for (int tile = 0; tile < COLUMN_TILES; ++tile) {
#pragma unroll
    for (int at = 0; at < 8; ++at) {
      const float(&four)[4] = scores[tile][at / 2];
      words[tile][at / 4][at % 4] = at % 2 == 0 ? pack<Element>(four[0], four[1]) : pack<Element>(four[2], four[3]);
    }
  }
}

// Which scores of a lane dropout keeps: bit 8 i + j of word c is of row tile i, value j of its two, column c of four.
struct Kept {
  unsigned words[4];
};

// Call `body(score, column, row)` for the 32 scores of a lane: which of Sums, which of its four columns and eight rows.
template <typename Body>
__device__ __forceinline__ void for_each_score(Body body) {
#pragma unroll
  for (int tile = 0; tile < COLUMN_TILES; ++tile) {
#pragma unroll
    for (int row_tile = 0; row_tile < ROW_TILES; ++row_tile) {
#pragma unroll
      for (int at = 0; at < 4; ++at) body(tile, row_tile, at, 2 * tile + at / 2, 2 * row_tile + at % 2);
    }
  }
}

// Return the words of a lane's columns, with the bit of its row 2 i + j at 8 i + j. A lane loads one word of the 32.
template <int WARPS>
__device__ __forceinline__ Kept kept_of(const BackwardParameters& p, const Item& item, int column, int row) {
  constexpr bool BY_ROW = Shared<WARPS>::LONGEST <= BY_ROW_UP_TO;
  const int lane = fresh_thread() % WARP;
  const unsigned word = BY_ROW ? transpose_bits(word_of(p, item, column / 32, row + lane), lane)
                         : word_of(p, item, row / 32, column + lane);
  Kept kept;
#pragma unroll
  for (int each = 0; each < 4; ++each) {
    kept.words[each] = __shfl_sync(0xffffffffu, word, lane / 4 + 8 * each) >> (2 * (lane % 4));
  }
  return kept;
}

__device__ __forceinline__ bool is_kept(const Kept& kept, int column, int row) {
  return (kept.words[column] >> (row / 2 * 8 + row % 2) & 1) != 0;
}

// Write sums (32, 64) of a warp, times a factor, to rows from `row` on in shared memory.
template <typename Element>
__device__ __forceinline__ void write_rows(unsigned short* to, int row, const Sums<WIDTH_TILES>& sums, float factor) {
  const int lane = fresh_thread() % WARP;
#pragma unroll
  for (int tile = 0; tile < COLUMN_TILES; ++tile) {
#pragma unroll
    for (int piece = 0; piece < WIDTH_TILES; ++piece) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        unsigned short* const place = to + piece_at(row + 16 * tile + 8 * half + lane / 4, piece) + 2 * (lane % 4);
        const float(&four)[4] = sums[tile][piece];
        *reinterpret_cast<unsigned*>(place) = pack<Element>(factor * four[2 * half], factor * four[2 * half + 1]);
      }
    }
  }
}

// A warp's part of the visit of 32 rows: add to dK and dV of its columns, and write dS.
template <typename Element, int WARPS>
__device__ __forceinline__ void visit(const BackwardParameters& p, const Item& item, Shared<WARPS>& shared, int column,
                                      int row, Sums<WIDTH_TILES>& dk, Sums<WIDTH_TILES>& dv) {
  const int lane = fresh_thread() % WARP;
  Kept kept{};
  // early, because these loads take long and the products that follow do not need them
  if (p.keep != nullptr) kept = kept_of<WARPS>(p, item, column, row);
  Sums<ROW_TILES> scores{};
  const SharedPlace q = shared_place(shared.q + row * WIDTH), dout = shared_place(shared.dout + row * WIDTH);
  add_scores<Element>(scores, shared_place(shared.k + column * WIDTH), q);
  const float2* const lse = reinterpret_cast<const float2*>(shared.lse + row) + lane % 4;
  for_each_score([&](int tile, int row_tile, int at, int, int) {
    const float2 of_rows = lse[4 * row_tile];
    float& score = scores[tile][row_tile][at];
    score = exp2_approximate(score * p.scale_log2 - (at % 2 == 0 ? of_rows.x : of_rows.y));
  });
  if (column + COLUMNS > item.length) {
    for_each_score([&](int tile, int row_tile, int at, int of_four, int) {
      if (column + 8 * of_four + lane / 4 >= item.length) scores[tile][row_tile][at] = 0.0f;
    });
  }
  unsigned words[COLUMN_TILES][2][4];
  if (p.keep != nullptr) {
    Sums<ROW_TILES> kept_scores;
    for_each_score([&](int tile, int row_tile, int at, int of_four, int of_eight) {
      kept_scores[tile][row_tile][at] = is_kept(kept, of_four, of_eight) ? scores[tile][row_tile][at] : 0.0f;
    });
    round_scores<Element>(words, kept_scores);
  } else {
    round_scores<Element>(words, scores);
  }
  add_products<Element>(dv, words, dout);

  Sums<ROW_TILES> grads{};
  add_scores<Element>(grads, shared_place(shared.v + column * WIDTH), dout);
  if (p.keep != nullptr) {
    for_each_score([&](int tile, int row_tile, int at, int of_four, int of_eight) {
      if (!is_kept(kept, of_four, of_eight)) grads[tile][row_tile][at] = 0.0f;
    });
  }
  const float2* const minus_delta = reinterpret_cast<const float2*>(shared.minus_delta + row) + lane % 4;
  for_each_score([&](int tile, int row_tile, int at, int, int) {
    const float2 of_rows = minus_delta[4 * row_tile];
    float& grad = grads[tile][row_tile][at];
    grad = scores[tile][row_tile][at] * (grad + (at % 2 == 0 ? of_rows.x : of_rows.y));
  });
  round_scores<Element>(words, grads);
  unsigned short* const ds = shared.ds[row / ROWS % 2];
#pragma unroll
  for (int tile = 0; tile < COLUMN_TILES; ++tile) {
#pragma unroll
    for (int at = 0; at < 8; ++at) {
      unsigned short* const place = ds + piece_of_ds(column + 16 * tile + at % 2 * 8 + lane / 4, at / 2);
      *reinterpret_cast<unsigned*>(place + 2 * (lane % 4)) = words[tile][at / 4][at % 4];
    }
  }
  add_products<Element>(dk, words, q);
}

// A warp's part of dQ of 32 rows, from dS and k: 16 rows, and 128 / WARPS elements of each. It takes the place of q.
template <typename Element, int WARPS>
__device__ __forceinline__ void make_dq(const BackwardParameters& p, const Item& item, Shared<WARPS>& shared, int row) {
  constexpr int PAIRS = WIDTH_TILES / WARPS;  // of products, 8 elements each
  const int lane = fresh_thread() % WARP, warp = fresh_thread() / WARP;
  const int half = warp % 2, piece = warp / 2 * 2 * PAIRS;
  float sums[2 * PAIRS][4] = {};
  // transposed: a line of dS has the rows of a column
  const SharedPlace left = shared_place(shared.ds[row / ROWS % 2]) +
                     bytes_of(piece_of_ds(lane / 16 * 8 + lane % 8, 2 * half ^ lane / 8 % 2));
  const SharedPlace right = shared_place(shared.k);
#pragma unroll 4
  for (int column = 0; column < item.length; column += STEP) {
    unsigned scores[4];
    load_matrices<true>(scores, left + bytes_of(column * ROWS));
#pragma unroll
    for (int pair = 0; pair < PAIRS; ++pair) {
      unsigned columns[4];
      const int at = piece_at(lane % 16, (piece + 2 * pair) ^ lane / 16);
      load_matrices<true>(columns, right + bytes_of(at + column * WIDTH));
      multiply<Element>(sums[2 * pair], scores, columns[0], columns[1]);
      multiply<Element>(sums[2 * pair + 1], scores, columns[2], columns[3]);
    }
  }
#pragma unroll
  for (int at = 0; at < 4 * PAIRS; ++at) {
    const int line = row + 16 * half + at % 2 * 8 + lane / 4;
    const float(&four)[4] = sums[at / 2];
    *reinterpret_cast<unsigned*>(shared.q + piece_at(line, piece + at / 2) + 2 * (lane % 4)) =
        pack<Element>(p.scale_grad * four[at % 2 * 2], p.scale_grad * four[at % 2 * 2 + 1]);
  }
}

template <typename Element, int WARPS>
__device__ __forceinline__ void take(const BackwardParameters& p, const Item& item, Shared<WARPS>& shared) {
  constexpr int THREADS = WARPS * WARP;
  const long long width = static_cast<long long>(p.heads) * WIDTH, stride = 3 * width;
  const long long in_qkv = item.start * stride + item.head * WIDTH, in_out = item.start * width + item.head * WIDTH;
  const int length = item.length, padded = (length + ROWS - 1) / ROWS * ROWS;
  const auto* const qkv = static_cast<const unsigned short*>(p.qkv) + in_qkv;
  const auto* const dout = static_cast<const unsigned short*>(p.dout) + in_out;
  copy_rows<THREADS>(shared.k, qkv + width, stride, 0, padded, length);
  copy_rows<THREADS>(shared.q, qkv, stride, 0, ROWS, length);
  copy_rows<THREADS>(shared.v, qkv + 2 * width, stride, 0, padded, length);
  copy_rows<THREADS>(shared.dout, dout, width, 0, ROWS, length);
  copy_commit();
  copy_rows<THREADS>(shared.q, qkv, stride, ROWS, padded, length);
  copy_rows<THREADS>(shared.dout, dout, width, ROWS, padded, length);
  copy_commit();
  row_statistics<Element, THREADS>(p, item, padded, shared.lse, shared.minus_delta);

  const int column = static_cast<int>(threadIdx.x) / WARP * COLUMNS;
  Sums<WIDTH_TILES> dk{}, dv{};
  copy_wait<1>();
  __syncthreads();
#pragma unroll 1
  for (int row = 0; row < length; row += ROWS) {
    if (column < length) visit<Element>(p, item, shared, column, row, dk, dv);
    // the rest of q and dout, for the second visit
    copy_wait<0>();
    __syncthreads();
    make_dq<Element>(p, item, shared, row);
  }
  if (column < length) {
    // nobody else reads these rows of v, and nobody reads dout any more
    write_rows<Element>(shared.v, column, dv, p.inverse_keep);
    write_rows<Element>(shared.dout, column, dk, p.scale_grad);
  }
  __syncthreads();
  auto* const dqkv = static_cast<unsigned short*>(p.dqkv) + in_qkv;
  store_rows<THREADS>(dqkv, shared.q, stride, length);
  store_rows<THREADS>(dqkv + width, shared.dout, stride, length);
  store_rows<THREADS>(dqkv + 2 * width, shared.v, stride, length);
}

template <Dtype DTYPE, int WARPS>
__global__ void __launch_bounds__(WARPS* WARP, WARPS_AT_ONCE / WARPS)
    backward_sm80_kernel(const __grid_constant__ BackwardParameters p) {
  using Element = std::conditional_t<DTYPE == Dtype::BF16, Bf16, Fp16>;
  auto& shared = shared_memory<Shared<WARPS>>();
  const int4* const head = in_global_memory(p.tiles);
  const int first = head[p.upper].x;
  const int items = (head[p.lower].x - first) * p.heads;
  int item = static_cast<int>(blockIdx.x);
#pragma unroll 1
  while (item < items) {
    take<Element>(p, item_of(p, first, item), shared);
    if (threadIdx.x == 0) shared.next = static_cast<int>(gridDim.x + atomicAdd(p.ticket, 1u));
    // also before the next item takes the place of this one
    __syncthreads();
    item = shared.next;
  }
}

template <Dtype DTYPE, int WARPS>
void launch_for(const BackwardParameters& parameters, long long most_items, cudaStream_t stream) {
  constexpr int THREADS = WARPS * WARP;
  constexpr auto kernel = backward_sm80_kernel<DTYPE, WARPS>;
  constexpr std::size_t bytes = sizeof(Shared<WARPS>);
  const std::string name = "unmask_kernels._C.attention: ";
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        name + "a block cannot have " + std::to_string(bytes) + " bytes of shared memory");
  int device = 0, multiprocessors = 0, blocks = 0;
  check(cudaGetDevice(&device), name + "the current device is not known");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        name + "the multiprocessors are not known");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, THREADS, bytes),
        name + "the blocks of a multiprocessor are not known");
  const long long most = std::min(most_items, static_cast<long long>(multiprocessors) * blocks);
  launch(kernel, static_cast<unsigned>(most), THREADS, bytes, stream, "backward_sm80", parameters);
}

template <Dtype DTYPE>
void launch_for(const BackwardParameters& parameters, long long most_items, cudaStream_t stream) {
  switch (parameters.upper) {
    case 1:
      return launch_for<DTYPE, 2>(parameters, most_items, stream);
    case 2:
      return launch_for<DTYPE, 4>(parameters, most_items, stream);
    case 3:
      return launch_for<DTYPE, 8>(parameters, most_items, stream);
    default:
      throw std::invalid_argument("unmask_kernels._C.attention: backward_sm80 is for documents up to 256 tokens");
  }
}

}  // namespace

void backward_sm80(Dtype dtype, const BackwardParameters& parameters, long long most_items, cudaStream_t stream) {
  if (dtype == Dtype::BF16) return launch_for<Dtype::BF16>(parameters, most_items, stream);
  return launch_for<Dtype::FP16>(parameters, most_items, stream);
}

}  // namespace unmask::attention
