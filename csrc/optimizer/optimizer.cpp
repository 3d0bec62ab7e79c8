// unmask_kernels._C.optimizer: the tables that the host writes, the two launches, and their checks.

#include <common/launch.h>
#include <optimizer/optimizer.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace py = pybind11;

namespace unmask::optimizer {

namespace {

using Address = std::uintptr_t;
using Addresses = std::vector<Address>;

template <typename Pointed>
Pointed* pointer(Address address) {
  return reinterpret_cast<Pointed*>(address);
}

// Throw std::invalid_argument, a ValueError in Python, with the way out that only the caller can know left to it.
void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument("unmask_kernels._C.optimizer: " + message);
}

// An address that the caller must give, of elements of so many bytes.
template <typename Pointed>
Pointed* needed(const char* name, Address address, std::size_t bytes = sizeof(Pointed)) {
  require(address != 0, std::string(name) + " must be an address, got 0");
  require(address % bytes == 0, std::string(name) + " must be aligned to elements of " + std::to_string(bytes) +
                                    " bytes, got address " + std::to_string(address));
  return pointer<Pointed>(address);
}

std::size_t bytes_of(Dtype dtype) { return dtype == Dtype::FP32 ? 4 : 2; }

Dtype dtype_of(const char* name, int dtype) {
  require(dtype >= static_cast<int>(Dtype::FP32) && dtype <= static_cast<int>(Dtype::FP16),
          std::string(name) + " must be fp32 (1), bf16 (2) or fp16 (3), got " + std::to_string(dtype));
  return static_cast<Dtype>(dtype);
}

unsigned blocks_of(long long items) {
  require(items > 0 && items <= std::numeric_limits<int>::max(),
          "items must be from 1 to 2**31 - 1, got " + std::to_string(items));
  return static_cast<unsigned>(items);
}

long long count_items(const std::vector<long long>& elements, bool two_passes) {
  long long chunks = 0;
  for (const long long count : elements) {
    require(count >= 0, "elements must be at least 0, got " + std::to_string(count));
    chunks += chunk_count(count);
  }
  const long long items = two_passes ? 2 * chunks : chunks;
  require(items <= std::numeric_limits<int>::max(), "there are more than 2**31 - 1 items");
  return items;
}

void write_items(Address address, const std::vector<long long>& elements, bool two_passes) {
  static_cast<void>(count_items(elements, two_passes));
  const std::vector<Item> items = work_items(elements, two_passes);
  if (!items.empty()) std::copy(items.begin(), items.end(), needed<Item>("items", address));
}

// Write rows into a table on a device. Lists have an entry for each row; a copy of 0 is no copy.
void write_rows(int device, Address stream, Address address, const Addresses& weights, const Addresses& gradients,
                const Addresses& first, const Addresses& second, const Addresses& copies, const Addresses& steps,
                const std::vector<long long>& elements, const std::vector<int>& groups, int gradient_dtype,
                int copy_dtype) {
  const std::size_t count = weights.size();
  for (const std::size_t size :
       {gradients.size(), first.size(), second.size(), copies.size(), steps.size(), elements.size(), groups.size()}) {
    require(size == count, "every list must have one entry for each of " + std::to_string(count) + " rows, got " +
                               std::to_string(size));
  }
  const Dtype of_gradients = dtype_of("gradients", gradient_dtype);
  const Dtype of_copies = copy_dtype == 0 ? Dtype::NONE : dtype_of("copies", copy_dtype);
  require(of_copies != Dtype::FP32, "copies of the weights must be bf16 or fp16, got fp32");
  std::vector<Row> rows(count);
  for (std::size_t at = 0; at < count; ++at) {
    require(groups[at] >= 0 && groups[at] < MAX_GROUPS,
            "a group must be from 0 to " + std::to_string(MAX_GROUPS - 1) + ", got " + std::to_string(groups[at]));
    Row& row = rows[at];
    row.elements = elements[at];
    row.group = groups[at];
    row.gradient_dtype = of_gradients;
    row.step = needed<float>("a step count", steps[at]);
    row.counts_step = true;
    // what has no elements has no address
    if (row.elements == 0) continue;
    row.weight = needed<float>("a parameter", weights[at]);
    row.gradient = needed<void>("a gradient", gradients[at], bytes_of(of_gradients));
    row.first = needed<float>("a first moment", first[at]);
    row.second = needed<float>("a second moment", second[at]);
    if (of_copies != Dtype::NONE) {
      row.copy = needed<void>("a copy", copies[at], bytes_of(of_copies));
      row.copy_dtype = of_copies;
    }
  }
  const DeviceGuard guard(device);
  launch_rows(needed<Row>("rows", address), rows, pointer<CUstream_st>(stream));
}

Group make_group(double learning_rate, Address learning_rate_at, double beta1, double beta2, double eps,
                 double weight_decay, bool corrects_bias, bool adapts) {
  Group group{};
  group.learning_rate = static_cast<float>(learning_rate);
  group.learning_rate_at = pointer<const float>(learning_rate_at);
  group.beta2 = static_cast<float>(beta2);
  group.complement1 = static_cast<float>(1.0 - beta1);
  group.complement2 = static_cast<float>(1.0 - beta2);
  group.log_beta1 = static_cast<float>(std::log(beta1));
  group.log_beta2 = static_cast<float>(std::log(beta2));
  group.eps = static_cast<float>(eps);
  group.weight_decay = static_cast<float>(weight_decay);
  group.corrects_bias = corrects_bias;
  group.adapts = adapts;
  return group;
}

void norm(int device, Address stream, Address rows, Address items, long long item_count, Address partials,
          Address finished, Address grad_scale, Address found_inf, Address norm_at, Address skipped) {
  NormParameters parameters{};
  parameters.rows = needed<const Row>("rows", rows);
  parameters.items = needed<const Item>("items", items);
  parameters.partials = needed<float>("partials", partials);
  parameters.finished = needed<unsigned>("finished", finished);
  parameters.grad_scale = pointer<const float>(grad_scale);
  parameters.found_inf = pointer<const float>(found_inf);
  parameters.norm = needed<float>("norm", norm_at);
  parameters.skipped = pointer<float>(skipped);
  const unsigned blocks = blocks_of(item_count);
  const DeviceGuard guard(device);
  launch_norm(parameters, blocks, pointer<CUstream_st>(stream));
}

void update(int device, Address stream, int rule, Address rows, int row_count, Address items, long long item_count,
            Address partials, Address ratios, Address counters, Address grad_scale, Address found_inf, Address norm_at,
            double max_norm, const std::vector<Group>& groups) {
  require(rule >= 0 && rule <= static_cast<int>(Rule::LAMB), "rule must be 0, 1 or 2, got " + std::to_string(rule));
  require(!groups.empty() && groups.size() <= MAX_GROUPS, "there must be 1 to " + std::to_string(MAX_GROUPS) +
                                                              " groups, got " + std::to_string(groups.size()));
  require(max_norm > 0.0, "max_norm must be above 0, got " + std::to_string(max_norm));
  UpdateParameters parameters{};
  parameters.rows = needed<const Row>("rows", rows);
  parameters.items = needed<const Item>("items", items);
  if (static_cast<Rule>(rule) != Rule::ADAMW) {
    parameters.partials = needed<float2>("partials", partials);
    parameters.ratios = needed<float>("ratios", ratios);
  }
  parameters.counters = needed<unsigned>("counters", counters);
  parameters.grad_scale = pointer<const float>(grad_scale);
  parameters.found_inf = pointer<const float>(found_inf);
  parameters.norm = pointer<const float>(norm_at);
  parameters.max_norm = static_cast<float>(max_norm);
  parameters.row_count = row_count;
  std::copy(groups.begin(), groups.end(), parameters.groups);
  const unsigned blocks = blocks_of(item_count);
  const DeviceGuard guard(device);
  launch_update(static_cast<Rule>(rule), parameters, blocks, pointer<CUstream_st>(stream));
}

// Load all kernels onto a device, and return for each its name, registers and bytes of local memory of a thread, and the
// architecture of the code that was chosen, such as 90.
std::vector<std::tuple<std::string, int, std::size_t, int>> load(int device) {
  const DeviceGuard guard(device);
  std::vector<std::tuple<std::string, int, std::size_t, int>> found;
  for (const Kernel& kernel : load_kernels()) {
    const cudaFuncAttributes& attributes = kernel.attributes;
    found.emplace_back(kernel.name, attributes.numRegs, attributes.localSizeBytes, attributes.binaryVersion);
  }
  return found;
}

}  // namespace

}  // namespace unmask::optimizer

namespace unmask {

void register_optimizer(py::module_& module) {
  using namespace py::literals;
  namespace family = optimizer;
  py::module_ m = module.def_submodule("optimizer", "AdamW, StableAdamW and LAMB over all parameters.");
  m.attr("CHUNK") = family::CHUNK;
  m.attr("MAX_GROUPS") = family::MAX_GROUPS;
  m.attr("ROW_BYTES") = sizeof(family::Row);
  m.attr("ITEM_BYTES") = sizeof(family::Item);
  m.attr("FIRST_ROW_COUNTER") = family::FIRST_ROW_COUNTER;
  py::class_<family::Group>(m, "Group")
      .def(py::init(&family::make_group), py::kw_only(), "learning_rate"_a, "learning_rate_at"_a, "beta1"_a, "beta2"_a,
           "eps"_a, "weight_decay"_a, "corrects_bias"_a, "adapts"_a);
  m.def("count_items", &family::count_items, "elements"_a, py::kw_only(), "two_passes"_a);
  m.def("write_items", &family::write_items, "address"_a, "elements"_a, py::kw_only(), "two_passes"_a);
  m.def("write_rows", &family::write_rows, py::kw_only(), "device"_a, "stream"_a, "address"_a, "weights"_a,
        "gradients"_a, "first"_a, "second"_a, "copies"_a, "steps"_a, "elements"_a, "groups"_a, "gradient_dtype"_a,
        "copy_dtype"_a);
  m.def("norm", &family::norm, py::kw_only(), "device"_a, "stream"_a, "rows"_a, "items"_a, "item_count"_a,
        "partials"_a, "finished"_a, "grad_scale"_a, "found_inf"_a, "norm"_a, "skipped"_a);
  m.def("update", &family::update, py::kw_only(), "device"_a, "stream"_a, "rule"_a, "rows"_a, "row_count"_a, "items"_a,
        "item_count"_a, "partials"_a, "ratios"_a, "counters"_a, "grad_scale"_a, "found_inf"_a, "norm"_a, "max_norm"_a,
        "groups"_a);
  m.def("load", &family::load, "device"_a);
}

}  // namespace unmask
