#include "tests/emulator/guarded_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace strata::gpu_emulated {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kGuard = std::size_t{1} << 20;  // address space costs nothing; wild indices go far
constexpr std::size_t kFilled = std::size_t{16} << 20;
constexpr std::byte kSlack{0xff};

std::string hexadecimal(std::uintptr_t value) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%zx", static_cast<std::size_t>(value));
  return text;
}

}  // namespace

GuardedMemory::~GuardedMemory() {
  for (const auto& [data, allocation] : allocations_) unmap(allocation);
}

void GuardedMemory::unmap(const Allocation& allocation) {
  munmap(allocation.pages - kGuard, allocation.page_bytes + 2 * kGuard);
}

Result<std::byte*> GuardedMemory::allocate(std::size_t bytes, std::size_t alignment) {
  STRATA_CHECK(std::has_single_bit(alignment) && alignment <= kPage, "an alignment is a power of two and at most a page");
  Allocation allocation;
  allocation.bytes = bytes;
  allocation.page_bytes = (bytes + kPage - 1) / kPage * kPage;
  void* memory =
      mmap(nullptr, allocation.page_bytes + 2 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return Status::from_errno("mmap", std::to_string(bytes) + " guarded bytes", errno);
  allocation.pages = static_cast<std::byte*>(memory) + kGuard;
  if (bytes > 0 && mprotect(allocation.pages, allocation.page_bytes, PROT_READ | PROT_WRITE) != 0) {
    const Status status = Status::from_errno("mprotect", std::to_string(bytes) + " guarded bytes", errno);
    unmap(allocation);
    return status;
  }
  const auto end = reinterpret_cast<std::uintptr_t>(allocation.pages) + allocation.page_bytes;
  const std::uintptr_t data = (end - bytes) / alignment * alignment;
  if (bytes <= kFilled) std::memset(allocation.pages, static_cast<int>(kSlack), allocation.page_bytes);
  const std::lock_guard lock(mutex_);
  allocations_[data] = allocation;
  bytes_ += bytes;
  return reinterpret_cast<std::byte*>(data);
}

bool GuardedMemory::free(std::byte* data) {
  Allocation allocation;
  {
    const std::lock_guard lock(mutex_);
    const auto found = allocations_.find(reinterpret_cast<std::uintptr_t>(data));
    STRATA_CHECK(found != allocations_.end(), "what is freed was allocated here and not freed before");
    allocation = found->second;
    allocations_.erase(found);
    bytes_ -= allocation.bytes;
  }
  const bool intact = is_intact(data, allocation);
  unmap(allocation);
  return intact;
}

bool GuardedMemory::is_intact(const std::byte* data, const Allocation& allocation) {
  const auto is_slack = [](std::byte byte) { return byte == kSlack; };
  return allocation.bytes > kFilled ||
         (std::all_of<const std::byte*>(allocation.pages, data, is_slack) &&
          std::all_of<const std::byte*>(data + allocation.bytes, allocation.pages + allocation.page_bytes, is_slack));
}

bool GuardedMemory::is_intact(const std::byte* data) const {
  const std::lock_guard lock(mutex_);
  const auto found = allocations_.find(reinterpret_cast<std::uintptr_t>(data));
  STRATA_CHECK(found != allocations_.end(), "what is looked at was allocated here");
  return is_intact(data, found->second);
}

std::size_t GuardedMemory::count() const {
  const std::lock_guard lock(mutex_);
  return allocations_.size();
}

std::size_t GuardedMemory::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

bool GuardedMemory::contains(const void* data, std::size_t bytes) const {
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  const std::lock_guard lock(mutex_);
  auto after = allocations_.upper_bound(first);
  if (after == allocations_.begin()) return false;
  --after;
  return first + bytes <= after->first + after->second.bytes;
}

bool GuardedMemory::overhangs(const void* data, std::size_t bytes) const {
  const auto first = reinterpret_cast<std::uintptr_t>(data);
  const std::lock_guard lock(mutex_);
  auto after = allocations_.upper_bound(first);
  if (after == allocations_.begin()) return false;
  --after;
  const std::uintptr_t end = after->first + after->second.bytes;
  return first < end && first + bytes > end;
}

std::string GuardedMemory::describe(const void* address) const {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const std::lock_guard lock(mutex_);
  std::string nearest = "far from every allocation";
  std::uintptr_t least = kGuard;
  for (const auto& [data, allocation] : allocations_) {
    const std::uintptr_t end = data + allocation.bytes;
    const bool behind = at >= end;
    if (!behind && at >= data)
      return hexadecimal(at) + ", inside of the " + std::to_string(allocation.bytes) + " bytes at " + hexadecimal(data);
    const std::uintptr_t distance = behind ? at - end : data - at;
    if (distance >= least) continue;
    least = distance;
    nearest = std::to_string(distance) + (behind ? " bytes behind the end of the " : " bytes before the ") +
              std::to_string(allocation.bytes) + " bytes at " + hexadecimal(data);
  }
  return hexadecimal(at) + ", " + nearest;
}

}  // namespace strata::gpu_emulated
