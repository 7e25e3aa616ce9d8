#include "runtime/gpu/nvml.h"

#include <array>
#include <utility>

#include "runtime/shared_library.h"

namespace strata {
namespace {

// The part of NVML's interface that is used. It has kept these names, types and numbers since 2012 (version 2 names: 2013).
using NvmlCode = int;  // nvmlReturn_t
using Handle = void*;
constexpr NvmlCode kSuccess = 0, kNotSupported = 3, kNoPermission = 4;
constexpr int kTemperatureOfGpu = 0, kClockOfSm = 1;
struct Utilization {
  unsigned gpu, memory;  // per cent
};
struct Memory {
  unsigned long long total, free, used;  // bytes
};

struct Functions {
  NvmlCode (*init)() = nullptr;
  NvmlCode (*shutdown)() = nullptr;
  const char* (*error_string)(NvmlCode) = nullptr;
  NvmlCode (*by_pci_bus_id)(const char*, Handle*) = nullptr;
  NvmlCode (*utilization)(Handle, Utilization*) = nullptr;
  NvmlCode (*memory)(Handle, Memory*) = nullptr;
  NvmlCode (*power)(Handle, unsigned*) = nullptr;  // milliwatts
  NvmlCode (*temperature)(Handle, int, unsigned*) = nullptr;
  NvmlCode (*clock)(Handle, int, unsigned*) = nullptr;  // MHz
  NvmlCode (*throttle_reasons)(Handle, unsigned long long*) = nullptr;

  static Result<Functions> find(const SharedLibrary& library) {
    Functions f;
    STRATA_RETURN_IF_ERROR(library.find("nvmlInit_v2", f.init));
    STRATA_RETURN_IF_ERROR(library.find("nvmlShutdown", f.shutdown));
    STRATA_RETURN_IF_ERROR(library.find("nvmlErrorString", f.error_string));
    STRATA_RETURN_IF_ERROR(library.find("nvmlDeviceGetHandleByPciBusId_v2", f.by_pci_bus_id));
    STRATA_RETURN_IF_ERROR(library.find("nvmlDeviceGetUtilizationRates", f.utilization));
    STRATA_RETURN_IF_ERROR(library.find("nvmlDeviceGetMemoryInfo", f.memory));
    STRATA_RETURN_IF_ERROR(library.find("nvmlDeviceGetPowerUsage", f.power));
    STRATA_RETURN_IF_ERROR(library.find("nvmlDeviceGetTemperature", f.temperature));
    STRATA_RETURN_IF_ERROR(library.find("nvmlDeviceGetClockInfo", f.clock));
    STRATA_RETURN_IF_ERROR(library.find("nvmlDeviceGetCurrentClocksThrottleReasons", f.throttle_reasons));
    return f;
  }
};

// Bits of the throttle reasons that say that the device is slower than it could be (an idle one, or one whose clocks a user
// set, is not).
constexpr std::array<std::pair<unsigned long long, const char*>, 6> kThrottled = {{
    {0x04, "power cap"},
    {0x08, "hardware slowdown"},
    {0x10, "synchronised with a slower GPU"},
    {0x20, "heat"},
    {0x40, "heat, in hardware"},
    {0x80, "power brake"},
}};

std::string throttle_text(unsigned long long reasons) {
  std::string text;
  for (const auto& [bit, name] : kThrottled)
    if ((reasons & bit) != 0) text += (text.empty() ? "" : ", ") + std::string(name);
  return text;
}

}  // namespace

class Nvml::Impl {
 public:
  Impl(SharedLibrary library, const Functions& functions) : library_(std::move(library)), f_(functions) {}
  ~Impl() {
    if (started_) f_.shutdown();
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Status start(const std::string& pci_bus_id) {
    STRATA_RETURN_IF_ERROR(checked(f_.init(), "nvmlInit"));
    started_ = true;
    return checked(f_.by_pci_bus_id(pci_bus_id.c_str(), &device_), "nvmlDeviceGetHandleByPciBusId")
        .with_context("GPU " + pci_bus_id);
  }

  Result<GpuReadings> read() const {
    GpuReadings r;
    Utilization utilization = {};
    STRATA_ASSIGN_OR_RETURN(const bool has_utilization, offered(f_.utilization(device_, &utilization), "utilization"));
    if (has_utilization) {
      r.utilization = utilization.gpu / 100.0;
      r.memory_utilization = utilization.memory / 100.0;
    }
    Memory memory = {};
    STRATA_ASSIGN_OR_RETURN(const bool has_memory, offered(f_.memory(device_, &memory), "memory"));
    if (has_memory) r.memory_used_bytes = memory.used;
    unsigned value = 0;
    STRATA_ASSIGN_OR_RETURN(const bool has_power, offered(f_.power(device_, &value), "power"));
    if (has_power) r.power_watts = value / 1000.0;
    STRATA_ASSIGN_OR_RETURN(const bool has_temperature,
                            offered(f_.temperature(device_, kTemperatureOfGpu, &value), "temperature"));
    if (has_temperature) r.temperature_celsius = static_cast<int>(value);
    STRATA_ASSIGN_OR_RETURN(const bool has_clock, offered(f_.clock(device_, kClockOfSm, &value), "clock"));
    if (has_clock) r.sm_clock_mhz = static_cast<int>(value);
    unsigned long long reasons = 0;
    STRATA_ASSIGN_OR_RETURN(const bool has_reasons, offered(f_.throttle_reasons(device_, &reasons), "throttle reasons"));
    if (has_reasons) r.throttled = throttle_text(reasons);
    return r;
  }

 private:
  Status checked(NvmlCode code, const char* call) const {
    if (code == kSuccess) return {};
    return {Code::internal, std::string(call) + ": " + f_.error_string(code)};
  }
  // Whether the device has this sensor and lets us read it.
  Result<bool> offered(NvmlCode code, const char* what) const {
    if (code == kNotSupported || code == kNoPermission) return false;
    STRATA_RETURN_IF_ERROR(checked(code, what).with_context("reading a GPU's sensors"));
    return true;
  }

  SharedLibrary library_;
  Functions f_;
  Handle device_ = nullptr;
  bool started_ = false;
};

Nvml::Nvml(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Nvml::Nvml(Nvml&&) noexcept = default;
Nvml& Nvml::operator=(Nvml&&) noexcept = default;
Nvml::~Nvml() = default;

Result<Nvml> Nvml::open(const std::string& pci_bus_id, const std::string& library) {
  STRATA_ASSIGN_OR_RETURN(SharedLibrary loaded, SharedLibrary::open(library, "the NVIDIA driver"));
  STRATA_ASSIGN_OR_RETURN(const Functions functions, Functions::find(loaded));
  auto impl = std::make_unique<Impl>(std::move(loaded), functions);
  STRATA_RETURN_IF_ERROR(impl->start(pci_bus_id));
  return Nvml(std::move(impl));
}

Result<GpuReadings> Nvml::read() const { return impl_->read(); }

}  // namespace strata
