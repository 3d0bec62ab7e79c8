// What the tests call of csrc/optimizer: tables, and the two launches. A call returns 0, or 1 if CUDA reports an error.
#include <optimizer/optimizer.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <utility>
#include <vector>

using namespace unmask::optimizer;

namespace {

Group groups[MAX_GROUPS];
std::vector<Row> noted;

template <typename Function>
int status_of(Function function) {
  try {
    function();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace

extern "C" {

int optimizer_chunk() { return CHUNK; }

// Return how many items there are; write them unless `to` is null.
long long optimizer_items(const long long* elements, long long rows, long long two_passes, Item* to) {
  const std::vector<Item> items = work_items(std::vector<long long>(elements, elements + rows), two_passes != 0);
  if (to) std::copy(items.begin(), items.end(), to);
  return static_cast<long long>(items.size());
}

// Note a row; `optimizer_rows` writes the noted ones into a table on the device.
void optimizer_row(float* weight, const void* gradient, float* first, float* second, void* copy, float* step,
                   long long elements, long long group, long long gradient_dtype, long long copy_dtype) {
  Row row{};
  row.weight = weight, row.gradient = gradient, row.first = first, row.second = second, row.copy = copy;
  row.step = step, row.elements = elements, row.group = static_cast<int>(group);
  row.gradient_dtype = static_cast<Dtype>(gradient_dtype), row.copy_dtype = static_cast<Dtype>(copy_dtype);
  row.counts_step = true;
  noted.push_back(row);
}

int optimizer_rows(Row* to) {
  const std::vector<Row> rows = std::move(noted);
  noted.clear();
  return status_of([&] { launch_rows(to, rows, nullptr); });
}

void optimizer_group(long long at, const float* learning_rate_at, double beta1, double beta2, double eps,
                     double weight_decay, long long corrects_bias, long long adapts) {
  Group group{};
  group.learning_rate_at = learning_rate_at;
  group.beta2 = static_cast<float>(beta2);
  group.complement1 = static_cast<float>(1.0 - beta1), group.complement2 = static_cast<float>(1.0 - beta2);
  group.log_beta1 = static_cast<float>(std::log(beta1)), group.log_beta2 = static_cast<float>(std::log(beta2));
  group.eps = static_cast<float>(eps), group.weight_decay = static_cast<float>(weight_decay);
  group.corrects_bias = corrects_bias != 0, group.adapts = adapts != 0;
  groups[at] = group;
}

int optimizer_norm(const Row* rows, const Item* items, long long count, float* partials, unsigned* finished,
                   const float* grad_scale, const float* found_inf, float* norm, float* skipped) {
  NormParameters parameters{rows, items, partials, finished, grad_scale, found_inf, norm, skipped};
  return status_of([&] { launch_norm(parameters, static_cast<unsigned>(count), nullptr); });
}

int optimizer_update(long long rule, const Row* rows, long long row_count, const Item* items, long long count,
                     float2* partials, float* ratios, unsigned* counters, const float* grad_scale,
                     const float* found_inf, const float* norm, double max_norm) {
  UpdateParameters parameters{};
  parameters.rows = rows, parameters.items = items, parameters.partials = partials, parameters.ratios = ratios;
  parameters.counters = counters, parameters.grad_scale = grad_scale, parameters.found_inf = found_inf;
  parameters.norm = norm, parameters.max_norm = static_cast<float>(max_norm);
  parameters.row_count = static_cast<int>(row_count);
  std::copy(groups, groups + MAX_GROUPS, parameters.groups);
  return status_of([&] { launch_update(static_cast<Rule>(rule), parameters, static_cast<unsigned>(count), nullptr); });
}

}  // extern "C"
