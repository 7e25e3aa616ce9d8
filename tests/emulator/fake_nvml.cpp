// A library with NVML's interface and one GPU, "0000:3B:00.0", which says what the environment variable STRATA_FAKE_NVML asks
// for: "" (all is well), "no sensors" (only memory is offered), "lost" (it has fallen off the bus).
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kSuccess = 0, kUninitialized = 1, kNotSupported = 3, kNotFound = 6, kGpuIsLost = 15;
int started = 0;
char device = 0;

bool mode_is(const char* wanted) {
  const char* mode = std::getenv("STRATA_FAKE_NVML");
  return mode != nullptr && std::strcmp(mode, wanted) == 0;
}

template <class T>
int answer(void* handle, T* to, T value) {
  if (started == 0 || handle != &device) return kUninitialized;
  if (mode_is("lost")) return kGpuIsLost;
  if (mode_is("no sensors")) return kNotSupported;
  *to = value;
  return kSuccess;
}

struct Utilization {
  unsigned gpu, memory;
};
struct Memory {
  unsigned long long total, free, used;
};

}  // namespace

extern "C" {
int nvmlInit_v2() {
  ++started;
  return kSuccess;
}
int nvmlShutdown() {
  --started;
  return kSuccess;
}
const char* nvmlErrorString(int code) {
  return code == kNotFound ? "Not Found" : code == kGpuIsLost ? "GPU is lost" : "Unknown Error";
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** handle) {
  if (std::strcmp(id, "0000:3B:00.0") != 0) return kNotFound;
  *handle = &device;
  return kSuccess;
}
int nvmlDeviceGetUtilizationRates(void* handle, Utilization* to) { return answer(handle, to, Utilization{75, 40}); }
int nvmlDeviceGetMemoryInfo(void* handle, Memory* to) {
  if (mode_is("no sensors")) {
    *to = Memory{100, 80, 20};
    return kSuccess;
  }
  return answer(handle, to, Memory{85899345920, 60129542144, 25769803776});
}
int nvmlDeviceGetPowerUsage(void* handle, unsigned* to) { return answer(handle, to, 312500u); }
int nvmlDeviceGetTemperature(void* handle, int sensor, unsigned* to) { return answer(handle, to, sensor == 0 ? 61u : 0u); }
int nvmlDeviceGetClockInfo(void* handle, int clock, unsigned* to) { return answer(handle, to, clock == 1 ? 1980u : 0u); }
int nvmlDeviceGetCurrentClocksThrottleReasons(void* handle, unsigned long long* to) {
  return answer(handle, to, 0x1ULL | 0x4ULL | 0x20ULL);
}
}
