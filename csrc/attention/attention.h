// The backward of attention inside documents: what the host and the kernels agree on.
//
//     P = exp2(scale_log2 q k^T - lse)     dP = keep * (dout v^T)     dS = P * (dP - delta)     delta = rowsum(dP * P)
//     dv = (P * keep)^T dout / (1 - p)     dq = scale / (1 - p) dS k  dk = scale / (1 - p) dS^T q
//
// T tokens, H heads of 64 elements. An *item* is a document and a head. A launch takes the documents of a range of
// lengths, which the head of the work list counts (`Documents.tiles` in kernels/unmask_kernels/documents.py):
//
//     line i of 8 : (documents longer than BOUNDS[i], -, -, -)      BOUNDS: 0, 64, 128, 256, 512, without a bound
//     line 8 + n  : (document, 0, its first token, its length)      from the longest document to the shortest
//
// So the documents with a length in (BOUNDS[lower], BOUNDS[upper]] are those from tiles[upper].x to tiles[lower].x, and
// item n of the launch is head n % H of document tiles[upper].x + n / H. Blocks are persistent: block b begins with
// item b, and then takes the next one that nobody has, `gridDim.x` plus what the counter `ticket` was. Each element of
// dqkv is written by one block in one order, so results do not depend on who takes what.
#pragma once

#include <cuda_runtime.h>

namespace unmask::attention {

constexpr int WIDTH = 64;       // elements of a head
constexpr int LINES_HEAD = 8;   // of the work list
constexpr int BY_ROW_UP_TO = 64;

enum class Dtype : int { BF16 = 0, FP16 = 1 };

struct BackwardParameters {
  const void* qkv;       // (T, 3, H, 64)
  const void* out;       // (T, H, 64)
  const void* dout;      // (T, H, 64)
  const float* lse;      // log-sum-exp of a row's scaled scores in base 2, (H, T)
  void* dqkv;            // (T, 3, H, 64)
  const int4* tiles;     // the work list
  unsigned* ticket;      // 0 before the launch
  const unsigned* keep;  // what dropout keeps, (W, H, T), see below; null without dropout
  long long tokens;
  int heads;
  int lower, upper;         // lines of the work list's head
  float scale_log2;         // factor of the scores, times log2(e)
  float scale_grad;         // scale / (1 - p), factor of dq and dk
  float inverse_keep;       // 1 / (1 - p), factor of dv
  float keep_probability;   // 1 - p: delta is this times rowsum(dout * out)
};

// A word of `keep` has 32 elements of the document that token t belongs to, at [w, head, t]:
//
//     documents of more than BY_ROW_UP_TO tokens    column t, rows 32 w to 32 w + 31
//     others                                        row t, columns 32 w to 32 w + 31
//
// Bit b is of row (or column) 32 w + b, counted from the document's first token; 1 keeps the element. Words of rows and
// columns past the end of a document do not exist.

// Launch the kernel for the documents of `parameters`; `most_items` is a bound on their number times H.
//
// backward_sm80 takes documents up to 256 tokens, backward_sm90 up to 512. One launch is for one line of the head: upper
// is lower + 1 (sm_80: and from 1 to 3, sm_90: to 4).
void backward_sm80(Dtype dtype, const BackwardParameters& parameters, long long most_items, cudaStream_t stream);
void backward_sm90(Dtype dtype, const BackwardParameters& parameters, long long most_items, cudaStream_t stream);

}  // namespace unmask::attention
