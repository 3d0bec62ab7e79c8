// The masks of dropout on a CPU. unmask_kernels/philox.py says which number decides about which element.

#pragma once

#include <cstdint>

namespace unmask::cpu {

// How a mask is drawn.
//   key       of the random stream
//   columns   width of a row
//   bound     a lane of 16 bits below it drops its element; 65,536 drops all
//   threads   that may work
//   keep      (rows, columns): 1 where an element is kept, else 0
struct Mask {
  uint64_t key;
  int64_t columns;
  uint32_t bound;
  int threads;
  uint8_t* keep;
};

// Draw the mask of an activation, (rows, columns). `row_keys` (rows) names its rows.
void keep_rows(const Mask& mask, const uint64_t* row_keys, int64_t rows);

// Draw the mask of attention's scores, (documents, heads, rows, columns). `document_keys` (documents) names the
// documents, and `first_row` is the position of the first row in each.
void keep_scores(const Mask& mask, const uint64_t* document_keys, int64_t documents, int64_t heads, int64_t first_row,
                 int64_t rows);

// Draw without vectors from now on, or again with them where the CPU has them. For tests.
void use_vectors(bool wanted);

}  // namespace unmask::cpu
