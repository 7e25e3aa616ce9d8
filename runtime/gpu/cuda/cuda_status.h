// CUDA errors as Status: the call, the device, what to do.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <string_view>

#include "runtime/status.h"

namespace strata {

// What whoever reads the message can do about it.
inline const char* cuda_advice(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "lower memory.gpu or memory.cpu, or end what else uses the GPU";
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice: return "install the NVIDIA driver; `strata doctor` says what is missing";
    case cudaErrorDevicesUnavailable: return "another process has the GPU for itself (`nvidia-smi` shows its compute mode)";
    case cudaErrorNoKernelImageForDevice: return "this build has no code for the GPU: set STRATA_CUDA_ARCHITECTURES";
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError: return "the GPU itself failed: reset or replace it (`dmesg | grep Xid`)";
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorLaunchFailure:
    case cudaErrorMisalignedAddress:
      return "a kernel before it went wrong: CUDA_LAUNCH_BLOCKING=1 shows which; `dmesg | grep Xid` shows a broken GPU";
    default: return "look for the GPU in `strata doctor` and `dmesg | grep Xid`";
  }
}

// `call` is a literal, of which the part before the first parenthesis is shown. A failed call leaves nothing behind for the
// next one to find, unless the context itself is broken.
inline Status cuda_status(cudaError_t error, std::string_view call, int ordinal) {
  if (error == cudaSuccess) return {};
  (void)cudaGetLastError();
  const bool out_of_memory = error == cudaErrorMemoryAllocation;
  const bool unsupported = error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice;
  return {out_of_memory ? Code::out_of_budget
          : unsupported ? Code::unsupported
                        : Code::internal,
          std::string(call.substr(0, call.find('('))) + " on GPU " + std::to_string(ordinal) + ": " +
              cudaGetErrorString(error) + "; " + cuda_advice(error)};
}

// Makes `ordinal` the calling thread's device. Before every other call of a thread that may be new: nearly all of them make a
// context, of some hundred MiB, on the thread's device, which is GPU 0 until it is told otherwise.
inline Status use_gpu(int ordinal) { return cuda_status(cudaSetDevice(ordinal), "cudaSetDevice", ordinal); }

#define STRATA_RETURN_IF_CUDA_ERROR(call, ordinal)                                                           \
  do {                                                                                                       \
    if (::strata::Status strata_cuda_ = ::strata::cuda_status((call), #call, (ordinal)); !strata_cuda_.ok()) \
      return strata_cuda_;                                                                                   \
  } while (false)

}  // namespace strata
