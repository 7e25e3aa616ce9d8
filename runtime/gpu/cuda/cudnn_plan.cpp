#include "runtime/gpu/cuda/cudnn_plan.h"

#if STRATA_HAS_CUDNN

#include <algorithm>

#include "runtime/arena.h"

namespace strata {
namespace {

// Bytes that addresses in device memory are multiples of: what fused engines want of 16-bit operands, no more than its elements
// want of a part of an f32 tensor.
std::int64_t alignment_of(cudnnDataType_t dtype) { return dtype == CUDNN_DATA_FLOAT ? 4 : 16; }

// The engine of a configuration, which says what its bits depend on.
Result<bool> is_deterministic(const std::shared_ptr<const CudnnApi>& api, const CudnnDescriptor& config) {
  const CudnnDescriptor engine(api, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  std::array<cudnnBackendDescriptor_t, 1> into = {engine.raw()};
  STRATA_RETURN_IF_ERROR(config.get_descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, into).status());
  STRATA_ASSIGN_OR_RETURN(
      const std::vector<cudnnBackendNumericalNote_t> notes,
      engine.get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT));
  return std::find(notes.begin(), notes.end(), CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) == notes.end();
}

}  // namespace

CudnnGraph::Tensor CudnnGraph::tensor(std::int64_t id, cudnnDataType_t dtype, const CudnnDims& dims, const CudnnDims& strides,
                                      Kind kind) {
  CudnnDescriptor& t = add(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  t.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
  t.set(CUDNN_ATTR_TENSOR_DATA_TYPE, dtype);
  t.set(CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(dims));
  t.set(CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides));
  t.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kind == Kind::memory ? alignment_of(dtype) : 16);
  t.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, kind == Kind::inner);
  t.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, kind == Kind::scalar);
  finalize(t);
  return &t;
}

void CudnnGraph::finalize(CudnnDescriptor& descriptor) {
  const Status status = descriptor.finalize();
  if (status_.ok()) status_ = status;
}

void CudnnGraph::add_operation(CudnnDescriptor& operation) {
  finalize(operation);
  operations_.push_back(operation.raw());
}

CudnnDescriptor& CudnnGraph::pointwise_mode(cudnnPointwiseMode_t mode, cudnnDataType_t math) {
  CudnnDescriptor& d = add(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  d.set(CUDNN_ATTR_POINTWISE_MODE, mode);
  d.set(CUDNN_ATTR_POINTWISE_MATH_PREC, math);
  return d;
}

CudnnGraph::Tensor CudnnGraph::pointwise(const CudnnDescriptor& mode, Tensor x, Tensor b, Tensor t, Tensor y) {
  CudnnDescriptor& op = add(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, mode);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, *x);
  if (b != nullptr) op.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  if (t != nullptr) op.set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, *t);
  op.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, *y);
  add_operation(op);
  return y;
}

CudnnGraph::Tensor CudnnGraph::pointwise(cudnnPointwiseMode_t mode, Tensor x, Tensor b, Tensor y) {
  CudnnDescriptor& d = pointwise_mode(mode, CUDNN_DATA_FLOAT);
  finalize(d);
  return pointwise(d, x, b, nullptr, y);
}

CudnnGraph::Tensor CudnnGraph::greater_or_equal(Tensor x, Tensor b, Tensor y) {
  CudnnDescriptor& d = pointwise_mode(CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN);
  finalize(d);
  return pointwise(d, x, b, nullptr, y);
}

CudnnGraph::Tensor CudnnGraph::select(Tensor where, Tensor x, Tensor otherwise, Tensor y) {
  CudnnDescriptor& d = pointwise_mode(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT);
  finalize(d);
  return pointwise(d, x, otherwise, where, y);
}

CudnnGraph::Tensor CudnnGraph::index_of(std::int64_t axis, Tensor x, Tensor y) {
  CudnnDescriptor& d = pointwise_mode(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT);
  d.set(CUDNN_ATTR_POINTWISE_AXIS, axis);
  finalize(d);
  return pointwise(d, x, nullptr, nullptr, y);
}

CudnnGraph::Tensor CudnnGraph::matmul(Tensor a, Tensor b, Tensor c) {
  CudnnDescriptor& d = add(CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  d.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  finalize(d);
  CudnnDescriptor& op = add(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_DESC, d);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, *a);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, *b);
  op.set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, *c);
  add_operation(op);
  return c;
}

CudnnGraph::Tensor CudnnGraph::reduce(cudnnReduceTensorOp_t operation, Tensor x, Tensor y) {
  CudnnDescriptor& d = add(CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  d.set(CUDNN_ATTR_REDUCTION_OPERATOR, operation);
  d.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  finalize(d);
  CudnnDescriptor& op = add(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, d);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, *x);
  op.set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, *y);
  add_operation(op);
  return y;
}

CudnnGraph::Tensor CudnnGraph::reshape(Tensor x, Tensor y) {
  CudnnDescriptor& op = add(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_XDESC, *x);
  op.set(CUDNN_ATTR_OPERATION_RESHAPE_YDESC, *y);
  add_operation(op);
  return y;
}

Result<CudnnDescriptor> CudnnGraph::finished() {
  STRATA_RETURN_IF_ERROR(status_);
  CudnnDescriptor graph(api_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set_descriptors(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations_);
  STRATA_RETURN_IF_ERROR(graph.finalize());
  return graph;
}

Result<std::vector<CudnnDescriptor>> CudnnGraph::engine_configs(const CudnnDescriptor& graph,
                                                                const CudnnDescriptor& properties) const {
  CudnnDescriptor heuristic(api_, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_HEUR_MODE_A);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, properties);
  STRATA_RETURN_IF_ERROR(heuristic.finalize());
  STRATA_ASSIGN_OR_RETURN(const std::size_t count, heuristic.get_descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, {}));
  std::vector<CudnnDescriptor> configs;
  std::vector<cudnnBackendDescriptor_t> into;
  for (std::size_t i = 0; i < count; ++i) into.push_back(configs.emplace_back(api_, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).raw());
  if (count == 0) return configs;
  STRATA_ASSIGN_OR_RETURN(const std::size_t filled, heuristic.get_descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, into));
  while (configs.size() > filled) configs.pop_back();
  return configs;
}

Result<CudnnPlan> CudnnGraph::plan(const CudnnDescriptor& properties, std::size_t workspace) {
  STRATA_ASSIGN_OR_RETURN(CudnnDescriptor graph, finished());
  STRATA_ASSIGN_OR_RETURN(std::vector<CudnnDescriptor> configs, engine_configs(graph, properties));
  Status refused(Code::unsupported, "cuDNN: no engine for it");
  for (CudnnDescriptor& config : configs) {
    STRATA_ASSIGN_OR_RETURN(const bool deterministic, is_deterministic(api_, config));
    if (!deterministic) {
      if (refused.code() != Code::out_of_budget) refused = {Code::unsupported, "cuDNN: only engines whose bits depend on time"};
      continue;
    }
    // Known before the code is compiled, which takes a second.
    STRATA_ASSIGN_OR_RETURN(const std::vector<std::int64_t> needed,
                            config.get<std::int64_t>(CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE, 1));
    if (needed.empty() || needed[0] > static_cast<std::int64_t>(workspace)) {
      refused = {Code::out_of_budget, "cuDNN: an engine needs " + format_bytes(static_cast<std::size_t>(needed.at(0))) +
                                          " of workspace, there are " + format_bytes(workspace)};
      continue;
    }
    CudnnDescriptor made(api_, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    made.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    made.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, properties);
    if (const Status status = made.finalize(); !status.ok()) {
      refused = status;
      continue;
    }
    STRATA_ASSIGN_OR_RETURN(const std::vector<std::int64_t> size,
                            made.get<std::int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 1));
    return CudnnPlan{std::move(graph), std::move(config), std::move(made), static_cast<std::size_t>(size.at(0))};
  }
  return refused;
}

Result<CudnnDescriptor> cudnn_properties(const std::shared_ptr<const CudnnApi>& api, cudnnHandle_t handle) {
  CudnnDescriptor properties(api, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  properties.set(CUDNN_ATTR_DEVICEPROP_HANDLE, handle);
  STRATA_RETURN_IF_ERROR(properties.finalize());
  return properties;
}

Result<CudnnDescriptor> cudnn_properties(const std::shared_ptr<const CudnnApi>& api, std::string_view json) {
  CudnnDescriptor properties(api, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  properties.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, std::span<const char>(json));
  STRATA_RETURN_IF_ERROR(properties.finalize());
  return properties;
}

}  // namespace strata

#endif
