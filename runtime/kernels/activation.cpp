#include "runtime/kernels/activation.h"

#include "runtime/kernels/activation_table.h"
#include "runtime/kernels/host_dispatch.h"

namespace strata::kernels {
namespace {

template <class T>
Status gelu(const GeluForwardArgs& args, const ActivationTable& table, ThreadPool& pool) {
  const T* x = args.x.as<T>();
  T* y = args.y.as<T>();
  const auto loop = table.get<T>().gelu_forward;
  for_each_block(pool, args.x.numel(), kTaskElements, [&](std::int64_t i, std::int64_t end) { loop(x + i, y + i, end - i); });
  return {};
}

template <class T>
Status gelu(const GeluBackwardArgs& args, const ActivationTable& table, ThreadPool& pool) {
  const T* x = args.x.as<T>();
  const T* dy = args.dy.as<T>();
  T* dx = args.dx.as<T>();
  const auto loop = table.get<T>().gelu_backward;
  for_each_block(pool, args.x.numel(), kTaskElements,
                 [&](std::int64_t i, std::int64_t end) { loop(x + i, dy + i, dx + i, end - i); });
  return {};
}

template <class T>
Status swiglu(const SwigluForwardArgs& args, const ActivationTable& table, ThreadPool& pool) {
  const T* x = args.gate_up_RG.as<T>();
  T* y = args.y_RF.as<T>();
  const std::int64_t F = args.y_RF.shape[1];
  const auto loop = table.get<T>().swiglu_forward;
  for_each_block(pool, args.y_RF.shape[0], rows_per_task(2 * F), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) loop(x + 2 * r * F, x + (2 * r + 1) * F, y + r * F, F);
  });
  return {};
}

template <class T>
Status swiglu(const SwigluBackwardArgs& args, const ActivationTable& table, ThreadPool& pool) {
  const T* x = args.gate_up_RG.as<T>();
  const T* dy = args.dy_RF.as<T>();
  T* dx = args.dgate_up_RG.as<T>();
  const std::int64_t F = args.dy_RF.shape[1];
  const auto loop = table.get<T>().swiglu_backward;
  for_each_block(pool, args.dy_RF.shape[0], rows_per_task(2 * F), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      const std::int64_t gate = 2 * r * F;
      const std::int64_t up = gate + F;
      loop(x + gate, x + up, dy + r * F, dx + gate, dx + up, F);
    }
  });
  return {};
}

void check_swiglu(const ConstTensorRef& gate_up_RG, const ConstTensorRef& rows_RF) {
  check_compute_dtype(gate_up_RG.dtype, "gate_up");
  STRATA_CHECK(gate_up_RG.shape.rank() == 2 && gate_up_RG.shape[1] % 2 == 0, "gate_up is [R, 2F]");
  check_tensor(rows_RF, gate_up_RG.dtype, {gate_up_RG.shape[0], gate_up_RG.shape[1] / 2}, "y or dy");
}

}  // namespace

void gelu_forward(const GeluForwardArgs& args, StreamRef stream) {
  check_compute_dtype(args.x.dtype, "x");
  check_tensor(args.y, args.x.dtype, args.x.shape, "y");
  enqueue_kernel("gelu_forward", stream, args, &GpuKernels::gelu_forward,
                 [args, &table = activation_table(), &pool = stream.device().pool()] {
                   return args.x.dtype == DType::f32 ? gelu<float>(args, table, pool) : gelu<bf16>(args, table, pool);
                 });
}

void gelu_backward(const GeluBackwardArgs& args, StreamRef stream) {
  check_compute_dtype(args.x.dtype, "x");
  check_tensor(args.dy, args.x.dtype, args.x.shape, "dy");
  check_tensor(args.dx, args.x.dtype, args.x.shape, "dx");
  enqueue_kernel("gelu_backward", stream, args, &GpuKernels::gelu_backward,
                 [args, &table = activation_table(), &pool = stream.device().pool()] {
                   return args.x.dtype == DType::f32 ? gelu<float>(args, table, pool) : gelu<bf16>(args, table, pool);
                 });
}

void swiglu_forward(const SwigluForwardArgs& args, StreamRef stream) {
  check_swiglu(args.gate_up_RG, args.y_RF);
  enqueue_kernel("swiglu_forward", stream, args, &GpuKernels::swiglu_forward,
                 [args, &table = activation_table(), &pool = stream.device().pool()] {
                   return args.y_RF.dtype == DType::f32 ? swiglu<float>(args, table, pool) : swiglu<bf16>(args, table, pool);
                 });
}

void swiglu_backward(const SwigluBackwardArgs& args, StreamRef stream) {
  check_swiglu(args.gate_up_RG, args.dy_RF);
  check_tensor(args.dgate_up_RG, args.gate_up_RG.dtype, args.gate_up_RG.shape, "dgate_up");
  enqueue_kernel("swiglu_backward", stream, args, &GpuKernels::swiglu_backward,
                 [args, &table = activation_table(), &pool = stream.device().pool()] {
                   return args.dy_RF.dtype == DType::f32 ? swiglu<float>(args, table, pool) : swiglu<bf16>(args, table, pool);
                 });
}

}  // namespace strata::kernels
