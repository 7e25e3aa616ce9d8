#include "trainer/sample_update.h"

namespace strata {
namespace {

constexpr UpdateStep kStep{.number = 10, .lr = 1e-4, .grad_scale = 0.9};
constexpr ParamGroup kGroup{.weight_decay = 0.01};

}  // namespace

UpdateSlice sample_update(TensorSet& tensors, std::int64_t n, const SampleUpdateOptions& options) {
  const Shape shape = {n};
  const auto values = [&](DType dtype, float scale, float offset) { return tensors.filled(dtype, shape, scale, offset); };
  UpdateSlice slice = {.p = values(DType::f32, 0.02f, 0.0f).as<float>(), .n = n};
  // A momentum may be of either sign, a mean of squares not.
  for (std::size_t k = 0; k < options.states; ++k)
    slice.states[k] = (k == 0 ? values(DType::f32, 1e-3f, 0.0f) : values(DType::f32, 1e-6f, 1e-6f)).as<float>();
  if (options.g16)
    slice.g16 = values(DType::bf16, 1e-3f, -2e-4f).as<bf16>();
  else
    slice.g = values(DType::f32, 1e-3f, -2e-4f).as<float>();
  if (options.p16) slice.p16 = values(DType::bf16, 0.02f, 0.0f).as<bf16>();
  return slice;
}

void enqueue_sample_update(const Optimizer& method, const UpdateSlice& slice, StreamRef stream) {
  if (stream.on_gpu()) {
    method.enqueue_on_gpu(slice, kStep, kGroup, stream.device().gpu(), stream.queue());
    return;
  }
  stream.enqueue(method.name(), [slice, &method, &pool = stream.device().pool()] {
    update(method, slice, kStep, kGroup, pool);
    return Status();
  });
}

}  // namespace strata
