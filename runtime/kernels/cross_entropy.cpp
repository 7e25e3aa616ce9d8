#include "runtime/kernels/cross_entropy.h"

#include <algorithm>

#include "runtime/kernels/cross_entropy_table.h"
#include "runtime/kernels/host_dispatch.h"

namespace strata::kernels {
namespace {

Status check_targets(const ConstTensorRef& targets_R, std::int64_t V) {
  const std::int32_t* targets = targets_R.as<std::int32_t>();
  for (std::int64_t r = 0; r < targets_R.numel(); ++r)
    if (targets[r] != kIgnoreTarget && (targets[r] < 0 || targets[r] >= V))
      return to_status(GpuFault::at(GpuFaultKind::target_outside_vocabulary, r, targets[r], V));
  return {};
}

template <class T, class D>
Status run(const CrossEntropyArgs& args, ThreadPool& pool, float (*loop)(const T*, D*, std::int64_t, std::int64_t, float)) {
  const std::int64_t V = args.logits_RV.shape[1];
  STRATA_RETURN_IF_ERROR(check_targets(args.targets_R, V));
  const T* x = args.logits_RV.as<T>();
  const std::int32_t* targets = args.targets_R.as<std::int32_t>();
  D* dx = is_given(args.dlogits_RV) ? args.dlogits_RV.as<D>() : nullptr;
  float* loss = args.loss_R.as<float>();
  for_each_block(pool, args.targets_R.numel(), rows_per_task(V), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      D* dx_row = dx == nullptr ? nullptr : dx + r * V;
      if (targets[r] != kIgnoreTarget) {
        loss[r] = loop(x + r * V, dx_row, V, targets[r], args.scale);
        continue;
      }
      loss[r] = 0.0f;
      if (dx_row != nullptr) std::fill_n(dx_row, V, D{});
    }
  });
  return {};
}

template <class T>
Status run(const CrossEntropyArgs& args, const CrossEntropyTable& table, ThreadPool& pool) {
  const CrossEntropyLoops<T>& loops = table.get<T>();
  if (args.dlogits_RV.dtype == DType::f32) return run(args, pool, loops.to_f32);
  return run(args, pool, loops.to_bf16);
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args, StreamRef stream) {
  check_compute_dtype(args.logits_RV.dtype, "logits");
  STRATA_CHECK(args.logits_RV.shape.rank() == 2 && args.logits_RV.shape[1] > 0, "logits are [R, V], V > 0");
  const std::int64_t R = args.logits_RV.shape[0];
  check_tensor(args.targets_R, DType::i32, {R}, "targets");
  check_tensor(args.loss_R, DType::f32, {R}, "loss");
  if (is_given(args.dlogits_RV)) {
    check_compute_dtype(args.dlogits_RV.dtype, "dlogits");
    check_shape(args.dlogits_RV, args.logits_RV.shape, "dlogits");
    STRATA_CHECK(args.dlogits_RV.data != args.logits_RV.data || args.dlogits_RV.data == nullptr ||
                     args.dlogits_RV.dtype == args.logits_RV.dtype,
                 "dlogits in the place of logits have their dtype");
  }
  enqueue_kernel("cross_entropy", stream, args, &GpuKernels::cross_entropy,
                 [args, &table = cross_entropy_table(), &pool = stream.device().pool()] {
                   return args.logits_RV.dtype == DType::f32 ? run<float>(args, table, pool) : run<bf16>(args, table, pool);
                 });
}

}  // namespace strata::kernels
