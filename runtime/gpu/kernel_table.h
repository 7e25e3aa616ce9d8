// The GPU bodies of the kernels in runtime/kernels: what <op>.cpp calls on the cuda backend, after it has checked the
// arguments. Compiled twice from the same sources (gpu/kernels/*.cu): by nvcc into the namespace gpu_cuda, and by the host
// compiler over the emulator of tests/emulator into gpu_emulated.
//
// Each entry enqueues on the queue and returns; all pointers are device memory. An operation that the device refuses is kept by
// the queue (GpuQueue::fail). Bits depend on shapes alone, never on time or on the number of multiprocessors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/dtype.h"

namespace strata {

class GpuQueue;

namespace kernels {
struct EmbeddingForwardArgs;
struct EmbeddingBackwardArgs;
struct NormForwardArgs;
struct NormBackwardArgs;
struct HeadNormForwardArgs;
struct HeadNormBackwardArgs;
struct RopeArgs;
struct AttentionForwardArgs;
struct AttentionBackwardArgs;
struct GeluForwardArgs;
struct GeluBackwardArgs;
struct SwigluForwardArgs;
struct SwigluBackwardArgs;
struct CrossEntropyArgs;
struct AddArgs;
struct CastArgs;
struct SumSquaresArgs;
struct RoundAndSumSquaresArgs;
struct SumRelativeChangesArgs;
}  // namespace kernels

struct GpuKernels {
  template <class Args>
  using Entry = void (*)(const Args&, GpuQueue&);

  Entry<kernels::EmbeddingForwardArgs> embedding_forward;
  Entry<kernels::EmbeddingBackwardArgs> embedding_backward;
  Entry<kernels::NormForwardArgs> layernorm_forward, rmsnorm_forward;
  Entry<kernels::NormBackwardArgs> layernorm_backward, rmsnorm_backward;
  Entry<kernels::HeadNormForwardArgs> head_rmsnorm_forward;
  Entry<kernels::HeadNormBackwardArgs> head_rmsnorm_backward;
  Entry<kernels::RopeArgs> rope_apply;
  Entry<kernels::AttentionForwardArgs> attention_forward;
  Entry<kernels::AttentionBackwardArgs> attention_backward;  // its scratch_SW: one slot of attention_scratch.h's words
  Entry<kernels::GeluForwardArgs> gelu_forward;
  Entry<kernels::GeluBackwardArgs> gelu_backward;
  Entry<kernels::SwigluForwardArgs> swiglu_forward;
  Entry<kernels::SwigluBackwardArgs> swiglu_backward;
  Entry<kernels::CrossEntropyArgs> cross_entropy;
  Entry<kernels::AddArgs> add;
  Entry<kernels::CastArgs> cast;
  // partials[k] as kernels::sum_squares_blocks: the same bits as the host's.
  Entry<kernels::SumSquaresArgs> sum_squares_blocks;
  Entry<kernels::RoundAndSumSquaresArgs> round_and_sum_squares;
  Entry<kernels::SumRelativeChangesArgs> sum_relative_changes;
  // sums[o] = column sums of dy_RO (or += with accumulate): what linear_backward_weight needs beside its product.
  void (*column_sums)(const void* dy_RO, DType dtype, std::int64_t R, std::int64_t O, bool accumulate, float* sums_O,
                      GpuQueue&);
  // *hash (device memory) = XXH3-64, seed 0, of `n` bytes, more than 240; `data` is 8-byte aligned. The queue's scratch, of at
  // least 128 bytes, holds a sixteenth of what is worked on at once.
  void (*xxh3_64)(const std::byte* data, std::int64_t n, std::uint64_t* hash, GpuQueue&);
};

}  // namespace strata
