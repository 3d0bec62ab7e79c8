// Where elements lie in the shared memory of attention's kernels, and what these read besides tensors: items, dropout.
#pragma once

#include <attention/attention.h>
#include <common/copies.cuh>
#include <common/device.cuh>

namespace unmask::attention {

constexpr int PIECE = 8;                // elements of 16 bytes
constexpr int PIECES = WIDTH / PIECE;   // of a row of a head

// A document and a head.
struct Item {
  int start;        // the document's first token
  int length;       // of the document
  int head;
};

// Return item `number` of the documents that begin at line `first` behind the head of the work list.
__device__ __forceinline__ Item item_of(const BackwardParameters& p, int first, int number) {
  const int4 line = in_global_memory(p.tiles)[LINES_HEAD + first + number / p.heads];
  return {line.z, line.w, number % p.heads};
}

// Return at which element piece `piece` of row `row` begins in rows of 64 elements. Pieces change places by their row:
// eight rows have a piece in eight different parts of the 128 bytes that shared memory gives at once.
__device__ __forceinline__ int piece_at(int row, int piece) {
  return row * WIDTH + ((piece ^ (row % PIECES)) * PIECE);
}

// Begin to copy rows of a head to `to`: those before `length`, and zeros up to `padded`, a multiple of 8.
// `from`: the first row; `stride`: elements from one to the next.
template <int THREADS>
__device__ __forceinline__ void copy_rows(unsigned short* to, const unsigned short* from, long long stride, int begin,
                                          int padded, int length) {
  for (int at = begin * PIECES + fresh_thread(); at < padded * PIECES; at += THREADS) {
    const int row = at / PIECES, piece = at % PIECES;
    // what lies behind the document belongs to another one, and is not read
    copy_async<16>(to + piece_at(row, piece), from + row * stride + piece * PIECE, row < length ? 16 : 0);
  }
}

// Store rows of a head that lie in shared memory; the counterpart of `copy_rows`.
template <int THREADS>
__device__ __forceinline__ void store_rows(unsigned short* to, const unsigned short* from, long long stride,
                                           int length) {
  for (int at = fresh_thread(); at < length * PIECES; at += THREADS) {
    const int row = at / PIECES, piece = at % PIECES;
    *reinterpret_cast<uint4*>(in_global_memory(to) + row * stride + piece * PIECE) =
        *reinterpret_cast<const uint4*>(from + piece_at(row, piece));
  }
}

// Return the sum of the products of eight pairs of elements.
template <typename Element>
__device__ __forceinline__ float dot(uint4 left, uint4 right) {
  const unsigned lefts[4] = {left.x, left.y, left.z, left.w}, rights[4] = {right.x, right.y, right.z, right.w};
  float sum = 0.0f;
#pragma unroll
  for (int at = 0; at < 4; ++at) {
    const auto low = [](unsigned word) { return widen(Element{static_cast<unsigned short>(word)}); };
    sum += low(lefts[at]) * low(rights[at]) + low(lefts[at] >> 16) * low(rights[at] >> 16);
  }
  return sum;
}

// Write -delta, with delta = (1 - p) rowsum(dout * out), and lse of an item to shared memory, and zeros from `length` to `padded`.
//
// out and dout are read 16 bytes at a time, a row by eight neighbouring threads.
template <typename Element, int THREADS>
__device__ __forceinline__ void row_statistics(const BackwardParameters& p, const Item& item, int padded, float* lse,
                                               float* minus_delta) {
  const long long stride = static_cast<long long>(p.heads) * WIDTH, begin = item.start * stride + item.head * WIDTH;
  const auto* const out = in_global_memory(static_cast<const unsigned short*>(p.out)) + begin;
  const auto* const dout = in_global_memory(static_cast<const unsigned short*>(p.dout)) + begin;
  const float* const of_rows = in_global_memory(p.lse) + item.head * p.tokens + item.start;
  for (int at = fresh_thread(); at < padded * PIECES; at += THREADS) {
    const int row = at / PIECES, piece = at % PIECES;
    float sum = 0.0f;
    if (row < item.length) {
      const long long place = row * stride + piece * PIECE;
      sum = dot<Element>(*reinterpret_cast<const uint4*>(out + place), *reinterpret_cast<const uint4*>(dout + place));
    }
    for (int distance = PIECES / 2; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
    if (piece == 0) minus_delta[row] = -p.keep_probability * sum;
  }
  for (int row = fresh_thread(); row < padded; row += THREADS) {
    lse[row] = row < item.length ? of_rows[row] : 0.0f;
  }
}

// Return the word of dropout of a column (or row) of an item, for its rows (or columns) from 32 `word` on; 0 past the
// end of the document.
__device__ __forceinline__ unsigned word_of(const BackwardParameters& p, const Item& item, int word, int member) {
  if (member >= item.length) return 0;
  return in_global_memory(p.keep)[(static_cast<long long>(word) * p.heads + item.head) * p.tokens + item.start +
                                  member];
}

// Transpose 32 x 32 bits, a word a lane: bit i of lane j becomes bit j of lane i.
__device__ __forceinline__ unsigned transpose_bits(unsigned word, int lane) {
#pragma unroll
  for (int size = 16; size > 0; size /= 2) {
    // of each 2 size bits the lower ones
    const unsigned mask = 0xffffffffu / ((1u << size) + 1);
    const unsigned other = __shfl_xor_sync(0xffffffffu, word, size);
    word = (lane & size) == 0 ? (word & mask) | (other & mask) << size : (word & ~mask) | (other >> size & mask);
  }
  return word;
}

}  // namespace unmask::attention
