// The compute copy of the parameters (f32 or bf16), unit by unit, each at home in the gpu tier, in CPU memory or on NVMe.
// A unit that is whole at home in the gpu tier is used where it is. The others are fetched for every use, while another unit
// computes: read into a window in CPU memory, copied up, gathered from the ranks that each keep a slice, or several of these.
// Slices are kept by ZeRO stage 3, and away from the gpu tier by every stage but 0, whose ranks all update everything. On NVMe
// a unit lies in pieces, one for what each optimizer record updates. Called from one thread (the one that enqueues a step).
//
// Ordering. A fetched unit's memory comes from the arena, so its fetch waits for the compute stream as it stands when
// prefetch() is called: call prefetch(i + 1) before enqueueing the compute of unit i, and the two overlap.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "offload/layout.h"
#include "offload/unit_pieces.h"
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
  std::vector<Tier> homes = {};  // of each unit; empty: all in the gpu tier
  // Where some are on NVMe.
  std::int64_t record_size = std::int64_t{16} << 20;  // of the optimizer store
  int prefetch_units = 1;
  std::vector<std::string> nvme_files = {};
  NvmeOptions nvme = {};
};

struct ParamStoreStreams {
  StreamRef compute;
  StreamRef comm;
  StreamRef cpu_to_gpu;
  StreamRef nvme_read;
  StreamRef nvme_write;
};

class ParamStore {
 public:
  // shapes[u][p]: of parameter p of unit u. All references outlive the store. Blocking: returns when everything stored is zero,
  // so that any stream may write next; what is on NVMe is undefined until it is written. Throws StatusError when memory, files
  // or the compute stream fail. `notes` (may be null) receives lines worth telling the user.
  ParamStore(const StateLayout& layout, std::vector<std::vector<Shape>> shapes, const ParamStoreOptions& options,
             Communicator& comm, TierArena& gpu, TierArena& cpu, const ParamStoreStreams& streams,
             std::vector<std::string>* notes = nullptr);
  ~ParamStore();  // waits for what it has enqueued
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  // Starts fetching unit u if it is not on its way already. No effect on a unit that is used where it is.
  void prefetch(int u);
  // Starts reading unit u from NVMe, if it lives there and is not on its way: for a unit that is fetched next but one.
  void read_ahead(int u);
  // Makes the compute stream wait until unit u is there and up to date.
  ParamLease acquire(int u);

  Tier home(int u) const { return options_.homes.empty() ? Tier::gpu : options_.homes[static_cast<std::size_t>(u)]; }
  // What every use of the unit copies up from CPU memory, and reads from NVMe, in bytes.
  std::size_t bytes_up(int u) const { return home(u) == Tier::gpu ? 0 : stored_bytes(u); }
  std::size_t bytes_read(int u) const { return home(u) == Tier::nvme ? stored_bytes(u) : 0; }
  // The elements this rank stores and updates, with their place in the unit: everything it keeps. Not of a unit on NVMe.
  TensorRef stored(int u) const;
  Slice stored_slice(int u) const;
  // Of a unit on NVMe: enqueues the write of what optimizer record `record` updates, the payload of `window` (of
  // NvmeRecords::window_bytes() for as many elements).
  void write_piece(std::size_t record, std::span<std::byte> window);
  // Declares that the owner slices of unit u are new once all of `updated` are complete; all ranks call it in the same order.
  // Units that are used where they are are gathered from their owners unless every rank updated all of it (stage 0).
  void publish(int u, std::vector<Event> updated);

  std::size_t nvme_bytes() const { return pieces_.nvme_bytes(); }
  std::vector<PathTraffic> take_nvme_traffic() { return pieces_.take_traffic(); }

 private:
  // In CPU memory, of a unit on its way from NVMe.
  struct Window {
    Buffer memory;
    Event used = {};    // nothing enqueued reads it after this
    bool held = false;  // between reading and copying
  };
  struct UnitState {
    Tensor stored;                    // whole unit, or this rank's slice
    std::vector<Event> ready;         // after all of them the stored elements are up to date
    std::shared_ptr<Tensor> pending;  // fetched or on its way, not yet leased
    Event fetched;
    std::weak_ptr<Tensor> leased;
    int window = -1;  // being read there, not yet copied
  };
  bool sliced(int u) const;
  bool used_in_place(int u) const { return home(u) == Tier::gpu && !sliced(u); }
  std::size_t stored_bytes(int u) const { return static_cast<std::size_t>(stored_slice(u).count) * size_of(options_.dtype); }
  Status allocate_pieces(TierArena& cpu, std::vector<std::string>* notes);
  // Copies what this rank keeps to its place in the whole unit.
  void copy_up(UnitState& unit, int u, std::byte* whole);
  void fetch(UnitState& unit, int u);

  const StateLayout& layout_;
  std::vector<std::vector<Shape>> shapes_;
  ParamStoreOptions options_;
  Communicator& comm_;
  TierArena& gpu_;
  ParamStoreStreams streams_;
  std::vector<UnitState> units_;
  UnitPieces pieces_;
  std::vector<Window> windows_;
  std::size_t next_window_ = 0;
};

}  // namespace strata
