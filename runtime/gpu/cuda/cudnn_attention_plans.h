// The plans of cuDNN's attention by shape, made once. Needs no GPU: plans are made for the device that the properties describe.
#pragma once

#include "runtime/gpu/cuda/cudnn_attention_graph.h"

#if STRATA_HAS_CUDNN

#include <map>
#include <mutex>
#include <tuple>

#include "runtime/kernels/attention.h"

namespace strata {

class CudnnAttentionPlans {
 public:
  enum class Direction { forward, backward };
  // A plan for a part of the shape; B / part.B times K / part.K of them are the whole.
  struct Prepared {
    CudnnAttentionPart part;
    CudnnGraph graph;
    CudnnPlan plan;
  };

  CudnnAttentionPlans(std::shared_ptr<const CudnnApi> api, CudnnDescriptor properties)
      : api_(std::move(api)), properties_(std::move(properties)) {}

  // Any thread. The largest part whose workspace is at most `workspace` bytes. Error unsupported: cuDNN refuses the shape, or
  // one key head of one sequence needs more workspace.
  Result<const Prepared*> get(Direction direction, const kernels::AttentionShape& shape, std::size_t workspace);

 private:
  using Key = std::tuple<Direction, CudnnAttentionPart, std::size_t>;
  Result<Prepared> prepare(Direction direction, const CudnnAttentionPart& whole, std::size_t workspace) const;

  std::shared_ptr<const CudnnApi> api_;
  CudnnDescriptor properties_;
  std::mutex mutex_;
  std::map<Key, Prepared> prepared_;
};

}  // namespace strata

#endif
