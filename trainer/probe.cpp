#include "trainer/probe.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "nvme/record_traffic.h"
#include "optim/adamw.h"
#include "trainer/sample_update.h"
#include "trainer/stream_timer.h"
#include "trainer/unit_forward.h"
#include "trainer/workbench.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kCopyBytes = 64 * kMiB;
constexpr std::size_t kLeastUpdateBytes = 128 * kMiB;  // of an update's arrays, where there is room
constexpr std::size_t kMostUpdateBytes = 1024 * kMiB;
constexpr std::size_t kGpuUpdateBytes = 512 * kMiB;  // several times any GPU's cache
constexpr std::size_t kMostRecordBytes = 64 * kMiB;
constexpr int kLeastRecords = 4;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Bytes of a cache that arrays must exceed to be in memory.
std::size_t cache_bytes() {
  const long cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);  // 0 or -1: unknown
  return cache > 0 ? static_cast<std::size_t>(cache) : 32 * kMiB;
}

// What is left of the budgets.
struct Room {
  std::optional<std::size_t> gpu, cpu, host;
  bool shared = false;  // the gpu tier is memory of the host

  std::size_t of_gpu() const {
    return std::min(gpu.value_or(SIZE_MAX), shared ? host.value_or(SIZE_MAX) : std::size_t{SIZE_MAX});
  }
  std::size_t of_cpu() const { return std::min(cpu.value_or(SIZE_MAX), host.value_or(SIZE_MAX)); }
  static void subtract(std::optional<std::size_t>& from, std::size_t bytes) {
    if (from) *from -= std::min(*from, bytes);
  }
  // False: there is not as much.
  bool take(const TierBytes& bytes) {
    if (bytes.gpu > of_gpu() || bytes.cpu > of_cpu()) return false;
    const std::size_t of_host = bytes.cpu + (shared ? bytes.gpu : 0);
    if (host && of_host > *host) return false;
    subtract(gpu, bytes.gpu);
    subtract(cpu, bytes.cpu);
    subtract(host, of_host);
    return true;
  }
};

// What fits, by sizes; 0: is not measured.
struct Chosen {
  bool compute = false, copies = false;
  std::int64_t cpu_update = 0, gpu_update = 0;  // parameters
  std::size_t payload_bytes = 0;                // of a record on NVMe
};

struct Load {
  Resource resource;
  double amount = 0;  // of one operation
  std::unique_ptr<Stream> stream;
  std::unique_ptr<StreamTimer> timer;
};

// Everything that is measured with. Made twice: on a dry bench to know its size, and in earnest.
class Loads {
 public:
  Loads(Workbench& bench, const Model& model, const EngineOptions& options, const Chosen& chosen, std::size_t nvme_bytes)
      : bench_(bench), on_gpu_(bench), on_cpu_(bench, Tier::cpu), scalars_(adamw_scalars(options.adamw, 1e-4, 10, 0.9)) {
    if (chosen.compute) forward_.emplace(bench, model, options);
    const SampleUpdateOptions update{.p16 = options.compute == DType::bf16, .g16 = options.grads_dtype == DType::bf16};
    if (chosen.cpu_update > 0) cpu_update_ = sample_update(on_cpu_, chosen.cpu_update, update);
    if (chosen.gpu_update > 0) gpu_update_ = sample_update(on_gpu_, chosen.gpu_update, update);
    if (chosen.copies) make_copies();
    if (chosen.payload_bytes > 0) make_windows(options, chosen, nvme_bytes);
    if (chosen.compute && bench.dry()) forward_->enqueue();  // counts what it allocates beside all this
  }

  // In folders that exist.
  Status open_files(const std::vector<std::string>& paths) {
    if (windows_.empty()) return {};
    const auto span = [](const Buffer& b) { return std::span(b.data(), b.size()); };
    auto traffic = RecordTraffic::create(paths, file_, span(windows_[0]), span(windows_[1]));
    // No room, no such device: another nvme.path mends it.
    if (!traffic.ok()) return {Code::invalid_config, "nvme.path cannot be measured: " + traffic.status().message()};
    traffic_ = std::move(traffic).value();
    return traffic_->write_all();
  }

  // Warms everything up.
  std::vector<Load> start() {
    std::vector<Load> loads;
    const auto add = [&](Resource resource, double amount, std::unique_ptr<Stream> own, auto enqueue) {
      const StreamRef stream = own ? own->ref() : bench_.stream();
      auto timer = std::make_unique<StreamTimer>(std::vector{stream}, [enqueue, stream] { enqueue(stream); });
      loads.push_back({resource, amount, std::move(own), std::move(timer)});
    };
    const auto stream = [&](Resource resource, StreamKind kind) {
      return std::make_unique<Stream>(bench_.device(), to_string(resource), kind);
    };
    const auto host = [&](const char* name, auto operation) {
      return [name, operation](StreamRef on) { on.enqueue(name, operation); };
    };
    if (forward_) add(Resource::compute, 1.0, nullptr, [this](StreamRef) { forward_->enqueue(); });
    for (const auto& [resource, slice] : {std::pair(Resource::cpu_update, cpu_update_), {Resource::gpu_update, gpu_update_}}) {
      if (slice.n == 0) continue;
      const bool on_gpu = resource == Resource::gpu_update;
      add(resource, static_cast<double>(slice.n), stream(resource, on_gpu ? StreamKind::gpu : StreamKind::host),
          [this, slice = slice](StreamRef on) { enqueue_sample_update(slice, scalars_, on); });
    }
    for (const Copy& copy : copies_)
      add(copy.resource, static_cast<double>(kCopyBytes), stream(copy.resource, StreamKind::gpu),
          [copy](StreamRef on) { copy_async(copy.from.data, copy.to.data, kCopyBytes, on); });
    if (traffic_) {
      const auto bytes = static_cast<double>(traffic_->payload_bytes());
      add(Resource::nvme_read, bytes, stream(Resource::nvme_read, StreamKind::host),
          host("read record", [this] { return traffic_->read(); }));
      add(Resource::nvme_write, bytes, stream(Resource::nvme_write, StreamKind::host),
          host("write record", [this] { return traffic_->write(); }));
    }
    return loads;
  }

  std::vector<std::string> notes() const { return traffic_ ? traffic_->notes() : std::vector<std::string>(); }

 private:
  struct Copy {
    Resource resource = Resource::cpu_to_gpu;
    TensorRef from{}, to{};
  };

  void make_copies() {
    const auto array = [](TensorSet& tensors) {
      return tensors.filled(DType::f32, {static_cast<std::int64_t>(kCopyBytes / sizeof(float))}, 1.0f);
    };
    copies_.push_back({Resource::cpu_to_gpu, array(on_cpu_), array(on_gpu_)});
    copies_.push_back({Resource::gpu_to_cpu, array(on_gpu_), array(on_cpu_)});
  }

  void make_windows(const EngineOptions& options, const Chosen& chosen, std::size_t nvme_bytes) {
    file_ = {.payload_bytes = chosen.payload_bytes,
             .file_bytes = nvme_bytes,
             .weights = options.optimizer.nvme_weights,
             .io = options.optimizer.io};
    for (int i = 0; i < 2; ++i) {
      Result<Buffer> window = bench_.arena(Tier::cpu).allocate(RecordTraffic::window_bytes(file_), Category::io, "window");
      throw_if_error(window.status());
      windows_.push_back(std::move(window).value());
    }
  }

  Workbench& bench_;
  TensorSet on_gpu_, on_cpu_;
  const AdamWScalars scalars_;
  std::optional<UnitForward> forward_;
  AdamWSlice cpu_update_, gpu_update_;
  std::vector<Copy> copies_;
  RecordTrafficOptions file_;
  std::vector<Buffer> windows_;
  std::unique_ptr<RecordTraffic> traffic_;
};

// What a load has done.
struct Done {
  std::vector<double> seconds;  // of one operation, by sample
  double operations = 0, elapsed = 0;
  Status status;
};

double rate(const Load& load, Done& done) {
  if (load.resource != Resource::compute) return load.amount * done.operations / done.elapsed;
  const auto middle = done.seconds.begin() + static_cast<std::ptrdiff_t>(done.seconds.size() / 2);
  std::nth_element(done.seconds.begin(), middle, done.seconds.end());
  return load.amount / *middle;
}

// Until `seconds` have passed, and all have been at work for so long that each has done something beside the others.
Result<Rates> measure(const std::vector<Load*>& loads, double seconds) {
  std::vector<Done> done(loads.size());
  std::atomic<std::size_t> begun{0};
  std::atomic<bool> stop{false};
  const auto work = [&](std::size_t i) {
    const auto begin = Clock::now();
    try {
      do {
        done[i].seconds.push_back(loads[i]->timer->sample());
        done[i].operations += loads[i]->timer->count();
        done[i].elapsed = seconds_since(begin);
        if (done[i].seconds.size() == 1) ++begun;
      } while (!stop && (done[i].elapsed < seconds || begun < loads.size()));
    } catch (const StatusError& error) {
      done[i].status = error.status();
      stop = true;
    }
  };
  {
    std::vector<std::jthread> threads;
    try {
      for (std::size_t i = 0; i < loads.size(); ++i) threads.emplace_back(work, i);
    } catch (...) {
      stop = true;
      throw;
    }
  }
  Rates rates;
  for (std::size_t i = 0; i < loads.size(); ++i) {
    STRATA_RETURN_IF_ERROR(done[i].status.with_context(std::string("measuring ") + to_string(loads[i]->resource)));
    rates[loads[i]->resource] = rate(*loads[i], done[i]);
  }
  return rates;
}

}  // namespace

class Probe::Impl {
 public:
  Impl(const EngineOptions& options, const Model& model, WorldSize world, Device& device, const ProbeOptions& probe)
      : options_(options), model_(model), world_(world), device_(device), probe_(probe) {}

  Status create(const Budgets& budgets) {
    Room room{.gpu = budgets.gpu, .cpu = budgets.cpu, .host = budgets.host_memory, .shared = !device_.has_separate_memory()};
    (void)room.take(Workbench::rehearse(device_, [](Workbench&) {}));
    choose_nvme(room, budgets);
    choose_compute(room);
    if (device_.has_separate_memory()) {
      choose_copies(room);
      choose_gpu_update(room);
    } else {
      leave_out("h2d, d2h, gpu_update", "the host computes");
    }
    choose_cpu_update(room);
    bench_.emplace(device_, needed(chosen_));
    loads_.emplace(*bench_, model_, options_, chosen_, probe_.nvme_bytes);
    STRATA_RETURN_IF_ERROR(loads_->open_files(options_.optimizer.nvme_files));
    started_ = loads_->start();
    notes_ = loads_->notes();
    return {};
  }

  const EngineOptions options_;
  const Model& model_;
  const WorldSize world_;
  Device& device_;
  ProbeOptions probe_;
  Chosen chosen_;
  std::vector<LeftOut> left_out_;
  std::vector<std::string> notes_;
  std::optional<Workbench> bench_;
  std::optional<Loads> loads_;
  std::vector<Load> started_;

 private:
  void leave_out(const std::string& what, const std::string& why) { left_out_.push_back({what, why}); }

  TierBytes needed(const Chosen& chosen) const {
    return Workbench::rehearse(device_, [&](Workbench& dry) { Loads(dry, model_, options_, chosen, probe_.nvme_bytes); });
  }

  // Takes it from the room, or says that it does not fit.
  bool fits(Room& room, const Chosen& part, const std::string& what) {
    const TierBytes bench = Workbench::rehearse(device_, [](Workbench&) {}), all = needed(part);
    const TierBytes bytes = {.gpu = all.gpu - bench.gpu, .cpu = all.cpu - bench.cpu};
    if (room.take(bytes)) return true;
    const bool gpu = bytes.gpu > room.of_gpu();
    leave_out(what, "needs " + format_bytes(gpu ? bytes.gpu : bytes.cpu) + " of " + (gpu ? "memory.gpu" : "memory.cpu") + "; " +
                        format_bytes(gpu ? room.of_gpu() : room.of_cpu()) + " are left for it");
    return false;
  }

  // Records are as long as the run's, but there are several of them.
  void choose_nvme(Room& room, const Budgets& budgets) {
    const std::string what = "nvme_read, nvme_write";
    const std::optional<Tier>& home = options_.optimizer.home;
    if (!probe_.unused && home && *home != Tier::nvme)
      return leave_out(what, "offload.optimizer.device keeps all state elsewhere");
    if (budgets.nvme) probe_.nvme_bytes = std::min(probe_.nvme_bytes, *budgets.nvme);
    if (probe_.nvme_bytes < 4 * kMiB) return leave_out(what, "memory.nvme is less than 4 MiB");
    std::int64_t longest = 1;
    for (const UnitLayout& unit : make_layout(model_, world_).units)
      for (const Slice& slice : unit.slices) longest = std::max(longest, slice.count);
    const auto parameters = static_cast<std::size_t>(std::min(longest, options_.optimizer.record_size));
    const std::size_t most = std::min(kMostRecordBytes, probe_.nvme_bytes / (2 * kLeastRecords));
    Chosen part;
    part.payload_bytes = std::min(3 * sizeof(float) * parameters, most);
    if (fits(room, part, what)) chosen_.payload_bytes = part.payload_bytes;
  }

  void choose_compute(Room& room) {
    Chosen part;
    part.compute = true;
    chosen_.compute = fits(room, part, "compute_unit");
  }

  void choose_copies(Room& room) {
    Chosen part;
    part.copies = true;
    chosen_.copies = fits(room, part, "h2d, d2h");
  }

  std::int64_t parameters_in(std::size_t bytes) const {
    const std::size_t each = 4 * sizeof(float) + (options_.compute == DType::bf16 ? sizeof(bf16) : 0);
    return static_cast<std::int64_t>(bytes / each / 1024 * 1024);
  }

  void choose_gpu_update(Room& room) {
    Chosen part;
    part.gpu_update = std::max<std::int64_t>(parameters_in(std::min(kGpuUpdateBytes, room.of_gpu() / 2)), 1024);
    if (fits(room, part, "gpu_update")) chosen_.gpu_update = part.gpu_update;
  }

  // Larger than the caches, or it is not memory that is measured.
  void choose_cpu_update(Room& room) {
    const std::size_t cache = cache_bytes();
    const std::size_t wanted = std::clamp(2 * cache, kLeastUpdateBytes, kMostUpdateBytes);
    Chosen part;
    part.cpu_update = parameters_in(std::min(wanted, std::max(cache, room.of_cpu() / 2)));
    if (fits(room, part, "cpu_update")) chosen_.cpu_update = part.cpu_update;
  }
};

Probe::Probe(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Probe::~Probe() = default;

Result<std::unique_ptr<Probe>> Probe::create(const EngineOptions& options, const Model& model, WorldSize world, Device& device,
                                             const Budgets& budgets, const ProbeOptions& probe) {
  try {
    auto impl = std::make_unique<Impl>(options, model, world, device, probe);
    STRATA_RETURN_IF_ERROR(impl->create(budgets));
    return std::unique_ptr<Probe>(new Probe(std::move(impl)));
  } catch (const StatusError& error) {
    return error.status();
  }
}

Result<Rates> Probe::alone(double seconds) {
  Rates rates;
  for (Load& load : impl_->started_) {
    STRATA_ASSIGN_OR_RETURN(const Rates one, measure({&load}, seconds));
    rates[load.resource] = one[load.resource];
  }
  return rates;
}

Result<Rates> Probe::together(double seconds) {
  const auto all_but = [this](Resource one) {
    std::vector<Load*> loads;
    for (Load& load : impl_->started_)
      if (load.resource != one) loads.push_back(&load);
    return loads;
  };
  const Resource same_processor = impl_->device_.has_separate_memory() ? Resource::gpu_update : Resource::cpu_update;
  STRATA_ASSIGN_OR_RETURN(const Rates computing, measure(all_but(same_processor), seconds / 2));
  STRATA_ASSIGN_OR_RETURN(const Rates updating, measure(all_but(Resource::compute), seconds / 2));
  return smaller(computing, updating);
}

const std::vector<LeftOut>& Probe::left_out() const { return impl_->left_out_; }
const std::vector<std::string>& Probe::notes() const { return impl_->notes_; }

}  // namespace strata
