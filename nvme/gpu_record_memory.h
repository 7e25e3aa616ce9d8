// Buffers of records in a GPU's memory: a kernel calculates the checksum there, the header block is copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "nvme/record_memory.h"
#include "runtime/gpu/driver.h"

namespace strata {

// Waits for the GPU in the calling thread, for what it enqueued on a queue of its own: what else works on the buffer is
// complete, or waits for the caller.
class GpuRecordMemory final : public RecordMemory {
 public:
  static constexpr std::size_t kDeviceBytes = (std::size_t{1} << 20) + 4096;  // 16 MiB of payload at once
  static constexpr std::size_t kHostBytes = 2 * format::kBlockBytes;
  // device, host: memory of the sizes above for its use, the host's page-locked. Both and the driver outlive it.
  GpuRecordMemory(const GpuDriver& gpu, std::unique_ptr<GpuQueue> queue, std::span<std::byte> device,
                  std::span<std::byte> host);
  // Of 8-byte aligned memory.
  Result<std::uint64_t> checksum(std::span<const std::byte> bytes) override;
  Status zero(std::span<std::byte> bytes) override;
  Status load(const std::byte* from, HeaderBlock& block) override;
  Status store(const HeaderBlock& block, std::byte* to) override;

 private:
  Status finish() { return queue_->mark()->wait(); }
  const GpuDriver& gpu_;
  std::span<std::byte> device_, host_;
  std::unique_ptr<GpuQueue> queue_;
};

}  // namespace strata
