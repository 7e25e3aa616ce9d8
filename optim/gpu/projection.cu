// Random projections on a GPU: the bits of runtime/kernels/normal_simd.cpp.
#include "optim/gpu/projection.h"
#include "optim/gpu/update_ops.h"
#include "runtime/gpu/kernels/units.h"
#include "runtime/kernels/normal_rule.h"

namespace strata::STRATA_GPU {
namespace {

struct NormalOps : Ops {
  STRATA_DEVICE static std::uint32_t bits(float x) { return float_to_bits(x); }
  STRATA_DEVICE static float value(std::uint32_t x) { return bits_to_float(x); }
};

// A thread has one block of random words and its four values, as far as they are wanted.
STRATA_KERNEL normal_kernel(kernels::NormalStream stream, std::int64_t n, float* out) {
  const std::int64_t block = block_x() * block_threads() + thread_index();
  const std::int64_t first = block / kernels::kNormalLanes * kernels::kNormalGroup + block % kernels::kNormalLanes;
  if (first >= n) return;
  std::uint32_t c[4] = {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32),
                        static_cast<std::uint32_t>(stream.stream), static_cast<std::uint32_t>(stream.stream >> 32)};
  auto key0 = static_cast<std::uint32_t>(stream.seed), key1 = static_cast<std::uint32_t>(stream.seed >> 32);
  using Rule = kernels::PhiloxRule<NormalOps>;
  STRATA_UNROLL
  for (int round = 0; round < Rule::kRounds; ++round) {
    Rule::round(c[0], c[1], c[2], c[3], key0, key1);
    Rule::next_keys(key0, key1);
  }
  float values[4];
  kernels::NormalRule<NormalOps>::pair(c[0], c[1], values[0], values[1]);
  kernels::NormalRule<NormalOps>::pair(c[2], c[3], values[2], values[3]);
  STRATA_UNROLL
  for (int k = 0; k < 4; ++k) {
    const std::int64_t at = first + k * kernels::kNormalLanes;
    if (at < n) out[at] = fma_rn(stream.deviation, values[k], stream.mean);
  }
}

}  // namespace

void normal(const kernels::NormalStream& stream, std::int64_t n, float* out, GpuQueue& queue) {
  const std::int64_t groups = (n + kernels::kNormalGroup - 1) / kernels::kNormalGroup;
  launch(queue, normal_kernel, {.x = blocks_for(groups * kernels::kNormalLanes, kThreads)}, kThreads, 0, stream, n, out);
}

}  // namespace strata::STRATA_GPU
