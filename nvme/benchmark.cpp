#include "nvme/benchmark.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <span>
#include <utility>

#include "nvme/block_file.h"
#include "runtime/arena.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kMaxWindow = 64 * kMiB;  // memory used, and bytes handed to the engine at once

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

enum class Pattern { read, write, mixed };

// Walks over the file window by window.
class Traffic {
 public:
  Traffic(const BlockFile& file, IoEngine& engine, std::span<std::byte> window, std::size_t block_bytes)
      : file_(file), engine_(engine), window_(window), block_bytes_(block_bytes) {}

  Status step(Pattern pattern) {
    std::vector<IoRequest> requests;
    for (std::size_t at = 0, i = 0; at < window_.size(); at += block_bytes_, ++i) {
      const bool write = pattern == Pattern::write || (pattern == Pattern::mixed && i % 2 == 0);
      requests.push_back({write ? IoRequest::Kind::write : IoRequest::Kind::read, file_.fd(), window_.data() + at,
                          std::min(block_bytes_, window_.size() - at), position_ + at});
    }
    position_ += window_.size();
    if (position_ + window_.size() > file_.bytes()) position_ = 0;
    return engine_.run(requests, file_.path());
  }

  Result<NvmeRate> measure(Pattern pattern, double seconds, int repeats) {
    NvmeRate rate;
    for (int i = 0; i < repeats; ++i) {
      const auto begin = Clock::now();
      double elapsed = 0;
      std::size_t bytes = 0;
      do {
        STRATA_RETURN_IF_ERROR(step(pattern));
        bytes += window_.size();
        elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
      } while (elapsed * repeats < seconds);
      rate.samples.push_back(static_cast<double>(bytes) / elapsed);
    }
    rate.median = median(rate.samples);
    return rate;
  }

 private:
  const BlockFile& file_;
  IoEngine& engine_;
  std::span<std::byte> window_;
  std::size_t block_bytes_;
  std::uint64_t position_ = 0;
};

Result<NvmeRates> measure_file(const BlockFile& file, const IoEngineOptions& options, double seconds, int repeats) {
  NvmeRates rates;
  std::string why;
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<IoEngine> engine, make_io_engine(options, &why));
  if (!why.empty()) rates.notes.push_back(why);
  if (!file.why_buffered().empty()) rates.notes.push_back(file.path() + " goes through the page cache: " + file.why_buffered());
  rates.engine = engine->name();
  rates.direct = file.direct();
  rates.alignment = file.alignment();
  rates.max_transfer = file.max_transfer();
  const std::size_t window_bytes = std::min<std::size_t>(kMaxWindow, file.bytes());
  TierArena arena(Tier::cpu, window_bytes);
  STRATA_ASSIGN_OR_RETURN(const Buffer window, arena.allocate(window_bytes, Category::io, "benchmark window"));
  // Not zeros: some devices treat them specially.
  for (std::size_t i = 0; i < window_bytes; ++i) window.data()[i] = static_cast<std::byte>((i * 2654435761U) >> 13);
  Traffic traffic(file, *engine, {window.data(), window_bytes}, options.block_bytes);
  STRATA_ASSIGN_OR_RETURN(rates.write, traffic.measure(Pattern::write, seconds, repeats));
  STRATA_ASSIGN_OR_RETURN(rates.read, traffic.measure(Pattern::read, seconds, repeats));
  STRATA_ASSIGN_OR_RETURN(rates.mixed, traffic.measure(Pattern::mixed, seconds, repeats));
  return rates;
}

}  // namespace

Result<NvmeRates> measure_nvme(const std::string& folder, std::size_t bytes, const IoEngineOptions& options, double seconds,
                               int repeats) {
  if (bytes < kMiB || repeats < 1 || seconds < 0) {
    return Status(Code::invalid_argument, "the NVMe benchmark needs at least 1 MiB, one repeat and a time of 0 s or more");
  }
  const std::string path = folder + "/strata-bench-" + std::to_string(::getpid());
  STRATA_ASSIGN_OR_RETURN(BlockFile file, BlockFile::create(path, (bytes + kMiB - 1) / kMiB * kMiB, {}));
  Result<NvmeRates> rates = measure_file(file, options, seconds, repeats);
  file.unlink();
  return rates;
}

}  // namespace strata
