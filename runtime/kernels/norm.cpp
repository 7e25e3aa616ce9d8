#include "runtime/kernels/norm.h"

#include <memory>

#include "runtime/kernels/host_dispatch.h"
#include "runtime/kernels/norm_table.h"

namespace strata::kernels {
namespace {

// Rows of one partial sum of parameter gradients: at most 64 partial sums, a function of R alone.
std::int64_t rows_per_partial(std::int64_t R) { return std::max<std::int64_t>(16, blocks_of(R, 64)); }

// body(first, last, partial) fills `width` sums over rows [first, last); sums[j] gets columns [j * C, (j + 1) * C), added in
// the order of the blocks.
template <class Body>
void sum_over_rows(ThreadPool& pool, const NormTable& table, std::int64_t R, std::int64_t C, std::initializer_list<float*> sums,
                   const Body& body) {
  if (R == 0) return;
  const std::int64_t rows = rows_per_partial(R);
  const std::int64_t blocks = blocks_of(R, rows);
  const std::int64_t width = C * static_cast<std::int64_t>(sums.size());
  const auto partials = std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(blocks * width));
  for_each_block(pool, R, rows, [&](std::int64_t first, std::int64_t last) {
    body(first, last, &partials[static_cast<std::size_t>(first / rows * width)]);
  });
  const float* column = partials.get();
  for (float* sum : sums) {
    for_each_block(pool, C, rows_per_task(blocks),
                   [&](std::int64_t first, std::int64_t last) { table.combine(column, blocks, width, sum, first, last); });
    column += C;
  }
}

template <class T>
Status forward(const NormForwardArgs& args, bool layer, const NormTable& table, ThreadPool& pool) {
  const std::int64_t C = args.x_RC.shape[1];
  const NormForwardLoop<T> a = {.x = args.x_RC.as<T>(),
                                .residual = is_given(args.residual_RC) ? args.residual_RC.as<T>() : nullptr,
                                .sum = is_given(args.sum_RC) ? args.sum_RC.as<T>() : nullptr,
                                .w = args.w_C.as<T>(),
                                .b = is_given(args.b_C) ? args.b_C.as<T>() : nullptr,
                                .y = args.y_RC.as<T>(),
                                .mean = layer ? args.mean_R.as<float>() : nullptr,
                                .rstd = args.rstd_R.as<float>(),
                                .C = C,
                                .eps = args.eps};
  const auto loop = layer ? table.loops.get<T>().layer_forward : table.loops.get<T>().rms_forward;
  for_each_block(pool, args.x_RC.shape[0], rows_per_task(C), [&](std::int64_t r, std::int64_t end) { loop(a, r, end); });
  return {};
}

void enqueue_forward(const char* name, const NormForwardArgs& args, bool layer, StreamRef stream) {
  const auto entry = layer ? &GpuKernels::layernorm_forward : &GpuKernels::rmsnorm_forward;
  const DType dtype = args.x_RC.dtype;
  check_compute_dtype(dtype, "x");
  STRATA_CHECK(args.x_RC.shape.rank() == 2 && args.x_RC.shape[1] > 0, "x is [R, C], C > 0");
  const Shape RC = args.x_RC.shape;
  const Shape R = {RC[0]};
  const Shape C = {RC[1]};
  STRATA_CHECK(is_given(args.residual_RC) == is_given(args.sum_RC), "residual and sum are given together");
  if (is_given(args.residual_RC)) {
    check_tensor(args.residual_RC, dtype, RC, "residual");
    check_tensor(args.sum_RC, dtype, RC, "sum");
  }
  check_tensor(args.w_C, dtype, C, "w");
  STRATA_CHECK(layer || !is_given(args.b_C), "rmsnorm has no bias");
  if (is_given(args.b_C)) check_tensor(args.b_C, dtype, C, "b");
  check_tensor(args.y_RC, dtype, RC, "y");
  if (layer) check_tensor(args.mean_R, DType::f32, R, "mean");
  check_tensor(args.rstd_R, DType::f32, R, "rstd");
  enqueue_kernel(name, stream, args, entry, [args, layer, dtype, &table = norm_table(), &pool = stream.device().pool()] {
    return dtype == DType::f32 ? forward<float>(args, layer, table, pool) : forward<bf16>(args, layer, table, pool);
  });
}

template <class T>
Status backward(const NormBackwardArgs& args, bool layer, const NormTable& table, ThreadPool& pool) {
  const std::int64_t C = args.s_RC.shape[1];
  const NormBackwardLoop<T> a = {.dy = args.dy_RC.as<T>(),
                                 .s = args.s_RC.as<T>(),
                                 .w = args.w_C.as<T>(),
                                 .mean = layer ? args.mean_R.as<float>() : nullptr,
                                 .rstd = args.rstd_R.as<float>(),
                                 .dresidual = is_given(args.dresidual_RC) ? args.dresidual_RC.as<T>() : nullptr,
                                 .dx = args.dx_RC.as<T>(),
                                 .C = C};
  const auto loop = layer ? table.loops.get<T>().layer_backward : table.loops.get<T>().rms_backward;
  const std::int64_t R = args.s_RC.shape[0];
  float* dw = args.dw_C.as<float>();
  if (is_given(args.db_C)) {
    sum_over_rows(pool, table, R, C, {dw, args.db_C.as<float>()},
                  [&](std::int64_t first, std::int64_t last, float* partial) { loop(a, first, last, partial, partial + C); });
  } else {
    sum_over_rows(pool, table, R, C, {dw},
                  [&](std::int64_t first, std::int64_t last, float* partial) { loop(a, first, last, partial, nullptr); });
  }
  return {};
}

void enqueue_backward(const char* name, const NormBackwardArgs& args, bool layer, StreamRef stream) {
  const auto entry = layer ? &GpuKernels::layernorm_backward : &GpuKernels::rmsnorm_backward;
  const DType dtype = args.s_RC.dtype;
  check_compute_dtype(dtype, "s");
  STRATA_CHECK(args.s_RC.shape.rank() == 2 && args.s_RC.shape[1] > 0, "s is [R, C], C > 0");
  const Shape RC = args.s_RC.shape;
  const Shape R = {RC[0]};
  const Shape C = {RC[1]};
  check_tensor(args.dy_RC, dtype, RC, "dy");
  check_tensor(args.w_C, dtype, C, "w");
  if (layer) check_tensor(args.mean_R, DType::f32, R, "mean");
  check_tensor(args.rstd_R, DType::f32, R, "rstd");
  if (is_given(args.dresidual_RC)) check_tensor(args.dresidual_RC, dtype, RC, "dresidual");
  check_tensor(args.dx_RC, dtype, RC, "dx");
  check_tensor(args.dw_C, DType::f32, C, "dw");
  STRATA_CHECK(layer || !is_given(args.db_C), "rmsnorm has no bias");
  if (is_given(args.db_C)) check_tensor(args.db_C, DType::f32, C, "db");
  enqueue_kernel(name, stream, args, entry, [args, layer, dtype, &table = norm_table(), &pool = stream.device().pool()] {
    return dtype == DType::f32 ? backward<float>(args, layer, table, pool) : backward<bf16>(args, layer, table, pool);
  });
}

void check_heads(const ConstTensorRef& in_RD, const ConstTensorRef& wq_H, const ConstTensorRef& wk_H,
                 const ConstTensorRef& rstd_RM, std::int64_t N, std::int64_t K, std::int64_t H) {
  check_compute_dtype(in_RD.dtype, "in");
  STRATA_CHECK(N >= 0 && K >= 0 && H > 0, "heads are not negative, a head is not empty");
  STRATA_CHECK(in_RD.shape.rank() == 2 && in_RD.shape[1] == (N + 2 * K) * H, "in is [R, (N + 2K) * H]");
  check_tensor(wq_H, in_RD.dtype, {H}, "wq");
  check_tensor(wk_H, in_RD.dtype, {H}, "wk");
  check_tensor(rstd_RM, DType::f32, {in_RD.shape[0], N + K}, "rstd");
}

template <class T>
Status head_forward(const HeadNormForwardArgs& args, const NormTable& table, ThreadPool& pool) {
  const HeadNormForwardLoop<T> a = {.in = args.in_RD.as<T>(),
                                    .wq = args.wq_H.as<T>(),
                                    .wk = args.wk_H.as<T>(),
                                    .out = args.out_RD.as<T>(),
                                    .rstd = args.rstd_RM.as<float>(),
                                    .N = args.N,
                                    .K = args.K,
                                    .H = args.H,
                                    .eps = args.eps};
  const auto loop = table.loops.get<T>().head_forward;
  for_each_block(pool, args.in_RD.shape[0], rows_per_task(args.in_RD.shape[1]),
                 [&](std::int64_t r, std::int64_t end) { loop(a, r, end); });
  return {};
}

template <class T>
Status head_backward(const HeadNormBackwardArgs& args, const NormTable& table, ThreadPool& pool) {
  const HeadNormBackwardLoop<T> a = {.dqkv = args.dqkv_RD.as<T>(),
                                     .in = args.in_RD.as<T>(),
                                     .wq = args.wq_H.as<T>(),
                                     .wk = args.wk_H.as<T>(),
                                     .rstd = args.rstd_RM.as<float>(),
                                     .N = args.N,
                                     .K = args.K,
                                     .H = args.H};
  const auto loop = table.loops.get<T>().head_backward;
  sum_over_rows(
      pool, table, args.in_RD.shape[0], args.H, {args.dwq_H.as<float>(), args.dwk_H.as<float>()},
      [&](std::int64_t first, std::int64_t last, float* partial) { loop(a, first, last, partial, partial + args.H); });
  return {};
}

}  // namespace

void layernorm_forward(const NormForwardArgs& args, StreamRef stream) {
  enqueue_forward("layernorm_forward", args, true, stream);
}
void rmsnorm_forward(const NormForwardArgs& args, StreamRef stream) { enqueue_forward("rmsnorm_forward", args, false, stream); }
void layernorm_backward(const NormBackwardArgs& args, StreamRef stream) {
  enqueue_backward("layernorm_backward", args, true, stream);
}
void rmsnorm_backward(const NormBackwardArgs& args, StreamRef stream) {
  enqueue_backward("rmsnorm_backward", args, false, stream);
}

void head_rmsnorm_forward(const HeadNormForwardArgs& args, StreamRef stream) {
  check_heads(args.in_RD, args.wq_H, args.wk_H, args.rstd_RM, args.N, args.K, args.H);
  check_tensor(args.out_RD, args.in_RD.dtype, args.in_RD.shape, "out");
  enqueue_kernel("head_rmsnorm_forward", stream, args, &GpuKernels::head_rmsnorm_forward,
                 [args, &table = norm_table(), &pool = stream.device().pool()] {
                   return args.in_RD.dtype == DType::f32 ? head_forward<float>(args, table, pool)
                                                         : head_forward<bf16>(args, table, pool);
                 });
}

void head_rmsnorm_backward(const HeadNormBackwardArgs& args, StreamRef stream) {
  check_heads(args.in_RD, args.wq_H, args.wk_H, args.rstd_RM, args.N, args.K, args.H);
  check_tensor(args.dqkv_RD, args.in_RD.dtype, args.in_RD.shape, "dqkv");
  check_tensor(args.dwq_H, DType::f32, {args.H}, "dwq");
  check_tensor(args.dwk_H, DType::f32, {args.H}, "dwk");
  enqueue_kernel("head_rmsnorm_backward", stream, args, &GpuKernels::head_rmsnorm_backward,
                 [args, &table = norm_table(), &pool = stream.device().pool()] {
                   return args.in_RD.dtype == DType::f32 ? head_backward<float>(args, table, pool)
                                                         : head_backward<bf16>(args, table, pool);
                 });
}

}  // namespace strata::kernels
