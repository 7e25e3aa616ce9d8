#include "launcher/bench_copy.h"

#include <unistd.h>

#include <algorithm>

#include "launcher/bench.h"
#include "launcher/command.h"
#include "launcher/stream_copy.h"

namespace strata {
namespace {

constexpr std::size_t kPage = TierArena::kAlignment;

std::size_t whole_pages(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

TensorRef array(TensorSet& tensors, std::size_t bytes) {
  return tensors.zeros(DType::f32, {static_cast<std::int64_t>(whole_pages(bytes) / sizeof(float))});
}

}  // namespace

std::string cache_note(const Device& device, std::size_t bytes) {
  const long cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or -1: unknown
  if (device.has_separate_memory() || cache <= 0 || bytes >= 4 * static_cast<std::size_t>(cache)) return "";
  return "arrays of " + format_bytes(bytes) + " beside a cache of " + format_bytes(static_cast<std::size_t>(cache)) +
         ": this is not the rate of memory";
}

CopyMeter::CopyMeter(Workbench& bench, std::size_t bytes)
    : bench_(bench), tensors_(bench), from_(array(tensors_, bytes)), to_(array(tensors_, bytes)) {
  if (bench.device().has_separate_memory()) {
    kinds_ = {"copy in device memory"};
    if (!bench.dry())
      timer_.emplace(std::vector{bench.stream()}, [this] { copy_async(from_.data, to_.data, from_.bytes(), bench_.stream()); });
  } else {
    for (const CopyStores stores : available_copies()) kinds_.push_back(std::string("copy, ") + to_string(stores));
  }
  samples_.resize(kinds_.size());
  if (bench.dry() || timer_) return;
  sample();  // warms up
  for (auto& samples : samples_) samples.clear();
}

void CopyMeter::sample() {
  for (std::size_t kind = 0; kind < samples_.size(); ++kind) {
    const double seconds = timer_ ? timer_->sample() : seconds_of([&] {
      stream_copy(available_copies()[kind], from_.data, to_.data, from_.bytes(), bench_.device().pool());
    });
    samples_[kind].push_back(2.0 * static_cast<double>(from_.bytes()) / seconds);
  }
}

std::vector<Measurement> CopyMeter::measurements() const {
  std::vector<Measurement> all;
  for (std::size_t kind = 0; kind < samples_.size(); ++kind)
    all.push_back({.name = kinds_[kind], .unit = "B/s", .samples = samples_[kind]});
  return all;
}

void CopyMeter::bound(Measurement& m) const { bound_by_best(m, measurements()); }

namespace {

// Copies between page-locked host memory and the GPU's: one way at a time, and both at once on two streams.
std::vector<Measurement> measure_transfers(Workbench& bench, std::size_t bytes, int repeats) {
  TierArena host(Tier::cpu, 2 * (whole_pages(bytes) + kPage), bench.device());
  const auto locked = [&] {
    Result<Buffer> buffer = host.allocate(bytes, Category::workspace, "page-locked memory of a benchmark");
    throw_if_error(buffer.status());
    return std::move(buffer).value();
  };
  const Buffer up = locked(), down = locked();
  std::fill_n(up.data(), bytes, std::byte{1});
  TensorSet tensors(bench);
  const TensorRef received = array(tensors, bytes), sent = array(tensors, bytes);
  Stream other(bench.device(), "device to host");
  const auto send = [&] { copy_async(up.data(), received.data, bytes, bench.stream()); };
  const auto receive = [&] { copy_async(sent.data, down.data(), bytes, other); };
  const auto both = [&] {
    send();
    receive();
  };
  const StreamTimer timers[] = {{{bench.stream()}, send}, {{other}, receive}, {{bench.stream(), other}, both}};
  std::vector<Measurement> all = {{.name = "host to device", .unit = "B/s"},
                                  {.name = "device to host", .unit = "B/s"},
                                  {.name = "both ways at once, sum", .unit = "B/s"}};
  for (int i = 0; i < repeats; ++i)
    for (std::size_t k = 0; k < all.size(); ++k)
      all[k].samples.push_back((k == 2 ? 2.0 : 1.0) * static_cast<double>(bytes) / timers[k].sample());
  return all;
}

Status bench_copy(const BenchOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_bench_device(options.device));
  const auto bytes = static_cast<std::size_t>(options.bytes);
  const TierBytes needed = Workbench::rehearse(*device, [&](Workbench& bench) {
    const CopyMeter meter(bench, bytes);
    TensorSet transfers(bench);
    if (!device->has_separate_memory()) return;
    (void)array(transfers, bytes);
    (void)array(transfers, bytes);
  });
  // On a GPU as much page-locked memory as the transfers take.
  STRATA_RETURN_IF_ERROR(require_memory(device->has_separate_memory() ? 2 * bytes : needed.gpu,
                                        "bench copy with --bytes " + std::to_string(bytes)));
  Workbench bench(*device, needed);
  CopyMeter meter(bench, bytes);
  for (int i = 0; i < options.repeats; ++i) meter.sample();
  BenchReport report{.benchmark = "copy",
                     .parameters = {{"bytes", format_bytes(bytes)}},
                     .threads = device->threads(),
                     .measurements = meter.measurements()};
  for (Measurement& m : report.measurements) meter.bound(m);
  report.notes.push_back("bytes read plus bytes written; the best of these is the bound of every streaming operation");
  if (device->has_separate_memory()) {
    for (Measurement& m : measure_transfers(bench, bytes, options.repeats)) report.measurements.push_back(std::move(m));
    report.notes.push_back("between host and device: bytes that crossed, from and to page-locked memory");
  }
  if (const std::string note = cache_note(*device, 2 * bytes); !note.empty()) report.notes.push_back(note);
  print_report(report, describe_machine(*device), options.json);
  return {};
}

}  // namespace

int run_bench_copy(const BenchOptions& options) { return finish_command(bench_copy(options)); }

}  // namespace strata
