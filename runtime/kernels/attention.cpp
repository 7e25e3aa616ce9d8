#include "runtime/kernels/attention.h"

#include <algorithm>

#include "runtime/gpu/attention_scratch.h"
#include "runtime/kernels/attention_table.h"
#include "runtime/kernels/host_dispatch.h"
#include "runtime/kernels/scratch_slots.h"

namespace strata::kernels {
namespace {

// The checks that both directions share.
template <class Args>
void check_common(const Args& args) {
  const DType dtype = args.qkv_RD.dtype;
  check_compute_dtype(dtype, "qkv");
  STRATA_CHECK(args.B >= 0 && args.T >= 0 && args.K > 0 && args.N > 0 && args.H > 0,
               "attention needs heads that are not empty");
  STRATA_CHECK(args.N % args.K == 0,
               std::to_string(args.N) + " query heads cannot share " + std::to_string(args.K) + " key heads");
  STRATA_CHECK(args.scale > 0.0f, "the scale of attention scores is positive");
  const std::int64_t R = args.B * args.T;
  check_shape(args.qkv_RD, {R, (args.N + 2 * args.K) * args.H}, "qkv");
  check_tensor(args.o_RE, dtype, {R, args.N * args.H}, "o");
  check_tensor(args.lse_BNT, DType::f32, {args.B, args.N, args.T}, "lse");
}

template <class Args>
AttentionSizes sizes_of(const Args& args) {
  return {.T = args.T, .N = args.N, .K = args.K, .H = args.H, .scale = args.scale};
}

template <class T>
const AttentionLoops<T>& choose_loops(const AttentionTable& table, std::int64_t H) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (table.bf16_pairs != nullptr && H % 2 == 0) return *table.bf16_pairs;
  }
  return table.loops.get<T>();
}

template <class T>
Status forward(const AttentionForwardArgs& args, const AttentionTable& table, ThreadPool& pool) {
  const AttentionForwardLoop<T> a = {
      .size = sizes_of(args), .qkv = args.qkv_RD.as<T>(), .o = args.o_RE.as<T>(), .lse = args.lse_BNT.as<float>()};
  const AttentionLoops<T>& loops = choose_loops<T>(table, args.H);
  ScratchSlots scratch(pool.threads(), loops.forward_scratch(a.size));
  const std::int64_t tiles = blocks_of(args.T, kAttentionTile);
  pool.parallel_for(args.B * args.N * tiles, [&](std::int64_t task) {
    // The tiles of a head follow each other, so that its keys stay in cache; the longest first.
    const std::int64_t head = task / tiles, tile = tiles - 1 - task % tiles;
    const ScratchSlots::Lease slot(scratch);
    loops.forward(a, head / args.N, head % args.N, tile, slot.data());
  });
  return {};
}

template <class T>
Status backward(const AttentionBackwardArgs& args, const AttentionTable& table, ThreadPool& pool) {
  const AttentionBackwardLoop<T> a = {.size = sizes_of(args),
                                      .qkv = args.qkv_RD.as<T>(),
                                      .o = args.o_RE.as<T>(),
                                      .d_o = args.do_RE.as<T>(),
                                      .lse = args.lse_BNT.as<float>(),
                                      .dqkv = args.dqkv_RD.as<T>()};
  const AttentionLoops<T>& loops = choose_loops<T>(table, args.H);
  const Shape slots = args.scratch_SW.shape;
  ScratchSlots scratch(args.scratch_SW.data, static_cast<int>(slots[0]), static_cast<std::size_t>(slots[1]) * sizeof(float));
  pool.parallel_for(args.B * args.K, [&](std::int64_t task) {
    const ScratchSlots::Lease slot(scratch);
    loops.backward(a, task / args.K, task % args.K, slot.data());
  });
  return {};
}

}  // namespace

Shape attention_backward_scratch(const AttentionBackwardArgs& args, const Device& device) {
  if (device.planned() == Backend::cuda) return {1, gpu_attention_backward_words(args.B, args.N, args.T)};
  const std::size_t bytes = attention_table().loops.get<float>().backward_scratch(sizes_of(args));
  return {std::min<std::int64_t>(device.threads(), args.B * args.K), static_cast<std::int64_t>(bytes / sizeof(float))};
}

void attention_forward(const AttentionForwardArgs& args, StreamRef stream) {
  check_common(args);
  enqueue_kernel("attention_forward", stream, args, &GpuKernels::attention_forward,
                 [args, &table = attention_table(), &pool = stream.device().pool()] {
                   return args.qkv_RD.dtype == DType::f32 ? forward<float>(args, table, pool)
                                                          : forward<bf16>(args, table, pool);
                 });
}

void attention_backward(const AttentionBackwardArgs& args, StreamRef stream) {
  check_common(args);
  check_tensor(args.do_RE, args.qkv_RD.dtype, args.o_RE.shape, "do");
  check_tensor(args.dqkv_RD, args.qkv_RD.dtype, args.qkv_RD.shape, "dqkv");
  check_tensor(args.scratch_SW, DType::f32, attention_backward_scratch(args, stream.device()), "scratch");
  enqueue_kernel("attention_backward", stream, args, &GpuKernels::attention_backward,
                 [args, &table = attention_table(), &pool = stream.device().pool()] {
                   return args.qkv_RD.dtype == DType::f32 ? backward<float>(args, table, pool)
                                                          : backward<bf16>(args, table, pool);
                 });
}

}  // namespace strata::kernels
