#include "runtime/kernels/rope_table.h"
#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {
namespace {

template <class T>
void apply(const kernels::RopeLoop<T>& a, std::int64_t first, std::int64_t last) {
  const std::int64_t half = a.H / 2;
  const Vec sign = splat(a.inverse ? -1.0f : 1.0f);
  for (std::int64_t r = first; r < last; ++r) {
    const float* cos = a.cos + r % a.seq * half;
    const float* sin = a.sin + r % a.seq * half;
    for (std::int64_t m = 0; m < a.heads; ++m) {
      T* lower = a.qkv + r * a.D + m * a.H;
      T* upper = lower + half;
      for_each_vec(half, [&](std::int64_t i, int n) {
        const Vec c = get(cos + i, n);
        const Vec s = get(sin + i, n) * sign;
        const Vec x = get(lower + i, n);
        const Vec y = get(upper + i, n);
        put(x * c - y * s, lower + i, n);
        put(fma(x, s, y * c), upper + i, n);
      });
    }
  }
}

}  // namespace

const kernels::RopeTable& rope_table() {
  static constexpr kernels::RopeTable kTable = {{apply<float>}, {apply<bf16>}};
  return kTable;
}

}  // namespace strata::STRATA_ISA
