#include "nvme/gpu_record_memory.h"

#include <cstring>
#include <utility>

#include "nvme/record_header.h"
#include "runtime/gpu/kernel_table.h"

namespace strata {
namespace {

// XXH3 has other formulas for what is not longer; those are left to the host.
constexpr std::size_t kMostShortBytes = 240;
constexpr std::size_t kScratchAlignment = 256;

}  // namespace

GpuRecordMemory::GpuRecordMemory(const GpuDriver& gpu, std::unique_ptr<GpuQueue> queue, std::span<std::byte> device,
                                 std::span<std::byte> host)
    : gpu_(gpu), device_(device), host_(host), queue_(std::move(queue)) {
  STRATA_CHECK(device.size() >= kDeviceBytes && host.size() >= kHostBytes, "the memory that this needs");
  // The hash, then the kernel's scratch.
  queue_->set_scratch(device_.subspan(kScratchAlignment));
}

Result<std::uint64_t> GpuRecordMemory::checksum(std::span<const std::byte> bytes) {
  if (bytes.size() <= kMostShortBytes) {
    if (!bytes.empty()) queue_->copy(bytes.data(), host_.data(), bytes.size());
    STRATA_RETURN_IF_ERROR(finish());
    return strata::checksum(host_.first(bytes.size()));
  }
  auto* const hash = reinterpret_cast<std::uint64_t*>(device_.data());
  gpu_.kernels().xxh3_64(bytes.data(), static_cast<std::int64_t>(bytes.size()), hash, *queue_);
  queue_->copy(hash, host_.data(), sizeof *hash);
  STRATA_RETURN_IF_ERROR(finish());
  std::uint64_t value = 0;
  std::memcpy(&value, host_.data(), sizeof value);
  return value;
}

Status GpuRecordMemory::zero(std::span<std::byte> bytes) {
  if (bytes.empty()) return {};
  queue_->zero(bytes.data(), bytes.size());
  return finish();
}

Status GpuRecordMemory::load(const std::byte* from, HeaderBlock& block) {
  queue_->copy(from, host_.data(), block.size());
  STRATA_RETURN_IF_ERROR(finish());
  std::memcpy(block.data(), host_.data(), block.size());
  return {};
}

Status GpuRecordMemory::store(const HeaderBlock& block, std::byte* to) {
  std::memcpy(host_.data(), block.data(), block.size());
  queue_->copy(host_.data(), to, block.size());
  return finish();
}

}  // namespace strata
