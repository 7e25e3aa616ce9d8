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
constexpr std::size_t kMaxRun = 256 * kMiB;  // bytes handed to the engine at once, about those of a large record

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

enum class Pattern { read, write, mixed };

// Walks over the file run by run. A run uses the window's memory again and again.
class Traffic {
 public:
  Traffic(const BlockFile& file, IoEngine& engine, std::span<std::byte> window, std::size_t block_bytes)
      : file_(file),
        engine_(engine),
        window_(window),
        block_bytes_(std::min(block_bytes, window.size())),
        run_bytes_(std::min<std::size_t>(kMaxRun, file.bytes()) / block_bytes_ * block_bytes_) {}

  Status step(Pattern pattern) {
    std::vector<IoRequest> requests;
    const std::size_t blocks = window_.size() / block_bytes_;
    for (std::size_t at = 0, i = 0; at < run_bytes_; at += block_bytes_, ++i) {
      const bool write = pattern == Pattern::write || (pattern == Pattern::mixed && i % 2 == 0);
      requests.push_back({write ? IoRequest::Kind::write : IoRequest::Kind::read, &file_.io(),
                          window_.data() + i % blocks * block_bytes_, block_bytes_, position_ + at});
    }
    position_ += run_bytes_;
    if (position_ + run_bytes_ > file_.bytes()) position_ = 0;
    return engine_.run(requests);
  }

  Result<NvmeRate> measure(Pattern pattern, double seconds, int repeats) {
    NvmeRate rate;
    (void)file_.io().reads.take();
    (void)file_.io().writes.take();
    for (int i = 0; i < repeats; ++i) {
      const auto begin = Clock::now();
      double elapsed = 0;
      std::size_t bytes = 0;
      do {
        STRATA_RETURN_IF_ERROR(step(pattern));
        bytes += run_bytes_;
        elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
      } while (elapsed * repeats < seconds);
      rate.samples.push_back(static_cast<double>(bytes) / elapsed);
    }
    rate.median = median(rate.samples);
    rate.latency = pattern == Pattern::read ? file_.io().reads.take() : file_.io().writes.take();
    return rate;
  }

 private:
  const BlockFile& file_;
  IoEngine& engine_;
  std::span<std::byte> window_;
  std::size_t block_bytes_;
  std::size_t run_bytes_;
  std::uint64_t position_ = 0;
};

Result<NvmeRates> measure_file(const BlockFile& file, std::span<std::byte> window, const IoEngineOptions& options,
                               double seconds, int repeats) {
  NvmeRates rates;
  rates.options = options;
  rates.options.block_bytes = std::min(options.block_bytes, window.size());  // what is measured
  std::string why;
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<IoEngine> engine, make_io_engine(options, &why));
  if (!why.empty()) rates.notes.push_back(why);
  if (!file.why_buffered().empty()) rates.notes.push_back(file.path() + " goes through the page cache: " + file.why_buffered());
  rates.engine = engine->name();
  rates.direct = file.direct();
  rates.alignment = file.alignment();
  rates.max_transfer = file.max_transfer();
  IoFile* const io = &file.io();
  engine->register_files({&io, 1});
  engine->register_buffers({&window, 1});
  Traffic traffic(file, *engine, window, options.block_bytes);
  STRATA_ASSIGN_OR_RETURN(rates.write, traffic.measure(Pattern::write, seconds, repeats));
  STRATA_ASSIGN_OR_RETURN(rates.read, traffic.measure(Pattern::read, seconds, repeats));
  STRATA_ASSIGN_OR_RETURN(rates.mixed, traffic.measure(Pattern::mixed, seconds, repeats));
  return rates;
}

Result<std::vector<NvmeRates>> measure_settings(const BlockFile& file, std::span<const IoEngineOptions> settings,
                                                double seconds, int repeats, std::size_t window_bytes) {
  const std::size_t bytes = std::min<std::size_t>(window_bytes, file.bytes());
  TierArena arena(Tier::cpu, bytes);
  STRATA_ASSIGN_OR_RETURN(const Buffer window, arena.allocate(bytes, Category::io, "benchmark window"));
  // Not zeros: some devices treat them specially.
  for (std::size_t i = 0; i < bytes; ++i) window.data()[i] = static_cast<std::byte>((i * 2654435761U) >> 13);
  std::vector<NvmeRates> all;
  for (const IoEngineOptions& options : settings) {
    STRATA_ASSIGN_OR_RETURN(NvmeRates rates, measure_file(file, {window.data(), bytes}, options, seconds, repeats));
    all.push_back(std::move(rates));
  }
  return all;
}

}  // namespace

Result<std::vector<NvmeRates>> measure_nvme(const std::string& folder, std::size_t bytes,
                                            std::span<const IoEngineOptions> settings, double seconds, int repeats,
                                            std::size_t window) {
  if (bytes < kMiB || window < kMiB || repeats < 1 || seconds < 0) {
    return Status(Code::invalid_argument,
                  "the NVMe benchmark needs at least 1 MiB of file and of memory, one repeat and a time of 0 s or more");
  }
  const std::string path = folder + "/strata-bench-" + std::to_string(::getpid());
  STRATA_ASSIGN_OR_RETURN(BlockFile file, BlockFile::create(path, (bytes + kMiB - 1) / kMiB * kMiB, {}));
  Result<std::vector<NvmeRates>> rates = measure_settings(file, settings, seconds, repeats, window);
  if (!file.io().hangs) file.remove();
  return rates;
}

}  // namespace strata
