// Gradients: each unit's full gradient of one micro-batch, and the sums each rank owns.
//
// One summation order for every ZeRO stage and world size: micro-batch after micro-batch, inside one in rank order, in f32:
// acc = ((acc + g_rank0) + g_rank1) + ... So stages 0 and 1 reduce after every micro-batch as 2 and 3 must.
// The update may be given them rounded to bf16, once, after the last micro-batch; their norm is that of the f32 sums.
//
// A unit's sums are at home in the gpu tier, in CPU memory or on NVMe. At home elsewhere they leave while the backward goes on,
// and from CPU memory come back for the next micro-batch's. To NVMe go only sums that are complete and of 16 bit: one
// micro-batch a step, or vertical order. Memory of the gpu tier: two units in flight (gradient, and sums that are not at home),
// and for units at home there their sums; in stages 0 and 1 (1: in horizontal order) also each one's gradient. Stage 0 also
// gathers the finished sums. CPU memory holds the norms' partial sums too, and windows for what goes to NVMe. Called from the
// thread that enqueues the step.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "offload/unit_pieces.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

struct GradStoreOptions {
  int zero_stage = 0;
  int micro_batches = 1;         // a step
  std::vector<Tier> homes = {};  // of each unit's sums; empty: all in the gpu tier
  DType dtype = DType::f32;      // of what the update reads: f32 or bf16
  // A unit's reduce()s of a step follow each other: sums that are not made at home stay in flight until the last.
  bool vertical = false;
  // Where some are on NVMe.
  std::int64_t record_size = std::int64_t{16} << 20;  // of the optimizer store
  std::vector<std::string> nvme_files = {};
  NvmeOptions nvme = {};
};

struct GradStoreStreams {
  StreamRef compute;
  StreamRef comm;
  StreamRef gpu_to_cpu;
  StreamRef cpu_to_gpu;
  StreamRef nvme_read;
  StreamRef nvme_write;
};

class GradStore {
 public:
  GradStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const GradStoreOptions& options,
            Communicator& comm, TierArena& gpu, TierArena& cpu, const GradStoreStreams& streams,
            std::vector<std::string>* notes = nullptr);
  ~GradStore();  // waits for what it has enqueued
  GradStore(const GradStore&) = delete;
  GradStore& operator=(const GradStore&) = delete;

  static bool may_be_on_nvme(DType dtype, int micro_batches, bool vertical) {
    return dtype != DType::f32 && (micro_batches == 1 || vertical);
  }

  // Units that are not trained from now on until the next call (by unit; empty: none). They take the same memory as others, so
  // that a step's addresses do not depend on it, but acquire() leaves anything in it, and reduce() enqueues nothing. Between
  // two steps.
  void freeze(std::vector<char> frozen) { frozen_ = std::move(frozen); }

  // The buffers into which unit u's backward of this micro-batch adds, zero at first use on the compute stream.
  const std::vector<TensorRef>& acquire(int u);
  // Returns the memory of units in flight to the arena, for use in compute order.
  void release_buffers();
  // Everything enqueued so far completes unit u's gradient of micro-batch `index`: starts its reduction.
  void reduce(int u, int index);
  // After the last micro-batch's reduce of unit u: its sums are complete when this event is.
  Event summed(int u) const { return units_[static_cast<std::size_t>(u)].summed; }
  // Later reductions into unit u's sums wait for all of `used` (the updates that read them).
  void hold(int u, std::vector<Event> used) { units_[static_cast<std::size_t>(u)].in_use = std::move(used); }

  Tier home(int u) const { return options_.homes.empty() ? Tier::gpu : options_.homes[static_cast<std::size_t>(u)]; }
  // What leaves for CPU memory after a step's last micro-batch, and after the others, in bytes.
  std::size_t bytes_down(int u) const {
    return home(u) == Tier::gpu ? 0 : static_cast<std::size_t>(kept_elements(u)) * size_of(dtype());
  }
  // Of that, what goes on to NVMe.
  std::size_t bytes_written(int u) const { return home(u) == Tier::nvme ? bytes_down(u) : 0; }
  std::size_t bytes_between(int u) const {
    return home(u) == Tier::gpu ? 0 : static_cast<std::size_t>(slice(u).count) * sizeof(float);
  }
  DType dtype() const { return options_.dtype; }
  // This rank's sums, at home: layout slices[rank].count elements. Valid after summed(u). Not of a unit on NVMe.
  TensorRef owned(int u) const;
  // Of a unit on NVMe: enqueues the read of what optimizer record `record` needs, into the payload of `window` (of
  // NvmeRecords::window_bytes() for as many elements).
  void read_piece(std::size_t record, std::span<std::byte> window) {
    pieces_.read(pieces_.of_record(record), window, "nvme read gradients");
  }
  // Blocking. Calls `look` with this rank's sums of a unit, stretch by stretch: values in memory of the gpu tier (home gpu) or
  // the host's, and the place of the first one in the unit.
  Status look_at(int u, const std::function<Status(const ConstTensorRef& values, std::int64_t first)>& look);
  // What the update of this rank reads: owned(u), or the whole unit in stage 0. `first`: the place of element 0 in the unit.
  struct UpdateView {
    const std::byte* values = nullptr;  // of dtype()
    std::int64_t first = 0;
    const std::byte* at(std::int64_t i, DType dtype) const {
      return values + static_cast<std::size_t>(i - first) * size_of(dtype);
    }
  };
  UpdateView for_update(int u) const;
  // Squares of owned(u) by norm block, in host memory, filled in on the communication stream.
  std::span<const double> partials(int u) const;

  std::size_t nvme_bytes() const { return pieces_.nvme_bytes(); }
  std::vector<PathTraffic> take_nvme_traffic() { return pieces_.take_traffic(); }

 private:
  struct UnitState {
    // At home: this rank's, or in stage 0, where they leave the place where they were made, all. Empty where `gradient` is its
    // own sum. f32 between micro-batches, which then is its size.
    Tensor sums;
    // This micro-batch's; in stage 0, after the last one, the gathered sums.
    std::shared_ptr<Tensor> gradient;
    std::shared_ptr<Tensor> held;  // sums in flight between two micro-batches
    std::vector<TensorRef> views;
    Buffer partials;         // doubles, in host memory
    Buffer device_partials;  // the same in the gpu tier, where that is another memory
    Event summed;
    std::vector<Event> in_use;
    bool fresh = true;  // the buffer must be zeroed before use
  };
  Slice slice(int u) const {
    return layout_.units[static_cast<std::size_t>(u)].slices[static_cast<std::size_t>(comm_.rank().v)];
  }
  bool gathers() const { return options_.zero_stage == 0 && layout_.world.v > 1; }
  // Whether sums are made where they are at home; else they are in flight, and leave.
  bool made_at_home(int u) const { return home(u) == Tier::gpu && options_.dtype == DType::f32; }
  // Whether the unit's gradient has a buffer of its own; else it is one of those in flight.
  bool keeps_gradient(int u) const {
    return made_at_home(u) && (direct_ || gathers() || (layout_.world.v > 1 && options_.zero_stage == 1 && !options_.vertical));
  }
  // What is at home of a unit's complete sums: this rank's, or where stage 0 has gathered them elsewhere, all.
  std::int64_t kept_elements(int u) const {
    return !made_at_home(u) && gathers() ? layout_.units[static_cast<std::size_t>(u)].numel : slice(u).count;
  }
  void make_gradient(UnitState& unit, int u);
  // Reduces micro-batch `index` into `sums`; after the last one measures them, and in stage 0 gathers them into the gradient.
  // `rounded`: where they go as bf16 too when they are measured, if anywhere.
  void reduce_into(UnitState& unit, int u, TensorRef sums, int index, bf16* rounded = nullptr);
  void measure(UnitState& unit, TensorRef sums, bf16* rounded);
  void reduce_at_home(UnitState& unit, int u, int index);
  bool is_frozen(int u) const { return !frozen_.empty() && frozen_[static_cast<std::size_t>(u)] != 0; }
  void pass_over(UnitState& unit, int u, int index);
  void reduce_away_from_home(UnitState& unit, int u, int index);
  // `from`: complete, of dtype(), in the gpu tier; returns when it may be given back.
  Event send_to_file(UnitState& unit, int u, TensorRef from);
  Status allocate_windows(TierArena& cpu, std::vector<std::string>* notes);
  // This rank's sums in `sums`: f32 between micro-batches, then of dtype().
  TensorRef at_home(int u, DType dtype) const;

  const StateLayout& layout_;
  std::vector<std::vector<Shape>> shapes_;
  GradStoreOptions options_;
  bool direct_;  // one rank, one micro-batch: the gradient is its own sum
  Communicator& comm_;
  TierArena& gpu_;
  GradStoreStreams streams_;
  std::vector<UnitState> units_;
  std::vector<char> frozen_;
  UnitPieces pieces_;
  // In CPU memory, of units on their way to NVMe; used in turn.
  struct Window {
    Buffer memory;
    Event used = {};
  };
  std::vector<Window> windows_;
  std::size_t next_window_ = 0;
  struct InFlight {
    std::shared_ptr<Tensor> gradient, sums, rounded;  // those that are in flight
    Event done;
  };
  std::deque<InFlight> in_flight_;  // at most two; the compute stream waits before a buffer's memory returns to the arena
};

}  // namespace strata
