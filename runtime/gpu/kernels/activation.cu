// Pointwise activations; the formulas are those of kernels/activation_simd.cpp.
#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/entries.h"
#include "runtime/kernels/activation.h"

namespace strata::STRATA_GPU {
namespace {

constexpr float kTwiceSqrt2OverPi = 1.5957691216057308f;
constexpr float kCubic = 0.044715f;
// The gate is 0 or 1 to the last bit long before; beyond, the derivative would meet 0 times infinity.
constexpr float kSaturated = 32.0f;

// A NaN stays.
STRATA_DEVICE float saturate(float x) { return x > kSaturated ? kSaturated : x < -kSaturated ? -kSaturated : x; }
STRATA_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp_approx(-x)); }
STRATA_DEVICE float gelu_gate(float x) { return sigmoid(kTwiceSqrt2OverPi * x * (kCubic * x * x + 1.0f)); }

// y = x g(x), g = sigmoid(w), w = 2 sqrt(2/pi) (x + 0.044715 x^3):  y' = g + x g (1 - g) w'.
STRATA_DEVICE float gelu_derivative(float x) {
  const float c = saturate(x);
  const float gate = gelu_gate(c);
  const float slope = kTwiceSqrt2OverPi * (3.0f * kCubic * c * c + 1.0f);
  return c * gate * (1.0f - gate) * slope + gate;
}

template <class T, bool kPacked>
STRATA_KERNEL gelu_forward_kernel(const T* x, T* y, std::int64_t n) {
  using Values = Chunk<T, kPacked>;
  const std::int64_t i = (block_x() * block_threads() + thread_index()) * Values::kCount;
  if (i >= n) return;
  Values v = Values::load(x + i);
  for (float& value : v.values) value = value * gelu_gate(value);
  v.store(y + i);
}

template <class T, bool kPacked>
STRATA_KERNEL gelu_backward_kernel(const T* x, const T* dy, T* dx, std::int64_t n) {
  using Values = Chunk<T, kPacked>;
  const std::int64_t i = (block_x() * block_threads() + thread_index()) * Values::kCount;
  if (i >= n) return;
  const Values v = Values::load(x + i);
  Values d = Values::load(dy + i);
  for (int k = 0; k < Values::kCount; ++k) d.values[k] *= gelu_derivative(v.values[k]);
  d.store(dx + i);
}

// Blocks: rows in x (which may be many), chunks of a row in y.
template <class T, bool kPacked>
STRATA_KERNEL swiglu_forward_kernel(const T* gate_up, T* y, std::int64_t F) {
  using Values = Chunk<T, kPacked>;
  const std::int64_t i = (block_y() * block_threads() + thread_index()) * Values::kCount;
  if (i >= F) return;
  const T* row = gate_up + block_x() * 2 * F;
  const Values gate = Values::load(row + i);
  Values up = Values::load(row + F + i);
  for (int k = 0; k < Values::kCount; ++k) up.values[k] *= gate.values[k] * sigmoid(gate.values[k]);
  up.store(y + block_x() * F + i);
}

// d silu(g)/dg = sigmoid(g) (1 + g (1 - sigmoid(g)))
template <class T, bool kPacked>
STRATA_KERNEL swiglu_backward_kernel(const T* gate_up, const T* dy, T* dgate_up, std::int64_t F) {
  using Values = Chunk<T, kPacked>;
  const std::int64_t i = (block_y() * block_threads() + thread_index()) * Values::kCount;
  if (i >= F) return;
  const std::int64_t row = block_x() * 2 * F;
  Values gate = Values::load(gate_up + row + i);
  Values up = Values::load(gate_up + row + F + i);
  const Values d = Values::load(dy + block_x() * F + i);
  for (int k = 0; k < Values::kCount; ++k) {
    const float s = sigmoid(gate.values[k]);
    const float silu = gate.values[k] * s;
    gate.values[k] = d.values[k] * up.values[k] * (silu * (1.0f - s) + s);
    up.values[k] = d.values[k] * silu;
  }
  gate.store(dgate_up + row + i);
  up.store(dgate_up + row + F + i);
}

template <class T, bool kPacked>
Grid flat_grid(std::int64_t n) {
  return {.x = blocks_for(n, kThreads * Chunk<T, kPacked>::kCount)};
}
template <class T, bool kPacked>
Grid row_grid(std::int64_t rows, std::int64_t F) {
  return {.x = rows, .y = blocks_for(F, kThreads * Chunk<T, kPacked>::kCount)};
}

}  // namespace

void gelu_forward(const kernels::GeluForwardArgs& args, GpuQueue& queue) {
  const std::int64_t n = args.x.numel();
  with_type(args.x.dtype, [&]<class T>() {
    const T* x = args.x.as<T>();
    T* y = args.y.as<T>();
    if (can_pack<T>(n, x, y))
      launch(queue, gelu_forward_kernel<T, true>, flat_grid<T, true>(n), kThreads, 0, x, y, n);
    else
      launch(queue, gelu_forward_kernel<T, false>, flat_grid<T, false>(n), kThreads, 0, x, y, n);
  });
}

void gelu_backward(const kernels::GeluBackwardArgs& args, GpuQueue& queue) {
  const std::int64_t n = args.x.numel();
  with_type(args.x.dtype, [&]<class T>() {
    const T* x = args.x.as<T>();
    const T* dy = args.dy.as<T>();
    T* dx = args.dx.as<T>();
    if (can_pack<T>(n, x, dy, dx))
      launch(queue, gelu_backward_kernel<T, true>, flat_grid<T, true>(n), kThreads, 0, x, dy, dx, n);
    else
      launch(queue, gelu_backward_kernel<T, false>, flat_grid<T, false>(n), kThreads, 0, x, dy, dx, n);
  });
}

void swiglu_forward(const kernels::SwigluForwardArgs& args, GpuQueue& queue) {
  const std::int64_t R = args.y_RF.shape[0], F = args.y_RF.shape[1];
  with_type(args.y_RF.dtype, [&]<class T>() {
    const T* gate_up = args.gate_up_RG.as<T>();
    T* y = args.y_RF.as<T>();
    if (can_pack<T>(F, gate_up, y))
      launch(queue, swiglu_forward_kernel<T, true>, row_grid<T, true>(R, F), kThreads, 0, gate_up, y, F);
    else
      launch(queue, swiglu_forward_kernel<T, false>, row_grid<T, false>(R, F), kThreads, 0, gate_up, y, F);
  });
}

void swiglu_backward(const kernels::SwigluBackwardArgs& args, GpuQueue& queue) {
  const std::int64_t R = args.dy_RF.shape[0], F = args.dy_RF.shape[1];
  with_type(args.dy_RF.dtype, [&]<class T>() {
    const T* gate_up = args.gate_up_RG.as<T>();
    const T* dy = args.dy_RF.as<T>();
    T* dgate_up = args.dgate_up_RG.as<T>();
    if (can_pack<T>(F, gate_up, dy, dgate_up))
      launch(queue, swiglu_backward_kernel<T, true>, row_grid<T, true>(R, F), kThreads, 0, gate_up, dy, dgate_up, F);
    else
      launch(queue, swiglu_backward_kernel<T, false>, row_grid<T, false>(R, F), kThreads, 0, gate_up, dy, dgate_up, F);
  });
}

}  // namespace strata::STRATA_GPU
