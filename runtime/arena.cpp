#include "runtime/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>

#include "runtime/cores.h"
#include "runtime/stream.h"

namespace strata {
namespace {

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

}  // namespace

const char* to_string(Tier tier) {
  switch (tier) {
    case Tier::gpu: return "gpu";
    case Tier::cpu: return "cpu";
    case Tier::nvme: return "nvme";
  }
  return "?";
}

const char* to_string(Category category) {
  switch (category) {
    case Category::parameters: return "parameters";
    case Category::gradients: return "gradients";
    case Category::optimizer: return "optimizer";
    case Category::activations: return "activations";
    case Category::workspace: return "workspace";
    case Category::communication: return "communication";
    case Category::io: return "io";
    case Category::other: return "other";
  }
  return "?";
}

std::string format_bytes(std::size_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : value < 10 ? "%.2f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

namespace {

// Owns the address range of an arena, and what is behind it.
class Range {
 public:
  Range() = default;
  virtual ~Range() = default;
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  virtual std::byte* base() const = 0;
};

class NoMemory final : public Range {
 public:
  std::byte* base() const override { return reinterpret_cast<std::byte*>(TierArena::kAlignment); }
};

class AnonymousMemory final : public Range {
 public:
  // cores: to be near to; may be null.
  AnonymousMemory(Tier tier, std::size_t bytes, const CoreShare* cores) : bytes_(bytes) {
    void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
      throw StatusError(Status(Code::out_of_budget, std::string("cannot reserve ") + format_bytes(bytes) +
                                                        " of address space for the " + to_string(tier) +
                                                        " tier; lower memory." + to_string(tier)));
    base_ = static_cast<std::byte*>(base);
    madvise(base_, bytes, MADV_HUGEPAGE);
    if (cores != nullptr) (void)cores->place({base_, bytes});  // whoever made the share has tried it
  }
  ~AnonymousMemory() override { munmap(base_, bytes_); }
  std::byte* base() const override { return base_; }

 private:
  std::size_t bytes_;
  std::byte* base_;
};

class DeviceMemory final : public Range {
 public:
  DeviceMemory(const std::shared_ptr<GpuDriver>& gpu, std::size_t bytes) : gpu_(gpu) {
    Result<std::byte*> data = gpu->allocate_device(bytes);
    throw_if_error(data.status().with_context("gpu tier"));
    base_ = data.value();
  }
  ~DeviceMemory() override { gpu_->free_device(base_); }
  std::byte* base() const override { return base_; }

 private:
  std::shared_ptr<GpuDriver> gpu_;
  std::byte* base_;
};

class PinnedMemory final : public Range {
 public:
  PinnedMemory(const std::shared_ptr<GpuDriver>& gpu, std::size_t bytes, const CoreShare* cores) : gpu_(gpu), bytes_(bytes) {
    const TouchBeside touch(cores);  // locking pages touches them
    Result<std::byte*> data = gpu->allocate_pinned(bytes);
    throw_if_error(data.status().with_context("cpu tier"));
    base_ = data.value();
  }
  ~PinnedMemory() override { gpu_->free_pinned(base_, bytes_); }
  std::byte* base() const override { return base_; }

 private:
  std::shared_ptr<GpuDriver> gpu_;
  std::size_t bytes_;
  std::byte* base_;
};

std::unique_ptr<Range> make_range(Tier tier, std::size_t bytes, const Device& device) {
  if (bytes == 0 || device.backend() == Backend::dry) return std::make_unique<NoMemory>();
  if (device.backend() == Backend::host) return std::make_unique<AnonymousMemory>(tier, bytes, device.cores().get());
  if (tier == Tier::gpu) return std::make_unique<DeviceMemory>(device.shared_gpu(), bytes);
  return std::make_unique<PinnedMemory>(device.shared_gpu(), bytes, device.cores().get());
}

std::unique_ptr<Range> make_range(Tier tier, std::size_t bytes, TierArena::Backing backing) {
  if (bytes == 0 || backing == TierArena::Backing::none) return std::make_unique<NoMemory>();
  return std::make_unique<AnonymousMemory>(tier, bytes, nullptr);
}

}  // namespace

class ArenaImpl {
 public:
  ArenaImpl(Tier tier, std::size_t budget, std::unique_ptr<Range> range)
      : tier_(tier), range_(std::move(range)), base_(range_->base()) {
    report_.budget = budget;
  }
  ArenaImpl(const ArenaImpl&) = delete;
  ArenaImpl& operator=(const ArenaImpl&) = delete;

  Result<std::byte*> allocate(std::size_t reserved, Category category, const char* what) {
    const std::lock_guard lock(mutex_);
    auto best = holes_.end();
    for (auto hole = holes_.begin(); hole != holes_.end(); ++hole)
      if (hole->second >= reserved && (best == holes_.end() || hole->second < best->second)) best = hole;
    std::size_t offset = end_;
    if (best != holes_.end()) {
      offset = best->first;
      const std::size_t left = best->second - reserved;
      holes_.erase(best);
      if (left > 0) holes_.emplace(offset + reserved, left);
    } else {
      if (reserved > report_.budget - end_) return refuse(reserved, category, what);
      end_ += reserved;
      report_.high_water = std::max(report_.high_water, end_);
    }
    account(reserved, category);
    return base_ + offset;
  }

  void release(std::byte* data, std::size_t reserved, Category category) {
    const std::lock_guard lock(mutex_);
    const auto c = static_cast<std::size_t>(category);
    report_.in_use -= reserved;
    report_.in_use_by[c] -= reserved;
    auto offset = static_cast<std::size_t>(data - base_);
    std::size_t size = reserved;
    const auto next = holes_.lower_bound(offset);
    if (next != holes_.begin()) {
      const auto previous = std::prev(next);
      if (previous->first + previous->second == offset) {
        offset = previous->first;
        size += previous->second;
        holes_.erase(previous);
      }
    }
    if (next != holes_.end() && offset + size == next->first) {
      size += next->second;
      holes_.erase(next);
    }
    if (offset + size == end_)
      end_ = offset;
    else
      holes_.emplace(offset, size);
  }

  MemoryReport report() const {
    const std::lock_guard lock(mutex_);
    return report_;
  }
  Tier tier() const { return tier_; }

 private:
  void account(std::size_t reserved, Category category) {
    const auto c = static_cast<std::size_t>(category);
    report_.in_use += reserved;
    report_.in_use_by[c] += reserved;
    report_.peak = std::max(report_.peak, report_.in_use);
    report_.peak_by[c] = std::max(report_.peak_by[c], report_.in_use_by[c]);
  }

  Status refuse(std::size_t reserved, Category category, const char* what) const {
    std::string held;
    for (std::size_t c = 0; c < kCategories; ++c)
      if (report_.in_use_by[c] > 0)
        held += std::string(held.empty() ? "" : ", ") + to_string(static_cast<Category>(c)) + " " +
                format_bytes(report_.in_use_by[c]);
    const std::size_t left = report_.budget - report_.in_use;
    const std::string key = std::string("memory.") + to_string(tier_);
    const std::string reason = reserved > left ? format_bytes(reserved - left) + " too much; raise " + key
                                               : "the free " + format_bytes(left) +
                                                     " are in pieces that are too short (fragmentation); raise " + key +
                                                     " by " + format_bytes(end_ + reserved - report_.budget);
    return {Code::out_of_budget, std::string(to_string(tier_)) + " tier: " + what + " (" + to_string(category) + ") needs " +
                                     format_bytes(reserved) + ", in use " + format_bytes(report_.in_use) +
                                     (held.empty() ? "" : " (" + held + ")") + ", budget " + format_bytes(report_.budget) +
                                     ": " + reason};
  }

  const Tier tier_;
  const std::unique_ptr<Range> range_;
  std::byte* const base_;
  mutable std::mutex mutex_;
  MemoryReport report_;
  std::map<std::size_t, std::size_t> holes_;  // offset -> size, free, each between two live buffers
  std::size_t end_ = 0;                       // of the last live buffer
};

Buffer::~Buffer() {
  if (arena_ && data_ != nullptr) arena_->release(data_, reserved_, category_);
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(arena_, other.arena_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(reserved_, other.reserved_);
  std::swap(category_, other.category_);
}

TierArena::TierArena(Tier tier, std::size_t budget, Backing backing)
    : impl_(std::make_shared<ArenaImpl>(tier, budget, make_range(tier, budget, backing))) {}

TierArena::TierArena(Tier tier, std::size_t budget, const Device& device)
    : impl_(std::make_shared<ArenaImpl>(tier, budget, make_range(tier, budget, device))) {}

Result<Buffer> TierArena::allocate(std::size_t bytes, Category category, const char* what) {
  Buffer buffer;
  if (bytes == 0) return buffer;
  const std::size_t reserved = round_up(std::min(bytes, SIZE_MAX - kAlignment), kAlignment);  // no budget reaches that far
  STRATA_ASSIGN_OR_RETURN(buffer.data_, impl_->allocate(reserved, category, what));
  buffer.arena_ = impl_;
  buffer.size_ = bytes;
  buffer.reserved_ = reserved;
  buffer.category_ = category;
  return buffer;
}

bool Buffer::is_from(const TierArena& arena) const { return arena_ != nullptr && arena_ == arena.impl_; }

Tier TierArena::tier() const { return impl_->tier(); }
MemoryReport TierArena::report() const { return impl_->report(); }

}  // namespace strata
