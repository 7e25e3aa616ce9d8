#include "runtime/kernels/embedding.h"

#include "runtime/kernels/embedding_table.h"
#include "runtime/kernels/host_dispatch.h"

namespace strata::kernels {
namespace {

Status check_tokens(const ConstTensorRef& tokens_R, std::int64_t V) {
  const std::int32_t* tokens = tokens_R.as<std::int32_t>();
  for (std::int64_t r = 0; r < tokens_R.numel(); ++r)
    if (tokens[r] < 0 || tokens[r] >= V)
      return to_status(GpuFault::at(GpuFaultKind::token_outside_vocabulary, r, tokens[r], V));
  return {};
}

void check_args(const ConstTensorRef& tokens_R, const ConstTensorRef& rows_RC, const ConstTensorRef& wte_VC,
                const ConstTensorRef& wpe_TC, std::int64_t T) {
  STRATA_CHECK(tokens_R.shape.rank() == 1 && wte_VC.shape.rank() == 2, "tokens are [R], wte is [V, C]");
  const std::int64_t R = tokens_R.shape[0];
  const std::int64_t C = wte_VC.shape[1];
  check_dtype(tokens_R, DType::i32, "tokens");
  check_shape(rows_RC, {R, C}, "y or dy");
  if (!is_given(wpe_TC)) return;
  STRATA_CHECK(T > 0 && R % T == 0, "rows are whole sequences of T tokens");
  STRATA_CHECK(wpe_TC.shape.rank() == 2 && wpe_TC.shape[0] >= T && wpe_TC.shape[1] == C, "wpe is [at least T, C]");
}

template <class T>
Status forward(const EmbeddingForwardArgs& args, const EmbeddingTable& table, ThreadPool& pool) {
  STRATA_RETURN_IF_ERROR(check_tokens(args.tokens_R, args.wte_VC.shape[0]));
  const std::int64_t C = args.wte_VC.shape[1];
  const EmbeddingForwardLoop<T> a = {.tokens = args.tokens_R.as<std::int32_t>(),
                                     .wte = args.wte_VC.as<T>(),
                                     .wpe = is_given(args.wpe_TC) ? args.wpe_TC.as<T>() : nullptr,
                                     .y = args.y_RC.as<T>(),
                                     .seq = args.T,
                                     .C = C};
  const auto loop = table.get<T>().forward;
  for_each_block(pool, args.tokens_R.numel(), rows_per_task(C), [&](std::int64_t r, std::int64_t end) { loop(a, r, end); });
  return {};
}

template <class T>
Status backward(const EmbeddingBackwardArgs& args, const EmbeddingTable& table, ThreadPool& pool) {
  STRATA_RETURN_IF_ERROR(check_tokens(args.tokens_R, args.dwte_VC.shape[0]));
  const std::int64_t R = args.tokens_R.numel();
  const std::int64_t C = args.dwte_VC.shape[1];
  const EmbeddingBackwardLoop<T> a = {.tokens = args.tokens_R.as<std::int32_t>(),
                                      .dy = args.dy_RC.as<T>(),
                                      .dwte = args.dwte_VC.as<float>(),
                                      .dwpe = is_given(args.dwpe_TC) ? args.dwpe_TC.as<float>() : nullptr,
                                      .R = R,
                                      .seq = args.T,
                                      .C = C};
  // Every element sums its rows in order however columns are cut, so here the cut may follow the number of threads.
  const std::int64_t share = R * C <= kTaskElements ? C : blocks_of(C, pool.threads());
  const std::int64_t columns = std::max<std::int64_t>(64, blocks_of(share, 16) * 16);
  const auto loop = table.get<T>().backward;
  for_each_block(pool, C, columns, [&](std::int64_t c, std::int64_t end) { loop(a, c, end); });
  return {};
}

}  // namespace

void embedding_forward(const EmbeddingForwardArgs& args, StreamRef stream) {
  const DType dtype = args.wte_VC.dtype;
  check_compute_dtype(dtype, "wte");
  check_args(args.tokens_R, args.y_RC, args.wte_VC, args.wpe_TC, args.T);
  check_dtype(args.y_RC, dtype, "y");
  if (is_given(args.wpe_TC)) check_dtype(args.wpe_TC, dtype, "wpe");
  enqueue_kernel("embedding_forward", stream, args, &GpuKernels::embedding_forward,
                 [args, dtype, &table = embedding_table(), &pool = stream.device().pool()] {
                   return dtype == DType::f32 ? forward<float>(args, table, pool) : forward<bf16>(args, table, pool);
                 });
}

void embedding_backward(const EmbeddingBackwardArgs& args, StreamRef stream) {
  const DType dtype = args.dy_RC.dtype;
  check_compute_dtype(dtype, "dy");
  check_args(args.tokens_R, args.dy_RC, args.dwte_VC, args.dwpe_TC, args.T);
  check_dtype(args.dwte_VC, DType::f32, "dwte");
  if (is_given(args.dwpe_TC)) check_dtype(args.dwpe_TC, DType::f32, "dwpe");
  enqueue_kernel("embedding_backward", stream, args, &GpuKernels::embedding_backward,
                 [args, dtype, &table = embedding_table(), &pool = stream.device().pool()] {
                   return dtype == DType::f32 ? backward<float>(args, table, pool) : backward<bf16>(args, table, pool);
                 });
}

}  // namespace strata::kernels
