// What memory exists, who accessed it, and what is wrong with an access.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace machine {

struct Fiber;
struct Block;

constexpr unsigned PAGE_SHIFT = 12, PAGE = 1u << PAGE_SHIFT;
constexpr std::size_t SLOT = std::size_t(1) << 19;     // address space for the shared memory of a block
constexpr std::size_t SLOT_MARGIN = std::size_t(1) << 16;  // in front of it
constexpr unsigned SLOTS = 4096;

// The last write of a piece of memory, and its reads since then. Threads are counted from 1; 0 is nobody.
struct Cell {
  std::uint32_t writer, write_clock, write_pc;
  std::uint32_t reader, read_clock, read_pc;  // reader SEVERAL: read_clock is a place in the list of readers
  std::uint8_t strong_write, strong_read;     // atomic or volatile
};
constexpr std::uint32_t SEVERAL = ~0u;

struct Page {
  std::uint64_t exists[PAGE / 64], written[PAGE / 64], in_flight[PAGE / 64], read_only[PAGE / 64];
  unsigned shift = 2;  // a cell has 1 << shift bytes
  std::uint32_t launch = 0;
  std::vector<Cell> cells;
};

// A fault, as it is found; the reader of the report turns places in the code into lines.
struct Fault {
  std::string kind, detail;
  std::uintptr_t pc, other_pc;
  std::uint32_t block, thread, other_block, other_thread;
  std::uint64_t count;
};

// Counts of the accesses of one place in the code to shared memory, by whole warps.
struct Banks {
  std::uint64_t accesses = 0, passes = 0, least = 0;
};

// Collects the accesses of the lanes of each warp at one place in the code, and counts the passes that they need.
class BankCounter {
 public:
  void begin(unsigned warps) { sites_.assign(warps, {}); }
  void access(unsigned warp, unsigned lane, std::uint32_t pc, std::uintptr_t offset, unsigned bytes);
  // lanes that meet begin to count anew
  void flush(unsigned warp);

 private:
  struct Group {
    std::uint32_t offsets[32];
    std::uint32_t lanes = 0;
    unsigned bytes = 0;
  };
  struct Site {
    std::uint32_t count[32] = {};
    std::vector<Group> groups;
  };
  void evaluate(std::uint32_t pc, const Group& group);
  std::vector<std::unordered_map<std::uint32_t, Site>> sites_;
};

struct Counters {
  std::uint64_t loads[5] = {}, stores[5] = {};  // of global memory, by bytes: 1, 2, 4, 8, 16
  std::uint64_t loaded_bytes = 0, stored_bytes = 0;
  std::uint64_t launches = 0, accesses = 0, barriers = 0, atomics = 0, switches = 0;
};

extern std::vector<Fault> faults;
extern std::map<std::uint32_t, Banks> banks;
extern Counters counters;
extern std::uintptr_t code_start, data_start, data_end, constant_start, constant_end;

std::uint32_t short_pc(std::uintptr_t pc);

// Note a fault of the current thread. Faults at the same places count once.
void report(const char* kind, std::uintptr_t pc, const std::string& detail, std::uintptr_t other_pc = 0,
            std::uint32_t other_thread = 0);

void clear_report();

enum AccessFlags : unsigned { READS = 1, WRITES = 2, STRONG = 4, ANY_ALIGNMENT = 8, ARRIVING = 16, NO_BANKS = 32,
                              ASYNCHRONOUS = 64 };
// Check an access of the current thread and remember it. Ends the launch if the address does not exist.
void access(std::uintptr_t address, std::size_t bytes, unsigned flags, std::uintptr_t pc);
void set_in_flight(std::uintptr_t address, std::size_t bytes, bool value);

void register_memory(std::uintptr_t address, std::size_t bytes, bool written, bool read_only);
void forget_memory(std::uintptr_t address);
bool is_registered(std::uintptr_t address, std::size_t bytes);
// Tell AddressSanitizer, if the machine is compiled for it, that these bytes may not or may be accessed.
void forbid(std::uintptr_t address, std::size_t bytes, bool forbidden);
void mark_written(std::uintptr_t address, std::size_t bytes);
void begin_launch_memory();
void open_shared(unsigned slot, std::size_t bytes);
char* shared_start(unsigned slot);

}  // namespace machine
