#include "trainer/sample_update.h"

#include "optim/gpu_kernels.h"

namespace strata {

AdamWSlice sample_update(TensorSet& tensors, std::int64_t n, const SampleUpdateOptions& options) {
  const Shape shape = {n};
  const auto values = [&](DType dtype, float scale, float offset) { return tensors.filled(dtype, shape, scale, offset); };
  AdamWSlice slice = {.p = values(DType::f32, 0.02f, 0.0f).as<float>(),
                      .m = values(DType::f32, 1e-3f, 0.0f).as<float>(),
                      .v = values(DType::f32, 1e-6f, 1e-6f).as<float>(),
                      .n = n,
                      .decay = true};
  if (options.g16)
    slice.g16 = values(DType::bf16, 1e-3f, -2e-4f).as<bf16>();
  else
    slice.g = values(DType::f32, 1e-3f, -2e-4f).as<float>();
  if (options.p16) slice.p16 = values(DType::bf16, 0.02f, 0.0f).as<bf16>();
  return slice;
}

void enqueue_sample_update(const AdamWSlice& slice, const AdamWScalars& scalars, StreamRef stream) {
  if (stream.on_gpu()) {
    stream.device().gpu().table<OptimGpuKernels>().adamw_update(slice, scalars, stream.queue());
    return;
  }
  stream.enqueue("adamw", [slice, scalars, &pool = stream.device().pool()] {
    adamw_update(slice, scalars, pool);
    return Status();
  });
}

}  // namespace strata
