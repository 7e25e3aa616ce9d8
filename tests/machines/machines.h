// The GPUs that tests run on beside the host: the emulator always, and the real one of this machine when the program was asked
// for it by STRATA_TEST_MACHINE=cuda (ctest label gpu), which then leaves out the host and the emulator. Without a GPU every
// test of such a program is skipped, with the reason.
#pragma once

#include <functional>
#include <memory>
#include <memory_resource>
#include <string>
#include <utility>
#include <vector>

#include "parallel/nccl_api.h"
#include "runtime/stream.h"
#include "trainer/engine.h"

namespace strata::testing {

struct GpuMachine {
  std::string name;
  int gpus = 0;                                                   // how many ranks can have one of their own
  std::function<std::unique_ptr<GpuDriver>(int)> make_driver_of;  // of one of them, with the kernels of every folder
  std::unique_ptr<GpuDriver> make_driver() const { return make_driver_of(0); }
};

// The emulator, or the GPU of this machine.
const std::vector<GpuMachine>& gpu_machines();

// What a test of a model or of training runs on.
struct Processor {
  std::string name;                 // "host", or a GPU's with Gpu_ before it, by which ctest finds what to run again on the GPU
  const GpuMachine* gpu = nullptr;  // null: the host
};
// The host and gpu_machines(), or those alone.
std::vector<Processor> processors();
// The same with the vendor's attention: cuDNN's on the GPU, the host's on the emulator. Error unsupported: no cuDNN.
Result<std::unique_ptr<GpuDriver>> library_attention_driver();
// Under a sanitizer the emulator takes ten times as long: tests leave out there what others show.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
// ThreadSanitizer looks for races, and what one thread computes has none: all of a kernel on the emulator, and any one body of
// a kernel on the host beside the others.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kRacesOnly = true;
#else
inline constexpr bool kRacesOnly = false;
#endif
// Whether host bodies are to be tested: not in a program that was asked for the GPU.
bool tests_the_host();
// Memory that the host and the GPUs of gpu_machines() reach at one address.
std::pmr::memory_resource& shared_memory();

// The memory of one array of a test, reached as shared_memory() is. On the emulator and the host what lies behind it cannot be
// touched: a kernel that does has a finding, host code dies. On a GPU a store behind it is noticed.
class ArrayMemory {
 public:
  // aligned: the array begins at a multiple of 16 bytes, as in every tier, so that it ends at a guard or up to 15 bytes before
  // it; packs of 16 bytes (load_pack) are held to its very end, and so are stores. tight: it ends at the guard, and begins
  // where elements may.
  enum class Placement { aligned, tight };
  ArrayMemory(std::size_t bytes, std::size_t element, Placement placement);  // zeros
  ~ArrayMemory();
  ArrayMemory(ArrayMemory&& other) noexcept : bytes_(other.bytes_), data_(std::exchange(other.data_, nullptr)) {}
  ArrayMemory& operator=(ArrayMemory&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(data_, other.data_);
    return *this;
  }
  std::byte* data() const { return data_; }
  std::size_t size() const { return bytes_; }
  bool is_intact() const;  // nothing was written behind it

 private:
  std::size_t bytes_;
  std::byte* data_;
};

// Connects ranks that are threads of this process and have a GPU of gpu_machines() each.
class GpuCommunicators {
 public:
  GpuCommunicators();
  GpuCommunicatorMaker maker() const;  // of the same group for every rank; also after this object is gone

 private:
  std::shared_ptr<NcclApi> nccl_;  // null: the library
};

// A device of a GPU machine with one stream that has scratch.
class GpuBench {
 public:
  explicit GpuBench(const GpuMachine& machine);
  ~GpuBench();
  Device& device() { return device_; }
  StreamRef stream() { return *stream_; }

 private:
  Device device_;
  std::byte* scratch_;
  std::unique_ptr<Stream> stream_;
};

}  // namespace strata::testing
