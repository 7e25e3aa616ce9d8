// The entries of GpuKernels (kernel_table.h), each in its own .cu file; table.cu collects them.
#pragma once

#include "runtime/gpu/device.h"
#include "runtime/gpu/kernel_table.h"

namespace strata::STRATA_GPU {

// All of them.
const GpuKernels& kernel_table();

void embedding_forward(const kernels::EmbeddingForwardArgs& args, GpuQueue& queue);
void embedding_backward(const kernels::EmbeddingBackwardArgs& args, GpuQueue& queue);
void layernorm_forward(const kernels::NormForwardArgs& args, GpuQueue& queue);
void rmsnorm_forward(const kernels::NormForwardArgs& args, GpuQueue& queue);
void layernorm_backward(const kernels::NormBackwardArgs& args, GpuQueue& queue);
void rmsnorm_backward(const kernels::NormBackwardArgs& args, GpuQueue& queue);
void head_rmsnorm_forward(const kernels::HeadNormForwardArgs& args, GpuQueue& queue);
void head_rmsnorm_backward(const kernels::HeadNormBackwardArgs& args, GpuQueue& queue);
void rope_apply(const kernels::RopeArgs& args, GpuQueue& queue);
void attention_forward(const kernels::AttentionForwardArgs& args, GpuQueue& queue);
// args.scratch_SW is one slot of gpu_attention_backward_words() (runtime/gpu/attention_scratch.h).
void attention_backward(const kernels::AttentionBackwardArgs& args, GpuQueue& queue);
void gelu_forward(const kernels::GeluForwardArgs& args, GpuQueue& queue);
void gelu_backward(const kernels::GeluBackwardArgs& args, GpuQueue& queue);
void swiglu_forward(const kernels::SwigluForwardArgs& args, GpuQueue& queue);
void swiglu_backward(const kernels::SwigluBackwardArgs& args, GpuQueue& queue);
void cross_entropy(const kernels::CrossEntropyArgs& args, GpuQueue& queue);
void add(const kernels::AddArgs& args, GpuQueue& queue);
void cast(const kernels::CastArgs& args, GpuQueue& queue);
void sum_squares_blocks(const kernels::SumSquaresArgs& args, GpuQueue& queue);
void round_and_sum_squares(const kernels::RoundAndSumSquaresArgs& args, GpuQueue& queue);
void sum_relative_changes(const kernels::SumRelativeChangesArgs& args, GpuQueue& queue);
void column_sums(const void* dy_RO, DType dtype, std::int64_t R, std::int64_t O, bool accumulate, float* sums_O,
                 GpuQueue& queue);
void xxh3_64(const std::byte* data, std::int64_t n, std::uint64_t* hash, GpuQueue& queue);

}  // namespace strata::STRATA_GPU
