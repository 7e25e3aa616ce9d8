// cuDNN's fused attention, loaded at run time.
//
// Bits. The engine is the first that the library proposes for a shape on the device, and is kept for the life of the object.
// The backward is the form of NVIDIA's deterministic algorithm: it keeps dS whole in the workspace instead of adding to dq as
// blocks end. That is 2 bytes for each pair of tokens and query head, so what does not fit the queue's scratch is done in
// parts: sequences, then key heads with their queries. Parts change no bits: no sum crosses them.
#pragma once

#include <memory>

#include "runtime/gpu/library_attention.h"

namespace strata {

// Errors: unsupported (no libcudnn, an old one, or a build without its headers), internal (a call failed; named).
Result<std::unique_ptr<GpuAttention>> make_cudnn_attention(int ordinal);

}  // namespace strata
