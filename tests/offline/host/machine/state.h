// The state of the machine: the launch that runs, its blocks and its threads. One host thread uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "../include/host_launch.h"
#include "memory.h"
#include "order.h"
#include "wgmma.h"

namespace machine {

struct Block;

// An asynchronous copy of one thread.
struct Copy {
  std::uintptr_t to, from;
  unsigned bytes, valid;
  std::uintptr_t pc;
};

struct Fiber {
  enum State { READY, WAITING, DONE };
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  State state = READY;
  Block* block = nullptr;
  host_machine::Index index{};
  std::uint32_t linear = 0;  // in the block
  std::uint32_t thread = 0;  // in the launch: block << BLOCK_SHIFT | linear
  // what is known to have happened; what a fence has released; what a fence would acquire
  const Base* base = nullptr;
  std::uint32_t own = 1;
  const Base *released_to_block = nullptr, *released_to_device = nullptr;
  const Base *pending_of_block = nullptr, *pending_of_device = nullptr;
  int combined = 0;  // result of its last barrier
  // where it waits, for messages
  const char* waits_in = nullptr;
  std::uintptr_t waits_at = 0;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
  std::unique_ptr<Multiplier> multiplier;  // once the thread has multiplied
  // its clocks at fences for the asynchronous proxy, and what it knew at the last one
  std::vector<std::uint32_t> proxy_fences;
  const Base* before_proxy_fence = nullptr;

  unsigned lane() const { return linear & 31; }
  unsigned warp() const { return linear >> 5; }
};

// A barrier that some threads have reached. `id` and `threads` name it, and for a warp its mask.
struct Rendezvous {
  const char* name = nullptr;
  std::vector<Fiber*> arrived;  // those that wait, and those that have only arrived
  std::vector<Fiber*> waiting;
  std::uintptr_t pc = 0;
  int combined_count = 0;
  unsigned mask = 0;
  std::uint64_t values[32] = {};
  unsigned reached = 0;  // lanes
};

struct Block {
  unsigned linear = 0;
  host_machine::Index index{};
  std::vector<std::unique_ptr<Fiber>> fibers;
  unsigned live = 0;
  unsigned slot = 0;  // of shared memory
  std::map<unsigned, Rendezvous> barriers;
  std::vector<std::vector<std::shared_ptr<Rendezvous>>> warps;  // open ones of each warp
  BankCounter banks;
  std::map<unsigned, Warpgroup> warpgroups;
  std::vector<std::shared_ptr<Product>> products;  // in flight
};

// Knowledge that an atomic access passes on.
struct Published {
  const Base *to_device = nullptr, *to_block = nullptr;
  unsigned block = ~0u;
};

struct Mbarrier {
  unsigned count = 0, missing = 0;
  bool phase = false;
  const Base *arriving = nullptr, *arrived = nullptr;
};

struct Launch {
  host_machine::Configuration configuration{};
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
  unsigned blocks = 0, threads = 0;
  Order order;
  std::vector<std::unique_ptr<Block>> resident;
  std::deque<Fiber*> ready;
  std::unordered_map<std::uintptr_t, Published> published;
  std::unordered_map<std::uintptr_t, Mbarrier> mbarriers;
  Rendezvous grid;
  std::uint64_t idle = 0;  // rounds of waiting loops since memory last changed; many: they wait for nothing
  bool failed = false;
};

extern Launch* launch;
extern Fiber* current;

struct Settings {
  std::uint64_t seed = 0;
  int multiprocessors = 4;
  std::size_t shared_bytes = 227 * 1024;
  std::uint64_t most_accesses = 2'000'000'000;
};
extern Settings settings;

// the generator of schedules
std::uint64_t draw();

// Give way; the thread goes on when the scheduler chooses it. A loop that waits says in what, so that idling is noticed.
void yield(const char* waits_in, std::uintptr_t pc);
// Give way, if the schedule wants it here.
void preempt();
// Wait until another thread makes this one ready.
void wait(const char* name, std::uintptr_t pc);
void make_ready(Fiber* fiber);
// End the launch: nothing of it runs again.
[[noreturn]] void abandon();
int run(Launch& given);

// A volatile access is a relaxed one of the whole device.
void volatile_access(const void* address, std::size_t bytes, bool writes, std::uintptr_t pc);

// Meet all lanes of the warp at an instruction. The last one computes for all, from an address that each gives.
void compute_together(const char* name, void* mine, void (*compute)(const std::uint64_t*), std::uintptr_t pc);

// All of these threads know what each of them knows.
void synchronize(const std::vector<Fiber*>& threads, const std::vector<Fiber*>& learners);
const Base* knowledge(Fiber* fiber);

constexpr std::size_t STACK_BYTES = 256 * 1024;

}  // namespace machine
