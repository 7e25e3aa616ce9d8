// The functions of cudart and of the driver, as their manuals describe them, over fake_state.h.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "tests/fake_cuda/fake_state.h"

namespace {

using strata::fake_cuda::Event;
using strata::fake_cuda::Point;
using strata::fake_cuda::State;
using strata::fake_cuda::Stream;
using strata::gpu_emulated::KernelQueue;

State& state() { return State::instance(); }
Stream* stream_of(cudaStream_t handle) { return static_cast<Stream*>(reinterpret_cast<KernelQueue*>(handle)); }
Event* event_of(cudaEvent_t handle) { return reinterpret_cast<Event*>(handle); }

// A call that may fail as the test says, else does what `body` does.
template <class Body>
cudaError_t call(const char* function, bool needs_context, const Body& body) {
  const int refused = state().begin(function, needs_context);
  return State::end(refused != 0 ? refused : static_cast<int>(body()));
}
// One that releases something: it does that, whatever it returns.
template <class Body>
cudaError_t release(const char* function, const Body& body) {
  const int refused = state().begin(function, true);
  const int code = static_cast<int>(body());
  return State::end(refused != 0 ? refused : code);
}

bool is_stream(cudaStream_t handle, const char* function) {
  if (handle != nullptr && state().has(stream_of(handle))) return true;
  state().note_misuse(std::string(function) + " of a stream that is none");
  return false;
}
bool is_event(cudaEvent_t handle, const char* function) {
  if (handle != nullptr && state().has(event_of(handle))) return true;
  state().note_misuse(std::string(function) + " of an event that is none");
  return false;
}
std::shared_ptr<Point> recorded(cudaEvent_t handle) {
  Event& event = *event_of(handle);
  const std::lock_guard lock(event.mutex);
  return event.recorded;
}

// What a stream does with bytes; nothing after a kernel went wrong.
void enqueue(Stream& stream, std::function<void()> operation) {
  stream.push([operation = std::move(operation)] {
    if (!state().is_lost()) operation();
  });
}

// The driver's: a stream waits until a word of host memory is as large, in 32-bit arithmetic that wraps.
CUresult stream_wait_value(CUstream handle, CUdeviceptr address, cuuint32_t value, unsigned flags) {
  if (const int refused = state().begin("cuStreamWaitValue32", true); refused != 0) return static_cast<CUresult>(refused);
  if (!state().options().waits_for_host_memory) return CUDA_ERROR_NOT_SUPPORTED;
  if (!is_stream(handle, "cuStreamWaitValue32") || flags != CU_STREAM_WAIT_VALUE_GEQ || address % 4 != 0)
    return CUDA_ERROR_INVALID_VALUE;
  auto* const word = reinterpret_cast<std::uint32_t*>(address);
  if (!state().is_host(word, sizeof *word)) return CUDA_ERROR_INVALID_VALUE;
  stream_of(handle)->push([word, value] {
    while (static_cast<std::int32_t>(std::atomic_ref(*word).load(std::memory_order_acquire) - value) < 0)
      std::this_thread::sleep_for(std::chrono::microseconds(20));
  });
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

// ---- devices and errors ----

cudaError_t cudaGetDeviceCount(int* count) {
  return call("cudaGetDeviceCount", false, [&] {
    if (state().options().devices == 0) return cudaErrorNoDevice;
    *count = state().options().devices;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* to, int device) {
  return call("cudaGetDeviceProperties", false, [&] {
    const auto options = state().options();
    if (device < 0 || device >= options.devices) return cudaErrorInvalidDevice;
    *to = {};
    std::snprintf(to->name, sizeof to->name, "%s", options.name);
    to->major = options.compute_major;
    to->multiProcessorCount = 4;
    to->totalGlobalMem = options.memory_bytes;
    to->sharedMemPerBlock = std::size_t{48} * 1024;
    to->sharedMemPerBlockOptin = std::size_t{227} * 1024;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetPCIBusId(char* to, int bytes, int device) {
  return call("cudaDeviceGetPCIBusId", false, [&] {
    if (device < 0 || device >= state().options().devices) return cudaErrorInvalidDevice;
    std::snprintf(to, static_cast<std::size_t>(bytes), "0000:3B:00.0");  // the one that the fake NVML has
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call("cudaSetDevice", false, [&] {
    if (device < 0 || device >= state().options().devices) return cudaErrorInvalidDevice;
    State::current_device() = device;
    const std::lock_guard lock(state().mutex);
    state().contexts.insert(device);
    return cudaSuccess;
  });
}

cudaError_t cudaGetLastError() { return State::take_last_error(); }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    default: return "an error that the fake has no words for";
  }
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned /*version*/,
                                             unsigned long long /*flags*/, cudaDriverEntryPointQueryResult* found) {
  return call("cudaGetDriverEntryPointByVersion", true, [&] {
    const bool has = std::strcmp(symbol, "cuStreamWaitValue32") == 0 && state().options().has_stream_wait_value;
    *function = has ? reinterpret_cast<void*>(stream_wait_value) : nullptr;
    *found = has ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
  });
}

// ---- memory ----

cudaError_t cudaMalloc(void** to, std::size_t bytes) {
  return call("cudaMalloc", true, [&] { return state().allocate(bytes, to); });
}
cudaError_t cudaFree(void* data) {
  return release("cudaFree", [&] { return state().free(data); });
}
cudaError_t cudaHostAlloc(void** to, std::size_t bytes, unsigned /*flags*/) {
  return call("cudaHostAlloc", true, [&] { return state().allocate_host(bytes, to); });
}
cudaError_t cudaFreeHost(void* data) {
  return release("cudaFreeHost", [&] { return state().free_host(data); });
}
cudaError_t cudaHostRegister(void* data, std::size_t bytes, unsigned flags) {
  return call("cudaHostRegister", true, [&] {
    if ((flags & cudaHostRegisterPortable) == 0) state().note_misuse("memory is registered for one device alone");
    return state().add_range(data, bytes);
  });
}
cudaError_t cudaHostUnregister(void* data) {
  return release("cudaHostUnregister", [&] { return state().remove_range(data); });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t handle) {
  return call("cudaMemcpyAsync", true, [&] {
    if (!is_stream(handle, "cudaMemcpyAsync")) return cudaErrorInvalidResourceHandle;
    const int source = state().is_known(from, bytes), target = state().is_known(to, bytes);
    if (kind != cudaMemcpyDefault || source < 0 || target < 0) return cudaErrorInvalidValue;
    if (source == 0 || target == 0) state().note_pageable(bytes);
    enqueue(*stream_of(handle), [=] { std::memmove(to, from, bytes); });
    return cudaSuccess;
  });
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t handle) {
  return call("cudaMemsetAsync", true, [&] {
    if (!is_stream(handle, "cudaMemsetAsync")) return cudaErrorInvalidResourceHandle;
    if (state().is_known(to, bytes) != 1) return cudaErrorInvalidValue;
    enqueue(*stream_of(handle), [=] { std::memset(to, value, bytes); });
    return cudaSuccess;
  });
}

// ---- streams ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* to, unsigned flags) {
  return call("cudaStreamCreateWithFlags", true, [&] {
    if (flags != cudaStreamNonBlocking) state().note_misuse("a stream that waits for the default stream");
    auto* const stream = new Stream(State::current_device());
    state().add(stream);
    *to = reinterpret_cast<cudaStream_t>(static_cast<KernelQueue*>(stream));
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  return release("cudaStreamSynchronize", [&] {
    if (!is_stream(handle, "cudaStreamSynchronize")) return cudaErrorInvalidResourceHandle;
    stream_of(handle)->synchronize();
    return state().is_lost() ? cudaErrorIllegalAddress : cudaSuccess;
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  return release("cudaStreamDestroy", [&] {
    if (!is_stream(handle, "cudaStreamDestroy")) return cudaErrorInvalidResourceHandle;
    state().remove(stream_of(handle));
    delete stream_of(handle);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned /*flags*/) {
  return call("cudaStreamWaitEvent", true, [&] {
    if (!is_stream(handle, "cudaStreamWaitEvent") || !is_event(event, "cudaStreamWaitEvent"))
      return cudaErrorInvalidResourceHandle;
    if (const auto point = recorded(event)) stream_of(handle)->push([point] { point->wait(); });
    return cudaSuccess;
  });
}

// For libraries that compute on a stream (fake_cublaslt.cpp).
cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  return call("cudaLaunchHostFunc", true, [&] {
    if (!is_stream(handle, "cudaLaunchHostFunc")) return cudaErrorInvalidResourceHandle;
    stream_of(handle)->push([=] { function(data); });
    return cudaSuccess;
  });
}

// ---- events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* to, unsigned flags) {
  return call("cudaEventCreateWithFlags", true, [&] {
    auto* const event = new Event();
    event->flags = flags;
    event->device = State::current_device();
    state().add(event);
    *to = reinterpret_cast<cudaEvent_t>(event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return release("cudaEventDestroy", [&] {
    if (!is_event(handle, "cudaEventDestroy")) return cudaErrorInvalidResourceHandle;
    state().remove(event_of(handle));
    delete event_of(handle);
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  return call("cudaEventRecord", true, [&] {
    if (!is_event(handle, "cudaEventRecord") || !is_stream(stream, "cudaEventRecord")) return cudaErrorInvalidResourceHandle;
    if (event_of(handle)->device != stream_of(stream)->device()) return cudaErrorInvalidResourceHandle;
    const auto point = std::make_shared<Point>();
    {
      const std::lock_guard lock(event_of(handle)->mutex);
      event_of(handle)->recorded = point;
    }
    stream_of(stream)->push([point] { point->reach(); });
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return call("cudaEventQuery", true, [&] {
    if (!is_event(handle, "cudaEventQuery")) return cudaErrorInvalidResourceHandle;
    const auto point = recorded(handle);
    return point != nullptr && !point->is_reached() ? cudaErrorNotReady : cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return call("cudaEventSynchronize", true, [&] {
    if (!is_event(handle, "cudaEventSynchronize")) return cudaErrorInvalidResourceHandle;
    if ((event_of(handle)->flags & cudaEventBlockingSync) == 0) state().note_misuse("a host thread waits without sleeping");
    if (const auto point = recorded(handle)) point->wait();
    return state().is_lost() ? cudaErrorIllegalAddress : cudaSuccess;
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  return call("cudaEventElapsedTime", true, [&] {
    if (!is_event(from, "cudaEventElapsedTime") || !is_event(to, "cudaEventElapsedTime")) return cudaErrorInvalidResourceHandle;
    const auto first = recorded(from), second = recorded(to);
    const bool timed = ((event_of(from)->flags | event_of(to)->flags) & cudaEventDisableTiming) == 0;
    if (!timed || first == nullptr || second == nullptr || event_of(from)->device != event_of(to)->device)
      return cudaErrorInvalidResourceHandle;
    if (!first->is_reached() || !second->is_reached()) return cudaErrorNotReady;
    *milliseconds = std::chrono::duration<float, std::milli>(second->time() - first->time()).count();
    return cudaSuccess;
  });
}

}  // extern "C"
