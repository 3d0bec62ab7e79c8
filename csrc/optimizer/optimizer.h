// AdamW, StableAdamW and LAMB over all parameters of a model: what the host and the kernels agree on.
//
// A *row* is a parameter with its gradient and its moments. A *chunk* is CHUNK elements of a row, the last one of a row
// may have fewer. An *item* is what a block does: one chunk in one pass. Rows and items lie in tables in device memory.
// The table of items depends on sizes alone, so a model has one for its life.
#pragma once

#include <cuda_runtime.h>

#include <vector>

namespace unmask::optimizer {

constexpr int THREADS = 256;
constexpr int CHUNK = 8192;
constexpr int MAX_GROUPS = 64;

// The dtype of gradients and of copies of the weights.
enum class Dtype : unsigned char { NONE = 0, FP32 = 1, BF16 = 2, FP16 = 3 };

enum class Rule : int { ADAMW = 0, STABLE_ADAMW = 1, LAMB = 2 };

// A parameter: a row of the table, 64 bytes.
struct Row {
  float* weight;         // fp32 master weights, (elements,)
  const void* gradient;  // (elements,), in `gradient_dtype`
  float* first;          // first moments, fp32 (elements,)
  float* second;         // second moments, fp32 (elements,)
  void* copy;            // gets the new weights rounded to `copy_dtype`, (elements,); null without a copy
  float* step;           // number of updates so far, fp32 (); rows may share it
  long long elements;
  int group;  // which of the groups of the update
  Dtype gradient_dtype;
  Dtype copy_dtype;
  bool counts_step;  // whether this row adds to `step`; one row does for each step count
  bool reserved;
};
static_assert(sizeof(Row) == 64, "rows are written by the host and read by the device");

// What a block does, 16 bytes.
struct alignas(16) Item {
  int row;
  int chunk;        // of the row
  int slot;         // number of this chunk among the chunks of all rows: the place of its partial sums
  int second_pass;  // 1: applies the update once the sums of its whole row are known
};
static_assert(sizeof(Item) == 16, "items are written by the host and read by the device");

// Settings of a group of parameters.
struct Group {
  const float* learning_rate_at;  // where the learning rate is, fp32 (); null: `learning_rate` holds
  float learning_rate;
  float beta2;
  float complement1, complement2;  // 1 - beta, rounded once
  float log_beta1, log_beta2;      // natural logarithms, for the bias correction
  float eps;
  float weight_decay;
  bool corrects_bias;
  bool adapts;  // LAMB: use the trust ratio; StableAdamW: clip the update
};

constexpr int ROWS_AT_ONCE = 60;

// A launch that writes rows.
struct RowsParameters {
  Row* to;
  unsigned count;
  Row rows[ROWS_AT_ONCE];
};
static_assert(sizeof(RowsParameters) <= 4096, "arguments of a kernel are at most 4096 bytes");

// The first launch: the global norm of the gradients.
struct NormParameters {
  const Row* rows;
  const Item* items;        // of the first pass only, one a chunk
  float* partials;          // one sum of squares for each item
  unsigned* finished;       // 0 before and after each launch
  const float* grad_scale;  // gradients are this many times too large, fp32 (); null: 1
  const float* found_inf;   // not 0: the gradients are not to be used, fp32 (); null: they are
  float* norm;              // gets the norm, after the division by grad_scale, fp32 ()
  float* skipped;           // gets 1 if the update will be left out, else 0, fp32 (); may be null
};

// The second launch: the update.
struct UpdateParameters {
  const Row* rows;
  const Item* items;
  float2* partials;         // two sums for each chunk; null for AdamW
  float* ratios;            // one factor for each row; null for AdamW
  unsigned* counters;       // TICKET, FINISHED, then one for each row; 0 before and after each launch
  const float* grad_scale;  // as for the norm
  const float* found_inf;   // as for the norm
  const float* norm;        // of the gradients after the division by grad_scale, fp32 (); null: not known
  float max_norm;           // gradients are scaled down to this norm; infinite: never
  int row_count;
  Group groups[MAX_GROUPS];
};
static_assert(sizeof(UpdateParameters) <= 4096, "arguments of a kernel are at most 4096 bytes");

// Counters of an update that belong to no row.
constexpr int TICKET = 0;
constexpr int FINISHED = 1;
constexpr int FIRST_ROW_COUNTER = 2;

// Return how many chunks a row has.
__host__ __device__ constexpr long long chunk_count(long long elements) { return (elements + CHUNK - 1) / CHUNK; }

// Return the index of the first element of an item in its row.
__host__ __device__ constexpr long long first_element(const Item& item) {
  return static_cast<long long>(item.chunk) * CHUNK;
}

// Return the items of rows with so many elements each, in the order in which blocks take them.
//
// With two passes, the second pass over a row follows the first one closely, while the row is still in the L2 cache.
// It stands behind all of the first pass over that row, so no block waits for one that has not started.
std::vector<Item> work_items(const std::vector<long long>& elements, bool two_passes);

// A kernel of this family, and what one thread and one block of it take.
struct Kernel {
  const char* name;
  cudaFuncAttributes attributes;
};

// Load all kernels onto the current device, so that none is loaded while a graph is captured.
std::vector<Kernel> load_kernels();

// Write rows into a table in device memory, ROWS_AT_ONCE with each launch.
void launch_rows(Row* to, const std::vector<Row>& rows, cudaStream_t stream);

// Start one block for each item.
void launch_norm(const NormParameters& parameters, unsigned items, cudaStream_t stream);
void launch_update(Rule rule, const UpdateParameters& parameters, unsigned items, cudaStream_t stream);

}  // namespace unmask::optimizer
