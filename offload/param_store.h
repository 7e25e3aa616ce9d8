// The compute copy of the parameters (f32 or bf16), unit by unit, each at home in the gpu tier or in CPU memory.
// A unit that is whole at home in the gpu tier is used where it is. The others are fetched for every use, while another unit
// computes: copied up from CPU memory, gathered from the ranks that each keep a slice, or both. Slices are kept by ZeRO stage
// 3, and in CPU memory by every stage but 0, whose ranks all update everything. Called from one thread (the one that enqueues a
// step).
//
// Ordering. A fetched unit's memory comes from the arena, so its fetch waits for the compute stream as it stands when
// prefetch() is called: call prefetch(i + 1) before enqueueing the compute of unit i, and the two overlap.
#pragma once

#include <memory>
#include <vector>

#include "offload/layout.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

// The right to read one unit's parameters on the compute stream. Dropping it returns the memory of a fetched unit.
class ParamLease {
 public:
  ParamLease() = default;
  // One tensor a parameter, with the shapes given to the store.
  const std::vector<ConstTensorRef>& params() const { return params_; }

 private:
  friend class ParamStore;
  std::shared_ptr<Tensor> whole_;
  std::vector<ConstTensorRef> params_;
};

struct ParamStoreOptions {
  int zero_stage = 0;
  DType dtype = DType::f32;
  std::vector<Tier> homes = {};  // of each unit, gpu or cpu; empty: all in the gpu tier
};

struct ParamStoreStreams {
  StreamRef compute;
  StreamRef comm;
  StreamRef cpu_to_gpu;
};

class ParamStore {
 public:
  // shapes[u][p]: of parameter p of unit u. All references outlive the store. Blocking: returns when everything stored is zero,
  // so that any stream may write next. Throws StatusError when memory or the compute stream fails.
  ParamStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const ParamStoreOptions& options,
             Communicator& comm, TierArena& gpu, TierArena& cpu, const ParamStoreStreams& streams);
  ~ParamStore();  // waits for what it has enqueued
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  // Starts fetching unit u if it is not on its way already. No effect on a unit that is used where it is.
  void prefetch(int u);
  // Makes the compute stream wait until unit u is there and up to date.
  ParamLease acquire(int u);

  Tier home(int u) const { return options_.homes.empty() ? Tier::gpu : options_.homes[static_cast<std::size_t>(u)]; }
  // What every use of the unit copies up from CPU memory, in bytes.
  std::size_t bytes_up(int u) const { return home(u) == Tier::gpu ? 0 : stored(u).bytes(); }
  // The elements this rank stores and updates, with their place in the unit: everything it keeps.
  TensorRef stored(int u) const;
  Slice stored_slice(int u) const;
  // Declares that the owner slices of unit u are new once all of `updated` are complete; all ranks call it in the same order.
  // Units that are used where they are are gathered from their owners unless every rank updated all of it (stage 0).
  void publish(int u, std::vector<Event> updated);

 private:
  struct UnitState {
    Tensor stored;                    // whole unit, or this rank's slice
    std::vector<Event> ready;         // after all of them the stored elements are up to date
    std::shared_ptr<Tensor> pending;  // fetched or on its way, not yet leased
    Event fetched;
    std::weak_ptr<Tensor> leased;
  };
  bool sliced(int u) const;
  bool used_in_place(int u) const { return home(u) == Tier::gpu && !sliced(u); }
  void fetch(UnitState& unit, int u);

  const StateLayout& layout_;
  std::vector<std::vector<Shape>> shapes_;
  ParamStoreOptions options_;
  Communicator& comm_;
  TierArena& gpu_;
  ParamStoreStreams streams_;
  std::vector<UnitState> units_;
};

}  // namespace strata
