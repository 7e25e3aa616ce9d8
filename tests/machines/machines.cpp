#include "tests/machines/machines.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "parallel/nccl_communicator.h"
#include "runtime/gpu/cuda.h"
#include "tests/emulator/emulated_driver.h"
#include "tests/emulator/nccl_emulated.h"
#include "trainer/gpu_setup.h"

namespace strata::testing {
namespace {

bool wants_cuda() {
  const char* wish = std::getenv("STRATA_TEST_MACHINE");
  return wish != nullptr && std::string_view(wish) == "cuda";
}

// Skips every test of a program that was asked for a GPU where there is none.
class NeedsGpu final : public ::testing::Environment {
 public:
  void SetUp() override {
    if (const Result<int> count = cuda_device_count(); !count.ok()) GTEST_SKIP() << "no GPU: " << count.status().message();
  }
};

[[maybe_unused]] ::testing::Environment* const kNeedsGpu =
    wants_cuda() ? ::testing::AddGlobalTestEnvironment(new NeedsGpu) : nullptr;

// Page-locked memory of a GPU, in one piece.
class PinnedSlab final : public std::pmr::memory_resource {
 public:
  PinnedSlab() : slab_(pinned_.base, kBytes, std::pmr::null_memory_resource()), pool_(&slab_) {}

 private:
  static constexpr std::size_t kBytes = std::size_t{1} << 30;
  void* do_allocate(std::size_t bytes, std::size_t alignment) override { return pool_.allocate(bytes, alignment); }
  void do_deallocate(void* data, std::size_t bytes, std::size_t alignment) override {
    pool_.deallocate(data, bytes, alignment);
  }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }

  struct Pinned {
    std::unique_ptr<GpuDriver> driver = gpu_machines()[0].make_driver();
    std::byte* base = driver->allocate_pinned(kBytes).value();
    Pinned() = default;
    ~Pinned() { driver->free_pinned(base, kBytes); }
    Pinned(const Pinned&) = delete;
    Pinned& operator=(const Pinned&) = delete;
  };
  Pinned pinned_;  // freed behind the pool, whose books it holds
  std::pmr::monotonic_buffer_resource slab_;
  std::pmr::unsynchronized_pool_resource pool_;
};

gpu_emulated::GuardedMemory& guarded_arrays() {
  static auto* const memory = new gpu_emulated::GuardedMemory();  // for ever: static arrays are freed late
  return *memory;
}

// Behind an array on a GPU.
constexpr std::size_t kGuard = 64;
constexpr std::byte kGuardByte{0xa5};

constexpr std::size_t kScratchBytes = std::size_t{64} << 20;

int real_gpus() {
  const Result<int> count = cuda_device_count();
  return count.ok() ? *count : 0;
}

}  // namespace

const std::vector<GpuMachine>& gpu_machines() {
  static const std::vector<GpuMachine> machines = {
      wants_cuda() ? GpuMachine{"cuda", real_gpus(), [](int ordinal) { return make_gpu_driver(Config(), ordinal).value(); }}
                   : GpuMachine{"emulated", 64, [](int) -> std::unique_ptr<GpuDriver> {
                                  gpu_emulated::EmulatedDriver::Options options;
                                  options.host_memory = &guarded_arrays();
                                  return gpu_emulated::make_emulated_driver(options);
                                }}};
  return machines;
}

std::vector<Processor> processors() {
  std::vector<Processor> all;
  if (tests_the_host()) all.push_back({"host"});
  for (const GpuMachine& machine : gpu_machines()) all.push_back({"Gpu_" + machine.name, &machine});
  return all;
}

Result<std::unique_ptr<GpuDriver>> library_attention_driver() {
  Config config;
  config.device.attention = Config::Device::Attention::cudnn;
  if (wants_cuda()) return make_gpu_driver(config, 0);
  return std::unique_ptr<GpuDriver>(gpu_emulated::make_emulated_driver({.library_attention = true}));
}

bool tests_the_host() { return !wants_cuda(); }

std::pmr::memory_resource& shared_memory() {
  if (!wants_cuda() || !cuda_device_count().ok()) return *std::pmr::new_delete_resource();
  static PinnedSlab slab;
  return slab;
}

ArrayMemory::ArrayMemory(std::size_t bytes, std::size_t element, Placement placement) : bytes_(bytes) {
  if (wants_cuda()) {
    data_ = static_cast<std::byte*>(shared_memory().allocate(bytes + kGuard, 16));
    std::fill_n(data_ + bytes, kGuard, kGuardByte);
  } else {
    data_ = guarded_arrays().allocate(bytes, placement == Placement::tight ? element : 16).value();
  }
  std::fill_n(data_, bytes, std::byte{0});
}

ArrayMemory::~ArrayMemory() {
  if (data_ == nullptr) return;
  if (wants_cuda())
    shared_memory().deallocate(data_, bytes_ + kGuard, 16);
  else
    EXPECT_TRUE(guarded_arrays().free(data_)) << "something was written beside an array of " << bytes_ << " bytes";
}

bool ArrayMemory::is_intact() const {
  if (!wants_cuda()) return guarded_arrays().is_intact(data_);
  return std::all_of(data_ + bytes_, data_ + bytes_ + kGuard, [](std::byte byte) { return byte == kGuardByte; });
}

GpuCommunicators::GpuCommunicators() : nccl_(wants_cuda() ? nullptr : std::make_shared<gpu_emulated::EmulatedNccl>()) {}

GpuCommunicatorMaker GpuCommunicators::maker() const {
  if (!nccl_) return connect_by_nccl;
  return [nccl = nccl_](std::unique_ptr<Communicator> host, GpuDriver& gpu, std::chrono::milliseconds timeout) {
    return make_nccl_communicator(std::move(host), nccl, gpu, {.axis = "data", .timeout = timeout});
  };
}

GpuBench::GpuBench(const GpuMachine& machine)
    : device_(machine.make_driver(), 1),
      scratch_(device_.gpu().allocate_device(kScratchBytes).value()),
      stream_(std::make_unique<Stream>(device_, "compute")) {
  stream_->set_scratch({scratch_, kScratchBytes});
}

GpuBench::~GpuBench() {
  stream_.reset();
  device_.gpu().free_device(scratch_);
}

}  // namespace strata::testing
