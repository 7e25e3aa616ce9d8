#include "runtime/gpu/kernels/entries.h"

namespace strata::STRATA_GPU {

const GpuKernels& kernel_table() {
  static constexpr GpuKernels kTable = {.embedding_forward = embedding_forward,
                                        .embedding_backward = embedding_backward,
                                        .layernorm_forward = layernorm_forward,
                                        .rmsnorm_forward = rmsnorm_forward,
                                        .layernorm_backward = layernorm_backward,
                                        .rmsnorm_backward = rmsnorm_backward,
                                        .head_rmsnorm_forward = head_rmsnorm_forward,
                                        .head_rmsnorm_backward = head_rmsnorm_backward,
                                        .rope_apply = rope_apply,
                                        .attention_forward = attention_forward,
                                        .attention_backward = attention_backward,
                                        .gelu_forward = gelu_forward,
                                        .gelu_backward = gelu_backward,
                                        .swiglu_forward = swiglu_forward,
                                        .swiglu_backward = swiglu_backward,
                                        .cross_entropy = cross_entropy,
                                        .add = add,
                                        .cast = cast,
                                        .sum_squares_blocks = sum_squares_blocks,
                                        .round_and_sum_squares = round_and_sum_squares,
                                        .sum_relative_changes = sum_relative_changes,
                                        .column_sums = column_sums,
                                        .xxh3_64 = xxh3_64};
  return kTable;
}

}  // namespace strata::STRATA_GPU
