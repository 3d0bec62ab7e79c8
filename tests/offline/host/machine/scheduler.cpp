// Threads as fibers, and who runs next.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <set>

#include "state.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace machine {

Launch* launch = nullptr;
Fiber* current = nullptr;
Settings settings;

namespace {

enum class Style { first, random, deepest };
struct {
  Style style = Style::first;
  unsigned resident = 1;
  unsigned interval = 0;  // accesses between two changes of thread, on average; 0: threads change where they wait
  bool reversed = false, shuffled = false;
} schedule;
std::uint64_t random_state = 1;
std::vector<char*> free_stacks;

#if defined(__x86_64__)
extern "C" void host_machine_switch(void** save, void* load);
asm(R"(
.text
.globl host_machine_switch
.hidden host_machine_switch
.type host_machine_switch,@function
host_machine_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_machine_switch, .-host_machine_switch
)");
#else
void host_machine_switch(void** save, void* load) {
  if (!*save) *save = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(load));
}
#endif

void* scheduler_pointer = nullptr;
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
std::size_t scheduler_stack_bytes = 0;
#endif

void to_scheduler(bool last) {
  Fiber* self = current;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake, scheduler_stack, scheduler_stack_bytes);
#else
  static_cast<void>(last);
#endif
  host_machine_switch(&self->stack_pointer, scheduler_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void to_fiber(Fiber* fiber) {
  ++counters.switches;
  current = fiber;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, fiber->stack, STACK_BYTES);
#endif
  host_machine_switch(&scheduler_pointer, fiber->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  current = nullptr;
}

void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  launch->body(launch->arguments);
  Fiber* self = current;
  self->groups.push_back(std::move(self->open));
  for (const auto& group : self->groups) {
    if (!group.empty()) report("copy in flight", group.front().pc, "the thread ends before it has waited for its copies");
  }
  end_products();
  self->state = Fiber::DONE;
  to_scheduler(true);
  std::abort();
}

void prepare(Fiber* fiber) {
  if (free_stacks.empty()) {
    void* stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) std::abort();
    free_stacks.push_back(static_cast<char*>(stack));
  }
  fiber->stack = free_stacks.back();
  free_stacks.pop_back();
#if defined(__x86_64__)
  auto* top = reinterpret_cast<void**>(fiber->stack + STACK_BYTES);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber->stack_pointer = top;
#else
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = fiber->stack;
  context->uc_stack.ss_size = STACK_BYTES;
  context->uc_link = nullptr;
  makecontext(context, &enter, 0);
  fiber->stack_pointer = context;
#endif
}

// Who runs next is drawn from the seed. Schedule 0 takes threads in order and 1 in reverse, one block after the other.
void choose_schedule() {
  random_state = settings.seed * 0x9e3779b97f4a7c15ull + 0x1234567ull;
  draw();
  schedule = {};
  schedule.reversed = settings.seed == 1;
  if (settings.seed < 2) return;
  const std::uint64_t drawn = draw();
  schedule.style = drawn % 4 == 0 ? Style::first : drawn % 4 == 1 ? Style::deepest : Style::random;
  schedule.resident = 1 + unsigned(drawn / 4 % 8);
  constexpr unsigned intervals[] = {0, 3, 40, 600};
  schedule.interval = intervals[drawn / 128 % 4];
  schedule.reversed = drawn / 32 % 2;
  schedule.shuffled = drawn / 64 % 2;
}

void start_block(Launch& now, unsigned linear) {
  auto block = std::make_unique<Block>();
  const dim3 grid = now.configuration.grid, size = now.configuration.block;
  block->linear = linear;
  block->index = {linear % grid.x, linear / grid.x % grid.y, linear / grid.x / grid.y};
  block->live = now.threads;
  std::set<unsigned> taken;
  for (auto& other : now.resident) taken.insert(other->slot);
  while (taken.count(block->slot)) ++block->slot;
  open_shared(block->slot, now.configuration.dynamic_bytes);
  block->warps.resize((now.threads + 31) / 32);
  block->banks.begin(unsigned(block->warps.size()));
  std::vector<Fiber*> fibers;
  for (unsigned i = 0; i < now.threads; ++i) {
    auto fiber = std::make_unique<Fiber>();
    fiber->block = block.get();
    fiber->linear = i;
    fiber->thread = linear << BLOCK_SHIFT | i;
    fiber->index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
    prepare(fiber.get());
    fibers.push_back(fiber.get());
    block->fibers.push_back(std::move(fiber));
  }
  if (schedule.reversed) std::reverse(fibers.begin(), fibers.end());
  if (schedule.shuffled) {
    for (std::size_t i = fibers.size(); i > 1; --i) std::swap(fibers[i - 1], fibers[draw() % i]);
  }
  now.ready.insert(now.ready.end(), fibers.begin(), fibers.end());
  now.resident.push_back(std::move(block));
  now.idle = 0;
}

Fiber* choose(Launch& now) {
  auto& ready = now.ready;
  if (schedule.style == Style::random) std::swap(ready.front(), ready[draw() % ready.size()]);
  Fiber* fiber = schedule.style == Style::deepest ? ready.back() : ready.front();
  if (schedule.style == Style::deepest) {
    ready.pop_back();
  } else {
    ready.pop_front();
  }
  return fiber;
}

void release_stacks(Block& block) {
  for (auto& fiber : block.fibers) {
    if (fiber->stack) free_stacks.push_back(fiber->stack);
#if !defined(__x86_64__)
    delete static_cast<ucontext_t*>(fiber->stack_pointer);
#endif
    fiber->stack = nullptr;
  }
}

void end_thread(Launch& now, Fiber* fiber) {
  now.idle = 0;
  Block* block = fiber->block;
  if (--block->live) return;
  for (unsigned warp = 0; warp < block->warps.size(); ++warp) block->banks.flush(warp);
  for (auto& [id, barrier] : block->barriers) {
    if (!barrier.arrived.empty()) {
      report("unfinished barrier", barrier.pc,
             std::to_string(barrier.arrived.size()) + " threads have arrived at " + barrier.name +
                 " when the block ends");
    }
  }
  release_stacks(*block);
  auto& resident = now.resident;
  resident.erase(std::find_if(resident.begin(), resident.end(), [&](auto& each) { return each.get() == block; }));
}

// One fault for each place where threads wait that nothing will wake.
void report_deadlock(Launch& now, bool spinning) {
  struct Waiting {
    unsigned count = 0;
    std::set<const Block*> blocks;
    const Fiber* first = nullptr;
  };
  std::map<std::pair<std::string, std::uintptr_t>, Waiting> places;
  unsigned left = 0;
  for (auto& block : now.resident) {
    for (auto& fiber : block->fibers) {
      if (fiber->state == Fiber::DONE) {
        ++left;
        continue;
      }
      if (!fiber->waits_in) continue;
      auto& place = places[{fiber->waits_in, fiber->waits_at}];
      ++place.count;
      place.blocks.insert(block.get());
      if (!place.first) place.first = fiber.get();
    }
  }
  for (auto& [where, waiting] : places) {
    std::string text = std::to_string(waiting.count) + " of " + std::to_string(waiting.blocks.size() * now.threads) +
                       " threads wait in " + where.first + " for ever";
    if (left) text += "; " + std::to_string(left) + " threads have left the kernel";
    if (now.blocks > now.resident.size()) {
      text += "; " + std::to_string(now.resident.size()) + " of " + std::to_string(now.blocks) + " blocks are resident";
    }
    current = const_cast<Fiber*>(waiting.first);
    report(spinning ? "deadlock: a loop waits for ever" : "deadlock", where.second, text);
    current = nullptr;
  }
}

}  // namespace

std::uint64_t draw() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

void make_ready(Fiber* fiber) {
  fiber->state = Fiber::READY;
  fiber->waits_in = nullptr;
  launch->ready.push_back(fiber);
}

void yield(const char* waits_in, std::uintptr_t pc) {
  current->waits_in = waits_in, current->waits_at = pc;
  // the deepest thread runs on, so one that gives way goes to the end of that queue
  if (schedule.style == Style::deepest) {
    launch->ready.push_front(current);
  } else {
    launch->ready.push_back(current);
  }
  if (waits_in) ++launch->idle;
  to_scheduler(false);
}

void preempt() {
  if (schedule.interval && draw() % schedule.interval == 0) yield(nullptr, 0);
}

void wait(const char* name, std::uintptr_t pc) {
  current->state = Fiber::WAITING;
  current->waits_in = name, current->waits_at = pc;
  to_scheduler(false);
}

void abandon() {
  launch->failed = true;
  to_scheduler(true);
  std::abort();
}

const Base* knowledge(Fiber* fiber) { return launch->order.with(fiber->base, {{fiber->thread, fiber->own}}); }

void synchronize(const std::vector<Fiber*>& threads, const std::vector<Fiber*>& learners) {
  const Base* all = nullptr;
  const Base* last = nullptr;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> clocks;
  for (Fiber* fiber : threads) {
    if (fiber->base != last) all = launch->order.join(all, fiber->base);
    last = fiber->base;
    clocks.emplace_back(fiber->thread, fiber->own++);
  }
  std::sort(clocks.begin(), clocks.end());
  all = launch->order.with(all, clocks);
  for (Fiber* fiber : learners) fiber->base = all;
  launch->idle = 0;
}

int run(Launch& now) {
  launch = &now;
  choose_schedule();
  begin_launch_memory();
  now.order.begin(now.blocks, now.threads);
  counters.launches += 1;
  unsigned resident = now.configuration.cooperative ? now.blocks : schedule.resident;
  resident = std::min(resident, SLOTS);
  std::vector<unsigned> order(now.blocks);
  std::iota(order.begin(), order.end(), 0);
  if (schedule.reversed) std::reverse(order.begin(), order.end());
  if (schedule.shuffled) {
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[draw() % i]);
  }
  std::size_t next = 0;
  while (!now.failed) {
    while (next < order.size() && now.resident.size() < resident) start_block(now, order[next++]);
    if (now.resident.empty()) break;
    if (now.ready.empty() || now.idle > 2000 * now.ready.size() + 20000) {
      report_deadlock(now, !now.ready.empty());
      now.failed = true;
      break;
    }
    Fiber* fiber = choose(now);
    if (counters.switches > settings.most_accesses) {
      current = fiber;
      report("endless loop", fiber->waits_at,
             "the launch goes on after " + std::to_string(counters.switches) + " changes of thread");
      current = nullptr;
      now.failed = true;
      break;
    }
    to_fiber(fiber);
    if (fiber->state == Fiber::DONE) end_thread(now, fiber);
  }
  for (auto& block : now.resident) release_stacks(*block);
  now.resident.clear();
  launch = nullptr;
  return now.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace machine
