#include "launcher/bench_copy.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "launcher/bench.h"
#include "launcher/command.h"

namespace strata {
namespace {

constexpr std::size_t kPage = TierArena::kAlignment;

std::size_t whole_pages(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

Buffer touched(TierArena& arena, std::size_t bytes, int value, const char* what) {
  Result<Buffer> buffer = arena.allocate(bytes + kArraySkew, Category::workspace, what);
  throw_if_error(buffer.status());
  std::memset(buffer->data(), value, bytes);
  return std::move(buffer).value();
}

}  // namespace

std::string cache_note(std::size_t bytes) {
  const long cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or -1: unknown
  if (cache <= 0 || bytes >= 4 * static_cast<std::size_t>(cache)) return "";
  return "arrays of " + format_bytes(bytes) + " beside a cache of " + format_bytes(static_cast<std::size_t>(cache)) +
         ": this is not the rate of memory";
}

CopyMeter::CopyMeter(TierArena& arena, std::size_t bytes)
    : from_(touched(arena, whole_pages(bytes), 1, "source of copies")),
      to_(touched(arena, whole_pages(bytes), 2, "target of copies")),
      bytes_(whole_pages(bytes)),
      samples_(available_copies().size()) {}

std::size_t CopyMeter::arena_bytes(std::size_t bytes) { return 2 * (whole_pages(bytes) + kArraySkew); }

void CopyMeter::sample(ThreadPool& pool) {
  for (std::size_t kind = 0; kind < samples_.size(); ++kind) {
    const double seconds = seconds_of([&] { stream_copy(available_copies()[kind], from_.data(), to_.data(), bytes_, pool); });
    samples_[kind].push_back(2.0 * static_cast<double>(bytes_) / seconds);
  }
}

void CopyMeter::discard() {
  for (auto& samples : samples_) samples.clear();
}

std::vector<Measurement> CopyMeter::measurements() const {
  std::vector<Measurement> all;
  for (std::size_t kind = 0; kind < samples_.size(); ++kind) {
    all.push_back(
        {.name = std::string("copy, ") + to_string(available_copies()[kind]), .unit = "B/s", .samples = samples_[kind]});
  }
  return all;
}

Measurement CopyMeter::best() const {
  const std::vector<Measurement> all = measurements();
  return *std::max_element(all.begin(), all.end(), [](const Measurement& a, const Measurement& b) {
    return statistics(a.samples).median < statistics(b.samples).median;
  });
}

namespace {

Status bench_copy(const BenchOptions& options) {
  const Machine machine = describe_machine();
  const auto bytes = static_cast<std::size_t>(options.bytes);
  STRATA_RETURN_IF_ERROR(require_memory(CopyMeter::arena_bytes(bytes), "bench copy with --bytes " + std::to_string(bytes)));
  TierArena arena(Tier::cpu, CopyMeter::arena_bytes(bytes));
  ThreadPool pool(threads_or_all(options.threads, machine));
  CopyMeter meter(arena, bytes);
  meter.sample(pool);
  meter.discard();
  for (int i = 0; i < options.repeats; ++i) meter.sample(pool);
  BenchReport report{.benchmark = "copy",
                     .parameters = {{"bytes", format_bytes(bytes)}},
                     .threads = pool.threads(),
                     .measurements = meter.measurements()};
  const Measurement best = meter.best();
  for (Measurement& m : report.measurements) {
    m.bound = statistics(best.samples).median;
    m.bound_name = best.name;
  }
  report.notes.push_back("bytes read plus bytes written; the best of these is the bound of every streaming operation");
  if (const std::string note = cache_note(2 * bytes); !note.empty()) report.notes.push_back(note);
  print_report(report, machine, options.json);
  return {};
}

}  // namespace

int run_bench_copy(const BenchOptions& options) { return finish_command(bench_copy(options)); }

}  // namespace strata
