#include "offload/param_store.h"

#include <cstring>

namespace strata {

ParamStore::ParamStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const ParamStoreOptions& options,
                       Communicator& comm, TierArena& gpu, TierArena& cpu, const ParamStoreStreams& streams)
    : layout_(layout),
      shapes_(std::move(shapes)),
      options_(options),
      comm_(comm),
      gpu_(gpu),
      streams_(streams),
      units_(layout.units.size()) {
  for (std::size_t u = 0; u < units_.size(); ++u) {
    const int unit = static_cast<int>(u);
    TierArena& home_arena = home(unit) == Tier::gpu ? gpu : cpu;
    units_[u].stored =
        Tensor(home_arena, Category::parameters, options.dtype, {stored_slice(unit).count}, layout.units[u].name.c_str());
    // Padding stays zero.
    const TensorRef stored = units_[u].stored;
    if (stored.numel() == 0) continue;
    if (home(unit) == Tier::gpu) {
      zero_async(stored.data, stored.bytes(), streams.compute);
    } else if (streams.compute.backend() != Backend::dry) {
      std::memset(stored.data, 0, stored.bytes());
    }
  }
  throw_if_error(streams.compute.synchronize().with_context("parameters"));
}

// Fetches in flight write into memory that returns to the arena.
ParamStore::~ParamStore() {
  (void)streams_.cpu_to_gpu.record().drain();
  (void)streams_.comm.record().drain();
}

bool ParamStore::sliced(int u) const {
  return layout_.world.v > 1 && (options_.zero_stage == 3 || (options_.zero_stage > 0 && home(u) != Tier::gpu));
}

Slice ParamStore::stored_slice(int u) const {
  const UnitLayout& unit = layout_.units[static_cast<std::size_t>(u)];
  return sliced(u) ? unit.slices[static_cast<std::size_t>(comm_.rank().v)] : Slice{0, unit.numel};
}

TensorRef ParamStore::stored(int u) const { return units_[static_cast<std::size_t>(u)].stored; }

void ParamStore::fetch(UnitState& unit, int u) {
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  const std::size_t size = size_of(options_.dtype);
  unit.pending = std::make_shared<Tensor>(gpu_, Category::parameters, options_.dtype, Shape{layout.numel}, layout.name.c_str());
  const TensorRef stored = unit.stored;
  std::byte* const whole = unit.pending->ref().data;
  const bool copied = home(u) != Tier::gpu;
  const StreamRef first = copied ? streams_.cpu_to_gpu : streams_.comm;
  first.wait(streams_.compute.record());
  for (const Event& event : unit.ready) first.wait(event);
  if (copied) {
    std::byte* const to = whole + static_cast<std::size_t>(stored_slice(u).first) * size;
    copy_async(stored.data, to, stored.bytes(), streams_.cpu_to_gpu, static_cast<double>(stored.bytes()));
    unit.fetched = streams_.cpu_to_gpu.record();
    if (!sliced(u)) return;
    streams_.comm.wait(unit.fetched);
  }
  comm_.all_gather({.shard = copied ? nullptr : stored.data,
                    .full = whole,
                    .element_size = size,
                    .slices = layout.slices,
                    .what = "all_gather parameters"},
                   streams_.comm);
  unit.fetched = streams_.comm.record();
}

void ParamStore::prefetch(int u) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  if (used_in_place(u) || unit.pending || !unit.leased.expired()) return;
  fetch(unit, u);
}

ParamLease ParamStore::acquire(int u) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  ParamLease lease;
  TensorRef whole = unit.stored;
  if (used_in_place(u)) {
    for (const Event& event : unit.ready) streams_.compute.wait(event);
  } else {
    lease.whole_ = unit.leased.lock();
    if (!lease.whole_) {
      if (!unit.pending) fetch(unit, u);
      streams_.compute.wait(unit.fetched);
      lease.whole_ = std::move(unit.pending);
      unit.pending.reset();
      unit.leased = lease.whole_;
    }
    whole = *lease.whole_;
  }
  const std::vector<Shape>& shapes = shapes_[static_cast<std::size_t>(u)];
  for (std::size_t p = 0; p < layout.params.size(); ++p)
    lease.params_.emplace_back(whole.data + static_cast<std::size_t>(layout.params[p].offset) * size_of(options_.dtype),
                               options_.dtype, shapes[p]);
  return lease;
}

void ParamStore::publish(int u, std::vector<Event> updated) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  STRATA_CHECK(!unit.pending && unit.leased.expired(),
               "unit " + layout_.units[static_cast<std::size_t>(u)].name + " updated while in use");
  unit.ready = std::move(updated);
  if (!used_in_place(u) || options_.zero_stage == 0 || layout_.world.v == 1) return;
  for (const Event& event : unit.ready) streams_.comm.wait(event);
  comm_.all_gather({.full = unit.stored.ref().data,
                    .element_size = size_of(options_.dtype),
                    .slices = layout_.units[static_cast<std::size_t>(u)].slices,
                    .what = "all_gather parameters"},
                   streams_.comm);
  unit.ready = {streams_.comm.record()};
}

}  // namespace strata
