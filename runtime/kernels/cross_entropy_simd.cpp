#include <cmath>

#include "runtime/kernels/cross_entropy_table.h"
#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {
namespace {

constexpr float kInfinity = __builtin_inff();

// A softmax denominator as sum * e^max. Chunks stay in the L1 cache between their two passes, so a row is read from memory
// once; one rescaling per chunk instead of one per element.
struct Denominator {
  float max = -kInfinity;
  double sum = 0.0;
  float shift() const { return max == -kInfinity ? 0.0f : max; }  // -inf - -inf would be NaN
};

template <class T>
float max_of(const T* x, std::int64_t count) {
  Vec top = splat(-kInfinity);
  for_each_vec(count, [&](std::int64_t i, int n) {
    Vec v = get(x + i, n);
    if (n < Vec::kLanes) v = select_first(n, v, top);
    top = max(top, v);
  });
  return reduce_max(top);
}

template <class T>
Denominator denominator_of(const T* x, std::int64_t V) {
  constexpr std::int64_t kChunk = 1024;
  Denominator d;
  for (std::int64_t first = 0; first < V; first += kChunk) {
    const std::int64_t count = V - first < kChunk ? V - first : kChunk;
    const float top = max_of(x + first, count);
    if (top > d.max) {
      d.sum *= std::exp(static_cast<double>(d.max) - static_cast<double>(top));
      d.max = top;
    }
    const Vec shift = splat(d.shift());
    Vec sum = splat(0.0f);
    for_each_vec(count, [&](std::int64_t i, int n) {
      Vec e = exp(get(x + first + i, n) - shift);
      if (n < Vec::kLanes) e = select_first(n, e, splat(0.0f));
      sum = sum + e;
    });
    d.sum += static_cast<double>(reduce_add(sum));
  }
  return d;
}

template <class T, class D>
float row(const T* x, D* dx, std::int64_t V, std::int64_t target, float scale) {
  const Denominator d = denominator_of(x, V);
  float at_target;
  store_n(load_n(x + target, 1), &at_target, 1);
  const double distance = static_cast<double>(at_target) - static_cast<double>(d.shift());
  if (dx != nullptr) {
    const Vec shift = splat(d.shift());
    const Vec factor = splat(static_cast<float>(static_cast<double>(scale) / d.sum));
    for_each_vec(V, [=](std::int64_t i, int n) { put(exp(get(x + i, n) - shift) * factor, dx + i, n); });
    const double probability = std::exp(distance) / d.sum;
    store_n(splat(static_cast<float>((probability - 1.0) * static_cast<double>(scale))), dx + target, 1);
  }
  return static_cast<float>(std::log(d.sum) - distance);
}

}  // namespace

const kernels::CrossEntropyTable& cross_entropy_table() {
  static constexpr kernels::CrossEntropyTable kTable = {{row<float, float>, row<float, bf16>},
                                                        {row<bf16, float>, row<bf16, bf16>}};
  return kTable;
}

}  // namespace strata::STRATA_ISA
