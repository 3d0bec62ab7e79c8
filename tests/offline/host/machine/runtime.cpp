// CUDA's runtime for launchers, and what the tests call.
#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstring>

#include "state.h"

namespace {

cudaError_t last_error = cudaSuccess;
std::unordered_map<const void*, std::size_t> dynamic_limits;

cudaError_t failed(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// another machine, which runs kernels in the place of this one; null: there is none
using Runner = int (*)(std::uint64_t kernel, const unsigned* grid, const unsigned* block, std::uint64_t dynamic_bytes,
                       bool cooperative, void* const* arguments, const std::size_t* bytes, std::uint64_t count);
Runner other_machine = nullptr;

constexpr std::size_t SHARED_WITHOUT_OPT_IN = 48 * 1024;

struct ErrorName {
  cudaError_t error;
  const char *name, *text;
};
constexpr ErrorName names[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorCooperativeLaunchTooLarge, "cudaErrorCooperativeLaunchTooLarge",
     "too many blocks in cooperative launch"},
};

const ErrorName& named(cudaError_t error) {
  for (const ErrorName& each : names) {
    if (each.error == error) return each;
  }
  static constexpr ErrorName other{cudaErrorInvalidValue, "cudaErrorOther", "an error that the host machine does not name"};
  return other;
}

int find_segments(dl_phdr_info* info, std::size_t, void* inside) {
  const auto place = reinterpret_cast<std::uintptr_t>(inside);
  std::uintptr_t low = ~std::uintptr_t(0), high = 0, data = 0, data_end = 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_LOAD) continue;
    const std::uintptr_t from = info->dlpi_addr + header.p_vaddr, to = from + header.p_memsz;
    low = std::min(low, from), high = std::max(high, to);
    if (header.p_flags & PF_W) data = from, data_end = to;
  }
  if (place < low || place >= high) return 0;
  machine::code_start = info->dlpi_addr;
  machine::constant_start = low, machine::constant_end = high;
  machine::data_start = data, machine::data_end = data_end;
  return 1;
}

// variables of the kernels' files are memory of the device
[[gnu::constructor]] void find_own_segments() {
  dl_iterate_phdr(&find_segments, reinterpret_cast<void*>(&find_segments));
  machine::register_memory(machine::data_start, machine::data_end - machine::data_start, true, false);
}

}  // namespace

namespace host_machine {

cudaError_t limit_dynamic_shared(const void* kernel, std::size_t bytes) {
  if (bytes > machine::settings.shared_bytes) return failed(cudaErrorInvalidValue);
  dynamic_limits[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t most_blocks(int* blocks, int threads, std::size_t dynamic_bytes) {
  if (threads < 1 || threads > 1024 || dynamic_bytes > machine::settings.shared_bytes) {
    return failed(cudaErrorInvalidValue);
  }
  *blocks = 2048 / ((threads + 31) / 32 * 32);
  // a block has 1 KB of its own beside what it asks for
  const auto by_shared = int((machine::settings.shared_bytes + 1024) / (dynamic_bytes + 1024));
  *blocks = std::min({*blocks, by_shared, 32});
  return cudaSuccess;
}

cudaError_t start(const Configuration& given, const void* kernel, void (*body)(void*), void* arguments,
                  const Passed& passed) {
  const auto& [grid, block, dynamic_bytes, cooperative] = given;
  const auto threads = std::uint64_t(block.x) * block.y * block.z;
  const auto blocks = std::uint64_t(grid.x) * grid.y * grid.z;
  if (!threads || threads > 1024 || block.z > 64 || !blocks || blocks > 1u << 21 || grid.y > 65535 || grid.z > 65535) {
    return failed(cudaErrorInvalidConfiguration);
  }
  auto limit = dynamic_limits.find(kernel);
  if (dynamic_bytes > (limit == dynamic_limits.end() ? SHARED_WITHOUT_OPT_IN : std::max(limit->second, SHARED_WITHOUT_OPT_IN))) {
    return failed(cudaErrorInvalidValue);
  }
  if (cooperative) {
    int most = 0;
    if (most_blocks(&most, int(threads), dynamic_bytes) != cudaSuccess) return cudaErrorInvalidValue;
    if (blocks > std::uint64_t(most) * unsigned(machine::settings.multiprocessors)) {
      return failed(cudaErrorCooperativeLaunchTooLarge);
    }
  }
  if (other_machine != nullptr) {
    const unsigned sizes[] = {grid.x, grid.y, grid.z, block.x, block.y, block.z};
    const auto place = reinterpret_cast<std::uintptr_t>(kernel) - machine::code_start;
    return failed(static_cast<cudaError_t>(
        other_machine(place, sizes, sizes + 3, dynamic_bytes, cooperative, passed.arguments, passed.bytes,
                      passed.count)));
  }
  machine::Launch now;
  now.configuration = given;
  now.body = body, now.arguments = arguments;
  now.blocks = unsigned(blocks), now.threads = unsigned(threads);
  return failed(static_cast<cudaError_t>(machine::run(now)));
}

}  // namespace host_machine

const char* cudaGetErrorName(cudaError_t error) { return named(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return named(error).text; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice); }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  *attributes = {};
  if (machine::is_registered(reinterpret_cast<std::uintptr_t>(pointer), 1)) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->devicePointer = const_cast<void*>(pointer);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(SHARED_WITHOUT_OPT_IN); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(machine::settings.shared_bytes); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(machine::settings.shared_bytes + 1024); break;
    case cudaDevAttrMultiProcessorCount: *value = machine::settings.multiprocessors; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    default: return failed(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  const auto address = reinterpret_cast<std::uintptr_t>(to);
  if (!machine::is_registered(address, bytes)) return failed(cudaErrorInvalidValue);
  std::memset(to, value, bytes);
  machine::mark_written(address, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* source, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, source, bytes);
  const auto address = reinterpret_cast<std::uintptr_t>(to);
  if (machine::is_registered(address, bytes)) machine::mark_written(address, bytes);
  return cudaSuccess;
}

// ---- the tests' side

extern "C" {

struct FaultView {
  const char *kind, *detail;
  std::uint64_t place, other_place;
  std::uint32_t block, thread, other_block, other_thread;
  std::uint64_t count;
};

void machine_configure(std::uint64_t seed, int multiprocessors, std::uint64_t shared_bytes,
                       std::uint64_t most_accesses) {
  machine::settings = {seed, multiprocessors, shared_bytes, most_accesses};
}
void machine_register(std::uintptr_t address, std::uint64_t bytes, int written, int read_only) {
  machine::register_memory(address, bytes, written, read_only);
}
void machine_forget(std::uintptr_t address) { machine::forget_memory(address); }
void machine_forbid(std::uintptr_t address, std::uint64_t bytes, bool forbidden) {
  machine::forbid(address, bytes, forbidden);
}
void machine_redirect(Runner to) { other_machine = to; }
void machine_clear() { machine::clear_report(); }
std::uint64_t machine_faults() { return machine::faults.size(); }
void machine_fault(std::uint64_t index, FaultView* view) {
  const machine::Fault& fault = machine::faults[index];
  *view = {fault.kind.c_str(), fault.detail.c_str(),
           fault.pc - machine::code_start, fault.other_pc ? fault.other_pc - machine::code_start : 0,
           fault.block, fault.thread, fault.other_block, fault.other_thread, fault.count};
}
void machine_counters(std::uint64_t* to) {
  const machine::Counters& counters = machine::counters;
  const std::uint64_t single[] = {counters.loaded_bytes, counters.stored_bytes, counters.launches, counters.accesses,
                                  counters.barriers,     counters.atomics,      counters.switches};
  for (int i = 0; i < 5; ++i) *to++ = counters.loads[i];
  for (int i = 0; i < 5; ++i) *to++ = counters.stores[i];
  for (std::uint64_t value : single) *to++ = value;
}
std::uint64_t machine_banks() { return machine::banks.size(); }
void machine_bank(std::uint64_t index, std::uint64_t* to) {
  auto at = std::next(machine::banks.begin(), std::ptrdiff_t(index));
  const std::uint64_t values[] = {at->first, at->second.accesses, at->second.passes, at->second.least};
  std::copy(std::begin(values), std::end(values), to);
}

}  // extern "C"
