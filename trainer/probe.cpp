#include "trainer/probe.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>

#include "trainer/probe_loads.h"
#include "trainer/workbench.h"

namespace strata {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMiB = std::size_t{1} << 20;
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

// What a load has done.
struct Done {
  std::vector<double> seconds;  // of one operation, by sample
  double operations = 0, elapsed = 0;
  Status status;
};

double rate(const ProbeLoad& load, Done& done) {
  if (load.resource != Resource::compute) return load.amount * done.operations / done.elapsed;
  const auto middle = done.seconds.begin() + static_cast<std::ptrdiff_t>(done.seconds.size() / 2);
  std::nth_element(done.seconds.begin(), middle, done.seconds.end());
  return load.amount / *middle;
}

// Until `seconds` have passed, and all have been at work for so long that each has done something beside the others.
Result<Rates> measure(const std::vector<ProbeLoad*>& loads, double seconds) {
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
    } catch (const std::exception& error) {
      done[i].status = Status(Code::internal, error.what());
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
    loads_.emplace(*bench_, model_, options_, chosen_);
    STRATA_RETURN_IF_ERROR(loads_->open_files(options_.nvme_files(StateFileKind::optimizer)));
    started_ = loads_->start();
    notes_ = loads_->notes();
    return {};
  }

  const EngineOptions options_;
  const Model& model_;
  const WorldSize world_;
  Device& device_;
  ProbeOptions probe_;
  ProbeSizes chosen_;
  std::vector<LeftOut> left_out_;
  std::vector<std::string> notes_;
  std::optional<Workbench> bench_;
  std::optional<ProbeLoads> loads_;
  std::vector<ProbeLoad> started_;

 private:
  void leave_out(const std::string& what, const std::string& why) { left_out_.push_back({what, why}); }

  TierBytes needed(const ProbeSizes& sizes) const {
    return Workbench::rehearse(device_, [&](Workbench& dry) { ProbeLoads(dry, model_, options_, sizes); });
  }

  // Takes it from the room, or says that it does not fit.
  bool fits(Room& room, const ProbeSizes& part, const std::string& what) {
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
    if (!probe_.unused && !options_.may_use_nvme()) return leave_out(what, "nothing has its home there (offload.*.device)");
    if (budgets.nvme) probe_.nvme_bytes = std::min(probe_.nvme_bytes, *budgets.nvme);
    if (probe_.nvme_bytes < 4 * kMiB) return leave_out(what, "memory.nvme is less than 4 MiB");
    std::int64_t longest = 1;
    for (const UnitLayout& unit : make_layout(model_, world_, options_.optimizer.groups, *options_.optimizer.method).units)
      for (const Slice& slice : unit.slices) longest = std::max(longest, slice.count);
    const auto parameters = static_cast<std::size_t>(std::min(longest, options_.optimizer.record_size));
    const std::size_t most = std::min(kMostRecordBytes, probe_.nvme_bytes / (2 * kLeastRecords));
    ProbeSizes part;
    const Optimizer& method = *options_.optimizer.method;
    const std::size_t states =
        method.states().size() * static_cast<std::size_t>(method.state_format().bytes(static_cast<std::int64_t>(parameters)));
    part.payload_bytes = std::min(sizeof(float) * parameters + states, most);
    part.nvme_bytes = probe_.nvme_bytes;
    if (!fits(room, part, what)) return;
    chosen_.payload_bytes = part.payload_bytes;
    chosen_.nvme_bytes = part.nvme_bytes;
  }

  void choose_compute(Room& room) {
    ProbeSizes part;
    part.compute = true;
    chosen_.compute = fits(room, part, "compute_unit");
  }

  void choose_copies(Room& room) {
    ProbeSizes part;
    part.copies = true;
    chosen_.copies = fits(room, part, "h2d, d2h");
  }

  std::int64_t parameters_in(std::size_t bytes) const {
    const std::size_t arrays = 2 + options_.optimizer.method->states().size();  // parameters, gradients
    const std::size_t each = arrays * sizeof(float) + (options_.compute == DType::bf16 ? sizeof(bf16) : 0);
    return static_cast<std::int64_t>(bytes / each / 1024 * 1024);
  }

  void choose_gpu_update(Room& room) {
    if (!options_.optimizer.method->updates_on_gpu())
      return leave_out("gpu_update", std::string(options_.optimizer.method->name()) + " has no update on GPUs");
    ProbeSizes part;
    part.gpu_update = std::max<std::int64_t>(parameters_in(std::min(kGpuUpdateBytes, room.of_gpu() / 2)), 1024);
    if (fits(room, part, "gpu_update")) chosen_.gpu_update = part.gpu_update;
  }

  // Larger than the caches, or it is not memory that is measured.
  void choose_cpu_update(Room& room) {
    const std::size_t cache = cache_bytes();
    const std::size_t wanted = std::clamp(2 * cache, kLeastUpdateBytes, kMostUpdateBytes);
    ProbeSizes part;
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
  for (ProbeLoad& load : impl_->started_) {
    STRATA_ASSIGN_OR_RETURN(const Rates one, measure({&load}, seconds));
    rates[load.resource] = one[load.resource];
  }
  return rates;
}

Result<Rates> Probe::together(double seconds) {
  const auto all_but = [this](Resource one) {
    std::vector<ProbeLoad*> loads;
    for (ProbeLoad& load : impl_->started_)
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
