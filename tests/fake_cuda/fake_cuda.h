// A CUDA runtime in host memory: the functions of cudart and of the driver that Strata calls, linked before the real ones, so
// that the CUDA bodies of runtime/gpu/driver.h run where there is no GPU. Streams are threads, and kernels those of the
// emulator. What CUDA leaves open is done in the way that is worst for the caller: allocations are aligned to 256 bytes and no
// more, freeing waits until every stream is idle, "not ready" is left for cudaGetLastError to find.
//
// Here: what tests ask of it. All functions: any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace strata::fake_cuda {

struct Options {
  int devices = 1;
  const char* name = "NVIDIA Fake";
  int compute_major = 9;
  std::size_t memory_bytes = std::size_t{4} << 30;
  bool has_stream_wait_value = true;  // whether the driver has cuStreamWaitValue32
  bool waits_for_host_memory = true;  // whether it takes it: CUDA_ERROR_NOT_SUPPORTED else
};
// To what it was when the program began, but with these; nothing lives.
void reset(const Options& options);
inline void reset() { reset(Options()); }

// The nth call (from 1) of a function from now on returns this code. What would destroy or free something does so all the same.
void fail(const std::string& function, int code, int nth = 1);
// Every call from now on returns this code, as after a kernel that went wrong.
void lose_device(int code);

std::map<std::string, int> calls();  // so far, by function
// What was made and not destroyed: "2 events". Empty: nothing.
std::string living();
// What CUDA forbids or leaves undefined, in words; empty: nothing.
std::vector<std::string> misuse();
// On which devices a context was made.
std::vector<int> contexts();
// Bytes of copies from or to memory that is neither the device's nor page-locked.
std::size_t pageable_bytes();

}  // namespace strata::fake_cuda
