// The loops of attention.h, one table per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/kernels/isa.h"

namespace strata::kernels {

// Queries, and keys, of one tile. Tiles start at multiples of it; the last one of a sequence may be shorter.
inline constexpr std::int64_t kAttentionTile = 64;

struct AttentionSizes {
  std::int64_t T, N, K, H;
  float scale;
  std::int64_t row() const { return (N + 2 * K) * H; }  // elements of a row of qkv
  std::int64_t group() const { return N / K; }          // query heads that share a key head
};

// Pointers are those of batch entry 0.
template <class T>
struct AttentionForwardLoop {
  AttentionSizes size;
  const T* qkv;
  T* o;
  float* lse;
};

template <class T>
struct AttentionBackwardLoop {
  AttentionSizes size;
  const T* qkv;
  const T* o;
  const T* d_o;
  const float* lse;
  T* dqkv;
};

template <class T>
struct AttentionLoops {
  // One query tile of one query head. scratch: forward_scratch(size) bytes, aligned to 64.
  void (*forward)(const AttentionForwardLoop<T>& a, std::int64_t b, std::int64_t head, std::int64_t tile, std::byte* scratch);
  // All of one key head: its dk and dv and the dq of the query heads that use it. scratch: backward_scratch(size) bytes, which
  // are the same for every dtype and instruction set.
  void (*backward)(const AttentionBackwardLoop<T>& a, std::int64_t b, std::int64_t key_head, std::byte* scratch);
  std::size_t (*forward_scratch)(const AttentionSizes& size);
  std::size_t (*backward_scratch)(const AttentionSizes& size);
};

struct AttentionTable {
  ByDType<AttentionLoops> loops;
  // For even H on processors with AVX512_BF16; null elsewhere.
  const AttentionLoops<bf16>* bf16_pairs;
};

}  // namespace strata::kernels

STRATA_ISA_TABLE(AttentionTable, attention_table)
