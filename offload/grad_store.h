// Gradients: each unit's full gradient of one micro-batch, and the sums each rank owns.
//
// One summation order for every ZeRO stage and world size: micro-batch after micro-batch, inside one in rank order, in f32:
// acc = ((acc + g_rank0) + g_rank1) + ... So stages 0 and 1 reduce after every micro-batch as 2 and 3 must.
// Memory: stages 0 and 1 keep a full-length buffer for every unit; 2 and 3 keep two units in flight. Stage 0 also gathers
// the finished sums. `arena` is the compute tier, `cpu` holds the norms' partial sums. Called from the thread that enqueues the
// step.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "offload/layout.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

struct GradStoreOptions {
  int zero_stage = 0;
  int micro_batches = 1;  // a step
};

class GradStore {
 public:
  GradStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const GradStoreOptions& options,
            Communicator& comm, TierArena& arena, TierArena& cpu, StreamRef compute, StreamRef comm_stream);
  ~GradStore();  // waits for what it has enqueued
  GradStore(const GradStore&) = delete;
  GradStore& operator=(const GradStore&) = delete;

  // The buffers into which unit u's backward of this micro-batch adds, zero at first use on the compute stream.
  const std::vector<TensorRef>& acquire(int u);
  // Returns the memory of stages 2 and 3 that no reduction needs any more. Both streams are synchronized.
  void release_buffers() { in_flight_.clear(); }
  // Everything enqueued so far completes unit u's gradient of micro-batch `index`: starts its reduction.
  void reduce(int u, int index);
  // After the last micro-batch's reduce of unit u: its sums are complete when this event is.
  Event summed(int u) const { return units_[static_cast<std::size_t>(u)].summed; }
  // Later reductions into unit u's sums wait for all of `used` (the updates that read them).
  void hold(int u, std::vector<Event> used) { units_[static_cast<std::size_t>(u)].in_use = std::move(used); }

  // This rank's sums: f32, layout slices[rank].count elements. Valid after summed(u).
  TensorRef owned(int u) const { return units_[static_cast<std::size_t>(u)].owned; }
  // What the update of this rank reads: owned(u), or the whole unit in stage 0. `first`: the place of element 0 in the unit.
  struct UpdateView {
    const float* values = nullptr;
    std::int64_t first = 0;
  };
  UpdateView for_update(int u) const;
  // Squares of owned(u) by norm block, in host memory, filled in on the communication stream before summed(u).
  std::span<const double> partials(int u) const;

 private:
  struct UnitState {
    Tensor sums;  // acc; empty when `full` serves as both
    Tensor full;  // kept whole (stages 0, 1, and a single rank with one micro-batch)
    TensorRef owned;
    std::shared_ptr<Tensor> transient;  // stages 2, 3: this micro-batch's gradient
    std::vector<TensorRef> views;
    Buffer partials;         // doubles, in host memory
    Buffer device_partials;  // the same in the gpu tier, where that is another memory
    Event summed;
    std::vector<Event> in_use;
    bool fresh = true;  // the buffer must be zeroed before use
  };
  void make_views(UnitState& unit, int u, TensorRef whole) const;
  void measure(UnitState& unit);

  const StateLayout& layout_;
  std::vector<std::vector<Shape>> shapes_;
  GradStoreOptions options_;
  bool direct_;  // one rank, one micro-batch: the gradient is its own sum
  bool keep_full_;
  Communicator& comm_;
  TierArena& arena_;
  StreamRef compute_;
  StreamRef comm_stream_;
  std::vector<UnitState> units_;
  struct InFlight {
    std::shared_ptr<Tensor> buffer;
    Event reduced;
  };
  std::deque<InFlight> in_flight_;  // at most two; the compute stream waits before a buffer's memory returns to the arena
};

}  // namespace strata
