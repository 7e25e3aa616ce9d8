#include "offload/grad_store.h"

#include "runtime/kernels/elementwise.h"

namespace strata {

static_assert(kLayoutBlock == kernels::kNormBlock, "shards are cut where norm blocks end");

GradStore::GradStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const GradStoreOptions& options,
                     Communicator& comm, TierArena& arena, TierArena& cpu, StreamRef compute, StreamRef comm_stream)
    : layout_(layout),
      shapes_(std::move(shapes)),
      options_(options),
      direct_(layout.world.v == 1 && options.micro_batches == 1),
      keep_full_(direct_ || (layout.world.v > 1 && options.zero_stage <= 1)),
      comm_(comm),
      arena_(arena),
      compute_(compute),
      comm_stream_(comm_stream),
      units_(layout.units.size()) {
  for (std::size_t u = 0; u < units_.size(); ++u) {
    const UnitLayout& unit = layout_.units[u];
    const Slice mine = unit.slices[static_cast<std::size_t>(comm.rank().v)];
    UnitState& state = units_[u];
    if (keep_full_) {
      state.full = Tensor(arena, Category::gradients, DType::f32, {unit.numel}, unit.name.c_str());
      make_views(state, static_cast<int>(u), state.full);
    }
    if (!direct_) state.sums = Tensor(arena, Category::gradients, DType::f32, {mine.count}, unit.name.c_str());
    state.owned = direct_ ? state.full.ref() : state.sums.ref();
    const std::size_t bytes = static_cast<std::size_t>((mine.count + kLayoutBlock - 1) / kLayoutBlock) * sizeof(double);
    const auto take = [bytes](TierArena& from) {
      Result<Buffer> buffer = from.allocate(bytes, Category::gradients, "partial sums of gradient norms");
      throw_if_error(buffer.status());
      return std::move(buffer).value();
    };
    state.partials = take(cpu);
    if (compute.device().has_separate_memory()) state.device_partials = take(arena);
  }
}

std::span<const double> GradStore::partials(int u) const {
  const Buffer& buffer = units_[static_cast<std::size_t>(u)].partials;
  return {reinterpret_cast<const double*>(buffer.data()), buffer.size() / sizeof(double)};
}

// Also after an error buffers may be in flight.
GradStore::~GradStore() {
  (void)compute_.record().drain();
  (void)comm_stream_.record().drain();
}

void GradStore::make_views(UnitState& unit, int u, TensorRef whole) const {
  unit.views.clear();
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  for (std::size_t p = 0; p < layout.params.size(); ++p)
    unit.views.push_back({whole.data + static_cast<std::size_t>(layout.params[p].offset) * sizeof(float), DType::f32,
                          shapes_[static_cast<std::size_t>(u)][p]});
}

const std::vector<TensorRef>& GradStore::acquire(int u) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  if (!unit.fresh) return unit.views;
  unit.fresh = false;
  TensorRef whole;
  if (keep_full_) {
    compute_.wait(unit.summed);  // the reduction that last read it
    for (const Event& used : unit.in_use) compute_.wait(used);
    whole = unit.full;
  } else {
    // The oldest of two buffers in flight returns its memory, in compute order.
    if (in_flight_.size() >= 2) {
      compute_.wait(in_flight_.front().reduced);
      in_flight_.pop_front();
    }
    unit.transient = std::make_shared<Tensor>(arena_, Category::gradients, DType::f32,
                                              Shape{layout_.units[static_cast<std::size_t>(u)].numel},
                                              layout_.units[static_cast<std::size_t>(u)].name.c_str());
    whole = *unit.transient;
    make_views(unit, u, whole);
  }
  zero_async(whole.data, whole.bytes(), compute_);
  return unit.views;
}

void GradStore::measure(UnitState& unit) {
  const Buffer& partials = unit.device_partials ? unit.device_partials : unit.partials;
  kernels::sum_squares_blocks(
      {.x = unit.owned.as<float>(), .n = unit.owned.numel(), .partials = reinterpret_cast<double*>(partials.data())},
      comm_stream_);
  if (unit.device_partials) copy_async(partials.data(), unit.partials.data(), partials.size(), comm_stream_);
}

void GradStore::reduce(int u, int index) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  STRATA_CHECK(!unit.fresh, "reduce before acquire");
  unit.fresh = true;
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  const bool last = index + 1 == options_.micro_batches;
  comm_stream_.wait(compute_.record());
  for (const Event& used : unit.in_use) comm_stream_.wait(used);
  if (!direct_) {
    const TensorRef whole = keep_full_ ? unit.full.ref() : unit.transient->ref();
    comm_.reduce_scatter_add({.full = reinterpret_cast<const float*>(whole.data),
                              .acc = reinterpret_cast<float*>(unit.owned.data),
                              .slices = layout.slices,
                              .overwrite = index == 0,
                              .what = "reduce_scatter gradients"},
                             comm_stream_);
  }
  if (last) {
    measure(unit);
    if (options_.zero_stage == 0 && layout_.world.v > 1)
      comm_.all_gather({.shard = unit.owned.data,
                        .full = unit.full.ref().data,
                        .element_size = sizeof(float),
                        .slices = layout.slices,
                        .what = "all_gather gradients"},
                       comm_stream_);
  }
  unit.summed = comm_stream_.record();
  if (!keep_full_) in_flight_.push_back({std::move(unit.transient), unit.summed});
}

GradStore::UpdateView GradStore::for_update(int u) const {
  const UnitState& unit = units_[static_cast<std::size_t>(u)];
  if (options_.zero_stage == 0 && layout_.world.v > 1) return {reinterpret_cast<const float*>(unit.full.ref().data), 0};
  const Slice mine = layout_.units[static_cast<std::size_t>(u)].slices[static_cast<std::size_t>(comm_.rank().v)];
  return {reinterpret_cast<const float*>(unit.owned.data), mine.first};
}

}  // namespace strata
