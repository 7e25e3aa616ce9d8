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
  slice.format = options.format;
  for (std::size_t k = 0; k < options.states; ++k) {
    if (options.format == kEightBitStates) {  // codes of any kind
      const std::int64_t bytes = options.format.bytes(n);
      slice.packed[k] = tensors.filled(DType::f32, {(bytes + 3) / 4}, 1e-3f, 2e-3f).data;
      continue;
    }
    const DType stored = options.format == kBf16States ? DType::bf16 : DType::f32;
    const TensorRef state = k == 0 ? values(stored, 1e-3f, 0.0f) : values(stored, 1e-6f, 1e-6f);
    if (options.format == kF32States)
      slice.states[k] = state.as<float>();
    else
      slice.packed[k] = state.data;
  }
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
