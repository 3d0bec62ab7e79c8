// wgmma: products of warpgroups, their fences, commits and waits, by the PTX ISA, "Asynchronous Warpgroup Level
// Matrix Multiply-Accumulate".
//
// A thread that calls a product goes on. The product is computed when the last thread of the warpgroup has called it,
// or, in other schedules, when the first one waits for it. Until a thread has waited, its sums hold NaN.
#include "wgmma.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../include/host_numbers.h"
#include "state.h"

using machine::current;
using machine::Fiber;
using machine::launch;
using machine::Multiplier;
using machine::Product;

#define HERE reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))

namespace machine {

namespace {

constexpr unsigned PIECE = 16;  // bytes
constexpr unsigned DEPTH = 16;  // what a product sums over

Multiplier& multiplier() {
  auto& mine = current->multiplier;
  if (!mine) {
    mine = std::make_unique<Multiplier>();
    mine->accessed = {static_cast<std::uint32_t*>(std::calloc(REGISTER_BYTES / 4, 4)), &std::free};
  }
  return *mine;
}

// The counters of accesses to these bytes of the current thread's stack.
std::uint32_t* accesses(const void* registers, std::size_t bytes, std::uintptr_t pc) {
  const auto start = reinterpret_cast<std::uintptr_t>(current->stack) + STACK_BYTES - REGISTER_BYTES;
  const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(registers) - start;
  if (offset + bytes > REGISTER_BYTES) {
    report("wgmma", pc, "sums and left operands must be arrays of the thread");
    abandon();
  }
  return current->multiplier->accessed.get() + offset / 4;
}

bool overlap(const void* a, std::size_t a_bytes, const void* b, std::size_t b_bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(a), second = reinterpret_cast<std::uintptr_t>(b);
  return first < second + b_bytes && second < first + a_bytes;
}

template <class Function>
void each_pending(const Multiplier& mine, Function function) {
  for (const auto& group : mine.groups) std::for_each(group.begin(), group.end(), function);
  std::for_each(mine.open.begin(), mine.open.end(), function);
}

// The places of the elements (rows, 16) of an operand, by its descriptor: the canonical layouts of the 128-byte swizzle.
std::vector<std::uint32_t> places(std::uint64_t descriptor, unsigned rows, bool transposed, std::uintptr_t pc) {
  const auto field = [&](unsigned at) { return std::uint32_t(descriptor >> at & 0x3fff) << 4; };
  const std::uint32_t start = field(0), leading = field(16), stride = field(32);
  const char* wrong = descriptor >> 62 != 1        ? "its swizzle is not that of 128 bytes"
                      : descriptor >> 49 & 7       ? "it has a base offset"
                      : start & 0x380              ? "it begins inside a pattern of the swizzle"
                      : transposed && start & 0x7f ? "a transposed one begins inside a line"
                                                   : nullptr;
  if (wrong) {
    report("operand of wgmma", pc, wrong);
    abandon();
  }
  std::vector<std::uint32_t> result;
  for (std::uint32_t row = 0; row < rows; ++row) {
    for (std::uint32_t depth = 0; depth < DEPTH; ++depth) {
      const std::uint32_t at = transposed ? start + row / 64 * leading + row % 64 * 2 + depth / 8 * stride + depth % 8 * 128
                                          : start + row / 8 * stride + row % 8 * 128 + depth * 2;
      result.push_back(at ^ (at >> 7 & 7) << 4);
    }
  }
  return result;
}

// Let the lanes of the current warp read what the warp multiplies: its rows of the left operand, all of the right one.
void read_operands(const Product& product, unsigned flags) {
  const auto base = reinterpret_cast<std::uintptr_t>(shared_start(current->block->slot));
  const auto& pieces = product.pieces[current->warp() % 4];
  for (std::size_t at = current->lane(); at < pieces.size(); at += 32) {
    access(base + pieces[at] * PIECE, PIECE, READS | NO_BANKS | flags, product.pc);
  }
}

// The pieces of 16 bytes that these elements lie in.
std::vector<std::uint32_t> pieces_of(const std::uint32_t* from, const std::uint32_t* to) {
  std::vector<std::uint32_t> result;
  for (; from < to; ++from) result.push_back(*from / PIECE);
  std::sort(result.begin(), result.end());
  result.erase(std::unique(result.begin(), result.end()), result.end());
  return result;
}

float widened(std::uint16_t bits, bool half) {
  if (half) return host_machine::fp16_to_fp32(bits);
  const std::uint32_t wide = std::uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

std::vector<float> elements(const std::vector<std::uint32_t>& at, bool half, unsigned slot) {
  std::vector<float> result;
  for (std::uint32_t place : at) {
    std::uint16_t bits;
    std::memcpy(&bits, shared_start(slot) + place, 2);
    result.push_back(widened(bits, half));
  }
  return result;
}

void compute(Product& product, unsigned slot) {
  if (!product.result.empty()) return;
  const unsigned columns = product.what.columns;
  const bool half = product.what.half;
  std::vector<float> left(64 * DEPTH), right = elements(product.right, half, slot);
  if (product.what.left_in_registers) {
    for (unsigned thread = 0; thread < WARPGROUP; ++thread) {
      for (unsigned i = 0; i < 8; ++i) {
        const unsigned row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
        const unsigned depth = thread % 4 * 2 + i % 2 + i / 4 * 8;
        left[row * DEPTH + depth] =
            widened(std::uint16_t(product.left_registers[thread][i / 2] >> (16 * (i % 2))), half);
      }
    }
  } else {
    left = elements(product.left, half, slot);
  }
  product.result.resize(64 * columns);
  for (unsigned row = 0; row < 64; ++row) {
    for (unsigned column = 0; column < columns; ++column) {
      double sum = 0.0;
      for (unsigned depth = 0; depth < DEPTH; ++depth) {
        sum += double(left[row * DEPTH + depth]) * right[column * DEPTH + depth];
      }
      product.result[row * columns + column] = float(sum);
    }
  }
}

void end(const Multiplier::Pending& pending) {
  Product& product = *pending.product;
  if (product.called < WARPGROUP) {
    product.waiting.push_back(current);
    wait("wgmma.wait_group", product.pc);
  }
  compute(product, current->block->slot);
  // what is written there later must happen after this
  read_operands(product, 0);
  const unsigned thread = current->linear % WARPGROUP, columns = product.what.columns;
  std::vector<float>& sums = current->multiplier->kept[pending.sums];
  for (unsigned i = 0; i < columns / 2; ++i) {
    const unsigned row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
    const unsigned column = i / 4 * 8 + thread % 4 * 2 + i % 2;
    sums[i] = product.result[row * columns + column] + (product.what.adds ? sums[i] : 0.0f);
  }
  if (++product.ended < WARPGROUP) return;
  auto& flying = current->block->products;
  flying.erase(std::find(flying.begin(), flying.end(), pending.product));
  Warpgroup& group = current->block->warpgroups[current->linear / WARPGROUP];
  while (!group.products.empty() && group.products.front()->ended == WARPGROUP) {
    group.products.erase(group.products.begin());
    ++group.first;
  }
}

// The next product of the current thread, which other threads of its warpgroup may have begun.
std::shared_ptr<Product> begin(const host_machine::Product& what, std::uintptr_t pc) {
  Block& block = *current->block;
  Warpgroup& group = block.warpgroups[current->linear / WARPGROUP];
  const std::size_t place = current->multiplier->begun++ - group.first;
  if (place < group.products.size()) {
    const auto& product = group.products[place];
    if (!(product->what == what)) {
      report("wgmma", pc, "threads of a warpgroup multiply different operands", product->pc);
      abandon();
    }
    return product;
  }
  auto product = std::make_shared<Product>();
  product->what = what, product->pc = pc;
  product->early = draw() % 2;
  if (!what.left_in_registers) product->left = places(what.left, 64, what.left_transposed, pc);
  product->right = places(what.right, what.columns, what.right_transposed, pc);
  product->reads.resize(SLOT / PIECE);
  const auto of_right = pieces_of(product->right.data(), product->right.data() + product->right.size());
  for (unsigned warp = 0; warp < 4; ++warp) {
    auto& pieces = product->pieces[warp];
    const std::uint32_t* const rows = product->left.data() + warp * 16 * DEPTH;
    if (!what.left_in_registers) pieces = pieces_of(rows, rows + 16 * DEPTH);
    pieces.insert(pieces.end(), of_right.begin(), of_right.end());
    for (std::uint32_t piece : pieces) product->reads[piece] = true;
  }
  group.products.push_back(product);
  block.products.push_back(product);
  return product;
}

}  // namespace

void touch(std::uintptr_t address, std::size_t bytes, bool writes, std::uintptr_t pc) {
  Multiplier& mine = *current->multiplier;
  const std::uintptr_t start = reinterpret_cast<std::uintptr_t>(current->stack) + STACK_BYTES - REGISTER_BYTES;
  for (std::uintptr_t at = address & ~std::uintptr_t(3); at < address + bytes; at += 4) {
    if (at - start < REGISTER_BYTES) mine.accessed.get()[(at - start) / 4] = mine.fences + 1;
  }
  const auto* const touched = reinterpret_cast<const void*>(address);
  each_pending(mine, [&](const Multiplier::Pending& each) {
    if (overlap(touched, bytes, each.sums, each.bytes)) {
      report("register of a wgmma in flight", pc, writes ? "writes a sum" : "reads a sum", each.product->pc);
    } else if (writes && each.left && overlap(touched, bytes, each.left, 16)) {
      report("register of a wgmma in flight", pc, "writes a left operand", each.product->pc);
    }
  });
}

void check_operands(std::uintptr_t address, std::size_t bytes, std::uintptr_t pc) {
  const auto offset = address - reinterpret_cast<std::uintptr_t>(shared_start(current->block->slot));
  for (const auto& product : current->block->products) {
    for (std::size_t piece = offset / PIECE; piece <= (offset + bytes - 1) / PIECE; ++piece) {
      if (piece < product->reads.size() && product->reads[piece]) {
        report("operand of a wgmma in flight", pc, "is written while the product reads it", product->pc);
      }
    }
  }
}

void end_products() {
  if (!current->multiplier) return;
  bool told = false;
  each_pending(*current->multiplier, [&](const Multiplier::Pending& each) {
    if (!told) report("wgmma in flight", each.product->pc, "the thread ends before it has waited for its products");
    told = true;
  });
}

}  // namespace machine

namespace host_machine {

void wgmma(const Product& what, float* sums, const unsigned* left) {
  using namespace machine;
  preempt();
  const std::uintptr_t pc = HERE;
  Multiplier& mine = multiplier();
  if ((current->linear / WARPGROUP + 1) * WARPGROUP > launch->threads) {
    report("wgmma", pc, "the warpgroup has fewer than 128 threads");
    abandon();
  }
  const std::size_t bytes = what.columns * 2;
  bool adds_to_pending = false, first_of_all = mine.fences == 0;
  each_pending(mine, [&](const Multiplier::Pending& each) {
    if (each.sums == sums && each.bytes == bytes) {
      adds_to_pending = true;
    } else if (overlap(sums, bytes, each.sums, each.bytes)) {
      report("register of a wgmma in flight", pc, "adds to sums of a product of another shape", each.product->pc);
    } else if (left && overlap(left, 16, each.sums, each.bytes)) {
      report("register of a wgmma in flight", pc, "multiplies sums", each.product->pc);
    }
  });
  const auto untouched = [&](const void* registers, std::size_t size) {
    const std::uint32_t* const last = accesses(registers, size, pc);
    return std::all_of(last, last + size / 4, [&](std::uint32_t at) { return at <= mine.fences; });
  };
  if (first_of_all || !untouched(sums, bytes) || (left && !untouched(left, 16))) {
    report("wgmma without a fence", pc, "its registers were accessed, and no wgmma.fence followed");
  }
  const std::shared_ptr<machine::Product> product = begin(what, pc);
  read_operands(*product, ASYNCHRONOUS);
  if (!adds_to_pending) mine.kept[sums].assign(sums, sums + what.columns / 2);
  std::memset(sums, 0xff, bytes);
  mine.open.push_back({product, sums, bytes, left});
  product->left_registers[current->linear % WARPGROUP] = left;
  if (++product->called < WARPGROUP) return;
  if (product->early) compute(*product, current->block->slot);
  launch->idle = 0;
  for (Fiber* fiber : product->waiting) make_ready(fiber);
  product->waiting.clear();
}

void wgmma_fence() {
  machine::preempt();
  ++machine::multiplier().fences;
}

void wgmma_commit() {
  Multiplier& mine = machine::multiplier();
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void wgmma_wait(unsigned groups_in_flight) {
  machine::preempt();
  Multiplier& mine = machine::multiplier();
  while (mine.groups.size() > groups_in_flight) {
    const auto group = mine.groups.front();
    for (const auto& pending : group) machine::end(pending);
    mine.groups.erase(mine.groups.begin());
  }
  // sums that later products add to stay as they are
  for (auto sums = mine.kept.begin(); sums != mine.kept.end();) {
    bool busy = false;
    machine::each_pending(mine, [&](const Multiplier::Pending& each) { busy |= each.sums == sums->first; });
    if (!busy) std::copy(sums->second.begin(), sums->second.end(), sums->first);
    sums = busy ? std::next(sums) : mine.kept.erase(sums);
  }
}

void proxy_fence() {
  machine::preempt();
  current->proxy_fences.push_back(current->own++);
  current->before_proxy_fence = current->base;
}

}  // namespace host_machine
