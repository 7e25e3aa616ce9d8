// A tensor of the gpu tier that the host also reads or writes: on the host backend the same memory, on a GPU a second tensor in
// page-locked memory and a copy.
#pragma once

#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

class HostMirror {
 public:
  HostMirror() = default;
  // Throws StatusError (out_of_budget) when a tier's budget is exceeded.
  HostMirror(const Device& device, TierArena& gpu, TierArena& cpu, Category category, DType dtype, Shape shape,
             const char* what)
      : tensor_(gpu, category, dtype, shape, what) {
    if (device.has_separate_memory()) host_ = Tensor(cpu, category, dtype, shape, what);
  }

  TensorRef ref() const { return tensor_.ref(); }
  // What host code may touch: when nothing enqueued still copies it.
  TensorRef host() const { return host_ ? host_.ref() : tensor_.ref(); }
  const Shape& shape() const { return tensor_.shape(); }
  // Host to gpu tier, and back; of nothing but operations of `stream` ordered.
  void upload(StreamRef stream) const {
    if (host_) copy_async(host_.ref().data, tensor_.ref().data, tensor_.ref().bytes(), stream);
  }
  void download(StreamRef stream) const {
    if (host_) copy_async(tensor_.ref().data, host_.ref().data, tensor_.ref().bytes(), stream);
  }

 private:
  Tensor tensor_;
  Tensor host_;  // empty where the tiers are one memory
};

}  // namespace strata
