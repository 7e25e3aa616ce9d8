// A libcuda.so.1 for making plans where there is no GPU: it takes code and hands out kernels that nobody can launch. cuDNN
// looks up all the names below before it compiles.
#include <cstddef>
#include <cstring>
#include <string>

namespace {

constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE
std::string last_kernel;        // NOLINT: the library's state
int kernels = 0;                // NOLINT: so far

int nothing_here() { return kNoDevice; }

}  // namespace

extern "C" {

// For the test: the kernel that was asked for last, and how many were.
int absent_gpu_kernels() { return kernels; }
const char* absent_gpu_last_kernel() { return last_kernel.c_str(); }

int cuLibraryLoadData(void** library, const void* code) {
  if (std::memcmp(code, "\177ELF", 4) != 0) return 200;  // CUDA_ERROR_INVALID_IMAGE
  *library = &last_kernel;
  return 0;
}
int cuLibraryGetKernel(void** kernel, void* /*library*/, const char* name) {
  last_kernel = name;
  ++kernels;
  *kernel = &last_kernel;
  return 0;
}
int cuLibraryUnload(void* /*library*/) { return 0; }
int cuKernelSetAttribute(int /*attribute*/, int /*value*/, void* /*kernel*/, int /*device*/) { return 0; }
int cuGetErrorName(int /*error*/, const char** text) {
  *text = "error of an absent GPU";
  return 0;
}
int cuGetErrorString(int error, const char** text) { return cuGetErrorName(error, text); }

#define STRATA_ABSENT(name) \
  int name() { return nothing_here(); }
STRATA_ABSENT(cuCtxGetCurrent)
STRATA_ABSENT(cuCtxGetDevice)
STRATA_ABSENT(cuCtxGetLimit)
STRATA_ABSENT(cuCtxPopCurrent)
STRATA_ABSENT(cuCtxPushCurrent)
STRATA_ABSENT(cuDeviceGet)
STRATA_ABSENT(cuDeviceGetAttribute)
STRATA_ABSENT(cuDeviceGetCount)
STRATA_ABSENT(cuDevicePrimaryCtxRelease)
STRATA_ABSENT(cuDevicePrimaryCtxReset)
STRATA_ABSENT(cuDevicePrimaryCtxRetain)
STRATA_ABSENT(cuDriverGetVersion)
STRATA_ABSENT(cuFuncGetAttribute)
STRATA_ABSENT(cuFuncSetAttribute)
STRATA_ABSENT(cuInit)
STRATA_ABSENT(cuKernelGetAttribute)
STRATA_ABSENT(cuLaunchCooperativeKernel)
STRATA_ABSENT(cuLaunchKernel)
STRATA_ABSENT(cuLaunchKernelEx)
STRATA_ABSENT(cuLibraryLoadFromFile)
STRATA_ABSENT(cuLinkAddData)
STRATA_ABSENT(cuLinkAddData_v2)
STRATA_ABSENT(cuLinkAddFile_v2)
STRATA_ABSENT(cuLinkComplete)
STRATA_ABSENT(cuLinkCreate)
STRATA_ABSENT(cuLinkCreate_v2)
STRATA_ABSENT(cuLinkDestroy)
STRATA_ABSENT(cuMemcpyDtoH_v2)
STRATA_ABSENT(cuModuleGetFunction)
STRATA_ABSENT(cuModuleGetGlobal_v2)
STRATA_ABSENT(cuModuleLoadData)
STRATA_ABSENT(cuModuleLoadDataEx)
STRATA_ABSENT(cuModuleLoadFatBinary)
STRATA_ABSENT(cuModuleUnload)
STRATA_ABSENT(cuOccupancyMaxActiveBlocksPerMultiprocessor)
STRATA_ABSENT(cuOccupancyMaxPotentialClusterSize)
STRATA_ABSENT(cuStreamGetCtx)
STRATA_ABSENT(cuStreamSynchronize)
STRATA_ABSENT(cuTensorMapEncodeTiled)

}  // extern "C"
