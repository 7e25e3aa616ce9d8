// Attention, backward: first delta_BNT, the sum of do * o over each head, then dK and dV, then dQ, each from its own blocks and
// so without a sum across blocks.
#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/attention_shape.h"
#include "runtime/gpu/kernels/attention_tiles.h"
#include "runtime/gpu/kernels/entries.h"

namespace strata::STRATA_GPU {
namespace {

// A warp sums one head of one row.
template <class Element, bool kPacked>
STRATA_KERNEL attention_delta_kernel(const Element* o, const Element* d_o, float* delta, std::int64_t R, std::int64_t T,
                                     std::int64_t N, std::int64_t H) {
  using Values = Chunk<Element, kPacked>;
  const std::int64_t item = block_x() * (kThreads / kWarp) + warp_index();
  if (item >= R * N) return;
  float sum = 0.0f;
  for (std::int64_t i = lane_index() * Values::kCount; i < H; i += kWarp * Values::kCount) {
    const Values a = Values::load(o + item * H + i), b = Values::load(d_o + item * H + i);
    STRATA_UNROLL
    for (int k = 0; k < Values::kCount; ++k) sum = fma_rn(a.values[k], b.values[k], sum);
  }
  STRATA_UNROLL
  for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  const std::int64_t row = item / N, head = item % N;
  if (lane_index() == 0) delta[(row / T * N + head) * T + row % T] = sum;
}

}  // namespace

void attention_backward(const kernels::AttentionBackwardArgs& args, GpuQueue& queue) {
  float* delta_BNT = args.scratch_SW.as<float>();
  const std::int64_t R = args.B * args.T;
  const Grid grid = {.x = blocks_for(R * args.N, kThreads / kWarp)};
  with_type(args.qkv_RD.dtype, [&]<class Element>() {
    const Element* o = args.o_RE.as<Element>();
    const Element* d_o = args.do_RE.as<Element>();
    if (can_pack<Element>(args.H, o, d_o))
      launch(queue, attention_delta_kernel<Element, true>, grid, kThreads, 0, o, d_o, delta_BNT, R, args.T, args.N, args.H);
    else
      launch(queue, attention_delta_kernel<Element, false>, grid, kThreads, 0, o, d_o, delta_BNT, R, args.T, args.N, args.H);
  });
  if (args.qkv_RD.dtype == DType::bf16 && args.H <= kTensorColumns &&
      can_pack<bf16>(args.H, args.qkv_RD.data, args.do_RE.data, args.dqkv_RD.data)) {
    attention_backward_keys_tensor(args, delta_BNT, queue);
    attention_backward_queries_tensor(args, delta_BNT, queue);
  } else {
    attention_backward_scalar(args, delta_BNT, queue);
  }
}

}  // namespace strata::STRATA_GPU
