#include "offload/grad_store.h"

#include "runtime/kernels/elementwise.h"

namespace strata {

static_assert(kLayoutBlock == kernels::kNormBlock, "shards are cut where norm blocks end");

GradStore::GradStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const GradStoreOptions& options,
                     Communicator& comm, TierArena& gpu, TierArena& cpu, const GradStoreStreams& streams,
                     std::vector<std::string>* notes)
    : layout_(layout),
      shapes_(std::move(shapes)),
      options_(options),
      direct_(layout.world.v == 1 && options.micro_batches == 1),
      comm_(comm),
      gpu_(gpu),
      streams_(streams),
      units_(layout.units.size()),
      pieces_(layout, comm.rank(), options.zero_stage, options.record_size, options.homes, options.dtype) {
  STRATA_CHECK(options.dtype == DType::f32 || options.dtype == DType::bf16, "sums are f32 or bf16");
  STRATA_CHECK(pieces_.longest_unit() == 0 || may_be_on_nvme(options.dtype, options.micro_batches, options.vertical),
               "only complete sums of 16 bit go to NVMe");
  for (std::size_t i = 0; i < units_.size(); ++i) {
    const int u = static_cast<int>(i);
    const UnitLayout& unit = layout_.units[i];
    UnitState& state = units_[i];
    if (keeps_gradient(u)) make_gradient(state, u);
    if (home(u) != Tier::nvme && (!made_at_home(u) || !direct_)) {
      const DType dtype = options.micro_batches > 1 && !options.vertical ? DType::f32 : options.dtype;
      state.sums = Tensor(home(u) == Tier::gpu ? gpu : cpu, Category::gradients, dtype, {kept_elements(u)}, unit.name.c_str());
    }
    const std::size_t bytes = static_cast<std::size_t>((slice(u).count + kLayoutBlock - 1) / kLayoutBlock) * sizeof(double);
    const auto take = [bytes](TierArena& from) {
      Result<Buffer> buffer = from.allocate(bytes, Category::gradients, "partial sums of gradient norms");
      throw_if_error(buffer.status());
      return std::move(buffer).value();
    };
    state.partials = take(cpu);
    if (streams.compute.device().has_separate_memory()) state.device_partials = take(gpu);
  }
  throw_if_error(allocate_windows(cpu, notes));
}

Status GradStore::allocate_windows(TierArena& cpu, std::vector<std::string>* notes) {
  constexpr int kWindows = 2;  // one fills, one empties
  std::vector<std::span<std::byte>> buffers;
  for (int w = 0; pieces_.longest_unit() > 0 && w < kWindows; ++w) {
    windows_.emplace_back();
    STRATA_ASSIGN_OR_RETURN(windows_.back().memory,
                            cpu.allocate(pieces_.longest_unit(), Category::io, "window of gradients on their way to NVMe"));
    buffers.emplace_back(windows_.back().memory.data(), windows_.back().memory.size());
  }
  return pieces_.open(options_.nvme_files, options_.nvme, streams_.nvme_read, streams_.nvme_write, buffers, notes);
}

std::span<const double> GradStore::partials(int u) const {
  const Buffer& buffer = units_[static_cast<std::size_t>(u)].partials;
  return {reinterpret_cast<const double*>(buffer.data()), buffer.size() / sizeof(double)};
}

// Also after an error buffers may be in flight.
GradStore::~GradStore() {
  for (const StreamRef stream :
       {streams_.compute, streams_.cpu_to_gpu, streams_.comm, streams_.gpu_to_cpu, streams_.nvme_write, streams_.nvme_read})
    (void)stream.record().drain();
}

TensorRef GradStore::at_home(int u, DType dtype) const {
  const TensorRef sums = units_[static_cast<std::size_t>(u)].sums;
  const std::int64_t skip = sums.numel() == slice(u).count ? 0 : slice(u).first;
  return {sums.data + static_cast<std::size_t>(skip) * size_of(dtype), dtype, {slice(u).count}};
}

TensorRef GradStore::owned(int u) const {
  if (direct_ && made_at_home(u)) return *units_[static_cast<std::size_t>(u)].gradient;
  return at_home(u, options_.dtype);
}

void GradStore::make_gradient(UnitState& unit, int u) {
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  unit.gradient = std::make_shared<Tensor>(gpu_, Category::gradients, DType::f32, Shape{layout.numel}, layout.name.c_str());
  unit.views.clear();
  for (std::size_t p = 0; p < layout.params.size(); ++p)
    unit.views.push_back({unit.gradient->ref().data + static_cast<std::size_t>(layout.params[p].offset) * sizeof(float),
                          DType::f32, shapes_[static_cast<std::size_t>(u)][p]});
}

const std::vector<TensorRef>& GradStore::acquire(int u) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  if (!unit.fresh) return unit.views;
  unit.fresh = false;
  if (keeps_gradient(u)) {
    streams_.compute.wait(unit.summed);  // the reduction that last read it
    for (const Event& used : unit.in_use) streams_.compute.wait(used);
  } else {
    // The oldest of two in flight returns its memory, in compute order.
    if (in_flight_.size() >= 2) {
      streams_.compute.wait(in_flight_.front().done);
      in_flight_.pop_front();
    }
    make_gradient(unit, u);
  }
  if (!is_frozen(u)) zero_async(unit.gradient->ref().data, unit.gradient->ref().bytes(), streams_.compute);
  return unit.views;
}

void GradStore::release_buffers() {
  for (const InFlight& one : in_flight_) streams_.compute.wait(one.done);
  in_flight_.clear();
}

void GradStore::measure(UnitState& unit, TensorRef sums, bf16* rounded) {
  const Buffer& partials = unit.device_partials ? unit.device_partials : unit.partials;
  const auto to = reinterpret_cast<double*>(partials.data());
  if (rounded == nullptr)
    kernels::sum_squares_blocks({.x = sums.as<float>(), .n = sums.numel(), .partials = to}, streams_.comm);
  else
    kernels::round_and_sum_squares({.x = sums.as<float>(), .y = rounded, .n = sums.numel(), .partials = to}, streams_.comm);
  if (unit.device_partials) copy_async(partials.data(), unit.partials.data(), partials.size(), streams_.comm);
}

void GradStore::reduce(int u, int index) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  STRATA_CHECK(!unit.fresh, "reduce before acquire");
  unit.fresh = true;
  if (is_frozen(u)) return pass_over(unit, u, index);
  streams_.comm.wait(streams_.compute.record());
  if (made_at_home(u)) return reduce_at_home(unit, u, index);
  reduce_away_from_home(unit, u, index);
}

// Takes the memory that reduce() would take, in the same order.
void GradStore::pass_over(UnitState& unit, int u, int index) {
  const Event done = streams_.compute.record();
  if (made_at_home(u)) {
    if (!keeps_gradient(u)) in_flight_.push_back({std::move(unit.gradient), nullptr, nullptr, done});
    return;
  }
  const std::string& name = layout_.units[static_cast<std::size_t>(u)].name;
  const bool last = index + 1 == options_.micro_batches;
  if (!direct_ && !unit.held)
    unit.held = std::make_shared<Tensor>(gpu_, Category::gradients, DType::f32, Shape{slice(u).count}, name.c_str());
  std::shared_ptr<Tensor> rounded;
  if (last && options_.dtype != DType::f32 && home(u) != Tier::gpu) {
    const Shape shape{last && gathers() ? layout_.units[static_cast<std::size_t>(u)].numel : slice(u).count};
    rounded = std::make_shared<Tensor>(gpu_, Category::gradients, options_.dtype, shape, name.c_str());
  }
  if (options_.vertical && !last) return in_flight_.push_back({std::move(unit.gradient), nullptr, nullptr, done});
  in_flight_.push_back({std::move(unit.gradient), std::move(unit.held), std::move(rounded), done});
}

void GradStore::reduce_into(UnitState& unit, int u, TensorRef sums, int index, bf16* rounded) {
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  if (!direct_) {
    comm_.reduce_scatter_add({.full = unit.gradient->ref().as<float>(),
                              .acc = sums.as<float>(),
                              .slices = layout.slices,
                              .overwrite = index == 0,
                              .what = "reduce_scatter gradients"},
                             streams_.comm);
  }
  if (index + 1 < options_.micro_batches) return;
  measure(unit, sums, rounded);
  if (!gathers()) return;
  comm_.all_gather({.shard = sums.data,
                    .full = unit.gradient->ref().data,
                    .element_size = sizeof(float),
                    .slices = layout.slices,
                    .what = "all_gather gradients"},
                   streams_.comm);
}

void GradStore::reduce_at_home(UnitState& unit, int u, int index) {
  for (const Event& used : unit.in_use) streams_.comm.wait(used);
  reduce_into(unit, u, owned(u), index);
  unit.summed = streams_.comm.record();
  if (!keeps_gradient(u)) in_flight_.push_back({std::move(unit.gradient), nullptr, nullptr, unit.summed});
}

void GradStore::reduce_away_from_home(UnitState& unit, int u, int index) {
  const std::string& name = layout_.units[static_cast<std::size_t>(u)].name;
  const bool last = index + 1 == options_.micro_batches, in_gpu = home(u) == Tier::gpu;
  const StreamRef back = in_gpu ? streams_.comm : streams_.cpu_to_gpu, leave = in_gpu ? streams_.comm : streams_.gpu_to_cpu;
  const bool rounds = last && options_.dtype != DType::f32, gathered = last && gathers();
  TensorRef sums = unit.gradient->ref();
  if (!direct_) {
    const bool fetched = index > 0 && !unit.held;
    if (!unit.held)
      unit.held = std::make_shared<Tensor>(gpu_, Category::gradients, DType::f32, Shape{slice(u).count}, name.c_str());
    sums = *unit.held;
    if (fetched) {
      back.wait(streams_.compute.record());  // their memory is free
      back.wait(unit.summed);
      copy_async(at_home(u, DType::f32).data, sums.data, sums.bytes(), back, static_cast<double>(sums.bytes()));
      streams_.comm.wait(back.record());
    }
  }
  TensorRef from = gathered ? unit.gradient->ref() : sums;
  std::shared_ptr<Tensor> rounded;
  TensorRef to = {nullptr, rounds ? options_.dtype : DType::f32, from.shape};
  if (rounds && !in_gpu) {
    rounded = std::make_shared<Tensor>(gpu_, Category::gradients, to.dtype, to.shape, name.c_str());
    to.data = rounded->ref().data;
  } else if (rounds) {
    for (const Event& used : unit.in_use) streams_.comm.wait(used);
    to.data = unit.sums.ref().data;
  }
  // What is not gathered is rounded as it is measured.
  reduce_into(unit, u, sums, index, rounds && !gathered ? to.as<bf16>() : nullptr);
  if (options_.vertical && !last)
    return in_flight_.push_back({std::move(unit.gradient), nullptr, nullptr, streams_.comm.record()});
  if (rounds) {
    if (gathered) kernels::cast({.x = from, .y = to}, streams_.comm);
    from = to;
  }
  if (home(u) == Tier::nvme) {
    const Event gone = send_to_file(unit, u, from);
    return in_flight_.push_back({std::move(unit.gradient), std::move(unit.held), std::move(rounded), gone});
  }
  if (!rounds || !in_gpu) {
    to.data = last ? unit.sums.ref().data : at_home(u, DType::f32).data;
    leave.wait(streams_.comm.record());
    for (const Event& used : unit.in_use) leave.wait(used);
    copy_async(from.data, to.data, to.bytes(), leave, static_cast<double>(to.bytes()));
  }
  unit.summed = leave.record();
  in_flight_.push_back({std::move(unit.gradient), std::move(unit.held), std::move(rounded), unit.summed});
}

Event GradStore::send_to_file(UnitState& unit, int u, TensorRef from) {
  Window& window = windows_[next_window_];
  next_window_ = (next_window_ + 1) % windows_.size();
  const StreamRef leave = streams_.gpu_to_cpu, write = streams_.nvme_write;
  const std::int64_t first = from.numel() == slice(u).count ? slice(u).first : 0;
  leave.wait(streams_.comm.record());
  leave.wait(window.used);
  for (const UnitPiece& piece : pieces_.of(u))
    copy_async(from.data + static_cast<std::size_t>(piece.range.first - first) * size_of(from.dtype),
               window.memory.data() + piece.offset, piece.bytes, leave, static_cast<double>(piece.bytes));
  const Event gone = leave.record();
  write.wait(gone);
  for (const Event& used : unit.in_use) write.wait(used);
  for (const UnitPiece& piece : pieces_.of(u))
    pieces_.write(piece, UnitPieces::in(window.memory, piece), "nvme write gradients");
  unit.summed = window.used = write.record();
  return gone;
}

Status GradStore::look_at(int u, const std::function<Status(const ConstTensorRef&, std::int64_t)>& look) {
  STRATA_RETURN_IF_ERROR(summed(u).wait());
  if (home(u) != Tier::nvme) return look(owned(u), slice(u).first);
  const Window& window = windows_[next_window_];
  streams_.nvme_read.wait(window.used);
  for (const UnitPiece& piece : pieces_.of(u)) {
    pieces_.read(piece, UnitPieces::in(window.memory, piece), "nvme read gradients");
    STRATA_RETURN_IF_ERROR(streams_.nvme_read.synchronize());
    STRATA_RETURN_IF_ERROR(
        look({window.memory.data() + piece.offset, options_.dtype, Shape{piece.range.count}}, piece.range.first));
  }
  return {};
}

GradStore::UpdateView GradStore::for_update(int u) const {
  const UnitState& unit = units_[static_cast<std::size_t>(u)];
  if (!gathers()) return {owned(u).data, slice(u).first};
  return {made_at_home(u) ? unit.gradient->ref().data : unit.sums.ref().data, 0};
}

}  // namespace strata
