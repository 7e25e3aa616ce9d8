#include "tests/machines/machines.h"

#include <gtest/gtest.h>

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
  PinnedSlab()
      : driver_(gpu_machines()[0].make_driver()),
        base_(driver_->allocate_pinned(kBytes).value()),
        slab_(base_, kBytes, std::pmr::null_memory_resource()),
        pool_(&slab_) {}
  ~PinnedSlab() override { driver_->free_pinned(base_, kBytes); }

 private:
  static constexpr std::size_t kBytes = std::size_t{1} << 30;
  void* do_allocate(std::size_t bytes, std::size_t alignment) override { return pool_.allocate(bytes, alignment); }
  void do_deallocate(void* data, std::size_t bytes, std::size_t alignment) override {
    pool_.deallocate(data, bytes, alignment);
  }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }

  std::unique_ptr<GpuDriver> driver_;
  std::byte* base_;
  std::pmr::monotonic_buffer_resource slab_;
  std::pmr::unsynchronized_pool_resource pool_;
};

constexpr std::size_t kScratchBytes = std::size_t{64} << 20;

int real_gpus() {
  const Result<int> count = cuda_device_count();
  return count.ok() ? *count : 0;
}

}  // namespace

const std::vector<GpuMachine>& gpu_machines() {
  static const std::vector<GpuMachine> machines = {
      wants_cuda()
          ? GpuMachine{"cuda", real_gpus(), [](int ordinal) { return make_gpu_driver(Config(), ordinal).value(); }}
          : GpuMachine{"emulated", 64, [](int) -> std::unique_ptr<GpuDriver> { return gpu_emulated::make_emulated_driver(); }}};
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
