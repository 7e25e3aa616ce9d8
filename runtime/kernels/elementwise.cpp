#include "runtime/kernels/elementwise.h"

#include <atomic>

#include "runtime/kernels/elementwise_table.h"
#include "runtime/kernels/host_dispatch.h"

namespace strata::kernels {
namespace {

template <class From, class To>
void enqueue_cast(const CastArgs& args, StreamRef stream, void (*loop)(const From*, To*, std::int64_t)) {
  const From* x = args.x.as<From>();
  To* y = args.y.as<To>();
  const std::int64_t n = args.x.numel();
  enqueue_kernel("cast", stream, args, &GpuKernels::cast, [=, &pool = stream.device().pool()] {
    for_each_block(pool, n, kTaskElements, [&](std::int64_t i, std::int64_t end) { loop(x + i, y + i, end - i); });
    return Status();
  });
}

// Through f32, which holds every bf16 and f16 exactly: one rounding.
template <class From, class To>
void via_f32(const From* x, To* y, std::int64_t n, void (*widen)(const From*, float*, std::int64_t),
             void (*narrow)(const float*, To*, std::int64_t)) {
  constexpr std::int64_t kChunk = 1024;
  float buffer[kChunk];
  for (std::int64_t i = 0; i < n; i += kChunk) {
    const std::int64_t count = std::min(kChunk, n - i);
    widen(x + i, buffer, count);
    narrow(buffer, y + i, count);
  }
}

void bf16_to_f16(const bf16* x, f16* y, std::int64_t n) {
  const ElementwiseTable& table = elementwise_table();
  via_f32(x, y, n, table.bf16_to_f32, table.f32_to_f16);
}
void f16_to_bf16(const f16* x, bf16* y, std::int64_t n) {
  const ElementwiseTable& table = elementwise_table();
  via_f32(x, y, n, table.f16_to_f32, table.f32_to_bf16);
}

bool all_finite(const ConstTensorRef& x, std::int64_t first, std::int64_t count) {
  const ElementwiseTable& table = elementwise_table();
  const std::byte* data = x.data + static_cast<std::size_t>(first) * size_of(x.dtype);
  if (x.dtype == DType::f32) return table.all_finite_f32(reinterpret_cast<const float*>(data), count);
  const std::uint16_t mask = x.dtype == DType::bf16 ? 0x7f80 : 0x7c00;
  return table.all_finite_16(reinterpret_cast<const std::uint16_t*>(data), mask, count);
}

}  // namespace

void add(const AddArgs& args, StreamRef stream) {
  check_compute_dtype(args.y.dtype, "y");
  check_tensor(args.a, args.y.dtype, args.y.shape, "a");
  check_tensor(args.b, args.y.dtype, args.y.shape, "b");
  enqueue_kernel("add", stream, args, &GpuKernels::add, [args, &table = elementwise_table(), &pool = stream.device().pool()] {
    for_each_block(pool, args.y.numel(), kTaskElements, [&](std::int64_t i, std::int64_t end) {
      if (args.y.dtype == DType::f32)
        table.add_f32(args.a.as<float>() + i, args.b.as<float>() + i, args.y.as<float>() + i, end - i);
      else
        table.add_bf16(args.a.as<bf16>() + i, args.b.as<bf16>() + i, args.y.as<bf16>() + i, end - i);
    });
    return Status();
  });
}

void cast(const CastArgs& args, StreamRef stream) {
  check_shape(args.x, args.y.shape, "x");
  const ElementwiseTable& table = elementwise_table();
  const DType from = args.x.dtype;
  const DType to = args.y.dtype;
  STRATA_CHECK(from != DType::i32 && to != DType::i32, "cast converts between f32, bf16 and f16");
  if (from == to) return copy_async(args.x.data, args.y.data, args.x.bytes(), stream);
  if (from == DType::f32 && to == DType::bf16) return enqueue_cast(args, stream, table.f32_to_bf16);
  if (from == DType::f32) return enqueue_cast(args, stream, table.f32_to_f16);
  if (to == DType::f32 && from == DType::bf16) return enqueue_cast(args, stream, table.bf16_to_f32);
  if (to == DType::f32) return enqueue_cast(args, stream, table.f16_to_f32);
  if (from == DType::bf16) return enqueue_cast(args, stream, &bf16_to_f16);
  return enqueue_cast(args, stream, &f16_to_bf16);
}

void cast_f32_to_bf16(const float* x, bf16* y, std::int64_t n) { elementwise_table().f32_to_bf16(x, y, n); }
void cast_bf16_to_f32(const bf16* x, float* y, std::int64_t n) { elementwise_table().bf16_to_f32(x, y, n); }
void accumulate_f32(const float* x, float* acc, std::int64_t n) { elementwise_table().accumulate_f32(x, acc, n); }
void sum_squares_blocks(const float* x, std::int64_t n, double* partials) {
  elementwise_table().sum_squares_blocks(x, n, partials);
}

void sum_squares_blocks(const SumSquaresArgs& args, StreamRef stream) {
  enqueue_kernel("sum_squares", stream, args, &GpuKernels::sum_squares_blocks, [args] {
    sum_squares_blocks(args.x, args.n, args.partials);
    return Status();
  });
}

void round_and_sum_squares(const RoundAndSumSquaresArgs& args, StreamRef stream) {
  static_assert(kTaskElements % kNormBlock == 0);
  enqueue_kernel("round and sum squares", stream, args, &GpuKernels::round_and_sum_squares,
                 [args, &table = elementwise_table(), &pool = stream.device().pool()] {
                   for_each_block(pool, args.n, kTaskElements, [&](std::int64_t first, std::int64_t end) {
                     // One block after the other: it is read again while a cache has it.
                     for (std::int64_t i = first; i < end; i += kNormBlock) {
                       const std::int64_t count = std::min(kNormBlock, end - i);
                       table.f32_to_bf16(args.x + i, args.y + i, count);
                       table.sum_squares_blocks(args.x + i, count, args.partials + i / kNormBlock);
                     }
                   });
                   return Status();
                 });
}

void sum_relative_changes(const SumRelativeChangesArgs& args, StreamRef stream) {
  STRATA_CHECK(args.n < std::int64_t{1} << 34, "a sum of so many changes has 64 bits");
  enqueue_kernel("sum relative changes", stream, args, &GpuKernels::sum_relative_changes,
                 [args, &table = elementwise_table(), &pool = stream.device().pool()] {
                   std::atomic<std::uint64_t> sum = 0;
                   for_each_block(pool, args.n, kTaskElements, [&](std::int64_t i, std::int64_t end) {
                     sum.fetch_add(table.sum_relative_changes(args.before + i, args.after + i, end - i),
                                   std::memory_order_relaxed);
                   });
                   *args.sum = sum.load(std::memory_order_relaxed);
                   return Status();
                 });
}

std::int64_t find_nonfinite(ConstTensorRef x) {
  if (x.dtype == DType::i32) return -1;
  constexpr std::int64_t kChunk = 8192;
  for (std::int64_t first = 0; first < x.numel(); first += kChunk) {
    const std::int64_t count = std::min(kChunk, x.numel() - first);
    if (all_finite(x, first, count)) continue;
    for (std::int64_t i = first;; ++i)
      if (!all_finite(x, i, 1)) return i;
  }
  return -1;
}

}  // namespace strata::kernels
