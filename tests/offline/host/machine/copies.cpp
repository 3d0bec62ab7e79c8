// Asynchronous copies into shared memory, and barriers in shared memory.
//
// A copy lands when its thread waits for it. Until then its destination holds NaN, and nobody may touch it.
#include <algorithm>
#include <cstring>

#include "state.h"

using machine::Copy;
using machine::current;
using machine::Fiber;
using machine::launch;
using machine::Mbarrier;

#define HERE reinterpret_cast<std::uintptr_t>(__builtin_return_address(0))

namespace host_machine {

namespace {

void land(const Copy& copy) {
  using namespace machine;
  if (copy.valid) access(copy.from, copy.valid, READS | ANY_ALIGNMENT, copy.pc);
  access(copy.to, copy.bytes, WRITES | ARRIVING | NO_BANKS, copy.pc);
  std::memcpy(reinterpret_cast<void*>(copy.to), reinterpret_cast<const void*>(copy.from), copy.valid);
  std::memset(reinterpret_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
  set_in_flight(copy.to, copy.bytes, false);
}

Mbarrier& known_barrier(void* barrier, const char* what, std::uintptr_t pc) {
  auto found = launch->mbarriers.find(reinterpret_cast<std::uintptr_t>(barrier));
  if (found == launch->mbarriers.end()) {
    machine::report("mbarrier", pc, std::string(what) + " of a barrier that was not initialised");
    machine::abandon();
  }
  return found->second;
}

void arrive_at(Mbarrier& barrier, unsigned count, std::uintptr_t pc) {
  if (count > barrier.missing) {
    machine::report("mbarrier", pc, std::to_string(count) + " arrivals where " + std::to_string(barrier.missing) +
                                        " of " + std::to_string(barrier.count) + " are missing");
    machine::abandon();
  }
  barrier.arriving = launch->order.join(barrier.arriving, machine::knowledge(current));
  ++current->own;
  barrier.missing -= count;
  launch->idle = 0;
  if (barrier.missing) return;
  barrier.missing = barrier.count;
  barrier.phase = !barrier.phase;
  barrier.arrived = barrier.arriving;
  barrier.arriving = nullptr;
}

}  // namespace

void copy_async(void* to, const void* source, unsigned bytes, unsigned valid) {
  using namespace machine;
  preempt();
  Copy copy{reinterpret_cast<std::uintptr_t>(to), reinterpret_cast<std::uintptr_t>(source), bytes, valid, HERE};
  if (valid > bytes || (bytes != 4 && bytes != 8 && bytes != 16)) {
    report("asynchronous copy", HERE, std::to_string(valid) + " of " + std::to_string(bytes) + " bytes");
    abandon();
  }
  if (copy.from % bytes) {
    report("misaligned access", HERE, "the source of a copy of " + std::to_string(bytes) + " bytes");
    abandon();
  }
  if (valid) access(copy.from, valid, READS | ANY_ALIGNMENT, HERE);
  access(copy.to, bytes, WRITES, HERE);
  std::memset(to, 0xff, bytes);
  set_in_flight(copy.to, bytes, true);
  current->open.push_back(copy);
}

void copy_commit() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

void copy_wait(unsigned groups_in_flight) {
  while (current->groups.size() > groups_in_flight) {
    for (const Copy& copy : current->groups.front()) land(copy);
    current->groups.erase(current->groups.begin());
  }
}

void mbarrier_init(void* barrier, unsigned count) {
  machine::access(reinterpret_cast<std::uintptr_t>(barrier), 8, machine::NO_BANKS | machine::WRITES, HERE);
  Mbarrier fresh;
  fresh.count = fresh.missing = count;
  launch->mbarriers[reinterpret_cast<std::uintptr_t>(barrier)] = fresh;
}

void mbarrier_invalidate(void* barrier) {
  known_barrier(barrier, "invalidation", HERE);
  machine::access(reinterpret_cast<std::uintptr_t>(barrier), 8, machine::NO_BANKS | machine::WRITES, HERE);
  launch->mbarriers.erase(reinterpret_cast<std::uintptr_t>(barrier));
}

std::uint64_t mbarrier_arrive(void* barrier, unsigned count) {
  machine::preempt();
  // whoever initialised it must have happened before
  machine::access(reinterpret_cast<std::uintptr_t>(barrier), 8, machine::NO_BANKS | machine::READS, HERE);
  Mbarrier& state = known_barrier(barrier, "arrival", HERE);
  const bool phase = state.phase;
  arrive_at(state, count, HERE);
  return phase;
}

void mbarrier_arrive_after_copies(void* barrier) {
  machine::access(reinterpret_cast<std::uintptr_t>(barrier), 8, machine::NO_BANKS | machine::READS, HERE);
  Mbarrier& state = known_barrier(barrier, "arrival", HERE);
  for (const auto& group : current->groups) std::for_each(group.begin(), group.end(), land);
  std::for_each(current->open.begin(), current->open.end(), land);
  current->groups.clear(), current->open.clear();
  arrive_at(state, 1, HERE);
}

bool mbarrier_test(void* barrier, bool parity) {
  machine::yield("a loop that tests an mbarrier", HERE);
  machine::access(reinterpret_cast<std::uintptr_t>(barrier), 8, machine::NO_BANKS | machine::READS, HERE);
  Mbarrier& state = known_barrier(barrier, "a test", HERE);
  // the phase of this parity is over when another one runs
  if (state.phase == parity) return false;
  current->base = launch->order.join(current->base, state.arrived);
  return true;
}

void mbarrier_wait(void* barrier, bool parity) {
  const std::uintptr_t pc = HERE;
  machine::access(reinterpret_cast<std::uintptr_t>(barrier), 8, machine::NO_BANKS | machine::READS, pc);
  while (known_barrier(barrier, "a wait", pc).phase == parity) machine::yield("an mbarrier", pc);
  Mbarrier& state = known_barrier(barrier, "a wait", pc);
  current->base = launch->order.join(current->base, state.arrived);
}

}  // namespace host_machine
