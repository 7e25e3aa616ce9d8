#include <algorithm>

#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/entries.h"
#include "runtime/kernels/embedding.h"

namespace strata::STRATA_GPU {
namespace {

template <class T>
struct ForwardLoop {
  const std::int32_t* tokens;
  const T* wte;
  const T* wpe;
  T* y;
  std::int64_t R, seq, V, C;
  int lanes;  // threads that share a row, a power of two
  GpuFault* fault;
};

template <class T, bool kPacked>
STRATA_KERNEL embedding_forward_kernel(ForwardLoop<T> a) {
  using Values = Chunk<T, kPacked>;
  const std::int64_t r = block_x() * (block_threads() / a.lanes) + thread_index() / a.lanes;
  if (r >= a.R) return;
  const int lane = thread_index() % a.lanes;
  const std::int32_t token = a.tokens[r];
  if (token < 0 || token >= a.V) {
    if (lane == 0) report_fault(a.fault, GpuFaultKind::token_outside_vocabulary, r, token, a.V);
    return;
  }
  const T* row = a.wte + token * a.C;
  const T* position = a.wpe != nullptr ? a.wpe + r % a.seq * a.C : nullptr;
  T* y = a.y + r * a.C;
  for (std::int64_t c = std::int64_t{lane} * Values::kCount; c < a.C; c += std::int64_t{a.lanes} * Values::kCount) {
    Values v = Values::load(row + c);
    if (position != nullptr) {
      const Values p = Values::load(position + c);
      STRATA_UNROLL
      for (int k = 0; k < Values::kCount; ++k) v.values[k] = add_rn(v.values[k], p.values[k]);
    }
    v.store(y + c);
  }
}

template <class T, bool kPacked>
void enqueue(ForwardLoop<T> a, GpuQueue& queue) {
  const std::int64_t chunks = blocks_for(a.C, Chunk<T, kPacked>::kCount);
  a.lanes = 1;
  while (a.lanes < kThreads && a.lanes < chunks) a.lanes *= 2;
  launch(queue, embedding_forward_kernel<T, kPacked>, Grid{.x = blocks_for(a.R, kThreads / a.lanes)}, kThreads, 0, a);
}

}  // namespace

void embedding_forward(const kernels::EmbeddingForwardArgs& args, GpuQueue& queue) {
  with_type(args.wte_VC.dtype, [&]<class T>() {
    const ForwardLoop<T> a = {.tokens = args.tokens_R.as<std::int32_t>(),
                              .wte = args.wte_VC.as<T>(),
                              .wpe = data_or_null<T>(args.wpe_TC),
                              .y = args.y_RC.as<T>(),
                              .R = args.tokens_R.numel(),
                              .seq = args.T,
                              .V = args.wte_VC.shape[0],
                              .C = args.wte_VC.shape[1],
                              .lanes = 1,
                              .fault = queue.fault()};
    if (can_pack<T>(a.C, a.wte, a.wpe, a.y))
      enqueue<T, true>(a, queue);
    else
      enqueue<T, false>(a, queue);
  });
}

}  // namespace strata::STRATA_GPU
