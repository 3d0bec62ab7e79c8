// Products of warpgroups that run while their threads go on: which registers and shared memory they use until then.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "../include/host_machine.h"

namespace machine {

struct Fiber;
struct Block;

constexpr unsigned WARPGROUP = 128;
constexpr std::size_t REGISTER_BYTES = 64 * 1024;  // of a thread's stack, from its first frame on

// A product of a warpgroup, from its first thread's call until the last thread has waited for it.
struct Product {
  host_machine::Product what;
  std::uintptr_t pc = 0;
  const unsigned* left_registers[WARPGROUP] = {};
  std::vector<std::uint32_t> left, right;  // places in shared memory of their elements, (64, 16) and (N, 16)
  std::vector<std::uint32_t> pieces[4];    // of 16 bytes that each warp reads, its rows of the left operand first
  std::vector<bool> reads;                 // of all pieces of shared memory, those that a warp reads
  std::vector<float> result;               // (64, N) once it is computed
  unsigned called = 0, ended = 0;          // threads
  bool early = false;                      // computed when it begins; else when the first thread waits
  std::vector<Fiber*> waiting;             // for the rest of the warpgroup
};

// The products that a warpgroup has begun, in order; `first` is the number of the oldest one that is kept.
struct Warpgroup {
  std::vector<std::shared_ptr<Product>> products;
  std::size_t first = 0;
};

// What a thread keeps about its products.
struct Multiplier {
  struct Pending {
    std::shared_ptr<Product> product;
    float* sums;
    std::size_t bytes;
    const unsigned* left;
  };
  std::vector<Pending> open;
  std::vector<std::vector<Pending>> groups;
  std::map<float*, std::vector<float>> kept;  // sums of products in flight, whose registers hold NaN
  std::size_t begun = 0;
  std::uint32_t fences = 0;
  // for each word of the stack, how many fences there were when it was last accessed, and 1
  std::unique_ptr<std::uint32_t, void (*)(void*)> accessed{nullptr, nullptr};
};

// Note an access of the current thread to its stack: registers of products in flight may not be touched.
void touch(std::uintptr_t address, std::size_t bytes, bool writes, std::uintptr_t pc);

// Note a write to shared memory: operands of products in flight may not change.
void check_operands(std::uintptr_t address, std::size_t bytes, std::uintptr_t pc);

// Note that the current thread ends.
void end_products();

}  // namespace machine
