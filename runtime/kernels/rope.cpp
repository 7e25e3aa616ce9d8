#include "runtime/kernels/rope.h"

#include <cmath>
#include <numbers>

#include "runtime/kernels/host_dispatch.h"
#include "runtime/kernels/rope_table.h"

namespace strata::kernels {
namespace {

// Long wavelengths are stretched by the factor, short ones kept, those between blended.
double scaled(double frequency, const RopeScaling& scaling) {
  const auto context = static_cast<double>(scaling.original_max_position);
  const double turns = context * frequency / (2.0 * std::numbers::pi);  // over the original context
  if (turns > scaling.high_freq_factor) return frequency;
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  const double blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - blend) * frequency / scaling.factor + blend * frequency;
}

template <class T>
Status apply(const RopeArgs& args, const RopeTable& table, ThreadPool& pool) {
  const RopeLoop<T> a = {.qkv = args.qkv_RD.as<T>(),
                         .cos = args.cos_TH2.as<float>(),
                         .sin = args.sin_TH2.as<float>(),
                         .seq = args.T,
                         .heads = args.N + args.K,
                         .H = args.H,
                         .D = args.qkv_RD.shape[1],
                         .inverse = args.inverse};
  const auto loop = table.get<T>().apply;
  for_each_block(pool, args.qkv_RD.shape[0], rows_per_task(a.D), [&](std::int64_t r, std::int64_t end) { loop(a, r, end); });
  return {};
}

}  // namespace

std::vector<float> rope_inverse_frequencies(std::int64_t H, double theta, const RopeScaling& scaling) {
  STRATA_CHECK(H > 0 && H % 2 == 0, "rotary heads have an even number of elements");
  STRATA_CHECK(scaling.factor == 1.0 || scaling.high_freq_factor > scaling.low_freq_factor,
               "high_freq_factor is above low_freq_factor");
  std::vector<float> frequencies(static_cast<std::size_t>(H / 2));
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(H));
    frequencies[i] = static_cast<float>(scaling.factor == 1.0 ? frequency : scaled(frequency, scaling));
  }
  return frequencies;
}

void rope_tables(std::int64_t T, const std::vector<float>& inverse_frequencies, float* cos_TH2, float* sin_TH2) {
  std::size_t at = 0;
  for (std::int64_t t = 0; t < T; ++t) {
    for (const float frequency : inverse_frequencies) {
      const auto angle = static_cast<double>(static_cast<float>(t) * frequency);
      cos_TH2[at] = static_cast<float>(std::cos(angle));
      sin_TH2[at] = static_cast<float>(std::sin(angle));
      ++at;
    }
  }
}

void rope_apply(const RopeArgs& args, StreamRef stream) {
  const DType dtype = args.qkv_RD.dtype;
  check_compute_dtype(dtype, "qkv");
  STRATA_CHECK(args.N >= 0 && args.K >= 0 && args.H > 0 && args.H % 2 == 0, "a rotary head has an even number of elements");
  STRATA_CHECK(args.qkv_RD.shape.rank() == 2 && args.qkv_RD.shape[1] == (args.N + 2 * args.K) * args.H,
               "qkv is [R, (N + 2K) * H]");
  STRATA_CHECK(args.T > 0 && args.qkv_RD.shape[0] % args.T == 0, "rows are whole sequences of T tokens");
  for (const ConstTensorRef& angles : {args.cos_TH2, args.sin_TH2}) {
    check_dtype(angles, DType::f32, "cos or sin");
    STRATA_CHECK(angles.shape.rank() == 2 && angles.shape[0] >= args.T && angles.shape[1] == args.H / 2,
                 "cos and sin are [at least T, H/2]");
  }
  enqueue_kernel("rope_apply", stream, args, &GpuKernels::rope_apply,
                 [args, dtype, &table = rope_table(), &pool = stream.device().pool()] {
                   return dtype == DType::f32 ? apply<float>(args, table, pool) : apply<bf16>(args, table, pool);
                 });
}

}  // namespace strata::kernels
