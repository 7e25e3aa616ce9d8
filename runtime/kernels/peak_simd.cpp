#include "runtime/kernels/peak_table.h"
#include "runtime/kernels/tile_product.h"

namespace strata::STRATA_ISA {
namespace {

// As many independent sums as a product block has: enough to hide the latency, few enough for the registers. (In two dims, as
// there: compilers unroll short loops only.)
template <class Math>
float multiply_adds(std::int64_t rounds) {
  Vec sums[kProductRows][kProductVecs];
  for (auto& row : sums) {
    for (Vec& sum : row) sum = splat(0.0f);
  }
  const Vec a = splat(0.5f), b = splat(0.25f);
  for (std::int64_t i = 0; i < rounds; ++i) {
    for (auto& row : sums) {
      for (Vec& sum : row) sum = Math::multiply_add(a, b, sum);
    }
  }
  Vec total = splat(0.0f);
  for (const auto& row : sums) {
    for (const Vec& sum : row) total = total + sum;
  }
  return reduce_add(total);
}

template <class Math>
constexpr double flop_per_round() {
  return 2.0 * Math::kPerWord * Vec::kLanes * kProductRows * kProductVecs;
}

}  // namespace

const kernels::PeakTable& peak_table() {
#if defined(STRATA_ISA_avx512)
  static const bool has_bf16 = __builtin_cpu_supports("avx512bf16");
  static const kernels::PeakTable table = {.f32 = multiply_adds<F32Math>,
                                           .bf16 = has_bf16 ? multiply_adds<Bf16PairMath> : nullptr,
                                           .f32_flop_per_round = flop_per_round<F32Math>(),
                                           .bf16_flop_per_round = flop_per_round<Bf16PairMath>()};
#else
  static constexpr kernels::PeakTable table = {.f32 = multiply_adds<F32Math>,
                                               .bf16 = nullptr,
                                               .f32_flop_per_round = flop_per_round<F32Math>(),
                                               .bf16_flop_per_round = 0.0};
#endif
  return table;
}

}  // namespace strata::STRATA_ISA
