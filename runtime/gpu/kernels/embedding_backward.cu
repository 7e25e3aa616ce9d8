// Gradients of the embedding tables. Every element of a table is summed by one thread over its rows of dy in their order, so
// the bits are the host's.
#include <type_traits>

#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/entries.h"
#include "runtime/gpu/kernels/reduce.h"
#include "runtime/gpu/kernels/token_order.h"
#include "runtime/kernels/embedding.h"

namespace strata::STRATA_GPU {
namespace {

// Rows whose loads are in flight together: a frequent token has thousands.
constexpr int kAhead = 8;

// The columns of one thread: 16 bytes of dy, or one element.
template <class T, bool kPacked>
struct Columns {
  static constexpr int kCount = Chunk<T, kPacked>::kCount;
  using Stored = std::conditional_t<kPacked, Pack<T>, T>;
  using Sums = Chunk<float, kPacked>;
  float sums[kCount];

  STRATA_DEVICE explicit Columns(const float* from) {
    STRATA_UNROLL
    for (int k = 0; k < kCount; k += Sums::kCount) {
      const Sums part = Sums::load(from + k);
      STRATA_UNROLL
      for (int j = 0; j < Sums::kCount; ++j) sums[k + j] = part.values[j];
    }
  }
  STRATA_DEVICE static Stored load(const T* from) {
    if constexpr (kPacked)
      return load_pack(from);
    else
      return *from;
  }
  STRATA_DEVICE void add(const Stored& stored) {
    if constexpr (kPacked) {
      STRATA_UNROLL
      for (int k = 0; k < kCount; ++k) sums[k] = add_rn(sums[k], get(&stored[k]));
    } else {
      sums[0] = add_rn(sums[0], get(&stored));
    }
  }
  STRATA_DEVICE void store(float* to) const {
    STRATA_UNROLL
    for (int k = 0; k < kCount; k += Sums::kCount) {
      Sums part;
      STRATA_UNROLL
      for (int j = 0; j < Sums::kCount; ++j) part.values[j] = sums[k + j];
      part.store(to + k);
    }
  }
};

// Where thread t of the items of `lanes` threads stands: an item and the first of its columns.
struct Place {
  std::int64_t item, column;
};
template <int kCount>
STRATA_DEVICE Place place_of(std::int64_t lanes) {
  const std::int64_t t = block_x() * kThreads + thread_index();
  return {t / lanes, t % lanes * kCount};
}

// Items: places in the order of tokens. The first place of a token has the work for all of its rows.
template <class T, bool kPacked>
STRATA_KERNEL add_token_rows_kernel(const TokenKey* keys, const T* dy, float* dwte, std::int64_t R, std::int64_t C,
                                    std::int64_t lanes) {
  using Own = Columns<T, kPacked>;
  const auto [first, column] = place_of<Own::kCount>(lanes);
  if (first >= R) return;
  const std::uint32_t token = token_of(keys[first]);
  if (token == kNoToken || (first > 0 && token_of(keys[first - 1]) == token)) return;
  float* to = dwte + token * C + column;
  Own own(to);
  for (std::int64_t i = first; i < R && token_of(keys[i]) == token; i += kAhead) {
    typename Own::Stored ahead[kAhead];
    int count = 0;
    STRATA_UNROLL
    for (int k = 0; k < kAhead; ++k) {
      if (i + k >= R) continue;
      const TokenKey key = keys[i + k];
      if (token_of(key) != token) continue;
      ahead[k] = Own::load(dy + row_of(key) * C + column);
      count = k + 1;
    }
    STRATA_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (k < count) own.add(ahead[k]);
  }
  own.store(to);
}

// Items: positions.
template <class T, bool kPacked>
STRATA_KERNEL add_position_rows_kernel(const T* dy, float* dwpe, std::int64_t R, std::int64_t seq, std::int64_t C,
                                       std::int64_t lanes) {
  using Own = Columns<T, kPacked>;
  const auto [position, column] = place_of<Own::kCount>(lanes);
  if (position >= seq) return;
  float* to = dwpe + position * C + column;
  Own own(to);
  for (std::int64_t r = position; r < R; r += kAhead * seq) {
    typename Own::Stored ahead[kAhead];
    STRATA_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (r + k * seq < R) ahead[k] = Own::load(dy + (r + k * seq) * C + column);
    STRATA_UNROLL
    for (int k = 0; k < kAhead; ++k)
      if (r + k * seq < R) own.add(ahead[k]);
  }
  own.store(to);
}

template <class T, bool kPacked>
void enqueue(const kernels::EmbeddingBackwardArgs& args, GpuQueue& queue) {
  const std::int64_t R = args.tokens_R.numel(), V = args.dwte_VC.shape[0], C = args.dwte_VC.shape[1];
  const T* dy = args.dy_RC.as<T>();
  const std::int64_t lanes = C / Chunk<T, kPacked>::kCount;
  const TokenKey* keys = order_tokens(args.tokens_R.as<std::int32_t>(), R, V, queue.scratch().data(), queue);
  launch(queue, add_token_rows_kernel<T, kPacked>, Grid{.x = blocks_for(R * lanes, kThreads)}, kThreads, 0, keys, dy,
         args.dwte_VC.as<float>(), R, C, lanes);
  if (!args.dwpe_TC) return;
  launch(queue, add_position_rows_kernel<T, kPacked>, Grid{.x = blocks_for(args.T * lanes, kThreads)}, kThreads, 0, dy,
         args.dwpe_TC.as<float>(), R, args.T, C, lanes);
}

}  // namespace

void embedding_backward(const kernels::EmbeddingBackwardArgs& args, GpuQueue& queue) {
  const std::int64_t R = args.tokens_R.numel();
  if (R == 0 || !has_scratch(queue, "embedding_backward", token_order_bytes(R))) return;
  with_type(args.dy_RC.dtype, [&]<class T>() {
    if (can_pack<T>(args.dwte_VC.shape[1], args.dy_RC.as<T>(), args.dwte_VC.as<float>(), data_or_null<float>(args.dwpe_TC)))
      enqueue<T, true>(args, queue);
    else
      enqueue<T, false>(args, queue);
  });
}

}  // namespace strata::STRATA_GPU
