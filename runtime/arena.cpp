#include "runtime/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>

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

// The budget limits what is in use; the address range is twice as long, so that a plan which fits is not refused because free
// ranges are scattered. Best fit with coalescing: which addresses are used depends on the sequence of calls alone.
class ArenaImpl {
 public:
  ArenaImpl(Tier tier, std::size_t budget, TierArena::Backing backing) : tier_(tier), backing_(backing) {
    report_.budget = budget;
    if (budget == 0) return;
    span_ = round_up(budget, kPage) * 2;
    free_.emplace(0, span_);
    if (backing == TierArena::Backing::none) {
      base_ = reinterpret_cast<std::byte*>(kPage);
      return;
    }
    void* base = mmap(nullptr, span_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
      throw StatusError(Status(Code::out_of_budget, std::string("cannot reserve ") + format_bytes(span_) +
                                                        " of address space for the " + to_string(tier) +
                                                        " tier; lower memory." + to_string(tier)));
    base_ = static_cast<std::byte*>(base);
    madvise(base_, span_, MADV_HUGEPAGE);
  }
  ~ArenaImpl() {
    if (base_ != nullptr && backing_ == TierArena::Backing::memory) munmap(base_, span_);
  }
  ArenaImpl(const ArenaImpl&) = delete;
  ArenaImpl& operator=(const ArenaImpl&) = delete;

  Result<std::byte*> allocate(std::size_t reserved, Category category, const char* what) {
    const std::lock_guard lock(mutex_);
    if (reserved > report_.budget - report_.in_use) return refuse(reserved, category, what);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it)
      if (it->second >= reserved && (best == free_.end() || it->second < best->second)) best = it;
    if (best == free_.end()) return refuse(reserved, category, what);
    const std::size_t offset = best->first;
    const std::size_t left = best->second - reserved;
    free_.erase(best);
    if (left > 0) free_.emplace(offset + reserved, left);
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
    auto next = free_.lower_bound(offset);
    if (next != free_.end() && offset + size == next->first) {
      size += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      auto previous = std::prev(next);
      if (previous->first + previous->second == offset) {
        previous->second += size;
        return;
      }
    }
    free_.emplace(offset, size);
  }

  MemoryReport report() const {
    const std::lock_guard lock(mutex_);
    return report_;
  }
  void reset_peaks() {
    const std::lock_guard lock(mutex_);
    report_.peak = report_.in_use;
    report_.peak_by = report_.in_use_by;
  }
  Tier tier() const { return tier_; }

 private:
  static constexpr std::size_t kPage = 2u << 20;

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
    const std::string reason = reserved > left ? format_bytes(reserved - left) + " too much" : "no free range is that long";
    return {Code::out_of_budget, std::string(to_string(tier_)) + " tier: " + what + " (" + to_string(category) + ") needs " +
                                     format_bytes(reserved) + ", in use " + format_bytes(report_.in_use) +
                                     (held.empty() ? "" : " (" + held + ")") + ", budget " + format_bytes(report_.budget) +
                                     ": " + reason + "; raise memory." + to_string(tier_)};
  }

  const Tier tier_;
  const TierArena::Backing backing_;
  mutable std::mutex mutex_;
  MemoryReport report_;
  std::byte* base_ = nullptr;
  std::size_t span_ = 0;
  std::map<std::size_t, std::size_t> free_;  // offset -> size, coalesced
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
    : impl_(std::make_shared<ArenaImpl>(tier, budget, backing)) {}

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

Tier TierArena::tier() const { return impl_->tier(); }
MemoryReport TierArena::report() const { return impl_->report(); }
void TierArena::reset_peaks() { impl_->reset_peaks(); }

std::string format_report(Tier tier, const MemoryReport& report) {
  std::string text;
  for (std::size_t c = 0; c < kCategories; ++c) {
    if (report.peak_by[c] == 0) continue;
    char line[160];
    std::snprintf(line, sizeof line, "%-5s %-14s %12s (peak %s)\n", to_string(tier), to_string(static_cast<Category>(c)),
                  format_bytes(report.in_use_by[c]).c_str(), format_bytes(report.peak_by[c]).c_str());
    text += line;
  }
  return text;
}

}  // namespace strata
