#include "memory.h"

#include <sys/mman.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

#include <algorithm>
#include <cstring>
#include <memory>

#include "state.h"

namespace machine {

std::vector<Fault> faults;
std::map<std::uint32_t, Banks> banks;
Counters counters;
std::uintptr_t code_start, data_start, data_end, constant_start, constant_end;

namespace {

struct Allocation {
  std::size_t bytes;
  bool written, read_only;
};
// The threads of a block that have read a piece of memory which several threads read: their clocks, 0 for the others.
struct Readers {
  std::uint32_t block, pc;
  bool strong;
  std::vector<std::uint32_t> clocks;
};
using Bits = std::uint64_t[PAGE / 64];

std::map<std::uintptr_t, Allocation> allocations;
std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages;
struct {
  std::uintptr_t key = 0;
  Page* page = nullptr;
} recent[4096];
std::vector<std::vector<Readers>> readers;
std::map<std::tuple<std::string, std::uintptr_t, std::uintptr_t>, std::size_t> known;
std::uint32_t launch_number = 0;

std::uintptr_t shared_pool() {
  static const std::uintptr_t pool = reinterpret_cast<std::uintptr_t>(
      mmap(nullptr, SLOTS * SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return pool;
}

// the bits of [first, first + count) within one word
std::uint64_t mask_of(unsigned first, unsigned count) {
  return (count >= 64 ? ~std::uint64_t(0) : (std::uint64_t(1) << count) - 1) << first;
}
template <class Function>
void each_word(unsigned first, unsigned count, Function function) {
  while (count) {
    unsigned word = first / 64, bit = first % 64, here = std::min(count, 64 - bit);
    function(word, mask_of(bit, here));
    first += here, count -= here;
  }
}
void set(Bits& bits, unsigned first, unsigned count, bool value) {
  each_word(first, count, [&](unsigned word, std::uint64_t mask) {
    bits[word] = value ? bits[word] | mask : bits[word] & ~mask;
  });
}
bool all(const Bits& bits, unsigned first, unsigned count) {
  bool result = true;
  each_word(first, count, [&](unsigned word, std::uint64_t mask) { result &= (bits[word] & mask) == mask; });
  return result;
}
bool any(const Bits& bits, unsigned first, unsigned count) {
  bool result = false;
  each_word(first, count, [&](unsigned word, std::uint64_t mask) { result |= (bits[word] & mask) != 0; });
  return result;
}

void fill(Page& page, std::uintptr_t start, const Allocation& allocation, std::uintptr_t key) {
  std::uintptr_t from = std::max(start, key << PAGE_SHIFT);
  std::uintptr_t to = std::min(start + allocation.bytes, (key + 1) << PAGE_SHIFT);
  if (from >= to) return;
  unsigned first = unsigned(from & (PAGE - 1)), count = unsigned(to - from);
  set(page.exists, first, count, true);
  set(page.written, first, count, allocation.written);
  set(page.read_only, first, count, allocation.read_only);
}

Page* find(std::uintptr_t address, bool create) {
  std::uintptr_t key = address >> PAGE_SHIFT;
  auto& cached = recent[key % 4096];
  if (cached.key == key && cached.page) return cached.page;
  auto found = pages.find(key);
  Page* page = found == pages.end() ? nullptr : found->second.get();
  if (!page) {
    if (!create) return nullptr;
    auto made = std::make_unique<Page>();
    std::memset(made->exists, 0, sizeof(Bits));
    std::memset(made->written, 0, sizeof(Bits));
    std::memset(made->in_flight, 0, sizeof(Bits));
    std::memset(made->read_only, 0, sizeof(Bits));
    auto next = allocations.lower_bound((key + 1) << PAGE_SHIFT);
    bool touched = false;
    while (next != allocations.begin()) {
      --next;
      if (next->first + next->second.bytes <= key << PAGE_SHIFT) break;
      fill(*made, next->first, next->second, key);
      touched = true;
    }
    if (!touched) return nullptr;
    page = made.get();
    pages.emplace(key, std::move(made));
  }
  cached.key = key, cached.page = page;
  return page;
}

void refine(Page& page, unsigned shift) {
  std::vector<Cell> finer(PAGE >> shift);
  for (std::size_t i = 0; i < finer.size(); ++i) finer[i] = page.cells[i >> (page.shift - shift)];
  // every copy of a list of readers grows by itself from now on
  for (std::size_t i = 0; i < finer.size(); ++i) {
    if (finer[i].reader == SEVERAL && (i & ((1u << (page.shift - shift)) - 1))) {
      readers.push_back(readers[finer[i].read_clock]);
      finer[i].read_clock = std::uint32_t(readers.size() - 1);
    }
  }
  page.cells = std::move(finer);
  page.shift = shift;
}

// Call `function(key, page)` for each page of these addresses that is in use.
template <class Function>
void each_page(std::uintptr_t address, std::size_t bytes, Function function) {
  const std::uintptr_t first = address >> PAGE_SHIFT, last = (address + bytes - 1) >> PAGE_SHIFT;
  if (last - first < pages.size()) {
    for (std::uintptr_t key = first; key <= last; ++key) {
      if (auto found = pages.find(key); found != pages.end()) function(key, *found->second);
    }
    return;
  }
  for (auto& [key, page] : pages) {
    if (key >= first && key <= last) function(key, *page);
  }
}

bool before(std::uint32_t thread, std::uint32_t clock, const Fiber* now) {
  return thread == now->thread || Order::of(now->base, thread) >= clock;
}

// Whether a write is behind a fence for the asynchronous proxy: by its thread, or by this one, which then knew of it.
bool is_fenced(std::uint32_t thread, std::uint32_t clock, const Fiber* now) {
  const Fiber* const writer = now->block->fibers[thread & ((1u << BLOCK_SHIFT) - 1)].get();
  const auto fence = std::lower_bound(writer->proxy_fences.begin(), writer->proxy_fences.end(), clock);
  if (fence != writer->proxy_fences.end() && before(thread, *fence, now)) return true;
  return thread != now->thread && Order::of(now->before_proxy_fence, thread) >= clock;
}

const char* kind_of_race(bool shared, std::uint32_t other, const Fiber* now) {
  if (shared) return "race in shared memory";
  return other >> BLOCK_SHIFT == now->thread >> BLOCK_SHIFT ? "race in global memory"
                                                            : "race in global memory between blocks";
}

void add_reader(std::vector<Readers>& list, std::uint32_t thread, std::uint32_t clock, std::uint32_t pc, bool strong) {
  const std::uint32_t block = thread >> BLOCK_SHIFT;
  // blocks that run at the same time stand at the end
  auto found = std::find_if(list.rbegin(), list.rend(),
                            [&](const Readers& each) { return each.block == block && each.strong == strong; });
  if (found == list.rend()) {
    list.push_back({block, pc, strong, std::vector<std::uint32_t>(launch->threads)});
    found = list.rbegin();
  }
  found->pc = pc;
  found->clocks[thread & ((1u << BLOCK_SHIFT) - 1)] = clock;
}

void check_cell(Cell& cell, const Fiber* now, unsigned flags, std::uintptr_t pc, bool shared) {
  const bool strong = flags & STRONG;
  const std::uint32_t me = now->thread + 1, here = short_pc(pc);
  if (cell.writer && cell.writer != me && !(strong && cell.strong_write) &&
      !before(cell.writer - 1, cell.write_clock, now)) {
    report(kind_of_race(shared, cell.writer - 1, now), pc,
           flags & WRITES ? "is written after it was written" : "is read after it was written",
           code_start + cell.write_pc, cell.writer);
  }
  if (flags & ASYNCHRONOUS && cell.writer && !is_fenced(cell.writer - 1, cell.write_clock, now)) {
    report("wgmma without a proxy fence", pc, "reads what was written before no fence.proxy.async",
           code_start + cell.write_pc, cell.writer);
  }
  if (flags & WRITES) {
    auto check = [&](std::uint32_t reader, std::uint32_t clock, std::uint32_t read_pc, bool strong_read) {
      if (reader == me || (strong && strong_read) || before(reader - 1, clock, now)) return;
      report(kind_of_race(shared, reader - 1, now), pc, "is written after it was read", code_start + read_pc, reader);
    };
    if (cell.reader == SEVERAL) {
      for (const Readers& each : readers[cell.read_clock]) {
        for (std::uint32_t i = 0; i < each.clocks.size(); ++i) {
          if (each.clocks[i]) check((each.block << BLOCK_SHIFT | i) + 1, each.clocks[i], each.pc, each.strong);
        }
      }
    } else if (cell.reader) {
      check(cell.reader, cell.read_clock, cell.read_pc, cell.strong_read);
    }
    cell.writer = me, cell.write_clock = now->own, cell.write_pc = here, cell.strong_write = strong;
    cell.reader = 0;
    return;
  }
  if (cell.reader == SEVERAL) {
    add_reader(readers[cell.read_clock], now->thread, now->own, here, strong);
  } else if (!cell.reader || before(cell.reader - 1, cell.read_clock, now)) {
    cell.reader = me, cell.read_clock = now->own, cell.read_pc = here, cell.strong_read = strong;
  } else {
    readers.emplace_back();
    add_reader(readers.back(), cell.reader - 1, cell.read_clock, cell.read_pc, cell.strong_read);
    add_reader(readers.back(), now->thread, now->own, here, strong);
    cell.reader = SEVERAL, cell.read_clock = std::uint32_t(readers.size() - 1);
  }
}

std::string hexadecimal(std::uintptr_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", (unsigned long long)value);
  return text;
}

// How far an address is from the memory that exists.
std::string neighbour(std::uintptr_t address, std::size_t bytes, unsigned flags) {
  std::string what = std::to_string(bytes) + " bytes are " + (flags & WRITES ? "written" : "read") + " ";
  if (address - shared_pool() < SLOTS * SLOT) {
    std::uintptr_t start = shared_pool() + (address - shared_pool()) / SLOT * SLOT + SLOT_MARGIN;
    return what + "at " + std::to_string(std::int64_t(address - start)) + " of " +
           std::to_string(launch->configuration.dynamic_bytes) + " bytes of shared memory";
  }
  if (address < 4096) return what + "at address " + hexadecimal(address) + ", a null pointer";
  auto next = allocations.upper_bound(address);
  std::string near = "at an address far from all memory";
  std::uintptr_t distance = std::uintptr_t(1) << 40;
  if (next != allocations.end() && next->first - address < distance) {
    distance = next->first - address;
    near = std::to_string(distance) + " bytes before memory of " + std::to_string(next->second.bytes) + " bytes";
  }
  if (next != allocations.begin()) {
    auto last = std::prev(next);
    std::uintptr_t end = last->first + last->second.bytes;
    std::uintptr_t behind = address >= end ? address - end : 0;
    if (behind < distance) {
      near = "at byte " + std::to_string(address - last->first) + " of memory of " +
             std::to_string(last->second.bytes) + " bytes";
    }
  }
  return what + near;
}

}  // namespace

std::uint32_t short_pc(std::uintptr_t pc) { return std::uint32_t(pc - code_start); }

void report(const char* kind, std::uintptr_t pc, const std::string& detail, std::uintptr_t other_pc,
            std::uint32_t other_thread) {
  auto [found, fresh] = known.try_emplace({kind, pc, other_pc}, faults.size());
  if (!fresh) {
    ++faults[found->second].count;
    return;
  }
  Fault fault{kind, detail, pc, other_pc, ~0u, ~0u, ~0u, ~0u, 1};
  constexpr std::uint32_t low = (1u << BLOCK_SHIFT) - 1;
  if (current) fault.block = current->thread >> BLOCK_SHIFT, fault.thread = current->thread & low;
  if (other_thread) {
    fault.other_block = (other_thread - 1) >> BLOCK_SHIFT, fault.other_thread = (other_thread - 1) & low;
  }
  faults.push_back(fault);
}

void clear_report() {
  faults.clear(), known.clear(), banks.clear();
  counters = {};
}

void access(std::uintptr_t address, std::size_t bytes, unsigned flags, std::uintptr_t pc) {
  const Fiber* now = current;
  const bool shared = address - shared_pool() < SLOTS * SLOT;
  if (++counters.accesses > settings.most_accesses) {
    report("endless loop", pc, "the launch goes on after " + std::to_string(counters.accesses) + " accesses");
    abandon();
  }
  if (shared && (address - shared_pool()) / SLOT != now->block->slot) {
    report("shared memory of another block", pc, neighbour(address, bytes, flags));
    abandon();
  }
  if (!(flags & ANY_ALIGNMENT) && (address & (bytes - 1))) {
    report("misaligned access", pc,
           std::to_string(bytes) + " bytes at an address that is " + std::to_string(address & (bytes - 1)) +
               " modulo " + std::to_string(bytes));
    abandon();
  }
  if (shared && !(flags & (STRONG | NO_BANKS)) && bytes <= 16 && !(bytes & (bytes - 1))) {
    now->block->banks.access(now->warp(), now->lane(), short_pc(pc), address - shared_pool(), unsigned(bytes));
  }
  if (!shared && bytes <= 16) {
    const unsigned width = bytes >= 16 ? 4 : bytes >= 8 ? 3 : bytes >= 4 ? 2 : bytes >= 2 ? 1 : 0;
    if (flags & READS) ++counters.loads[width], counters.loaded_bytes += bytes;
    if (flags & WRITES) ++counters.stores[width], counters.stored_bytes += bytes;
  }
  if (flags & WRITES && !(flags & READS)) launch->idle = 0;
  if (flags & WRITES && shared && !now->block->products.empty()) check_operands(address, bytes, pc);
  for (std::size_t done = 0; done < bytes;) {
    const unsigned offset = unsigned((address + done) & (PAGE - 1));
    const unsigned count = unsigned(std::min<std::size_t>(bytes - done, PAGE - offset));
    Page* page = find(address + done, true);
    if (!page || !all(page->exists, offset, count)) {
      if (!(flags & WRITES) && address >= constant_start && address + bytes <= constant_end) return;
      report(shared ? "out of bounds in shared memory" : "out of bounds", pc, neighbour(address, bytes, flags));
      abandon();
    }
    if (flags & WRITES && any(page->read_only, offset, count)) {
      report("write to constant memory", pc, neighbour(address, bytes, flags));
      abandon();
    }
    if (!(flags & ARRIVING) && any(page->in_flight, offset, count)) {
      report("copy in flight", pc,
             std::string(flags & WRITES ? "writes" : "reads") + " what an asynchronous copy has not delivered");
    } else if (flags & READS && !all(page->written, offset, count)) {
      report(shared ? "uninitialised shared memory" : "uninitialised global memory", pc,
             neighbour(address, bytes, flags));
    }
    if (flags & WRITES) set(page->written, offset, count, true);
    if (page->launch != launch_number) {
      page->launch = launch_number, page->shift = 2;
      page->cells.assign(PAGE >> page->shift, Cell{});
    }
    unsigned shift = page->shift;
    while (shift && ((offset | count) & ((1u << shift) - 1))) --shift;
    if (shift < page->shift) refine(*page, shift);
    for (unsigned at = offset >> page->shift; at < (offset + count) >> page->shift; ++at) {
      check_cell(page->cells[at], now, flags, pc, shared);
    }
    done += count;
  }
}

void set_in_flight(std::uintptr_t address, std::size_t bytes, bool value) {
  for (std::size_t done = 0; done < bytes; ++done) {
    if (Page* page = find(address + done, true)) set(page->in_flight, unsigned((address + done) & (PAGE - 1)), 1, value);
  }
}

void register_memory(std::uintptr_t address, std::size_t bytes, bool written, bool read_only) {
  if (!bytes) return;
  const Allocation allocation{bytes, written, read_only};
  allocations[address] = allocation;
  each_page(address, bytes, [&](std::uintptr_t key, Page& page) { fill(page, address, allocation, key); });
}

void forget_memory(std::uintptr_t address) {
  auto found = allocations.find(address);
  if (found == allocations.end()) return;
  std::vector<std::uintptr_t> unused;
  each_page(address, found->second.bytes, [&](std::uintptr_t key, Page& page) {
    const std::uintptr_t from = std::max(address, key << PAGE_SHIFT);
    const std::uintptr_t to = std::min(address + found->second.bytes, (key + 1) << PAGE_SHIFT);
    set(page.exists, unsigned(from & (PAGE - 1)), unsigned(to - from), false);
    if (!any(page.exists, 0, PAGE)) unused.push_back(key);
  });
  for (std::uintptr_t key : unused) {
    pages.erase(key);
    recent[key % 4096] = {};
  }
  allocations.erase(found);
}

bool is_registered(std::uintptr_t address, std::size_t bytes) {
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) return false;
  auto last = std::prev(next);
  return address + bytes <= last->first + last->second.bytes;
}

void forbid(std::uintptr_t address, std::size_t bytes, bool forbidden) {
#if defined(__SANITIZE_ADDRESS__)
  auto* memory = reinterpret_cast<void*>(address);
  forbidden ? __asan_poison_memory_region(memory, bytes) : __asan_unpoison_memory_region(memory, bytes);
#else
  static_cast<void>(address), static_cast<void>(bytes), static_cast<void>(forbidden);
#endif
}

void mark_written(std::uintptr_t address, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes;) {
    const unsigned offset = unsigned((address + done) & (PAGE - 1));
    const unsigned count = unsigned(std::min<std::size_t>(bytes - done, PAGE - offset));
    if (Page* page = find(address + done, true)) set(page->written, offset, count, true);
    done += count;
  }
}

void begin_launch_memory() {
  ++launch_number;
  readers.clear();
}

char* shared_start(unsigned slot) { return reinterpret_cast<char*>(shared_pool() + slot * SLOT + SLOT_MARGIN); }

void open_shared(unsigned slot, std::size_t bytes) {
  const auto start = reinterpret_cast<std::uintptr_t>(shared_start(slot));
  for (std::uintptr_t key = start >> PAGE_SHIFT; key <= (start + bytes) >> PAGE_SHIFT; ++key) {
    auto& page = pages[key];
    if (!page) page = std::make_unique<Page>();
    std::memset(page->exists, 0, sizeof(Bits));
    std::memset(page->written, 0, sizeof(Bits));
    std::memset(page->in_flight, 0, sizeof(Bits));
    std::memset(page->read_only, 0, sizeof(Bits));
    page->launch = 0;
    fill(*page, start, Allocation{bytes, false, false}, key);
  }
  forbid(start - SLOT_MARGIN, SLOT, true);
  forbid(start, bytes, false);
  // a value that was never written is NaN
  std::memset(shared_start(slot), 0xff, bytes);
}

void BankCounter::access(unsigned warp, unsigned lane, std::uint32_t pc, std::uintptr_t offset, unsigned bytes) {
  Site& site = sites_[warp][pc];
  const std::uint32_t turn = site.count[lane]++;
  if (turn >= site.groups.size()) site.groups.resize(turn + 1);
  Group& group = site.groups[turn];
  group.offsets[lane] = std::uint32_t(offset);
  group.lanes |= 1u << lane;
  group.bytes = std::max(group.bytes, bytes);
}

void BankCounter::flush(unsigned warp) {
  for (auto& [pc, site] : sites_[warp]) {
    for (const Group& group : site.groups) evaluate(pc, group);
  }
  sites_[warp].clear();
}

void BankCounter::evaluate(std::uint32_t pc, const Group& group) {
  // 8 bytes a lane go by half warps, 16 bytes by quarters; equal words of a bank are one pass
  const unsigned parts = group.bytes <= 4 ? 1 : group.bytes / 4, lanes = 32 / parts;
  Banks& count = banks[pc];
  ++count.accesses;
  for (unsigned part = 0; part < parts; ++part) {
    std::vector<std::uint32_t> words[32];
    std::size_t passes = 0;
    for (unsigned lane = part * lanes; lane < (part + 1) * lanes; ++lane) {
      if (!(group.lanes >> lane & 1)) continue;
      const std::uint32_t first = group.offsets[lane] / 4, last = (group.offsets[lane] + group.bytes - 1) / 4;
      for (std::uint32_t word = first; word <= last; ++word) {
        auto& bank = words[word % 32];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
        passes = std::max(passes, bank.size());
      }
    }
    count.passes += passes;
    count.least += passes > 0;
  }
}

}  // namespace machine
