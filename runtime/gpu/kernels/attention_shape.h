// What the kernels of attention share: the places of heads in fused rows, and who computes what. Contract: kernels/attention.h.
//
// bf16 heads of up to 256 elements whose rows can be read by 16 bytes run on tensor cores (attention_tiles.h), everything else
// on the scalar units in f32 (attention_scalar.h). Both go over tiles with an online softmax as FlashAttention-2 does (Dao
// 2023), write each result once, by one block, and sum in an order that the shape decides.
#pragma once

#include <cstdint>

#include "runtime/gpu/device.h"
#include "runtime/kernels/attention.h"

namespace strata::STRATA_GPU {

// Rows of one head inside a tensor; `count` of them exist.
template <class Element>
struct HeadRows {
  Element* data;
  std::int64_t stride;
  int count;
  // May be behind the end: then none exist.
  constexpr HeadRows from(int row) const {
    const int skipped = row < count ? row : count;
    return {data + skipped * stride, stride, count - skipped};
  }
};

struct AttentionShape {
  int T, N, K, H;
  float scale;

  constexpr int group() const { return N / K; }
  // Head `slot` of qkv: query head n is slot n, its key head N + n / group(), its value head K slots later.
  constexpr int key_slot(int query_head) const { return N + query_head / group(); }
  template <class Element>
  constexpr HeadRows<Element> qkv_rows(Element* qkv, std::int64_t batch, int slot) const {
    const std::int64_t row = static_cast<std::int64_t>(N + 2 * K) * H;
    return {qkv + batch * T * row + static_cast<std::int64_t>(slot) * H, row, T};
  }
  template <class Element>
  constexpr HeadRows<Element> o_rows(Element* o, std::int64_t batch, int head) const {
    const std::int64_t row = static_cast<std::int64_t>(N) * H;
    return {o + batch * T * row + static_cast<std::int64_t>(head) * H, row, T};
  }
  // Of lse_BNT and delta_BNT.
  constexpr std::int64_t statistics_at(std::int64_t batch, int head) const { return (batch * N + head) * T; }
};

template <class Args>
AttentionShape attention_shape(const Args& args) {
  const auto narrow = [](std::int64_t n) {
    STRATA_CHECK(n < std::int64_t{1} << 30, "attention counts tokens, heads and elements of a head in 32 bits");
    return static_cast<int>(n);
  };
  return {.T = narrow(args.T), .N = narrow(args.N), .K = narrow(args.K), .H = narrow(args.H), .scale = args.scale};
}

// Blocks are numbered so that those of one head follow each other: what they stream stays in cache.
struct AttentionBlock {
  int batch, head, tile, part;
  STRATA_DEVICE AttentionBlock(int heads, int tiles, int parts) {
    auto rest = static_cast<unsigned>(block_x());  // the device counts blocks in 31 bits
    const auto take = [&](int n) {
      const auto count = static_cast<unsigned>(n);
      const auto taken = static_cast<int>(rest % count);
      rest /= count;
      return taken;
    };
    part = take(parts);
    tile = take(tiles);
    head = take(heads);
    batch = static_cast<int>(rest);
  }
};

constexpr int min_of(int a, int b) { return a < b ? a : b; }
constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Exponentials are taken to base 2, which is what the hardware has.
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr float kInfinity = __builtin_inff();

// The bodies; the entries choose. delta_BNT = sum over a head of do * o.
void attention_forward_tensor(const kernels::AttentionForwardArgs& args, GpuQueue& queue);
void attention_backward_keys_tensor(const kernels::AttentionBackwardArgs& args, const float* delta_BNT, GpuQueue& queue);
void attention_backward_queries_tensor(const kernels::AttentionBackwardArgs& args, const float* delta_BNT, GpuQueue& queue);
void attention_forward_scalar(const kernels::AttentionForwardArgs& args, GpuQueue& queue);
void attention_backward_scalar(const kernels::AttentionBackwardArgs& args, const float* delta_BNT, GpuQueue& queue);

}  // namespace strata::STRATA_GPU
