#include "offload/param_store.h"

#include <algorithm>
#include <cstring>

namespace strata {

ParamStore::ParamStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const ParamStoreOptions& options,
                       Communicator& comm, TierArena& gpu, TierArena& cpu, const ParamStoreStreams& streams,
                       std::vector<std::string>* notes)
    : layout_(layout),
      shapes_(std::move(shapes)),
      options_(options),
      comm_(comm),
      gpu_(gpu),
      streams_(streams),
      units_(layout.units.size()),
      pieces_(layout, comm.rank(), options.zero_stage, options.record_size, options.homes, options.dtype) {
  for (std::size_t u = 0; u < units_.size(); ++u) {
    const int unit = static_cast<int>(u);
    if (home(unit) == Tier::nvme) continue;
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
  throw_if_error(allocate_pieces(cpu, notes));
}

Status ParamStore::allocate_pieces(TierArena& cpu, std::vector<std::string>* notes) {
  std::vector<std::span<std::byte>> buffers;
  // One is read while others are copied.
  for (int w = 0; pieces_.longest_unit() > 0 && w < std::max(1, options_.prefetch_units) + 2; ++w) {
    windows_.emplace_back();
    STRATA_ASSIGN_OR_RETURN(windows_.back().memory,
                            cpu.allocate(pieces_.longest_unit(), Category::io, "window of parameters from NVMe"));
    buffers.emplace_back(windows_.back().memory.data(), windows_.back().memory.size());
  }
  return pieces_.open(options_.nvme_files, options_.nvme, streams_.nvme_read, streams_.nvme_write, buffers, notes);
}

// Fetches in flight write into memory that returns to the arena.
ParamStore::~ParamStore() {
  (void)streams_.nvme_read.record().drain();
  (void)streams_.nvme_write.record().drain();
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

TensorRef ParamStore::stored(int u) const {
  STRATA_CHECK(home(u) != Tier::nvme, "parameters on NVMe are in no memory");
  return units_[static_cast<std::size_t>(u)].stored;
}

void ParamStore::write_piece(std::size_t record, std::span<std::byte> window) {
  pieces_.write(pieces_.of_record(record), window, "nvme write parameters");
}

void ParamStore::read_ahead(int u) {
  UnitState& unit = units_[static_cast<std::size_t>(u)];
  if (home(u) != Tier::nvme || unit.window >= 0 || unit.pending || !unit.leased.expired()) return;
  const auto next = [this] { return std::exchange(next_window_, (next_window_ + 1) % windows_.size()); };
  std::size_t w = next();  // the one that was used longest ago
  while (windows_[w].held) w = next();
  Window& window = windows_[w];
  window.held = true;
  unit.window = static_cast<int>(w);
  streams_.nvme_read.wait(window.used);
  for (const Event& event : unit.ready) streams_.nvme_read.wait(event);
  for (const UnitPiece& piece : pieces_.of(u))
    pieces_.read(piece, UnitPieces::in(window.memory, piece), "nvme read parameters");
  window.used = streams_.nvme_read.record();
}

void ParamStore::copy_up(UnitState& unit, int u, std::byte* whole) {
  const StreamRef stream = streams_.cpu_to_gpu;
  const std::size_t size = size_of(options_.dtype);
  if (home(u) == Tier::cpu) {
    const TensorRef stored = unit.stored;
    copy_async(stored.data, whole + static_cast<std::size_t>(stored_slice(u).first) * size, stored.bytes(), stream,
               static_cast<double>(stored.bytes()));
    return;
  }
  Window& window = windows_[static_cast<std::size_t>(unit.window)];
  stream.wait(window.used);
  for (const UnitPiece& piece : pieces_.of(u))
    copy_async(window.memory.data() + piece.offset, whole + static_cast<std::size_t>(piece.range.first) * size, piece.bytes,
               stream, static_cast<double>(piece.bytes));
  window.used = stream.record();
  window.held = false;
  unit.window = -1;
}

void ParamStore::fetch(UnitState& unit, int u) {
  const UnitLayout& layout = layout_.units[static_cast<std::size_t>(u)];
  const std::size_t size = size_of(options_.dtype);
  read_ahead(u);
  unit.pending = std::make_shared<Tensor>(gpu_, Category::parameters, options_.dtype, Shape{layout.numel}, layout.name.c_str());
  std::byte* const whole = unit.pending->ref().data;
  const bool copied = home(u) != Tier::gpu;
  const StreamRef first = copied ? streams_.cpu_to_gpu : streams_.comm;
  first.wait(streams_.compute.record());
  for (const Event& event : unit.ready) first.wait(event);
  if (copied) {
    copy_up(unit, u, whole);
    unit.fetched = streams_.cpu_to_gpu.record();
    if (!sliced(u)) return;
    streams_.comm.wait(unit.fetched);
  }
  comm_.all_gather({.shard = copied ? nullptr : unit.stored.ref().data,
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
  STRATA_CHECK(!unit.pending && unit.leased.expired() && unit.window < 0,
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
