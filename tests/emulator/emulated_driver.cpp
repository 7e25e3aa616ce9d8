#include "tests/emulator/emulated_driver.h"

#include <system_error>

#include "runtime/arena.h"
#include "runtime/gpu/gemm_epilogue.h"
#include "runtime/kernels/gemm.h"
#include "runtime/kernels/isa.h"
#include "tests/emulator/emulated_attention.h"

namespace strata::gpu_emulated {
namespace {

constexpr std::size_t kAlignment = 4096;

}  // namespace

EmulatedDriver::EmulatedDriver(const GpuKernels& kernels) : EmulatedDriver(kernels, Options()) {}

EmulatedDriver::EmulatedDriver(const GpuKernels& kernels, Options options)
    : kernels_(kernels),
      readings_(options.readings),
      refuses_epilogues_(options.refuses_epilogues),
      file_library_(options.file_library.empty() ? STRATA_FAKE_CUFILE_LIBRARY : options.file_library) {
  device_.properties = {.name = "emulated",
                        .ordinal = 0,
                        .compute_major = 9,
                        .compute_minor = 0,
                        .multiprocessors = options.multiprocessors,
                        .memory_bytes = options.memory_bytes,
                        .shared_bytes_per_block = std::size_t{227} * 1024};
  device_.host_memory = options.host_memory;
  if (options.library_attention) attention_ = make_emulated_attention(device_.counts);
}

EmulatedDriver::~EmulatedDriver() = default;

Result<std::byte*> EmulatedDriver::allocate_device(std::size_t bytes) {
  const std::size_t left = device_.properties.memory_bytes - device_.device_memory.bytes();
  if (bytes > left)
    return Status(Code::out_of_budget,
                  "the emulated GPU has " + format_bytes(left) + " left, asked for " + format_bytes(bytes));
  device_.counts.allocation();
  return device_.device_memory.allocate(bytes, kAlignment);
}

void EmulatedDriver::free_device(std::byte* data) {
  STRATA_CHECK(device_.device_memory.free(data), "nobody writes behind the end of device memory");
}

Result<std::byte*> EmulatedDriver::allocate_pinned(std::size_t bytes) {
  device_.counts.allocation();
  return device_.pinned_memory.allocate(bytes, kAlignment);
}

void EmulatedDriver::free_pinned(std::byte* data, std::size_t) {
  STRATA_CHECK(device_.pinned_memory.free(data), "nobody writes behind the end of pinned memory");
}

Result<std::unique_ptr<GpuQueue>> EmulatedDriver::make_queue(const char* name) {
  try {
    return std::unique_ptr<GpuQueue>(std::make_unique<EmulatedQueue>(device_, name));
  } catch (const std::system_error& error) {
    return Status(Code::out_of_budget, std::string("cannot start the thread of queue ") + name + ": " + error.code().message());
  }
}

Result<std::shared_ptr<GpuCounter>> EmulatedDriver::make_counter() {
  return std::shared_ptr<GpuCounter>(std::make_shared<EmulatedCounter>());
}

void EmulatedDriver::gemm(const kernels::Gemm& gemm, GpuQueue& queue) {
  const kernels::Gemm product = refuses_epilogues_ ? without_epilogue(gemm) : gemm;
  static_cast<EmulatedQueue&>(queue).enqueue([product, native = kernels::active_isa() == kernels::Isa::avx512] {
    kernels::TiledGemm tiled(product, 1, native);
    for (std::int64_t tile = 0; tile < tiled.tiles(); ++tile) tiled.run(tile);
    return tiled.status();
  });
  if (refuses_epilogues_) enqueue_epilogue(gemm, kernels_, queue);
}

}  // namespace strata::gpu_emulated
