#include "runtime/kernels/activation_table.h"
#include "runtime/kernels/simd.h"

namespace strata::STRATA_ISA {
namespace {

// (1 + tanh(u)) / 2 = sigmoid(2u), which unlike 1 + tanh loses nothing where the result is small.
constexpr float kTwiceSqrt2OverPi = 1.5957691216057308f;
constexpr float kCubic = 0.044715f;
// The gate is 0 or 1 to the last bit long before; beyond, the derivative would meet 0 times infinity.
constexpr float kSaturated = 32.0f;

Vec saturate(Vec x) { return min(splat(kSaturated), max(splat(-kSaturated), x)); }

Vec gelu_gate(Vec x, Vec x2) { return sigmoid(splat(kTwiceSqrt2OverPi) * x * fma(splat(kCubic), x2, splat(1.0f))); }

template <class T>
void gelu_forward(const T* x, T* y, std::int64_t count) {
  for_each_vec(count, [=](std::int64_t i, int n) {
    const Vec v = get(x + i, n);
    put(v * gelu_gate(v, v * v), y + i, n);
  });
}

// y = x g(x), g = sigmoid(w), w = 2 sqrt(2/pi) (x + 0.044715 x^3):  y' = g + x g (1 - g) w'.
template <class T>
void gelu_backward(const T* x, const T* dy, T* dx, std::int64_t count) {
  for_each_vec(count, [=](std::int64_t i, int n) {
    const Vec c = saturate(get(x + i, n));
    const Vec c2 = c * c;
    const Vec gate = gelu_gate(c, c2);
    const Vec slope = splat(kTwiceSqrt2OverPi) * fma(splat(3.0f * kCubic), c2, splat(1.0f));
    const Vec derivative = fma(c * gate * (splat(1.0f) - gate), slope, gate);
    put(get(dy + i, n) * derivative, dx + i, n);
  });
}

template <class T>
void swiglu_forward(const T* gate, const T* up, T* y, std::int64_t F) {
  for_each_vec(F, [=](std::int64_t i, int n) {
    const Vec g = get(gate + i, n);
    put(g * sigmoid(g) * get(up + i, n), y + i, n);
  });
}

// d silu(g)/dg = sigmoid(g) (1 + g (1 - sigmoid(g)))
template <class T>
void swiglu_backward(const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t F) {
  for_each_vec(F, [=](std::int64_t i, int n) {
    const Vec g = get(gate + i, n);
    const Vec u = get(up + i, n);
    const Vec d = get(dy + i, n);
    const Vec s = sigmoid(g);
    const Vec silu = g * s;
    put(d * u * fma(silu, splat(1.0f) - s, s), dgate + i, n);
    put(d * silu, dup + i, n);
  });
}

template <class T>
constexpr kernels::ActivationLoops<T> loops() {
  return {gelu_forward<T>, gelu_backward<T>, swiglu_forward<T>, swiglu_backward<T>};
}

}  // namespace

const kernels::ActivationTable& activation_table() {
  static constexpr kernels::ActivationTable kTable = {loops<float>(), loops<bf16>()};
  return kTable;
}

}  // namespace strata::STRATA_ISA
