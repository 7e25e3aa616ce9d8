#include "runtime/kernels/attention.h"

#include <algorithm>

#include "runtime/gpu/attention_scratch.h"
#include "runtime/gpu/library_attention.h"
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

// By the vendor's library where the driver has it: a choice of the configuration, the same for every shape.
template <class Args, class Body>
void enqueue_attention(const char* name, StreamRef stream, const Args& args, GpuKernels::Entry<Args> GpuKernels::*entry,
                       void (GpuAttention::*library)(const Args&, GpuQueue&), Body host_body) {
  GpuAttention* const attention = stream.on_gpu() ? stream.device().gpu().attention() : nullptr;
  if (attention == nullptr) return enqueue_kernel(name, stream, args, entry, std::move(host_body));
  if (args.qkv_RD.dtype != DType::bf16)
    return stream.queue().fail({Code::unsupported, "the library's attention computes in bf16, not " +
                                                       std::string(to_string(args.qkv_RD.dtype)) +
                                                       "; set device.attention: strata"});
  if (args.B * args.T > 0) (attention->*library)(args, GpuOperation(stream, name).queue());
}

}  // namespace

Status prepare_attention(const AttentionShape& shape, StreamRef stream) {
  GpuAttention* const attention = stream.on_gpu() ? stream.device().gpu().attention() : nullptr;
  return attention == nullptr ? Status() : attention->prepare(shape, stream.queue().scratch().size());
}

Shape attention_backward_scratch(const AttentionBackwardArgs& args, const Device& device) {
  if (device.planned() == Backend::cuda) return {1, gpu_attention_backward_words(args.B, args.N, args.T)};
  const std::size_t bytes = attention_table().loops.get<float>().backward_scratch(sizes_of(args));
  return {std::min<std::int64_t>(device.threads(), args.B * args.K), static_cast<std::int64_t>(bytes / sizeof(float))};
}

void attention_forward(const AttentionForwardArgs& args, StreamRef stream) {
  check_common(args);
  enqueue_attention("attention_forward", stream, args, &GpuKernels::attention_forward, &GpuAttention::forward,
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
  enqueue_attention("attention_backward", stream, args, &GpuKernels::attention_backward, &GpuAttention::backward,
                    [args, &table = attention_table(), &pool = stream.device().pool()] {
                      return args.qkv_RD.dtype == DType::f32 ? backward<float>(args, table, pool)
                                                             : backward<bf16>(args, table, pool);
                    });
}

}  // namespace strata::kernels
