// Softmax cross-entropy: a block per row, one pass over the logits for the denominator, a second one for the gradient. Which
// thread adds what depends on where in 16 bytes a row begins, and so do the bits: in a tier a function of the shape.
#include "runtime/gpu/kernels/entries.h"
#include "runtime/gpu/kernels/units.h"
#include "runtime/kernels/cross_entropy.h"

namespace strata::STRATA_GPU {
namespace {

constexpr float kInfinity = __builtin_inff();
// Few long rows at a time: the second pass then finds its row in the caches.
constexpr int kLongRowThreads = 1024;
constexpr std::int64_t kLongRow = 8192;
constexpr int kBatch = 2;  // units whose loads are on their way at once

// A softmax denominator as sum * e^max, of what one thread has seen.
struct Denominator {
  float max = -kInfinity;
  float sum = 0.0f;

  STRATA_DEVICE static float shift_of(float max) { return max == -kInfinity ? 0.0f : max; }  // -inf - -inf would be NaN
  STRATA_DEVICE void include(const float (&x)[kUnit]) {
    float top = x[0];
    for (int k = 1; k < kUnit; ++k) top = max_of(top, x[k]);
    if (top > max) {
      sum *= exp_approx(max - top);
      max = top;
    }
    const float shift = shift_of(max);
    float part = 0.0f;
    for (int k = 0; k < kUnit; ++k) part += exp_approx(x[k] - shift);
    sum += part;
  }
};

// The same value in every thread, by one fixed tree; `identity` changes nothing. Each use has its own kWarp words.
template <class Combine>
STRATA_DEVICE float combine_block(float value, float identity, const SharedArray<float>& words, Combine combine) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  if (lane_index() == 0) words[warp_index()] = value;
  sync_block();
  value = identity;
  if (lane_index() < block_threads() / kWarp) value = words[lane_index()];
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = combine(value, shuffle_xor(value, mask));
  return value;
}

template <class T>
STRATA_DEVICE Denominator denominator_of(const T* x, std::int64_t V) {
  const Units units = {V, common_phase(x)};
  Denominator d;
  for (std::int64_t u = thread_index(); u < units.count(); u += kBatch * block_threads()) {
    float values[kBatch][kUnit];
    for (int k = 0; k < kBatch; ++k) load_unit(x, units[u + k * block_threads()], -kInfinity, values[k]);
    for (int k = 0; k < kBatch; ++k) d.include(values[k]);
  }
  return d;
}

template <class T, class D>
STRATA_DEVICE void write_gradient(const T* x, D* dx, std::int64_t V, float shift, float factor) {
  const Units units = {V, common_phase(x, dx)};
  for (std::int64_t u = thread_index(); u < units.count(); u += kBatch * block_threads()) {
    float values[kBatch][kUnit];
    for (int k = 0; k < kBatch; ++k) load_unit(x, units[u + k * block_threads()], -kInfinity, values[k]);
    for (int k = 0; k < kBatch; ++k) {
      for (float& value : values[k]) value = exp_approx(value - shift) * factor;
      store_unit(values[k], dx, units[u + k * block_threads()]);
    }
  }
}

template <class D>
STRATA_DEVICE void write_zeros(D* dx, std::int64_t V) {
  const Units units = {V, common_phase(dx)};
  const float zeros[kUnit] = {};
  for (std::int64_t u = thread_index(); u < units.count(); u += block_threads()) store_unit(zeros, dx, units[u]);
}

template <class T, class D>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(kLongRowThreads, 1)
    cross_entropy_kernel(const T* logits_RV, const std::int32_t* targets_R, float* loss_R, D* dlogits_RV, std::int64_t V,
                         float scale, GpuFault* fault) {
  const std::int64_t row = block_x();
  const T* x = logits_RV + row * V;
  D* dx = dlogits_RV == nullptr ? nullptr : dlogits_RV + row * V;
  const std::int32_t target = targets_R[row];
  if (target < 0 || target >= V) {
    if (thread_index() == 0) {
      loss_R[row] = 0.0f;
      if (target != kernels::kIgnoreTarget) report_fault(fault, GpuFaultKind::target_outside_vocabulary, row, target, V);
    }
    if (dx != nullptr) write_zeros(dx, V);
    return;
  }
  const float at_target = get(x + target);  // before the gradient may overwrite it
  const Denominator d = denominator_of(x, V);
  const float max =
      combine_block(d.max, -kInfinity, shared_array<float>(0, kWarp), [](float a, float b) { return max_of(a, b); });
  const float shift = Denominator::shift_of(max);
  const float sum = combine_block(d.sum * exp_approx(d.max - shift), 0.0f, shared_array<float>(kWarp * sizeof(float), kWarp),
                                  [](float a, float b) { return a + b; });
  if (thread_index() == 0) loss_R[row] = log_approx(sum) - (at_target - shift);
  if (dx == nullptr) return;
  write_gradient(x, dx, V, shift, scale / sum);
  sync_block();
  if (thread_index() == 0) put((exp_approx(at_target - shift) / sum - 1.0f) * scale, dx + target);
}

template <class T, class D>
void launch_rows(const kernels::CrossEntropyArgs& args, GpuQueue& queue) {
  const std::int64_t R = args.logits_RV.shape[0], V = args.logits_RV.shape[1];
  const int threads = V >= kLongRow ? kLongRowThreads : kThreads;
  launch(queue, cross_entropy_kernel<T, D>, {.x = R}, threads, 2 * kWarp * sizeof(float), args.logits_RV.as<T>(),
         args.targets_R.as<std::int32_t>(), args.loss_R.as<float>(),
         args.dlogits_RV.shape.rank() == 0 ? nullptr : args.dlogits_RV.as<D>(), V, args.scale, queue.fault());
}

}  // namespace

void cross_entropy(const kernels::CrossEntropyArgs& args, GpuQueue& queue) {
  with_type(args.logits_RV.dtype, [&]<class T>() {
    if (args.dlogits_RV.dtype == DType::f32)
      launch_rows<T, float>(args, queue);
    else
      launch_rows<T, bf16>(args, queue);
  });
}

}  // namespace strata::STRATA_GPU
