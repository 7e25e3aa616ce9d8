// The part of cuDNN's backend interface that we use, loaded at run time, and its descriptors as objects. In builds without
// cuDNN's headers STRATA_HAS_CUDNN is 0 and nothing is declared here.
#pragma once

#if __has_include(<cudnn_graph.h>)
#define STRATA_HAS_CUDNN 1
#else
#define STRATA_HAS_CUDNN 0
#endif

#if STRATA_HAS_CUDNN

#include <cudnn_graph.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/shared_library.h"

namespace strata {

struct CudnnApi {
  // Error unsupported: no libcudnn, or one older than those whose plans were looked at (see cudnn_api.cpp).
  static Result<std::shared_ptr<const CudnnApi>> load();
  // `what` is said in front of the library's own message.
  Status checked(cudnnStatus_t status, const std::string& what) const;

  explicit CudnnApi(SharedLibrary loaded) : library(std::move(loaded)) {}
  SharedLibrary library;
  decltype(cudnnGetVersion)* version = nullptr;
  decltype(cudnnGetErrorString)* error_string = nullptr;
  decltype(cudnnGetLastErrorString)* last_error_string = nullptr;
  decltype(cudnnCreate)* create = nullptr;
  decltype(cudnnDestroy)* destroy = nullptr;
  decltype(cudnnSetStream)* set_stream = nullptr;
  decltype(cudnnBackendCreateDescriptor)* create_descriptor = nullptr;
  decltype(cudnnBackendDestroyDescriptor)* destroy_descriptor = nullptr;
  decltype(cudnnBackendFinalize)* finalize = nullptr;
  decltype(cudnnBackendSetAttribute)* set_attribute = nullptr;
  decltype(cudnnBackendGetAttribute)* get_attribute = nullptr;
  decltype(cudnnBackendExecute)* execute = nullptr;
};

// An attribute's type, from ours.
template <class T>
struct CudnnType;
#define STRATA_CUDNN_TYPE(type, name)   \
  template <>                           \
  struct CudnnType<type> {              \
    static constexpr auto value = name; \
  }
STRATA_CUDNN_TYPE(bool, CUDNN_TYPE_BOOLEAN);
STRATA_CUDNN_TYPE(char, CUDNN_TYPE_CHAR);
STRATA_CUDNN_TYPE(double, CUDNN_TYPE_DOUBLE);
STRATA_CUDNN_TYPE(std::int64_t, CUDNN_TYPE_INT64);
STRATA_CUDNN_TYPE(cudnnHandle_t, CUDNN_TYPE_HANDLE);
STRATA_CUDNN_TYPE(cudnnDataType_t, CUDNN_TYPE_DATA_TYPE);
STRATA_CUDNN_TYPE(cudnnPointwiseMode_t, CUDNN_TYPE_POINTWISE_MODE);
STRATA_CUDNN_TYPE(cudnnReduceTensorOp_t, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE);
STRATA_CUDNN_TYPE(cudnnBackendHeurMode_t, CUDNN_TYPE_HEUR_MODE);
STRATA_CUDNN_TYPE(cudnnBackendNumericalNote_t, CUDNN_TYPE_NUMERICAL_NOTE);
#undef STRATA_CUDNN_TYPE

// A backend descriptor that is ours. The first call that fails is kept and returned by finalize(); those after it do nothing.
class CudnnDescriptor {
 public:
  CudnnDescriptor(std::shared_ptr<const CudnnApi> api, cudnnBackendDescriptorType_t type);
  CudnnDescriptor(CudnnDescriptor&& other) noexcept;
  CudnnDescriptor& operator=(CudnnDescriptor&& other) noexcept;
  ~CudnnDescriptor();

  cudnnBackendDescriptor_t raw() const { return raw_; }
  template <class T>
  void set(cudnnBackendAttributeName_t name, std::span<const T> values) {
    set(name, CudnnType<T>::value, values.size(), values.data());
  }
  template <class T>
  void set(cudnnBackendAttributeName_t name, const T& value) {
    set(name, CudnnType<T>::value, 1, &value);
  }
  void set(cudnnBackendAttributeName_t name, const CudnnDescriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.raw_);
  }
  // void* and descriptors are one type in C.
  void set_pointers(cudnnBackendAttributeName_t name, std::span<void* const> values) {
    set(name, CUDNN_TYPE_VOID_PTR, values.size(), values.data());
  }
  void set_descriptors(cudnnBackendAttributeName_t name, std::span<const cudnnBackendDescriptor_t> values) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, values.size(), values.data());
  }
  Status finalize();

  // Up to n values of a finalized descriptor.
  template <class T>
  Result<std::vector<T>> get(cudnnBackendAttributeName_t name, std::size_t n) const {
    std::vector<T> values(n);
    STRATA_ASSIGN_OR_RETURN(const std::size_t count, get(name, CudnnType<T>::value, n, values.data()));
    values.resize(std::min(n, count));
    return values;
  }
  // Fills descriptors of the caller; how many there are.
  Result<std::size_t> get_descriptors(cudnnBackendAttributeName_t name, std::span<cudnnBackendDescriptor_t> into) const {
    return get(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, into.size(), into.data());
  }

 private:
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t n, const void* values);
  Result<std::size_t> get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::size_t n,
                          void* values) const;

  std::shared_ptr<const CudnnApi> api_;
  cudnnBackendDescriptorType_t type_;
  cudnnBackendDescriptor_t raw_ = nullptr;
  Status status_;
};

}  // namespace strata

#endif
