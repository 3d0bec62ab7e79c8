// Where threads meet or order memory: barriers, warp operations, fences, atomics.
#include <algorithm>
#include <cstring>

#include "state.h"

using machine::Base;
using machine::current;
using machine::Fiber;
using machine::launch;
using machine::Rendezvous;

#define HERE reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))

namespace host_machine {

Index thread_index() noexcept { return current->index; }
Index block_index() noexcept { return current->block->index; }
Index block_size() noexcept {
  const dim3 size = launch->configuration.block;
  return {size.x, size.y, size.z};
}
Index grid_size() noexcept {
  const dim3 size = launch->configuration.grid;
  return {size.x, size.y, size.z};
}
unsigned lane_index() noexcept { return current->lane(); }
void* dynamic_shared() noexcept { return machine::shared_start(current->block->slot); }

// ---- barriers of a block and of the grid

namespace {

// Arrive at a barrier of `threads` threads; returns whether it is complete, and then wakes those who wait.
bool arrive(Rendezvous& barrier, std::size_t threads, bool waits) {
  Fiber* self = current;
  barrier.arrived.push_back(self);
  if (waits) barrier.waiting.push_back(self);
  if (barrier.arrived.size() < threads) return false;
  machine::synchronize(barrier.arrived, barrier.waiting);
  // lanes that met here make their next accesses together
  for (Fiber* fiber : barrier.arrived) fiber->block->banks.flush(fiber->warp());
  ++machine::counters.barriers;
  for (Fiber* fiber : barrier.waiting) {
    fiber->combined = barrier.combined_count;
    if (fiber != self) machine::make_ready(fiber);
  }
  barrier = Rendezvous();
  return true;
}

}  // namespace

int block_barrier(const char* name, unsigned id, unsigned threads, bool waits, Combine combine, int value) {
  Fiber* self = current;
  Rendezvous& barrier = self->block->barriers[id];
  const unsigned expected = threads ? threads : launch->threads;
  if (barrier.arrived.empty()) {
    barrier.name = name, barrier.pc = HERE, barrier.mask = expected;
  } else if (barrier.mask != expected) {
    machine::report("barrier of another size", HERE,
                    std::to_string(expected) + " threads are expected here and " + std::to_string(barrier.mask) +
                        " there",
                    barrier.pc, barrier.arrived.front()->thread + 1);
    machine::abandon();
  } else if (barrier.pc != HERE && waits && !threads) {
    machine::report("threads meet at different barriers", HERE, "others wait elsewhere", barrier.pc,
                    barrier.arrived.front()->thread + 1);
  }
  barrier.combined_count += value != 0;
  if (arrive(barrier, expected, waits)) {
    if (waits) machine::yield(nullptr, 0);
  } else if (waits) {
    machine::wait(name, HERE);
  }
  switch (combine) {
    case Combine::count: return self->combined;
    case Combine::all: return self->combined == int(expected);
    case Combine::any: return self->combined != 0;
    default: return 0;
  }
}

void grid_barrier() {
  if (!launch->configuration.cooperative) {
    machine::report("grid barrier", HERE, "the launch is not cooperative");
    machine::abandon();
  }
  if (arrive(launch->grid, std::size_t(launch->blocks) * launch->threads, true)) {
    machine::yield(nullptr, 0);
  } else {
    machine::wait("grid barrier", HERE);
  }
}

// ---- operations of a warp

namespace {

// Meet the lanes of a mask. The last one calls `complete`, if there is one, before the others go on.
std::shared_ptr<Rendezvous> meet(const char* name, unsigned mask, std::uint64_t value, bool orders, std::uintptr_t pc,
                                 void (*complete)(const std::uint64_t*) = nullptr) {
  Fiber* self = current;
  const unsigned bit = 1u << self->lane();
  if (!(mask & bit)) {
    machine::report("mask of a warp", pc, std::string(name) + " is called by lane " + std::to_string(self->lane()) +
                                              ", which its mask does not name");
    machine::abandon();
  }
  auto& open = self->block->warps[self->warp()];
  auto found = std::find_if(open.begin(), open.end(), [&](auto& each) {
    return each->mask == mask && !(each->reached & bit) && std::strcmp(each->name, name) == 0;
  });
  if (found == open.end()) {
    open.push_back(std::make_shared<Rendezvous>());
    found = std::prev(open.end());
    (*found)->name = name, (*found)->mask = mask, (*found)->pc = pc;
  }
  std::shared_ptr<Rendezvous> here = *found;
  here->reached |= bit;
  here->values[self->lane()] = value;
  here->waiting.push_back(self);
  if (here->reached != mask) {
    machine::wait(name, pc);
    return here;
  }
  open.erase(found);
  if (complete) complete(here->values);
  if (orders) machine::synchronize(here->waiting, here->waiting);
  if (mask == 0xffffffffu) self->block->banks.flush(self->warp());
  launch->idle = 0;
  for (Fiber* fiber : here->waiting) {
    if (fiber != self) machine::make_ready(fiber);
  }
  machine::yield(nullptr, 0);
  return here;
}

}  // namespace

void warp_barrier(unsigned mask) { meet("__syncwarp", mask, 0, true, HERE); }

std::uint64_t warp_shuffle(const char* name, unsigned mask, std::uint64_t value, unsigned source) {
  const auto here = meet(name, mask, value, false, HERE);
  if (!(mask >> source & 1)) {
    machine::report("mask of a warp", HERE, std::string(name) + " reads lane " + std::to_string(source) +
                                                ", which its mask does not name");
    return ~std::uint64_t(0);
  }
  return here->values[source];
}

unsigned warp_vote(const char* name, unsigned mask, bool value) {
  const auto here = meet(name, mask, value, false, HERE);
  unsigned result = 0;
  for (unsigned lane = 0; lane < 32; ++lane) result |= unsigned((mask >> lane & 1) && here->values[lane]) << lane;
  return result;
}

void warp_collect(const char* name, unsigned mask, std::uint64_t value, std::uint64_t* values_of_32_lanes) {
  const auto here = meet(name, mask, value, false, HERE);
  std::memcpy(values_of_32_lanes, here->values, sizeof here->values);
}

// ---- order of memory

void fence(Scope scope) {
  Fiber* self = current;
  machine::preempt();
  self->base = launch->order.join(self->base, self->pending_of_block);
  if (scope == Scope::device) self->base = launch->order.join(self->base, self->pending_of_device);
  const Base* known = machine::knowledge(self);
  self->released_to_block = known;
  if (scope == Scope::device) self->released_to_device = known;
  ++self->own;
}

namespace {

void strong_access(std::uintptr_t at, std::size_t bytes, bool reads, bool writes, Order order, Scope scope,
                   std::uintptr_t pc) {
  Fiber* self = current;
  if (reads && !writes) {
    machine::yield("a loop that reads memory", pc);
  } else {
    machine::preempt();
  }
  const unsigned flags = machine::STRONG | (reads ? machine::READS : 0u) | (writes ? machine::WRITES : 0u);
  machine::access(at, bytes, flags, pc);
  ++machine::counters.atomics;
  auto& place = launch->published[at];
  auto& known = launch->order;
  const bool same_block = place.block == self->block->linear;
  if (reads) {
    const Base* of_block = same_block ? place.to_block : nullptr;
    const Base* of_device = same_block || scope == Scope::device ? place.to_device : nullptr;
    if (order == Order::acquire || order == Order::both) {
      self->base = known.join(known.join(self->base, of_block), of_device);
    } else {
      self->pending_of_block = known.join(self->pending_of_block, of_block);
      self->pending_of_device = known.join(self->pending_of_device, of_device);
    }
  }
  if (!writes) return;
  const Base *to_device = self->released_to_device, *to_block = known.join(self->released_to_block, to_device);
  if (order == Order::release || order == Order::both) {
    to_device = to_block = machine::knowledge(self);
    ++self->own;
  }
  if (scope == Scope::block) to_device = nullptr;
  // a read and write goes on with what the value carried; a store begins anew
  place.to_device = reads ? known.join(place.to_device, to_device) : to_device;
  place.to_block = reads && same_block ? known.join(place.to_block, to_block) : to_block;
  place.block = self->block->linear;
}

}  // namespace

void atomic_access(const volatile void* address, std::size_t bytes, bool reads, bool writes, Order order, Scope scope) {
  if (!current) return;
  strong_access(reinterpret_cast<std::uintptr_t>(address), bytes, reads, writes, order, scope, HERE);
}

void raw_copy(void* to, const volatile void* source, std::size_t bytes) {
  if (launch && std::memcmp(to, const_cast<const void*>(source), bytes) != 0) {
    const auto place = reinterpret_cast<std::uintptr_t>(to);
    const bool own_stack = current && place - reinterpret_cast<std::uintptr_t>(current->stack) < machine::STACK_BYTES;
    if (!own_stack) launch->idle = 0;
  }
  std::memcpy(to, const_cast<const void*>(source), bytes);
}

void pause() { machine::yield("a loop that pauses", HERE); }

void trap(const char* message) {
  machine::report("trap", HERE, message);
  machine::abandon();
}

}  // namespace host_machine

void machine::compute_together(const char* name, void* mine, void (*compute)(const std::uint64_t*), std::uintptr_t pc) {
  const auto here = host_machine::meet(name, 0xffffffffu, reinterpret_cast<std::uintptr_t>(mine), false, pc, compute);
  if (here->pc != pc) report("threads meet at different instructions", pc, name, here->pc);
}

void machine::volatile_access(const void* address, std::size_t bytes, bool writes, std::uintptr_t pc) {
  host_machine::strong_access(reinterpret_cast<std::uintptr_t>(address), bytes, !writes, writes,
                              host_machine::Order::relaxed, host_machine::Scope::device, pc);
}
