// How memory-bound kernels walk their data: 16 bytes a thread where addresses allow it, element by element elsewhere.
#pragma once

#include <cstdint>

#include "runtime/gpu/device.h"

namespace strata::STRATA_GPU {

STRATA_DEVICE float get(const float* p) { return *p; }
STRATA_DEVICE float get(const bf16* p) { return to_float(*p); }
STRATA_DEVICE float get(const f16* p) { return to_float(*p); }
STRATA_DEVICE void put(float value, float* p) { *p = value; }
STRATA_DEVICE void put(float value, bf16* p) { *p = to_bf16(value); }
STRATA_DEVICE void put(float value, f16* p) { *p = to_f16(value); }

// kVector elements as f32 in registers: 16 bytes of T, or one element.
template <class T, bool kPacked>
struct Chunk {
  static constexpr int kCount = kPacked ? Pack<T>::kCount : 1;
  float values[kCount];

  STRATA_DEVICE static Chunk load(const T* from) {
    Chunk chunk;
    if constexpr (kPacked) {
      const Pack<T> pack = load_pack(from);
      for (int i = 0; i < kCount; ++i) chunk.values[i] = get(&pack[i]);
    } else {
      chunk.values[0] = get(from);
    }
    return chunk;
  }
  STRATA_DEVICE void store(T* to) const {
    if constexpr (kPacked) {
      Pack<T> pack;
      for (int i = 0; i < kCount; ++i) put(values[i], &pack[i]);
      store_pack(to, pack);
    } else {
      put(values[0], to);
    }
  }
};

// Whether rows of `row` elements at these addresses can be walked by 16 bytes.
template <class T, class... Pointers>
bool can_pack(std::int64_t row, const Pointers*... pointers) {
  return row % Pack<T>::kCount == 0 && ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

// The elements of an optional tensor; null where it was not given.
template <class T, class Tensor>
auto data_or_null(const Tensor& tensor) {
  return tensor ? tensor.template as<T>() : nullptr;
}

// Calls body.template operator()<T>() with the element type of a compute dtype.
template <class Body>
void with_type(DType dtype, Body body) {
  if (dtype == DType::f32)
    body.template operator()<float>();
  else
    body.template operator()<bf16>();
}

inline constexpr int kThreads = 256;

inline std::int64_t blocks_for(std::int64_t items, std::int64_t per_block) { return (items + per_block - 1) / per_block; }

}  // namespace strata::STRATA_GPU
