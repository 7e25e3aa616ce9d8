// Operation graphs of cuDNN and the plans made of them. A graph is written down as the mathematics of one kernel; cuDNN names
// the engines that can run it on a device, and an engine becomes a plan: machine code and a workspace.
//
// Plans are made for a device by its properties alone, so also for one that is not in this machine (tests).
#pragma once

#include "runtime/gpu/cuda/cudnn_api.h"

#if STRATA_HAS_CUDNN

#include <array>
#include <deque>

namespace strata {

using CudnnDims = std::array<std::int64_t, 4>;

struct CudnnPlan {
  CudnnDescriptor graph, config;  // what the plan was made of
  CudnnDescriptor plan;
  std::size_t workspace = 0;  // bytes
};

// Operations between tensors of four dims, f32 inside. The first error is kept and returned by plan().
class CudnnGraph {
 public:
  using Tensor = const CudnnDescriptor*;  // of the graph
  explicit CudnnGraph(std::shared_ptr<const CudnnApi> api) : api_(std::move(api)) {}

  // In device memory, aligned to 16 bytes, f32 to 4.
  Tensor memory(std::int64_t id, cudnnDataType_t dtype, const CudnnDims& dims, const CudnnDims& strides) {
    return tensor(id, dtype, dims, strides, Kind::memory);
  }
  // One f32 in host memory, read when the plan is enqueued.
  Tensor scalar(std::int64_t id) { return tensor(id, CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, Kind::scalar); }
  // Inside the kernel; row-major.
  Tensor inner(cudnnDataType_t dtype, const CudnnDims& dims) {
    return inner(dtype, dims, {dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1});
  }
  Tensor inner(cudnnDataType_t dtype, const CudnnDims& dims, const CudnnDims& strides) {
    return tensor(next_inner_++, dtype, dims, strides, Kind::inner);
  }

  Tensor pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y);
  Tensor pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor y) { return pointwise(mode, x, nullptr, y); }
  Tensor greater_or_equal(Tensor x, Tensor b, Tensor y);  // y is boolean
  Tensor select(Tensor where, Tensor x, Tensor otherwise, Tensor y);
  Tensor index_of(std::int64_t axis, Tensor x, Tensor y);  // y is i32
  Tensor matmul(Tensor a, Tensor b, Tensor c);
  Tensor reduce(cudnnReduceTensorOp_t op, Tensor x, Tensor y);  // where y has one and x has more
  Tensor reshape(Tensor x, Tensor y);                           // the same elements in the strides of y

  // The first engine proposed for the device whose bits do not depend on time and whose workspace is at most `workspace`
  // bytes. properties: a finalized CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR. Errors: unsupported (no engine takes it),
  // out_of_budget (one would, with more workspace).
  Result<CudnnPlan> plan(const CudnnDescriptor& properties, std::size_t workspace);

 private:
  enum class Kind { memory, scalar, inner };
  static constexpr std::int64_t kFirstInner = 1000;

  Tensor tensor(std::int64_t id, cudnnDataType_t dtype, const CudnnDims& dims, const CudnnDims& strides, Kind kind);
  CudnnDescriptor& add(cudnnBackendDescriptorType_t type) { return kept_.emplace_back(api_, type); }
  void finalize(CudnnDescriptor& descriptor);
  CudnnDescriptor& pointwise_mode(cudnnPointwiseMode_t mode, cudnnDataType_t math);
  Tensor pointwise(const CudnnDescriptor& mode, Tensor x, Tensor b, Tensor t, Tensor y);
  void add_operation(CudnnDescriptor& operation);
  Result<CudnnDescriptor> finished();
  Result<std::vector<CudnnDescriptor>> engine_configs(const CudnnDescriptor& graph, const CudnnDescriptor& properties) const;

  std::shared_ptr<const CudnnApi> api_;
  std::deque<CudnnDescriptor> kept_;  // a graph refers to them
  std::vector<cudnnBackendDescriptor_t> operations_;
  std::int64_t next_inner_ = kFirstInner;
  Status status_;
};

// The properties of the device of a handle, or of the device that `json` describes.
Result<CudnnDescriptor> cudnn_properties(const std::shared_ptr<const CudnnApi>& api, cudnnHandle_t handle);
Result<CudnnDescriptor> cudnn_properties(const std::shared_ptr<const CudnnApi>& api, std::string_view json);

}  // namespace strata

#endif
