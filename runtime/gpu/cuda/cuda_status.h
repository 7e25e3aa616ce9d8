// CUDA errors as Status: the call, the device, what to do.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "runtime/status.h"

namespace strata {

// `call` is a literal. A failed call leaves nothing behind for the next one to find, unless the context itself is broken.
inline Status cuda_status(cudaError_t error, const char* call, int ordinal) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  const std::string where = std::string(call) + " on GPU " + std::to_string(ordinal) + ": " + cudaGetErrorString(error);
  if (error == cudaErrorMemoryAllocation)
    return {Code::out_of_budget, where + "; lower memory.gpu or memory.cpu, or end what else uses the GPU"};
  if (error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice) return {Code::unsupported, where};
  return {Code::internal, where};
}

#define STRATA_RETURN_IF_CUDA_ERROR(call, ordinal)                                                           \
  do {                                                                                                       \
    if (::strata::Status strata_cuda_ = ::strata::cuda_status((call), #call, (ordinal)); !strata_cuda_.ok()) \
      return strata_cuda_;                                                                                   \
  } while (false)

}  // namespace strata
