#include "runtime/kernels/linear_table.h"
#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {
namespace {

constexpr std::int64_t kRowBlock = 64;

template <class T>
void column_sums(const T* dy, std::int64_t rows, std::int64_t stride, std::int64_t columns, bool accumulate, float* sums) {
  float total[kernels::kSumColumns] = {};
  float block[kernels::kSumColumns];
  for (std::int64_t first = 0; first < rows; first += kRowBlock) {
    const std::int64_t last = first + kRowBlock < rows ? first + kRowBlock : rows;
    for_each_vec(columns, [&](std::int64_t c, int n) { store(get(dy + first * stride + c, n), block + c); });
    for (std::int64_t r = first + 1; r < last; ++r) {
      for_each_vec(columns, [&](std::int64_t c, int n) { store(load(block + c) + get(dy + r * stride + c, n), block + c); });
    }
    for_each_vec(columns, [&](std::int64_t c, int) { store(load(total + c) + load(block + c), total + c); });
  }
  for_each_vec(columns, [&](std::int64_t c, int n) {
    const Vec sum = load(total + c);
    put(accumulate ? get(sums + c, n) + sum : sum, sums + c, n);
  });
}

}  // namespace

const kernels::LinearTable& linear_table() {
  static constexpr kernels::LinearTable table = {.loops = {{column_sums<float>}, {column_sums<bf16>}}};
  return table;
}

}  // namespace strata::STRATA_ISA
