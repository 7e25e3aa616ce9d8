#include "offload/param_store.h"

namespace strata {

ParamStore::ParamStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const ParamStoreOptions& options,
                       Communicator& comm, TierArena& arena, StreamRef compute, StreamRef comm_stream)
    : layout_(layout),
      shapes_(std::move(shapes)),
      options_(options),
      sharded_(options.zero_stage == 3 && layout.world.v > 1),
      comm_(comm),
      arena_(arena),
      compute_(compute),
      comm_stream_(comm_stream),
      units_(layout.units.size()) {
  for (std::size_t u = 0; u < units_.size(); ++u) {
    const UnitLayout& unit = layout_.units[u];
    const std::int64_t n = sharded_ ? unit.slices[static_cast<std::size_t>(comm.rank().v)].count : unit.numel;
    units_[u].stored = Tensor(arena, Category::parameters, options.dtype, {n}, unit.name.c_str());
    if (n > 0) zero_async(units_[u].stored.ref().data, units_[u].stored.ref().bytes(), compute);  // padding stays zero
  }
  throw_if_error(compute.synchronize().with_context("parameters"));
}

// Gathers in flight write into memory that returns to the arena.
ParamStore::~ParamStore() { (void)comm_stream_.record().drain(); }

Slice ParamStore::stored_slice(int u) const {
  const UnitLayout& unit = layout_.units[static_cast<std::size_t>(u)];
  return sharded_ ? unit.slices[static_cast<std::size_t>(comm_.rank().v)] : Slice{0, unit.numel};
}

TensorRef ParamStore::stored(int u) const { return units_[static_cast<std::size_t>(u)].stored; }

void ParamStore::gather(UnitState& unit, int u) {
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  unit.pending =
      std::make_shared<Tensor>(arena_, Category::parameters, options_.dtype, Shape{layout.numel}, layout.name.c_str());
  comm_stream_.wait(compute_.record());
  for (const Event& event : unit.ready) comm_stream_.wait(event);
  comm_.all_gather({.shard = unit.stored.ref().data,
                    .full = unit.pending->ref().data,
                    .element_size = size_of(options_.dtype),
                    .slices = layout.slices,
                    .what = "all_gather parameters"},
                   comm_stream_);
  unit.gathered = comm_stream_.record();
}

void ParamStore::prefetch(int u) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  if (!sharded_ || unit.pending || !unit.leased.expired()) return;
  gather(unit, u);
}

ParamLease ParamStore::acquire(int u) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  ParamLease lease;
  TensorRef whole = unit.stored;
  if (sharded_) {
    lease.whole_ = unit.leased.lock();
    if (!lease.whole_) {
      if (!unit.pending) gather(unit, u);
      compute_.wait(unit.gathered);
      lease.whole_ = std::move(unit.pending);
      unit.pending.reset();
      unit.leased = lease.whole_;
    }
    whole = *lease.whole_;
  } else {
    for (const Event& event : unit.ready) compute_.wait(event);
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
  if (sharded_ || options_.zero_stage == 0 || layout_.world.v == 1) return;
  for (const Event& event : unit.ready) comm_stream_.wait(event);
  comm_.all_gather({.full = unit.stored.ref().data,
                    .element_size = size_of(options_.dtype),
                    .slices = layout_.units[static_cast<std::size_t>(u)].slices,
                    .what = "all_gather parameters"},
                   comm_stream_);
  unit.ready = {comm_stream_.record()};
}

}  // namespace strata
