// Sums, casts and norms of flat ranges; the bits of kernels/elementwise_simd.cpp, except which NaN an f32 result is.
#include <type_traits>

#include "runtime/gpu/kernels/entries.h"
#include "runtime/gpu/kernels/units.h"
#include "runtime/kernels/elementwise.h"

namespace strata::STRATA_GPU {
namespace {

template <class T>
STRATA_KERNEL add_kernel(const T* a, const T* b, T* y, Units units) {
  const Unit unit = unit_of_thread(units);
  float x[kUnit], z[kUnit];
  load_unit(a, unit, 0.0f, x);
  load_unit(b, unit, 0.0f, z);
  for (int k = 0; k < kUnit; ++k) x[k] = add_rn(x[k], z[k]);
  store_unit(x, y, unit);
}

// Through f32, which holds every bf16 and f16 exactly: one rounding.
template <class From, class To>
STRATA_KERNEL cast_kernel(const From* x, To* y, Units units) {
  const Unit unit = unit_of_thread(units);
  float values[kUnit];
  load_unit(x, unit, 0.0f, values);
  store_unit(values, y, unit);
}

// A norm block of 4096 has 16 lanes (kernels/elementwise.h); a thread has 4 neighbours of them, which 16 bytes hold, so that
// the 4 threads of a block read 64 bytes in a row.
constexpr int kLanes = Pack<float>::kCount;
constexpr int kNormLanes = 16;
constexpr int kNormTeam = kNormLanes / kLanes;
constexpr int kNormBatch = 16;    // loads on their way at once
constexpr int kNormThreads = 64;  // few: a small array has threads on every multiprocessor too

// A square is exact in double. y: x rounded, where To is not void.
template <class To>
STRATA_KERNEL sum_squares_kernel(const float* x, To* y, std::int64_t n, bool packed, double* partials) {
  const std::int64_t thread = block_x() * block_threads() + thread_index();
  const std::int64_t block = thread / kNormTeam;
  const auto lane = static_cast<int>(thread % kNormTeam) * kLanes;
  double sums[kLanes] = {};
  for (int batch = 0; batch < kernels::kNormBlock; batch += kNormLanes * kNormBatch) {
    const std::int64_t first = block * kernels::kNormBlock + batch;
    if (first >= n) break;
    float values[kNormBatch][kLanes];
    if (packed && first + kNormLanes * kNormBatch <= n) {
      STRATA_UNROLL
      for (int k = 0; k < kNormBatch; ++k) {
        const Pack<float> pack = load_pack(x + first + k * kNormLanes + lane);
        for (int l = 0; l < kLanes; ++l) values[k][l] = pack[l];
      }
      if constexpr (!std::is_void_v<To>) {
        STRATA_UNROLL
        for (int k = 0; k < kNormBatch; ++k) {
          Pack<To, kLanes* static_cast<int>(sizeof(To))> pack;
          for (int l = 0; l < kLanes; ++l) put(values[k][l], &pack[l]);
          store_pack(y + first + k * kNormLanes + lane, pack);
        }
      }
    } else {
      STRATA_UNROLL
      for (int k = 0; k < kNormBatch; ++k) {
        for (int l = 0; l < kLanes; ++l) {
          const std::int64_t i = first + k * kNormLanes + lane + l;
          values[k][l] = i < n ? x[i] : 0.0f;  // adding a square of zero changes no bit
          if constexpr (!std::is_void_v<To>)
            if (i < n) put(values[k][l], y + i);
        }
      }
    }
    STRATA_UNROLL
    for (int k = 0; k < kNormBatch; ++k) {
      for (int l = 0; l < kLanes; ++l) {
        const auto value = static_cast<double>(values[k][l]);
        sums[l] = add_rn(sums[l], mul_rn(value, value));
      }
    }
  }
  // Lane l and lane l + half, from half = 8 on: the first halves are other threads'.
  for (int half = kNormTeam / 2; half > 0; half /= 2)
    for (double& sum : sums) sum = add_rn(sum, shuffle_xor(sum, half));
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) sums[l] = add_rn(sums[l], sums[l + half]);
  if (lane == 0 && block * kernels::kNormBlock < n) partials[block] = sums[0];
}

template <class To>
void launch_sum_squares(const float* x, To* y, std::int64_t n, double* partials, GpuQueue& queue) {
  const std::int64_t threads = blocks_for(n, kernels::kNormBlock) * kNormTeam;
  // A y of null is as good as any.
  const bool packed = can_pack<float>(0, x) && reinterpret_cast<std::uintptr_t>(y) % (kLanes * sizeof(bf16)) == 0;
  launch(queue, sum_squares_kernel<To>, {.x = blocks_for(threads, kNormThreads)}, kNormThreads, 0, x, y, n, packed, partials);
}

// 2^30 times the change of one element, as the host has it.
STRATA_DEVICE std::uint64_t change_of(float before, float after) {
  constexpr float kIntegral = 8388608.0f;  // 2^23: from here on every float is an integer
  float change = div_rn(sub_rn(before, after), before);
  change = change < 0.0f ? -change : change;
  change = change < 1.0f ? change : 1.0f;
  change = before == 0.0f ? 0.0f : mul_rn(change, 0x1p30f);
  change = change < kIntegral ? sub_rn(add_rn(change, kIntegral), kIntegral) : change;
  return static_cast<std::uint64_t>(static_cast<std::int32_t>(change));
}

// Of the block's threads, in its first one.
STRATA_DEVICE std::uint64_t sum_of_block(std::uint64_t sum) {
  const auto warps = shared_array<std::uint64_t>(0, kThreads / kWarp);
  for (int half = kWarp / 2; half > 0; half /= 2) sum += shuffle_xor(sum, half);
  if (lane_index() == 0) warps[warp_index()] = sum;
  sync_block();
  if (thread_index() == 0)
    for (int w = 1; w < kThreads / kWarp; ++w) sum += warps[w];
  return sum;
}

STRATA_KERNEL sum_changes_kernel(const float* before, const float* after, Units units, std::uint64_t* partials) {
  std::uint64_t sum = 0;
  for (std::int64_t i = block_x() * kThreads + thread_index(); i < units.count(); i += blocks_x() * kThreads) {
    const Unit unit = units[i];
    float x[kUnit], y[kUnit];
    load_unit(before, unit, 0.0f, x);
    load_unit(after, unit, 0.0f, y);
    for (int k = 0; k < kUnit; ++k) sum += change_of(x[k], y[k]);
  }
  sum = sum_of_block(sum);
  if (thread_index() == 0) partials[block_x()] = sum;
}

STRATA_KERNEL add_changes_kernel(const std::uint64_t* partials, std::int64_t count, std::uint64_t* total) {
  std::uint64_t sum = 0;
  for (std::int64_t i = thread_index(); i < count; i += kThreads) sum += partials[i];
  sum = sum_of_block(sum);
  if (thread_index() == 0) *total = sum;
}

template <class From, class To>
void launch_cast(const kernels::CastArgs& args, GpuQueue& queue) {
  if constexpr (std::is_same_v<From, To>) {
    queue.copy(args.x.data, args.y.data, args.x.bytes());
  } else {
    const From* x = args.x.as<From>();
    To* y = args.y.as<To>();
    const Units units = {args.x.numel(), common_phase(x, y)};
    launch(queue, cast_kernel<From, To>, grid_of(units), kThreads, 0, x, y, units);
  }
}

template <class From>
void launch_cast_from(const kernels::CastArgs& args, GpuQueue& queue) {
  switch (args.y.dtype) {
    case DType::f32: return launch_cast<From, float>(args, queue);
    case DType::bf16: return launch_cast<From, bf16>(args, queue);
    case DType::f16: return launch_cast<From, f16>(args, queue);
    case DType::i32: break;
  }
}

}  // namespace

void add(const kernels::AddArgs& args, GpuQueue& queue) {
  with_type(args.y.dtype, [&]<class T>() {
    const T* a = args.a.as<T>();
    const T* b = args.b.as<T>();
    T* y = args.y.as<T>();
    const Units units = {args.y.numel(), common_phase(a, b, y)};
    launch(queue, add_kernel<T>, grid_of(units), kThreads, 0, a, b, y, units);
  });
}

void cast(const kernels::CastArgs& args, GpuQueue& queue) {
  switch (args.x.dtype) {
    case DType::f32: return launch_cast_from<float>(args, queue);
    case DType::bf16: return launch_cast_from<bf16>(args, queue);
    case DType::f16: return launch_cast_from<f16>(args, queue);
    case DType::i32: break;
  }
}

void sum_squares_blocks(const kernels::SumSquaresArgs& args, GpuQueue& queue) {
  launch_sum_squares<void>(args.x, nullptr, args.n, args.partials, queue);
}

void round_and_sum_squares(const kernels::RoundAndSumSquaresArgs& args, GpuQueue& queue) {
  launch_sum_squares(args.x, args.y, args.n, args.partials, queue);
}

void sum_relative_changes(const kernels::SumRelativeChangesArgs& args, GpuQueue& queue) {
  constexpr std::size_t kShared = kThreads / kWarp * sizeof(std::uint64_t);
  const Units units = {args.n, common_phase(args.before, args.after)};
  const std::int64_t blocks = std::min(blocks_for(units.count(), kThreads), kernels::kChangePartials);
  launch(queue, sum_changes_kernel, {.x = blocks}, kThreads, kShared, args.before, args.after, units, args.partials);
  launch(queue, add_changes_kernel, {}, kThreads, kShared, static_cast<const std::uint64_t*>(args.partials), blocks, args.sum);
}

}  // namespace strata::STRATA_GPU
