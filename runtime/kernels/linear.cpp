#include "runtime/kernels/linear.h"

#include <algorithm>

#include "runtime/kernels/gemm.h"
#include "runtime/kernels/host_dispatch.h"
#include "runtime/kernels/linear_table.h"

namespace strata::kernels {
namespace {

void check_matrix(const ConstTensorRef& tensor, DType dtype, const char* what) {
  STRATA_CHECK(tensor.shape.rank() == 2, std::string(what) + " has shape " + tensor.shape.str() + ", expected two dims");
  check_dtype(tensor, dtype, what);
}

// R may be 0; a layer has inputs and outputs.
void check_weight(const ConstTensorRef& w_OI, DType dtype, const char* what) {
  check_matrix(w_OI, dtype, what);
  STRATA_CHECK(w_OI.shape[0] > 0 && w_OI.shape[1] > 0, std::string(what) + " has shape " + w_OI.shape.str());
}

Shape weight_shape(std::int64_t O, std::int64_t I, bool transposed) { return transposed ? Shape{I, O} : Shape{O, I}; }

// bf16 operands go to the library as they are only with AVX-512, also when a slower instruction set was asked for.
bool use_native_bf16() { return active_isa() == Isa::avx512; }

void enqueue_gemm(const char* name, const Gemm& gemm, StreamRef stream) {
  if (stream.on_gpu()) return stream.device().gpu().gemm(gemm, GpuOperation(stream, name).queue());
  stream.enqueue(name, [=, native = use_native_bf16(), &pool = stream.device().pool()] {
    TiledGemm tiled(gemm, pool.threads(), native);
    pool.parallel_for(tiled.tiles(), [&](std::int64_t tile) { tiled.run(tile); });
    return tiled.status();
  });
}

// With the checks of what it is made from; y's dtype is the caller's to check. m may be 0.
Gemm forward_gemm(const ConstTensorRef& x_RI, const ConstTensorRef& w_OI, const ConstTensorRef& b_O, const TensorRef& y_RO,
                  bool transposed) {
  const DType dtype = x_RI.dtype;
  check_compute_dtype(dtype, "x");
  check_matrix(x_RI, dtype, "x");
  check_weight(w_OI, dtype, "w");
  const std::int64_t R = x_RI.shape[0], I = x_RI.shape[1], O = w_OI.shape[transposed ? 1 : 0];
  check_shape(w_OI, weight_shape(O, I, transposed), "w");
  if (is_given(b_O)) check_tensor(b_O, dtype, {O}, "b");
  check_shape(y_RO, {R, O}, "y");
  return {
      .shape = {.m = R, .n = O, .k = I, .trans_b = !transposed, .bias = is_given(b_O), .operands = dtype, .result = y_RO.dtype},
      .pointers = {.a = x_RI.data, .b = w_OI.data, .bias = b_O.data, .c = y_RO.data}};
}

// The same for the gradient of the input.
Gemm input_gemm(const ConstTensorRef& dy_RO, const ConstTensorRef& w_OI, const TensorRef& dx_RI, bool transposed) {
  const DType dtype = dy_RO.dtype;
  check_compute_dtype(dtype, "dy");
  check_matrix(dy_RO, dtype, "dy");
  check_weight(w_OI, dtype, "w");
  const std::int64_t R = dy_RO.shape[0], O = dy_RO.shape[1], I = w_OI.shape[transposed ? 0 : 1];
  check_shape(w_OI, weight_shape(O, I, transposed), "w");
  check_tensor(dx_RI, dtype, {R, I}, "dx");
  return {.shape = {.m = R, .n = I, .k = O, .trans_b = transposed, .operands = dtype, .result = dtype},
          .pointers = {.a = dy_RO.data, .b = w_OI.data, .c = dx_RI.data}};
}

// Transposed: x^T dy.
Gemm weight_gemm(const LinearBackwardWeightArgs& args) {
  const ConstTensorRef& left = args.transposed ? args.x_RI : args.dy_RO;
  const ConstTensorRef& right = args.transposed ? args.dy_RO : args.x_RI;
  return {.shape = {.m = left.shape[1],
                    .n = right.shape[1],
                    .k = left.shape[0],
                    .trans_a = true,
                    .accumulate = args.accumulate,
                    .operands = args.x_RI.dtype},
          .pointers = {.a = left.data, .b = right.data, .c = args.dw_OI.data}};
}

void clear_weight_gradients(const LinearBackwardWeightArgs& args, StreamRef stream) {
  zero_async(args.dw_OI.data, args.dw_OI.bytes(), stream);
  if (is_given(args.db_O)) zero_async(args.db_O.data, args.db_O.bytes(), stream);
}

template <class T>
Status backward_weight(const LinearBackwardWeightArgs& args, const LinearTable& table, bool native, ThreadPool& pool) {
  const std::int64_t R = args.dy_RO.shape[0], O = args.dy_RO.shape[1];
  TiledGemm tiled(weight_gemm(args), pool.threads(), native);
  const std::int64_t sums = is_given(args.db_O) ? blocks_of(O, kSumColumns) : 0;
  pool.parallel_for(tiled.tiles() + sums, [&](std::int64_t task) {
    if (task < tiled.tiles()) return tiled.run(task);
    const std::int64_t first = (task - tiled.tiles()) * kSumColumns;
    const std::int64_t columns = std::min(kSumColumns, O - first);
    table.loops.get<T>().column_sums(args.dy_RO.as<T>() + first, R, O, columns, args.accumulate, args.db_O.as<float>() + first);
  });
  return tiled.status();
}

}  // namespace

void linear_forward(const LinearForwardArgs& args, StreamRef stream) {
  const DType result = args.y_RO.dtype;
  const Gemm gemm = forward_gemm(args.x_RI, args.w_OI, args.b_O, args.y_RO, args.transposed);
  STRATA_CHECK(result == args.x_RI.dtype || (result == DType::f32 && !is_given(args.b_O)),
               "y has the dtype of x, or is f32 and has no bias");
  if (gemm.shape.m > 0) enqueue_gemm("linear_forward", gemm, stream);
}

void linear_gelu_forward(const LinearGeluForwardArgs& args, StreamRef stream) {
  Gemm gemm = forward_gemm(args.x_RI, args.w_OI, args.b_O, args.y_RO, args.transposed);
  check_dtype(args.y_RO, args.x_RI.dtype, "y");
  check_tensor(args.pre_RO, args.x_RI.dtype, args.y_RO.shape, "pre");
  gemm.epilogue = Epilogue::gelu;
  gemm.pre = args.pre_RO.data;
  if (gemm.shape.m > 0) enqueue_gemm("linear_gelu_forward", gemm, stream);
}

void linear_backward_input(const LinearBackwardInputArgs& args, StreamRef stream) {
  Gemm gemm = input_gemm(args.dy_RO, args.w_OI, args.dx_RI, args.transposed);
  gemm.shape.accumulate = args.accumulate;
  if (gemm.shape.m > 0) enqueue_gemm("linear_backward_input", gemm, stream);
}

void gelu_linear_backward_input(const GeluLinearBackwardInputArgs& args, StreamRef stream) {
  Gemm gemm = input_gemm(args.dy_RO, args.w_OI, args.dpre_RI, args.transposed);
  check_tensor(args.pre_RI, args.dy_RO.dtype, args.dpre_RI.shape, "pre");
  gemm.epilogue = Epilogue::gelu_backward;
  gemm.pre = const_cast<std::byte*>(args.pre_RI.data);  // read
  if (gemm.shape.m > 0) enqueue_gemm("gelu_linear_backward_input", gemm, stream);
}

void linear_backward_weight(const LinearBackwardWeightArgs& args, StreamRef stream) {
  const DType dtype = args.dy_RO.dtype;
  check_compute_dtype(dtype, "dy");
  check_matrix(args.dy_RO, dtype, "dy");
  check_matrix(args.x_RI, dtype, "x");
  const std::int64_t R = args.dy_RO.shape[0], O = args.dy_RO.shape[1], I = args.x_RI.shape[1];
  check_shape(args.x_RI, {R, I}, "x");
  check_weight(args.dw_OI, DType::f32, "dw");
  check_shape(args.dw_OI, weight_shape(O, I, args.transposed), "dw");
  if (is_given(args.db_O)) check_tensor(args.db_O, DType::f32, {O}, "db");
  if (R == 0) {
    if (!args.accumulate) clear_weight_gradients(args, stream);
    return;
  }
  if (stream.on_gpu()) {
    GpuDriver& gpu = stream.device().gpu();
    const GpuOperation operation(stream, "linear_backward_weight");
    gpu.gemm(weight_gemm(args), operation.queue());
    if (is_given(args.db_O))
      gpu.kernels().column_sums(args.dy_RO.data, dtype, R, O, args.accumulate, args.db_O.as<float>(), operation.queue());
    return;
  }
  stream.enqueue("linear_backward_weight",
                 [=, &table = linear_table(), native = use_native_bf16(), &pool = stream.device().pool()] {
                   return dtype == DType::f32 ? backward_weight<float>(args, table, native, pool)
                                              : backward_weight<bf16>(args, table, native, pool);
                 });
}

}  // namespace strata::kernels
