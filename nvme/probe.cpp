#include "nvme/probe.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>

#include "nvme/block_file.h"
#include "runtime/arena.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kProbeBytes = std::size_t{32} << 20;
constexpr const char* kPurpose = "measuring how fast nvme.path is (nvme.weights makes that unnecessary)";
constexpr int kMaxRounds = 5;
constexpr double kMaxSeconds = 0.5;  // after which no round begins

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// The best of several rounds: what disturbs a measurement makes it slower.
Result<PathRate> probe(const BlockFile& file, IoEngine& engine, const Buffer& window) {
  const auto bytes = static_cast<std::size_t>(file.bytes());
  PathRate rate;
  const auto begin = Clock::now();
  for (int round = 0; round < kMaxRounds && (round == 0 || seconds_since(begin) < kMaxSeconds); ++round) {
    for (const auto kind : {IoRequest::Kind::write, IoRequest::Kind::read}) {
      const IoRequest request{kind, &file.io(), window.data(), bytes, 0};
      const auto start = Clock::now();
      STRATA_RETURN_IF_ERROR(engine.run({&request, 1}));
      double& best = kind == IoRequest::Kind::write ? rate.write : rate.read;
      best = std::max(best, static_cast<double>(bytes) / std::max(1e-9, seconds_since(start)));
    }
  }
  return rate;
}

}  // namespace

Result<std::vector<PathRate>> probe_paths(std::span<const std::string> paths, std::size_t most,
                                          const IoEngineOptions& options) {
  const std::size_t bytes = std::min(kProbeBytes, most);
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<IoEngine> engine, make_io_engine(options, nullptr));
  TierArena arena(Tier::cpu, bytes);
  STRATA_ASSIGN_OR_RETURN(const Buffer window, arena.allocate(bytes, Category::io, "probe window"));
  // Not zeros: some devices treat them specially.
  for (std::size_t i = 0; i < bytes; ++i) window.data()[i] = static_cast<std::byte>((i * 2654435761U) >> 13);
  std::vector<PathRate> rates;
  for (const std::string& path : paths) {
    Result<BlockFile> file = BlockFile::create(path, bytes, {.timeout = options.timeout});
    STRATA_RETURN_IF_ERROR(file.status().with_context(kPurpose));
    const Result<PathRate> rate = probe(*file, *engine, window);
    if (!file->io().hangs) file->remove();
    STRATA_RETURN_IF_ERROR(rate.status().with_context(kPurpose));
    rates.push_back(*rate);
  }
  return rates;
}

std::vector<double> placement_weights(std::span<const PathRate> rates) {
  std::vector<double> weights;
  for (const PathRate& rate : rates) weights.push_back(1.0 / (1.0 / rate.read + 1.0 / rate.write));
  return weights;
}

Result<std::vector<double>> measured_weights(std::span<const std::string> paths, std::size_t most,
                                             const IoEngineOptions& options, std::vector<std::string>* notes) {
  if (paths.size() == 1 || most == 0) return std::vector<double>(paths.size(), 1.0);
  STRATA_ASSIGN_OR_RETURN(const std::vector<PathRate> rates, probe_paths(paths, most, options));
  std::vector<double> weights = placement_weights(rates);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t p = 0; p < paths.size(); ++p) {
    char text[128];
    std::snprintf(text, sizeof text, ": gets %.1f %% of the state: measured %.2f GB/s reading and %.2f GB/s writing",
                  100.0 * weights[p] / sum, rates[p].read * 1e-9, rates[p].write * 1e-9);
    notes->push_back(paths[p] + text);
  }
  return weights;
}

}  // namespace strata
