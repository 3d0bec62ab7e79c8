// The order in which blocks take the chunks of all rows.

#include <optimizer/optimizer.h>

#include <cstddef>

namespace unmask::optimizer {

namespace {

// Chunks of a first pass that come between a row and its second pass. About as many blocks run at once on the largest
// GPUs, so that the second pass seldom waits; their 24 MiB still fit in the L2 cache of 50 MB.
constexpr long long LAG = 256;

}  // namespace

std::vector<Item> work_items(const std::vector<long long>& elements, bool two_passes) {
  std::vector<Item> items;
  std::vector<int> first_slots;
  long long slot = 0;
  std::size_t waiting = 0;  // the first row whose second pass is not in the list
  const auto append = [&](std::size_t row, int second_pass) {
    const int chunks = static_cast<int>(chunk_count(elements[row]));
    for (int chunk = 0; chunk < chunks; ++chunk) {
      items.push_back({static_cast<int>(row), chunk, first_slots[row] + chunk, second_pass});
    }
  };
  for (std::size_t row = 0; row < elements.size(); ++row) {
    first_slots.push_back(static_cast<int>(slot));
    append(row, 0);
    slot += chunk_count(elements[row]);
    while (two_passes && waiting <= row && slot - first_slots[waiting] - chunk_count(elements[waiting]) >= LAG) {
      append(waiting++, 1);
    }
  }
  while (two_passes && waiting < elements.size()) append(waiting++, 1);
  return items;
}

}  // namespace unmask::optimizer
