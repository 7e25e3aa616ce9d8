// Attention by the vendor's library, behind the seam of driver.h. Bodies: cuDNN (gpu/cuda/cudnn_attention.h), and the host's
// kernels behind the emulator (tests/emulator). bf16 only. The meaning of arguments is that of kernels/attention.h.
#pragma once

#include <cstddef>

#include "runtime/status.h"

namespace strata {

class GpuQueue;
namespace kernels {
struct AttentionShape;
struct AttentionForwardArgs;
struct AttentionBackwardArgs;
}  // namespace kernels

class GpuAttention {
 public:
  virtual ~GpuAttention() = default;
  // Makes what both directions need for the shape on queues with that much scratch; ok: they will be taken, and so will more
  // sequences at a time. Error unsupported: the library refuses the shape, or needs more workspace; what to do.
  virtual Status prepare(const kernels::AttentionShape& shape, std::size_t scratch_bytes) = 0;
  // Any thread. Workspace is the queue's scratch. B and T are positive. What is refused becomes the queue's error. The same
  // shape and scratch get the same bits in every run on this kind of device with the same version of the library.
  virtual void forward(const kernels::AttentionForwardArgs& args, GpuQueue& queue) = 0;
  virtual void backward(const kernels::AttentionBackwardArgs& args, GpuQueue& queue) = 0;
};

}  // namespace strata
