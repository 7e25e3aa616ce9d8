// The compute copy of the parameters (f32 or bf16), unit by unit, in the compute tier.
// ZeRO stages 0 to 2 and a single rank keep every unit whole; stage 3 keeps this rank's slice and gathers a unit while
// another one computes. Called from one thread (the one that enqueues a step).
//
// Ordering. A gathered unit's memory comes from the arena, so its gather waits for the compute stream as it stands when
// prefetch() is called: call prefetch(i + 1) before enqueueing the compute of unit i, and the two overlap.
#pragma once

#include <memory>
#include <vector>

#include "offload/layout.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

// The right to read one unit's parameters on the compute stream. Dropping it returns the memory of a gathered unit.
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
};

class ParamStore {
 public:
  // shapes[u][p]: of parameter p of unit u. All references outlive the store. Blocking: returns when everything stored is zero,
  // so that any stream may write next. Throws StatusError when memory or the compute stream fails.
  ParamStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const ParamStoreOptions& options,
             Communicator& comm, TierArena& arena, StreamRef compute, StreamRef comm_stream);
  ~ParamStore();  // waits for what it has enqueued
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  // Starts gathering unit u if it is not on its way already. No effect when units are kept whole.
  void prefetch(int u);
  // Makes the compute stream wait until unit u is there and up to date.
  ParamLease acquire(int u);

  // The elements this rank stores and updates, with their place in the unit: everything it keeps.
  TensorRef stored(int u) const;
  Slice stored_slice(int u) const;
  // Declares that the owner slices of unit u are new once all of `updated` are complete; all ranks call it in the same order.
  // Whole units are gathered from their owners unless every rank updated all of it (stage 0).
  void publish(int u, std::vector<Event> updated);
  bool sharded() const { return sharded_; }

 private:
  struct UnitState {
    Tensor stored;                    // whole unit, or this rank's slice when sharded
    std::vector<Event> ready;         // after all of them the stored elements are up to date
    std::shared_ptr<Tensor> pending;  // gathered or being gathered, not yet leased
    Event gathered;
    std::weak_ptr<Tensor> leased;
  };
  void gather(UnitState& unit, int u);

  const StateLayout& layout_;
  std::vector<std::vector<Shape>> shapes_;
  ParamStoreOptions options_;
  bool sharded_;
  Communicator& comm_;
  TierArena& arena_;
  StreamRef compute_;
  StreamRef comm_stream_;
  std::vector<UnitState> units_;
};

}  // namespace strata
