#include "trainer/probe_loads.h"

#include <functional>
#include <span>
#include <utility>

#include "trainer/sample_update.h"

namespace strata {
namespace {

constexpr std::size_t kCopyBytes = std::size_t{64} << 20;

}  // namespace

ProbeLoads::ProbeLoads(Workbench& bench, const Model& model, const EngineOptions& options, const ProbeSizes& sizes)
    : bench_(bench), on_gpu_(bench), on_cpu_(bench, Tier::cpu), method_(options.optimizer.method) {
  if (sizes.compute) forward_.emplace(bench, model, options);
  const SampleUpdateOptions update{.states = method_->states().size(),
                                   .format = method_->state_format(),
                                   .p16 = options.compute == DType::bf16,
                                   .g16 = options.grads_dtype == DType::bf16};
  if (sizes.cpu_update > 0) cpu_update_ = sample_update(on_cpu_, sizes.cpu_update, update);
  if (sizes.gpu_update > 0) gpu_update_ = sample_update(on_gpu_, sizes.gpu_update, update);
  if (sizes.copies) make_copies();
  if (sizes.payload_bytes > 0) make_windows(options, sizes);
  if (sizes.compute && bench.dry()) forward_->enqueue();  // counts what it allocates beside all this
}

void ProbeLoads::make_copies() {
  const auto array = [](TensorSet& tensors) {
    return tensors.filled(DType::f32, {static_cast<std::int64_t>(kCopyBytes / sizeof(float))}, 1.0f);
  };
  copies_.push_back({Resource::cpu_to_gpu, array(on_cpu_), array(on_gpu_)});
  copies_.push_back({Resource::gpu_to_cpu, array(on_gpu_), array(on_cpu_)});
}

void ProbeLoads::make_windows(const EngineOptions& options, const ProbeSizes& sizes) {
  file_ = {.payload_bytes = sizes.payload_bytes,
           .file_bytes = sizes.nvme_bytes,
           .weights = options.nvme.weights,
           .io = options.nvme.io,
           .turns = options.nvme.turns};
  for (int i = 0; i < 2; ++i) {
    Result<Buffer> window = bench_.arena(Tier::cpu).allocate(RecordTraffic::window_bytes(file_), Category::io, "window");
    throw_if_error(window.status());
    windows_.push_back(std::move(window).value());
  }
}

Status ProbeLoads::open_files(const std::vector<std::string>& paths) {
  if (windows_.empty()) return {};
  const auto span = [](const Buffer& b) { return std::span(b.data(), b.size()); };
  auto traffic = RecordTraffic::create(paths, file_, span(windows_[0]), span(windows_[1]));
  // No room, no such device: another nvme.path mends it.
  if (!traffic.ok()) return {Code::invalid_config, "nvme.path cannot be measured: " + traffic.status().message()};
  traffic_ = std::move(traffic).value();
  return traffic_->write_all();
}

std::vector<ProbeLoad> ProbeLoads::start() {
  std::vector<ProbeLoad> loads;
  const auto add_to = [&](std::unique_ptr<Stream> own, StreamRef stream, Resource resource, double amount,
                          const std::function<void(StreamRef)>& enqueue) {
    auto timer = std::make_unique<StreamTimer>(std::vector{stream}, [enqueue, stream] { enqueue(stream); });
    loads.push_back({resource, amount, std::move(own), std::move(timer)});
  };
  const auto add = [&](Resource resource, StreamKind kind, double amount, const std::function<void(StreamRef)>& enqueue) {
    auto own = std::make_unique<Stream>(bench_.device(), to_string(resource), kind);
    const StreamRef stream = *own;
    add_to(std::move(own), stream, resource, amount, enqueue);
  };
  const auto add_update = [&](Resource resource, StreamKind kind, const UpdateSlice& slice) {
    if (slice.n == 0) return;
    add(resource, kind, static_cast<double>(slice.n),
        [this, slice](StreamRef on) { enqueue_sample_update(*method_, slice, on); });
  };
  const auto add_records = [&](Resource resource, const char* name, Status (RecordTraffic::*operation)()) {
    add(resource, StreamKind::host, static_cast<double>(traffic_->payload_bytes()),
        [this, name, operation](StreamRef on) { on.enqueue(name, [this, operation] { return ((*traffic_).*operation)(); }); });
  };
  if (forward_) add_to(nullptr, bench_.stream(), Resource::compute, 1.0, [this](StreamRef) { forward_->enqueue(); });
  add_update(Resource::cpu_update, StreamKind::host, cpu_update_);
  add_update(Resource::gpu_update, StreamKind::gpu, gpu_update_);
  for (const Copy& copy : copies_)
    add(copy.resource, StreamKind::gpu, static_cast<double>(kCopyBytes),
        [copy](StreamRef on) { copy_async(copy.from.data, copy.to.data, kCopyBytes, on); });
  if (!traffic_) return loads;
  add_records(Resource::nvme_read, "read record", &RecordTraffic::read);
  add_records(Resource::nvme_write, "write record", &RecordTraffic::write);
  return loads;
}

std::vector<std::string> ProbeLoads::notes() const { return traffic_ ? traffic_->notes() : std::vector<std::string>(); }

}  // namespace strata
