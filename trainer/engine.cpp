#include "trainer/engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optim/clip.h"
#include "optim/row_method.h"
#include "parallel/nccl_communicator.h"

namespace strata {
StateLayout make_layout(const Model& model, WorldSize world, const ParamGroups& groups, const Optimizer& method) {
  StateLayout layout;
  layout.world = world;
  for (int u = 0; u < model.unit_count(); ++u) {
    std::vector<ParamDecl> params;
    for (const ParamSpec& p : model.unit(u).params()) {
      const int group = groups.of(p.name, {.decays = p.decay, .projected = p.projected});
      ParamDecl decl{p.name, p.shape.numel(), group, p.shape.rank() == 2 ? p.shape[1] : 0};
      decl.parts = p.parts;
      if (method.rows() != nullptr && decl.columns > 0) {
        const ParamShape shape{decl.name, decl.numel / decl.columns, decl.columns};
        if (method.rows()->rank(shape, groups[group]) > 0) decl.cut = row_cut(shape.rows, shape.columns);
        decl.transposed = p.transposed;
      }
      params.push_back(std::move(decl));
    }
    layout.units.push_back(layout_unit(model.unit(u).name(), params, world, method.state_format().block));
  }
  number_matrices(layout, groups);
  return layout;
}

namespace {

// For the partial sums of the largest layers; the workspace that cuBLASLt may choose an algorithm by.
constexpr std::size_t kGpuScratchBytes = std::size_t{64} << 20;
constexpr std::size_t kWindowBytes = std::size_t{1} << 20;

std::vector<std::vector<Shape>> make_shapes(const Model& model) {
  std::vector<std::vector<Shape>> shapes;
  for (int u = 0; u < model.unit_count(); ++u) {
    shapes.emplace_back();
    for (const ParamSpec& p : model.unit(u).params()) shapes.back().push_back(p.shape);
  }
  return shapes;
}

}  // namespace

std::vector<ActivationPlacement> ActivationOptions::of(std::size_t count) const {
  std::vector<ActivationPlacement> all = home && recompute ? std::vector<ActivationPlacement>(count) : units;
  STRATA_CHECK(all.size() == count, "every unit has a placement of its activations");
  for (ActivationPlacement& placement : all) {
    if (home) placement.home = *home;
    if (recompute) placement.recompute = *recompute;
  }
  if (count > 0) {
    all.front().recompute = false;
    all.back().home = Tier::gpu;
  }
  return all;
}

std::vector<std::string> EngineOptions::nvme_files(StateFileKind kind) const {
  std::vector<std::string> files;
  for (const std::string& folder : nvme_folders) files.push_back(state_file_path(folder, nvme_rank, kind));
  return files;
}

bool EngineOptions::may_use_nvme() const {
  for (const std::optional<Tier>& home : {optimizer.home, params.home, grads.home, activations.home})
    if (!home || *home == Tier::nvme) return true;
  return false;
}

Engine::Engine(Device& device, const Model& model, const EngineOptions& options)
    : device_(device),
      model_(model),
      options_(options),
      gpu_(Tier::gpu, options.gpu_budget, device),
      cpu_(Tier::cpu, options.cpu_budget, device) {}

Engine::~Engine() {
  for (Stream* stream : streams()) {
    // Another rank may wait in a collective that a poisoned stream of this one will never enter.
    if (const Status status = stream->ref().record().drain(); !status.ok()) data_comm_->abort(status.message());
  }
}

Result<std::unique_ptr<Engine>> Engine::create(Device& device, const Model& model, const EngineOptions& options,
                                               Communicator& comm, std::vector<std::string>* notes) {
  std::unique_ptr<Engine> engine;
  try {
    engine.reset(new Engine(device, model, options));
    STRATA_RETURN_IF_ERROR(engine->allocate(comm, notes));
  } catch (const StatusError& error) {
    return error.status();
  }
  return engine;
}

Status Engine::allocate(Communicator& comm, std::vector<std::string>* notes) {
  STRATA_ASSIGN_OR_RETURN(data_comm_, comm.duplicate());
  if (device_.backend() == Backend::cuda) {
    STRATA_ASSIGN_OR_RETURN(
        data_comm_, options_.make_gpu_communicator(std::move(data_comm_), device_.gpu(), options_.gpu_communicator_timeout));
  }
  STRATA_ASSIGN_OR_RETURN(control_, comm.duplicate());
  layout_ = make_layout(model_, comm.size(), options_.optimizer.groups, *options_.optimizer.method);
  STRATA_RETURN_IF_ERROR(check_order());
  STRATA_RETURN_IF_ERROR(check_gradients());
  compute_ = std::make_unique<Stream>(device_, "compute");
  comm_stream_ = std::make_unique<Stream>(device_, "communication");
  gpu_to_cpu_ = std::make_unique<Stream>(device_, "gpu to cpu");
  cpu_update_ = std::make_unique<Stream>(device_, "cpu update", StreamKind::host);
  if (device_.has_separate_memory()) gpu_update_ = std::make_unique<Stream>(device_, "gpu update");
  cpu_to_gpu_ = std::make_unique<Stream>(device_, "cpu to gpu");
  nvme_read_ = std::make_unique<Stream>(device_, "nvme read", StreamKind::host);
  nvme_write_ = std::make_unique<Stream>(device_, "nvme write", StreamKind::host);
  host_ = std::make_unique<Stream>(device_, "host", StreamKind::host);
  emulate_rates();
  STRATA_RETURN_IF_ERROR(allocate_scratch());
  const auto units = static_cast<std::size_t>(model_.unit_count());
  params_ = std::make_unique<ParamStore>(
      layout_, make_shapes(model_),
      ParamStoreOptions{.zero_stage = options_.zero_stage,
                        .dtype = options_.compute,
                        .homes = options_.params.of(units),
                        .record_size = options_.optimizer.record_size,
                        .prefetch_units = options_.prefetch_units,
                        .nvme_files = options_.nvme_files(StateFileKind::parameters),
                        .nvme = options_.nvme},
      *data_comm_, gpu_, cpu_, ParamStoreStreams{*compute_, *comm_stream_, *cpu_to_gpu_, *nvme_read_, *nvme_write_}, notes);
  grads_ = std::make_unique<GradStore>(
      layout_, make_shapes(model_),
      GradStoreOptions{.zero_stage = options_.zero_stage,
                       .micro_batches = options_.micro_batches,
                       .homes = options_.grads.of(units),
                       .dtype = options_.grads_dtype,
                       .vertical = options_.vertical,
                       .record_size = options_.optimizer.record_size,
                       .nvme_files = options_.nvme_files(StateFileKind::gradients),
                       .nvme = options_.nvme},
      *data_comm_, gpu_, cpu_,
      GradStoreStreams{*compute_, *comm_stream_, *gpu_to_cpu_, *cpu_to_gpu_, *nvme_read_, *nvme_write_}, notes);
  STRATA_RETURN_IF_ERROR(allocate_activations(notes));
  options_.optimizer.nvme_files = options_.nvme_files(StateFileKind::optimizer);
  options_.optimizer.nvme = options_.nvme;
  options_.optimizer.zero_stage = options_.zero_stage;
  options_.optimizer.compute = options_.compute;
  options_.optimizer.compute_shape = compute_shape();
  options_.optimizer.exchange = [this](std::span<const std::byte> mine) {
    return control_->gather_all(mine, "exchange of sums of the update");
  };
  STRATA_ASSIGN_OR_RETURN(
      optimizer_, OptimizerStore::create(layout_, comm.rank(), options_.optimizer, gpu_, cpu_, *params_, *grads_,
                                         UpdateStreams{*cpu_update_, gpu_update_ ? *gpu_update_ : *cpu_update_, *nvme_read_,
                                                       *nvme_write_, *gpu_to_cpu_, *cpu_to_gpu_, *host_},
                                         notes));
  const Shape rows{options_.micro_batches, options_.micro_batch * options_.seq_length};
  tokens_ = HostMirror(device_, gpu_, cpu_, Category::other, DType::i32, rows, "tokens");
  targets_ = HostMirror(device_, gpu_, cpu_, Category::other, DType::i32, rows, "targets");
  losses_ = HostMirror(device_, gpu_, cpu_, Category::other, DType::f32, rows, "losses");
  const int head = model_.unit_count() - 1;
  for (int u = 0; u <= head; ++u) model_.unit(u).prepare(*compute_, gpu_, options_.seq_length);
  for (int u = 0; u <= head; ++u) forward_order_.push_back(u);
  for (int u = head - 1; u >= 0; --u) forward_order_.push_back(u);
  return {};
}

ComputeShape Engine::compute_shape() const {
  ComputeShape shape{.units = model_.unit_count(),
                     .micro_batches = options_.micro_batches,
                     .vertical = options_.vertical,
                     .prefetch_units = options_.prefetch_units,
                     .delayed_share = options_.delayed_share};
  for (int u = 0; u < shape.units; ++u) {
    shape.params_up.push_back(static_cast<double>(params_->bytes_up(u)));
    shape.params_read.push_back(static_cast<double>(params_->bytes_read(u)));
    shape.grads_down.push_back(static_cast<double>(grads_->bytes_down(u)));
    shape.grads_written.push_back(static_cast<double>(grads_->bytes_written(u)));
    shape.grads_between.push_back(static_cast<double>(grads_->bytes_between(u)));
    const bool is_head = u + 1 == shape.units;
    const ActivationPlacement kept = is_head ? ActivationPlacement{} : activations_->placement(u);
    const bool leaves = kept.home != Tier::gpu;
    shape.recomputes.push_back(kept.recompute);
    shape.activations_away.push_back(leaves ? static_cast<double>(options_.activations.bytes[static_cast<std::size_t>(u)])
                                            : 0.0);
    shape.activations_on_nvme.push_back(kept.home == Tier::nvme);
    shape.shared.emplace_back();
    for (const SharedParam& shared : model_.unit(u).shared()) shape.shared.back().push_back(shared.unit);
  }
  return shape;
}

Result<std::unique_ptr<Communicator>> connect_by_nccl(std::unique_ptr<Communicator> host, GpuDriver& gpu,
                                                      std::chrono::milliseconds timeout) {
  std::shared_ptr<NcclApi> nccl;
  if (host->size().v > 1) {
    STRATA_ASSIGN_OR_RETURN(nccl, load_nccl());
  }
  return make_nccl_communicator(std::move(host), std::move(nccl), gpu,
                                {.axis = "data", .timeout = timeout, .scratch_bytes = kGpuScratchBytes});
}

// A unit that adds to another one's gradient does so long before that one's own backward, for every micro-batch in one buffer:
// with all of them in between, the sums would be formed in another order.
Status Engine::check_order() const {
  if (!options_.vertical || options_.micro_batches == 1) return {};
  for (int u = 0; u < model_.unit_count(); ++u)
    if (!model_.unit(u).shared().empty())
      return Status(Code::invalid_config, "offload.micro_batch_order: vertical needs units with parameters of their own, but " +
                                              model_.unit(u).name() +
                                              " shares one (tied embeddings); set offload.micro_batch_order: horizontal");
  return {};
}

Status Engine::check_gradients() const {
  const std::vector<Tier> homes = options_.grads.of(static_cast<std::size_t>(model_.unit_count()));
  const bool some_on_nvme = std::find(homes.begin(), homes.end(), Tier::nvme) != homes.end();
  if (!some_on_nvme || GradStore::may_be_on_nvme(options_.grads_dtype, options_.micro_batches, options_.vertical)) return {};
  return Status(
      Code::invalid_config,
      "offload.gradient.device: only complete sums of 16 bit go to nvme; set precision.gradients: bf16 and, with several "
      "micro-batches a step, offload.micro_batch_order: vertical; or set offload.gradient.device: cpu");
}

void Engine::emulate_rates() {
  if (!options_.emulate) return;
  const Rates& rates = *options_.emulate;
  compute_->set_rate(rates[Resource::compute]);
  gpu_to_cpu_->set_rate(rates[Resource::gpu_to_cpu]);
  cpu_to_gpu_->set_rate(rates[Resource::cpu_to_gpu]);
  cpu_update_->set_rate(rates[Resource::cpu_update]);
  if (gpu_update_) gpu_update_->set_rate(rates[Resource::gpu_update]);
  nvme_read_->set_rate(rates[Resource::nvme_read]);
  nvme_write_->set_rate(rates[Resource::nvme_write]);
}

// What was enqueued for a unit counts as so many forwards of one.
void Engine::pace_compute(double forwards) {
  if (!options_.emulate) return;
  compute_->ref().enqueue(
      "emulated compute", [] { return Status(); }, forwards);
}

Status Engine::allocate_scratch() {
  if (!device_.has_separate_memory()) return {};
  std::vector<std::pair<Stream*, Buffer*>> users = {{compute_.get(), &compute_scratch_}, {comm_stream_.get(), &comm_scratch_}};
  if (options_.optimizer.method->rows() != nullptr) users.emplace_back(gpu_update_.get(), &update_scratch_);
  for (const auto& [stream, buffer] : users) {
    STRATA_ASSIGN_OR_RETURN(*buffer, gpu_.allocate(kGpuScratchBytes, Category::workspace, "scratch of a stream"));
    stream->set_scratch({buffer->data(), buffer->size()});
  }
  STRATA_ASSIGN_OR_RETURN(window_, cpu_.allocate(kWindowBytes, Category::other, "window for looking at values"));
  return {};
}

Status Engine::allocate_activations(std::vector<std::string>* notes) {
  ActivationStoreOptions options{.units = options_.activations.of(model_.body().size()),
                                 .bytes = options_.activations.bytes,
                                 .micro_batches = options_.vertical ? options_.micro_batches : 1,
                                 .prefetch = std::max(1, options_.prefetch_units),
                                 .nvme_files = options_.nvme_files(StateFileKind::activations),
                                 .nvme = options_.nvme};
  for (const ActivationPlacement& placement : options.units)
    STRATA_CHECK(placement.home == Tier::gpu || options.bytes.size() == options.units.size(),
                 "make_plan() tells how much units keep before any of it leaves the gpu tier");
  STRATA_ASSIGN_OR_RETURN(
      activations_,
      ActivationStore::create(options, gpu_, cpu_,
                              ActivationStreams{*compute_, *gpu_to_cpu_, *cpu_to_gpu_, *nvme_read_, *nvme_write_}, notes));
  return {};
}

std::vector<PathTraffic> Engine::take_nvme_traffic() {
  std::vector<PathTraffic> all = optimizer_->take_nvme_traffic();
  for (PathTraffic& path : params_->take_nvme_traffic()) all.push_back(std::move(path));
  for (PathTraffic& path : grads_->take_nvme_traffic()) all.push_back(std::move(path));
  for (PathTraffic& path : activations_->take_nvme_traffic()) all.push_back(std::move(path));
  return all;
}

Engine::Leases Engine::acquire(int u) {
  Leases leases;
  optimizer_->advance(u);  // what it shares belongs to units before it
  leases.held.push_back(params_->acquire(u));
  leases.params = leases.held.back().params();
  for (const SharedParam& shared : model_.unit(u).shared()) {
    leases.held.push_back(params_->acquire(shared.unit));
    leases.params.push_back(leases.held.back().params()[static_cast<std::size_t>(shared.param)]);
  }
  return leases;
}

std::vector<TensorRef> Engine::grads(int u) {
  std::vector<TensorRef> all = grads_->acquire(u);
  for (const SharedParam& shared : model_.unit(u).shared())
    all.push_back(grads_->acquire(shared.unit)[static_cast<std::size_t>(shared.param)]);
  return all;
}

// Called when the unit at `position` is acquired and its compute is not enqueued yet: gathers are in the order of their use and
// overlap that compute. end: of what will be used.
void Engine::prefetch_after(std::size_t position, std::size_t end) {
  const auto ahead = static_cast<std::size_t>(options_.prefetch_units);
  for (std::size_t i = position + 1; i <= position + ahead && i < end; ++i) {
    optimizer_->advance(forward_order_[i]);
    params_->prefetch(forward_order_[i]);
    for (const SharedParam& shared : model_.unit(forward_order_[i]).shared()) params_->prefetch(shared.unit);
  }
  if (const std::size_t next = position + ahead + 1; next < end && params_->home(forward_order_[next]) == Tier::nvme) {
    optimizer_->advance(forward_order_[next]);
    params_->read_ahead(forward_order_[next]);
  }
}

Batch Engine::batch_view(int slot) const {
  const Shape rows{options_.micro_batch * options_.seq_length};
  return {tokens_.ref().rows(slot, 1).view(rows), targets_.ref().rows(slot, 1).view(rows), options_.micro_batch,
          options_.seq_length};
}

Engine::Pass Engine::make_pass(int index) const { return {.index = index, .batch = batch_view(index), .x = {}}; }

void Engine::run_forward(std::span<Pass> passes, bool for_backward) {
  const std::vector<TensorRef> no_grads;
  const std::size_t n = model_.body().size();
  for (std::size_t u = 0; u < n; ++u) {
    const Leases leases = acquire(static_cast<int>(u));
    prefetch_after(u, for_backward ? forward_order_.size() : n + 1);
    const int unit = static_cast<int>(u);
    const bool saves = for_backward && !activations_->placement(unit).recompute;
    for (Pass& pass : passes) {
      const UnitContext ctx{*compute_, gpu_, options_.compute, pass.batch, leases.params, no_grads};
      if (for_backward) activations_->make_room(unit);
      Saved saved;
      Tensor y = model_.body()[u]->forward(ctx, pass.x, saves ? &saved : nullptr);
      pace_compute(compute_amount_forward());
      if (for_backward) activations_->keep(unit, activation_slot(pass.index), {std::move(pass.x), std::move(saved)});
      pass.x = std::move(y);
    }
  }
}

Status Engine::run_forward_and_backward(std::span<Pass> passes, float scale, std::int64_t step,
                                        const std::optional<UpdateStep>& guess) {
  const std::size_t n = model_.body().size();
  const bool updates = optimizer_->plan().between && passes.back().index + 1 == options_.micro_batches;
  run_forward(passes, true);
  std::vector<std::pair<int, int>> order;
  for (std::size_t u = n; u-- > 0;)
    for (const Pass& pass : passes) order.emplace_back(static_cast<int>(u), activation_slot(pass.index));
  activations_->begin_backward(std::move(order));
  {
    const Leases leases = acquire(static_cast<int>(n));
    optimizer_->finish_update();
    // No earlier: the choice may depend on what the last update did, which the forward overlaps.
    STRATA_RETURN_IF_ERROR(optimizer_->choose_units(step));
    grads_->freeze(optimizer_->units().frozen());
    prefetch_after(n, forward_order_.size());
    if (updates) optimizer_->begin_step(guess);
    for (Pass& pass : passes) {
      activations_->prefetch();
      const std::vector<TensorRef> unit_grads = grads(static_cast<int>(n));
      const bool frozen = optimizer_->units().is_frozen(static_cast<int>(n));
      const UnitContext ctx{*compute_, gpu_, options_.compute, pass.batch, leases.params, unit_grads, frozen};
      pass.x = model_.head().loss_and_backward(ctx, pass.x, losses_of(pass), scale);
      pace_compute(compute_amount_head(frozen));
      grads_->reduce(static_cast<int>(n), pass.index);
    }
    if (updates) optimizer_->complete(static_cast<int>(n));
  }
  for (std::size_t u = n; u-- > 0;) {
    const Leases leases = acquire(static_cast<int>(u));
    prefetch_after(2 * n - u, forward_order_.size());
    for (Pass& pass : passes) {
      const std::vector<TensorRef> unit_grads = grads(static_cast<int>(u));
      const bool frozen = optimizer_->units().is_frozen(static_cast<int>(u));
      const UnitContext ctx{*compute_, gpu_, options_.compute, pass.batch, leases.params, unit_grads, frozen};
      KeptActivations kept = activations_->take(static_cast<int>(u), activation_slot(pass.index));
      activations_->prefetch();
      const bool recomputes = activations_->placement(static_cast<int>(u)).recompute;
      if (recomputes) (void)model_.body()[u]->forward(ctx, kept.input, &kept.saved);
      pass.x = model_.body()[u]->backward(ctx, kept.input, std::move(pass.x), std::move(kept.saved));
      pace_compute(compute_amount_backward(recomputes, frozen));
      kept.input.reset();
      grads_->reduce(static_cast<int>(u), pass.index);
    }
    if (updates) optimizer_->complete(static_cast<int>(u));
  }
  return {};
}

Status Engine::load_batch(int index, const BatchLoader& load) {
  if (dry()) return {};
  const Batch batch = batch_view(index);
  const auto n = static_cast<std::size_t>(batch.tokens_R.numel());
  auto* tokens = tokens_.host().rows(index, 1).as<std::int32_t>();
  auto* targets = targets_.host().rows(index, 1).as<std::int32_t>();
  return load(index, {tokens, n}, {targets, n});
}

double Engine::sum_losses(int slot) const {
  if (dry()) return 0.0;
  const std::int64_t n = losses_.shape()[1];
  const float* values = losses_.host().as<float>() + slot * n;
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(values[i]);
  return sum;
}

Result<StepResult> Engine::step(std::int64_t step, double lr, const BatchLoader& load, const StopWish& wishes_to_stop) {
  const double tokens =
      static_cast<double>(options_.micro_batch * options_.seq_length) * options_.micro_batches * layout_.world.v;
  // Every micro-batch is loaded before the first is enqueued: the last step's compute is complete (exchange() waited for it).
  for (int i = 0; i < options_.micro_batches; ++i) STRATA_RETURN_IF_ERROR(load_batch(i, load));
  tokens_.upload(*compute_);
  targets_.upload(*compute_);
  std::optional<UpdateStep> guess;
  if (may_guess()) guess = UpdateStep{.number = step, .lr = lr};
  const int at_once = options_.vertical ? options_.micro_batches : 1;
  for (int i = 0; i < options_.micro_batches; i += at_once) {
    std::vector<Pass> passes;
    for (int j = i; j < i + at_once; ++j) passes.push_back(make_pass(j));
    STRATA_RETURN_IF_ERROR(run_forward_and_backward(passes, static_cast<float>(1.0 / tokens), step, guess));
  }
  optimizer_->complete_all(guess);
  STRATA_ASSIGN_OR_RETURN(StepResult result, exchange(wishes_to_stop));
  result.loss /= tokens;
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    STRATA_RETURN_IF_ERROR(optimizer_->drop_step());
    return diagnose(step, result);
  }
  result.clip = clip_coefficient(result.grad_norm, options_.clip_norm);
  steps_unclipped_ = result.clip == 1.0 ? steps_unclipped_ + 1 : 0;
  STRATA_ASSIGN_OR_RETURN(const bool kept, optimizer_->begin_update({.number = step, .lr = lr, .grad_scale = result.clip},
                                                                    compute_->ref().record()));
  if (guess) result.guess = kept ? Guess::kept : Guess::dropped;
  // What the first units need is worked on while the next step's batch is loaded.
  optimizer_->advance(std::min(options_.prefetch_units, model_.unit_count() - 1));
  if (!interleaves()) optimizer_->finish_update();
  const std::size_t prompt = prompt_records(optimizer_->records().size(), options_.delayed_share);
  for (std::size_t r = 0; r < prompt; ++r) compute_->ref().wait(optimizer_->updated(r));
  return result;
}

bool Engine::interleaves() const {
  if (options_.delayed_share < 1.0) return false;
  const ComputeShape& shape = options_.optimizer.compute_shape;
  return shape.moves_in_forward();
}

// The norm is one number on all ranks, so all of them guess or none does.
bool Engine::may_guess() const {
  if (optimizer_->plan().speculating == 0) return false;
  return options_.clip_norm == 0.0 || options_.always_speculate || steps_unclipped_ >= kStepsUnclipped;
}

const char* to_string(Guess guess) {
  switch (guess) {
    case Guess::none: return "none";
    case Guess::kept: return "kept";
    case Guess::dropped: return "dropped";
  }
  return "?";
}

// One exchange a step: every rank's loss sums, norm partials and wish to stop.
Result<StepResult> Engine::exchange(const StopWish& wishes_to_stop) {
  losses_.download(*compute_);
  STRATA_RETURN_IF_ERROR(comm_stream_->ref().synchronize());
  STRATA_RETURN_IF_ERROR(compute_->ref().synchronize());
  grads_->release_buffers();
  StepResult result;
  if (dry()) return result;
  std::vector<double> mine = {wishes_to_stop() ? 1.0 : 0.0};
  for (int i = 0; i < options_.micro_batches; ++i) mine.push_back(sum_losses(i));
  const ActiveUnits& units = optimizer_->units();
  for (int u = 0; u < model_.unit_count(); ++u)
    if (!units.is_frozen(u)) mine.insert(mine.end(), grads_->partials(u).begin(), grads_->partials(u).end());
  STRATA_ASSIGN_OR_RETURN(const auto blobs,
                          control_->gather_all(std::as_bytes(std::span(mine)), "exchange of losses and norms"));
  std::vector<std::vector<double>> ranks;
  for (const auto& blob : blobs) {
    ranks.emplace_back(blob.size() / sizeof(double));
    std::memcpy(ranks.back().data(), blob.data(), blob.size());
    if (ranks.back().front() != 0.0) result.stop = true;
  }
  for (int i = 0; i < options_.micro_batches; ++i)
    for (const auto& values : ranks) result.loss += values[static_cast<std::size_t>(i) + 1];
  std::vector<double> partials;
  std::vector<std::size_t> at(ranks.size(), static_cast<std::size_t>(options_.micro_batches) + 1);
  for (int u = 0; u < model_.unit_count(); ++u)
    for (std::size_t r = 0; r < ranks.size() && !units.is_frozen(u); ++r) {
      const UnitLayout& unit = layout_.units[static_cast<std::size_t>(u)];
      const auto blocks = static_cast<std::size_t>((unit.slices[r].count + kLayoutBlock - 1) / kLayoutBlock);
      partials.insert(partials.end(), ranks[r].begin() + static_cast<std::ptrdiff_t>(at[r]),
                      ranks[r].begin() + static_cast<std::ptrdiff_t>(at[r] + blocks));
      at[r] += blocks;
    }
  result.grad_norm = global_norm(partials);
  return result;
}

Result<double> Engine::evaluate(int iterations, const BatchLoader& load) {
  std::vector<double> mine;
  const std::vector<TensorRef> no_grads;
  for (int i = 0; i < iterations; ++i) {
    if (!dry()) {
      auto* tokens = tokens_.host().as<std::int32_t>();
      auto* targets = targets_.host().as<std::int32_t>();
      const auto n = static_cast<std::size_t>(tokens_.shape()[1]);
      STRATA_RETURN_IF_ERROR(load(i, {tokens, n}, {targets, n}));
    }
    tokens_.upload(*compute_);
    targets_.upload(*compute_);
    Pass pass = make_pass(0);
    run_forward({&pass, 1}, false);
    const Leases leases = acquire(model_.unit_count() - 1);
    const UnitContext ctx{*compute_, gpu_, options_.compute, pass.batch, leases.params, no_grads};
    model_.head().loss(ctx, pass.x, losses_of(pass));
    pace_compute(compute_amount_forward());
    losses_.download(*compute_);
    STRATA_RETURN_IF_ERROR(compute_->ref().synchronize());
    mine.push_back(sum_losses(0));
  }
  STRATA_ASSIGN_OR_RETURN(const auto blobs,
                          control_->gather_all(std::as_bytes(std::span(mine)), "exchange of validation losses"));
  double sum = 0.0;
  for (int i = 0; i < iterations; ++i)
    for (const auto& blob : blobs) {
      double value = 0.0;
      std::memcpy(&value, blob.data() + static_cast<std::size_t>(i) * sizeof(double), sizeof(double));
      sum += value;
    }
  const double tokens = static_cast<double>(options_.micro_batch * options_.seq_length) * iterations * layout_.world.v;
  return sum / tokens;
}

std::vector<Stream*> Engine::streams() const {
  std::vector<Stream*> all;
  for (Stream* stream : {compute_.get(), comm_stream_.get(), gpu_to_cpu_.get(), nvme_read_.get(), cpu_update_.get(),
                         gpu_update_.get(), cpu_to_gpu_.get(), nvme_write_.get(), host_.get()})
    if (stream != nullptr) all.push_back(stream);  // fewer, where create() failed
  return all;
}

Status Engine::finish() {
  optimizer_->finish_update();
  Status first;
  for (Stream* stream : streams()) {
    const Status status = stream->ref().synchronize();
    if (first.ok()) first = status;
  }
  return first;
}

Status Engine::rehearse() {
  STRATA_CHECK(dry(), "a rehearsal executes nothing");
  const BatchLoader nothing = [](int, std::span<std::int32_t>, std::span<std::int32_t>) { return Status(); };
  const std::size_t before = gpu_.report().in_use, before_in_cpu = cpu_.report().in_use;
  std::string found;
  STRATA_RETURN_IF_ERROR(step(1, 0.0, nothing, [] { return false; }).status());
  STRATA_RETURN_IF_ERROR(evaluate(1, nothing).status());
  STRATA_RETURN_IF_ERROR(first_bad_parameter(&found));
  STRATA_RETURN_IF_ERROR(first_bad_activation(&found));
  STRATA_CHECK(gpu_.report().in_use == before, "a unit keeps memory that it did not allocate in prepare()");
  STRATA_CHECK(cpu_.report().in_use == before_in_cpu, "activations leave nothing in CPU memory");
  return {};
}

BusySeconds Engine::busy() const {
  return {.compute = compute_->busy_seconds(),
          .communication = comm_stream_->busy_seconds(),
          .cpu_update = cpu_update_->busy_seconds(),
          .gpu_update = gpu_update_ ? gpu_update_->busy_seconds() : 0.0,
          .nvme_read = nvme_read_->busy_seconds(),
          .nvme_write = nvme_write_->busy_seconds(),
          .gpu_to_cpu = gpu_to_cpu_->busy_seconds(),
          .cpu_to_gpu = cpu_to_gpu_->busy_seconds()};
}

}  // namespace strata
