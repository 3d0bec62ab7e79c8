// Which accesses happen before which: vector clocks of all threads of a launch.
//
// A thread's clock is `base` for the others and `own` for itself. Bases are never changed once they are shared, so
// threads that left the same barrier hold the same one. A base has a part for each block, which bases share too.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

namespace machine {

constexpr unsigned BLOCK_SHIFT = 10;  // a block has up to 1024 threads

struct Part {
  std::vector<std::uint32_t> clocks;  // of the threads of one block
};

struct Base {
  std::vector<const Part*> parts;  // of the blocks; null: nothing is known of the block
};

// Of one launch; it owns every base.
class Order {
 public:
  void begin(unsigned blocks, unsigned threads) {
    blocks_ = blocks, threads_ = threads;
    bases_.clear(), parts_.clear();
  }

  static std::uint32_t of(const Base* base, std::uint32_t thread) {
    const Part* part = base ? base->parts[thread >> BLOCK_SHIFT] : nullptr;
    return part ? part->clocks[thread & ((1u << BLOCK_SHIFT) - 1)] : 0;
  }

  // Return what is known when both are known.
  const Base* join(const Base* a, const Base* b) {
    if (a == b || !b) return a;
    if (!a) return b;
    Base* result = nullptr;
    for (unsigned block = 0; block < blocks_; ++block) {
      const Part* joined = join(a->parts[block], b->parts[block]);
      if (joined == a->parts[block]) continue;
      if (!result) result = copy(a);
      result->parts[block] = joined;
    }
    return result ? result : a;
  }

  // Return `base` with the clocks of these threads set, pairs of (thread, clock).
  const Base* with(const Base* base, const std::vector<std::pair<std::uint32_t, std::uint32_t>>& clocks) {
    Base* result = base ? copy(base) : empty();
    unsigned last = ~0u;
    Part* part = nullptr;
    for (auto [thread, clock] : clocks) {
      unsigned block = thread >> BLOCK_SHIFT;
      if (block != last) {
        part = fresh(result->parts[block]);
        result->parts[block] = part;
        last = block;
      }
      part->clocks[thread & ((1u << BLOCK_SHIFT) - 1)] = clock;
    }
    return result;
  }

 private:
  const Part* join(const Part* a, const Part* b) {
    if (a == b || !b) return a;
    if (!a) return b;
    bool a_covers = true, b_covers = true;
    for (unsigned i = 0; i < threads_; ++i) {
      a_covers &= a->clocks[i] >= b->clocks[i];
      b_covers &= b->clocks[i] >= a->clocks[i];
    }
    if (a_covers) return a;
    if (b_covers) return b;
    Part* result = fresh(a);
    for (unsigned i = 0; i < threads_; ++i) {
      if (b->clocks[i] > result->clocks[i]) result->clocks[i] = b->clocks[i];
    }
    return result;
  }

  Part* fresh(const Part* like) {
    parts_.push_back(like ? *like : Part{std::vector<std::uint32_t>(threads_)});
    return &parts_.back();
  }
  Base* empty() {
    bases_.push_back(Base{std::vector<const Part*>(blocks_)});
    return &bases_.back();
  }
  Base* copy(const Base* base) {
    bases_.push_back(*base);
    return &bases_.back();
  }

  unsigned blocks_ = 0, threads_ = 0;
  std::deque<Base> bases_;
  std::deque<Part> parts_;
};

}  // namespace machine
