// A vendor's attention for the emulator: the host's kernels on the queue's thread, in bf16, with the refusals of a library
// (head sizes that are no multiple of 8, a workspace that does not fit) and a workspace it really writes over.
#pragma once

#include <memory>

#include "runtime/gpu/library_attention.h"
#include "tests/emulator/emulated_queue.h"

namespace strata::gpu_emulated {

// counts: gets "library_attention_forward" and "library_attention_backward". Outlives the object.
std::unique_ptr<GpuAttention> make_emulated_attention(Counts& counts);

}  // namespace strata::gpu_emulated
