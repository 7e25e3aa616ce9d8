// Rotary position embedding; the formulas, and the bits, are those of kernels/rope_simd.cpp.
#include <algorithm>

#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/entries.h"
#include "runtime/kernels/rope.h"

namespace strata::STRATA_GPU {
namespace {

template <class T>
struct RopeLoop {
  T* qkv;
  const float* cos;
  const float* sin;
  std::int64_t seq, heads, D;
  int half, lanes;  // lanes: threads that share a head
  float sign;
};

// kCount angles; the tables are f32 whatever T is.
template <int kCount, bool kPacked>
STRATA_DEVICE void load_angles(const float* from, float (&to)[kCount]) {
  using Angles = Chunk<float, kPacked>;
  STRATA_UNROLL
  for (int k = 0; k < kCount; k += Angles::kCount) {
    const Angles angles = Angles::load(from + k);
    STRATA_UNROLL
    for (int j = 0; j < Angles::kCount; ++j) to[k + j] = angles.values[j];
  }
}

// A block takes a row. A thread keeps its angles while it goes through the heads.
template <class T, bool kPacked>
STRATA_KERNEL rope_kernel(RopeLoop<T> a) {
  using Values = Chunk<T, kPacked>;
  constexpr int kCount = Values::kCount;
  const std::int64_t angles = block_x() % a.seq * a.half;
  T* row = a.qkv + block_x() * a.D;
  const int heads_at_once = block_threads() / a.lanes;
  const int first_head = thread_index() / a.lanes;
  if (first_head >= heads_at_once) return;
  for (int i = thread_index() % a.lanes * kCount; i < a.half; i += a.lanes * kCount) {
    float cos[kCount], sin[kCount];
    load_angles<kCount, kPacked>(a.cos + angles + i, cos);
    load_angles<kCount, kPacked>(a.sin + angles + i, sin);
    STRATA_UNROLL
    for (int k = 0; k < kCount; ++k) sin[k] *= a.sign;
    for (std::int64_t m = first_head; m < a.heads; m += heads_at_once) {
      T* lower = row + m * 2 * a.half + i;
      T* upper = lower + a.half;
      Values x = Values::load(lower);
      Values y = Values::load(upper);
      STRATA_UNROLL
      for (int k = 0; k < kCount; ++k) {
        const float rotated = sub_rn(mul_rn(x.values[k], cos[k]), mul_rn(y.values[k], sin[k]));
        y.values[k] = fma_rn(x.values[k], sin[k], mul_rn(y.values[k], cos[k]));
        x.values[k] = rotated;
      }
      x.store(lower);
      y.store(upper);
    }
  }
}

template <class T, bool kPacked>
void enqueue(RopeLoop<T> a, std::int64_t R, GpuQueue& queue) {
  const std::int64_t chunks = a.half / Chunk<T, kPacked>::kCount;
  a.lanes = static_cast<int>(std::min<std::int64_t>(chunks, kThreads));
  const std::int64_t warps = blocks_for(std::min<std::int64_t>(chunks * a.heads, kThreads), kWarp);
  launch(queue, rope_kernel<T, kPacked>, Grid{.x = R}, static_cast<int>(warps) * kWarp, 0, a);
}

}  // namespace

void rope_apply(const kernels::RopeArgs& args, GpuQueue& queue) {
  const std::int64_t R = args.qkv_RD.shape[0], heads = args.N + args.K, half = args.H / 2;
  if (heads == 0) return;
  with_type(args.qkv_RD.dtype, [&]<class T>() {
    const RopeLoop<T> a = {.qkv = args.qkv_RD.as<T>(),
                           .cos = args.cos_TH2.as<float>(),
                           .sin = args.sin_TH2.as<float>(),
                           .seq = args.T,
                           .heads = heads,
                           .D = args.qkv_RD.shape[1],
                           .half = static_cast<int>(half),
                           .lanes = 0,
                           .sign = args.inverse ? -1.0f : 1.0f};
    if (can_pack<T>(half, a.qkv, a.cos, a.sin))
      enqueue<T, true>(a, R, queue);
    else
      enqueue<T, false>(a, R, queue);
  });
}

}  // namespace strata::STRATA_GPU
