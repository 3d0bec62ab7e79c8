// Philox-4x32-10 (Salmon et al., SC 2011) for masks of dropout, with AVX2 where the CPU has it.
//
//   a round     c0, c1, c2, c3  ->  high(c2 B) ^ c1 ^ k0, low(c2 B), high(c0 A) ^ c3 ^ k1, low(c0 A)
//
// Ten rounds make 4 words of 32 bits from a counter: 8 lanes of 16 bits, which decide about 8 neighbouring columns.
// A vector of four 64-bit numbers holds a word of four counters in the lower halves. The instruction that multiplies
// reads those halves only, so what is left in the upper ones needs no clearing: a round is two products, two shifts and
// four exclusive ors for four counters.

#include <cpu/philox.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#define UNMASK_AVX2 1
#include <immintrin.h>
#else
#define UNMASK_AVX2 0
#endif

namespace unmask::cpu {

namespace {

constexpr uint32_t A = 0xD2511F53u, B = 0xCD9E8D57u;
constexpr uint32_t KEY_STEP_A = 0x9E3779B9u, KEY_STEP_B = 0xBB67AE85u;
constexpr int ROUNDS = 10;
constexpr int COLUMNS_OF_COUNTER = 8;
// a thread costs some 50 microseconds, and a counter some 4 nanoseconds
constexpr int64_t COUNTERS_WORTH_A_THREAD = 1 << 15;

// The counters of a row are (first + group, second, low half of address, high half of address).
struct Row {
  uint32_t first;
  uint32_t second;
  uint64_t address;
};

// Writes the row that starts at `out`. It may write past the row, but not past `end`: the rows behind it come later.
using DrawRow = void (*)(const Row& row, const Mask& mask, uint8_t* out, const uint8_t* end);

int64_t groups_of(int64_t columns) { return (columns + COLUMNS_OF_COUNTER - 1) / COLUMNS_OF_COUNTER; }

void draw_row(const Row& row, const Mask& mask, uint8_t* out, const uint8_t* end) {
  const int64_t groups = groups_of(mask.columns);
  for (int64_t group = 0; group < groups; ++group, out += COLUMNS_OF_COUNTER) {
    uint32_t c0 = row.first + static_cast<uint32_t>(group), c1 = row.second;
    uint32_t c2 = static_cast<uint32_t>(row.address), c3 = static_cast<uint32_t>(row.address >> 32);
    uint32_t k0 = static_cast<uint32_t>(mask.key), k1 = static_cast<uint32_t>(mask.key >> 32);
    for (int round = 0; round < ROUNDS; ++round, k0 += KEY_STEP_A, k1 += KEY_STEP_B) {
      const uint64_t upper = static_cast<uint64_t>(c0) * A, lower = static_cast<uint64_t>(c2) * B;
      c0 = static_cast<uint32_t>(lower >> 32) ^ c1 ^ k0;
      c2 = static_cast<uint32_t>(upper >> 32) ^ c3 ^ k1;
      c1 = static_cast<uint32_t>(lower);
      c3 = static_cast<uint32_t>(upper);
    }
    const uint32_t words[] = {c0, c1, c2, c3};
    const int64_t count = std::min<int64_t>(COLUMNS_OF_COUNTER, end - out);
    for (int64_t lane = 0; lane < count; ++lane) {
      out[lane] = (words[lane / 2] >> (lane % 2 * 16) & 0xFFFFu) >= mask.bound;
    }
  }
}

#if UNMASK_AVX2

#define WITH_AVX2 __attribute__((target("avx2")))

constexpr int COUNTERS_OF_VECTOR = 4;
constexpr int COLUMNS_OF_VECTOR = COUNTERS_OF_VECTOR * COLUMNS_OF_COUNTER;

// Decide about the columns of `vectors` times four counters from `group` on.
template <int vectors>
WITH_AVX2 inline void draw_vectors(const Row& row, const Mask& mask, int64_t group, uint8_t* out, const uint8_t* end) {
  __m256i c0[vectors], c1[vectors], c2[vectors], c3[vectors];
  for (int v = 0; v < vectors; ++v) {
    const int64_t first = row.first + group + v * COUNTERS_OF_VECTOR;
    c0[v] = _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_setr_epi64x(0, 1, 2, 3));
    c1[v] = _mm256_set1_epi64x(row.second);
    c2[v] = _mm256_set1_epi64x(static_cast<int64_t>(row.address));
    c3[v] = _mm256_set1_epi64x(static_cast<int64_t>(row.address >> 32));
  }
  const __m256i a = _mm256_set1_epi64x(A), b = _mm256_set1_epi64x(B);
  uint32_t k0 = static_cast<uint32_t>(mask.key), k1 = static_cast<uint32_t>(mask.key >> 32);
  for (int round = 0; round < ROUNDS; ++round, k0 += KEY_STEP_A, k1 += KEY_STEP_B) {
    const __m256i key_0 = _mm256_set1_epi64x(k0), key_1 = _mm256_set1_epi64x(k1);
    for (int v = 0; v < vectors; ++v) {
      const __m256i upper = _mm256_mul_epu32(c0[v], a), lower = _mm256_mul_epu32(c2[v], b);
      c0[v] = _mm256_xor_si256(_mm256_srli_epi64(lower, 32), _mm256_xor_si256(c1[v], key_0));
      c2[v] = _mm256_xor_si256(_mm256_srli_epi64(upper, 32), _mm256_xor_si256(c3[v], key_1));
      c1[v] = lower;
      c3[v] = upper;
    }
  }
  const __m256i bound = _mm256_set1_epi16(static_cast<int16_t>(mask.bound)), one = _mm256_set1_epi8(1);
  alignas(32) uint8_t kept[vectors * COLUMNS_OF_VECTOR];
  for (int v = 0; v < vectors; ++v) {
    // words 0 and 1, and words 2 and 3, of counters 0 1 2 3
    const __m256i left = _mm256_blend_epi32(c0[v], _mm256_slli_epi64(c1[v], 32), 0xAA);
    const __m256i right = _mm256_blend_epi32(c2[v], _mm256_slli_epi64(c3[v], 32), 0xAA);
    // all words of counters 0 and 2, and of 1 and 3; a lane reaches the bound if it is the larger one
    const __m256i even = _mm256_unpacklo_epi64(left, right), odd = _mm256_unpackhi_epi64(left, right);
    const __m256i even_kept = _mm256_cmpeq_epi16(_mm256_max_epu16(even, bound), even);
    const __m256i odd_kept = _mm256_cmpeq_epi16(_mm256_max_epu16(odd, bound), odd);
    // packing goes by halves of 128 bits, which puts the counters into order again
    const __m256i bytes = _mm256_and_si256(_mm256_packs_epi16(even_kept, odd_kept), one);
    _mm256_store_si256(reinterpret_cast<__m256i*>(kept + v * COLUMNS_OF_VECTOR), bytes);
  }
  std::memcpy(out, kept, std::min<int64_t>(sizeof kept, end - out));
}

WITH_AVX2 void draw_row_with_avx2(const Row& row, const Mask& mask, uint8_t* out, const uint8_t* end) {
  const int64_t groups = groups_of(mask.columns);
  int64_t group = 0;
  // two vectors at a time, for the product of one waits for the product before it
  for (; group + COUNTERS_OF_VECTOR < groups; group += 2 * COUNTERS_OF_VECTOR) {
    draw_vectors<2>(row, mask, group, out + group * COLUMNS_OF_COUNTER, end);
  }
  if (group < groups) draw_vectors<1>(row, mask, group, out + group * COLUMNS_OF_COUNTER, end);
}

#endif

DrawRow fastest() {
#if UNMASK_AVX2
  if (__builtin_cpu_supports("avx2")) return draw_row_with_avx2;
#endif
  return draw_row;
}

DrawRow chosen = fastest();

// Call `draw(begin, end)` for all rows: in this thread, or for a share of them in each of several.
template <typename Draw>
void share(int64_t rows, int64_t counters_of_row, int threads, const Draw& draw) {
  const int64_t worth = rows * counters_of_row / COUNTERS_WORTH_A_THREAD;
  const int64_t shares = std::max<int64_t>(1, std::min({static_cast<int64_t>(threads), rows, worth}));
  std::vector<std::thread> others;
  int64_t started = 1;
  try {
    for (; started < shares; ++started) {
      others.emplace_back([&, started] { draw(rows * started / shares, rows * (started + 1) / shares); });
    }
  } catch (const std::system_error&) {
    // the system has no thread left; this one does the rest
  }
  draw(int64_t{0}, rows / shares);
  draw(rows * started / shares, rows);
  for (std::thread& other : others) other.join();
}

template <typename RowOf>
void keep(const Mask& mask, int64_t rows, const RowOf& row_of) {
  if (mask.bound > 0xFFFFu) {
    std::memset(mask.keep, 0, static_cast<size_t>(rows * mask.columns));
    return;
  }
  share(rows, groups_of(mask.columns), mask.threads, [&](int64_t begin, int64_t end) {
    const uint8_t* end_of_share = mask.keep + end * mask.columns;
    for (int64_t row = begin; row < end; ++row) {
      chosen(row_of(row), mask, mask.keep + row * mask.columns, end_of_share);
    }
  });
}

}  // namespace

void keep_rows(const Mask& mask, const uint64_t* row_keys, int64_t rows) {
  keep(mask, rows, [=](int64_t row) { return Row{0, 0, row_keys[row]}; });
}

void keep_scores(const Mask& mask, const uint64_t* document_keys, int64_t documents, int64_t heads, int64_t first_row,
                 int64_t rows) {
  keep(mask, documents * heads * rows, [=](int64_t at) {
    const auto position = static_cast<uint32_t>(first_row + at % rows);
    const int64_t head = at / rows % heads, document = at / rows / heads;
    return Row{position << 16, static_cast<uint32_t>(head), document_keys[document]};
  });
}

void use_vectors(bool wanted) { chosen = wanted ? fastest() : draw_row; }

}  // namespace unmask::cpu
