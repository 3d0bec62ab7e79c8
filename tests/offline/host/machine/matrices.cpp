// ldmatrix and mma.sync: the lanes of a warp meet, and the last one computes for all of them.
//
// Layouts: PTX ISA, "Warp-level matrix load instruction" and "Matrix fragments for mma.m16n8k16 with floating point type".
#include <cstring>

#include "../include/host_numbers.h"
#include "state.h"

#define HERE reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))

namespace host_machine {

namespace {

struct Rows {
  std::uint16_t row[8];
  unsigned* to;
  unsigned count;
  bool transposed;
};

struct Operands {
  float* sums;
  const unsigned* left;
  unsigned right[2];
  bool brain;
};

float element(unsigned word, unsigned half, bool brain) {
  const auto bits = std::uint16_t(word >> 16 * half);
  if (!brain) return fp16_to_fp32(bits);
  const std::uint32_t wide = std::uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

void distribute(const std::uint64_t* given) {
  const Rows* lanes[32];
  for (unsigned lane = 0; lane < 32; ++lane) lanes[lane] = reinterpret_cast<const Rows*>(given[lane]);
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned line = lane / 4, at = lane % 4 * 2;
    for (unsigned matrix = 0; matrix < lanes[lane]->count; ++matrix) {
      const auto value = [&](unsigned row, unsigned column) { return unsigned(lanes[8 * matrix + row]->row[column]); };
      lanes[lane]->to[matrix] = lanes[lane]->transposed ? value(at, line) | value(at + 1, line) << 16
                                                        : value(line, at) | value(line, at + 1) << 16;
    }
  }
}

void multiply_all(const std::uint64_t* given) {
  const Operands* lanes[32];
  for (unsigned lane = 0; lane < 32; ++lane) lanes[lane] = reinterpret_cast<const Operands*>(given[lane]);
  float left[16][16], right[16][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const Operands& own = *lanes[lane];
    const unsigned group = lane / 4, place = lane % 4 * 2;
    for (unsigned half = 0; half < 2; ++half) {
      for (unsigned i = 0; i < 4; ++i) {
        left[group + 8 * (i % 2)][place + half + 8 * (i / 2)] = element(own.left[i], half, own.brain);
      }
      for (unsigned i = 0; i < 2; ++i) right[place + half + 8 * i][group] = element(own.right[i], half, own.brain);
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      // one rounding: hardware rounds or cuts at places that NVIDIA does not document
      double sum = lanes[lane]->sums[i];
      for (unsigned k = 0; k < 16; ++k) sum += double(left[row][k]) * right[k][column];
      lanes[lane]->sums[i] = float(sum);
    }
  }
}

}  // namespace

void load_matrices(unsigned* to, unsigned count, bool transposed, const void* row) {
  machine::preempt();
  Rows own{{}, to, count, transposed};
  if (machine::current->lane() < 8 * count) {
    machine::access(reinterpret_cast<std::uintptr_t>(row), 16, machine::READS, HERE);
    std::memcpy(own.row, row, 16);
  }
  machine::compute_together("ldmatrix", &own, &distribute, HERE);
}

void multiply(float* sums, const unsigned* left, unsigned right0, unsigned right1, bool brain) {
  Operands own{sums, left, {right0, right1}, brain};
  machine::compute_together("mma", &own, &multiply_all, HERE);
}

}  // namespace host_machine
