// Optimizer state in records, at home in the gpu tier, in CPU memory or on NVMe, updated record by record where the home is
// memory that a processor reaches: by the GPU for the gpu tier of the cuda backend, else by the CPU.
//
// A record is a slice of one unit that this rank updates, with m and v (and p, the f32 master, when the parameter store's own
// slice cannot serve: it is 16 bit, or in a GPU's memory while the CPU updates) side by side. On NVMe three windows overlap
// read(r + 1) | update(r) | write(r - 1). Where the gpu tier is a memory of its own, gradients come down and parameters go up
// through three more windows: gradients(r + 1) | update(r) | parameters(r - 1). Record size, windows, home and processor change
// no bit. Called from the step's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "nvme/record_file.h"
#include "offload/grad_store.h"
#include "offload/layout.h"
#include "offload/param_store.h"
#include "optim/adamw.h"

namespace strata {

struct OptimizerStoreOptions {
  int zero_stage = 0;
  Tier home = Tier::cpu;
  std::int64_t record_size = std::int64_t{16} << 20;  // parameters; rounded up to kLayoutBlock
  DType compute = DType::f32;                         // of the parameter store: f32 or bf16
  std::string nvme_file = {};                         // path of this rank's state file
  IoEngineOptions io = {};
  // Called twice: for reading, then for writing.
  std::function<Result<std::unique_ptr<IoEngine>>(const IoEngineOptions&, std::string* why_fallback)> make_engine =
      make_io_engine;
};

struct OptimizerRecord {
  int unit = 0;
  Slice range;  // in the unit's flat range
};

// f32, range.count elements each.
struct RecordState {
  float* p = nullptr;
  float* m = nullptr;
  float* v = nullptr;
};

struct UpdateStreams {
  StreamRef update;  // served by whoever updates (OptimizerStore::update_kind)
  StreamRef nvme_read;
  StreamRef nvme_write;
  StreamRef gpu_to_cpu;  // copies between the memories; unused where there is one
  StreamRef cpu_to_gpu;
  StreamRef host;  // served by the host: fills and visits records
};

class OptimizerStore {
 public:
  // Cuts what `rank` updates into records. Pure.
  static std::vector<OptimizerRecord> cut(const StateLayout& layout, Rank rank, int zero_stage, std::int64_t record_size);

  // Who serves the update stream for records at this home.
  static StreamKind update_kind(const Device& device, Tier home) {
    return device.has_separate_memory() && home == Tier::gpu ? StreamKind::gpu : StreamKind::host;
  }

  // Allocates homes, or windows and the state file. All references outlive the store. `notes` receives lines worth
  // telling the user, each with the state file's path (an I/O engine that fell back, a file without direct I/O).
  static Result<std::unique_ptr<OptimizerStore>> create(const StateLayout& layout, Rank rank,
                                                        const OptimizerStoreOptions& options, TierArena& gpu, TierArena& cpu,
                                                        ParamStore& params, GradStore& grads, const UpdateStreams& streams,
                                                        std::vector<std::string>* notes);
  // Waits for what is enqueued. An error that nobody was given stays with its stream, whose destructor prints it.
  ~OptimizerStore();
  OptimizerStore(const OptimizerStore&) = delete;
  OptimizerStore& operator=(const OptimizerStore&) = delete;

  // Enqueues the update of every record in unit order; each starts when its gradient sums and `after` are there, and each unit
  // is published to the parameter store. Does not block; errors poison the streams. A record that could not be written stops
  // the next step (its read waits for that write); after the last step, synchronize nvme_write to hear of it.
  void step(const AdamWScalars& scalars, const Event& after);

  // Blocking. Calls `fill` for every record with p, m, v to be set (contents undefined before), stores them, refreshes the
  // compute copy and publishes every unit. Collective.
  Status fill(const std::function<Status(const OptimizerRecord&, RecordState)>& fill);
  // Blocking. Calls `visit` with every record's state, up to date; it must not change it.
  Status visit(const std::function<Status(const OptimizerRecord&, RecordState)>& visit);

  const std::vector<OptimizerRecord>& records() const { return records_; }
  std::size_t nvme_bytes() const { return nvme_bytes_; }
  const char* io_engine() const { return read_engine_ ? read_engine_->name() : "none"; }

 private:
  OptimizerStore(const StateLayout& layout, const OptimizerStoreOptions& options, ParamStore& params, GradStore& grads,
                 const UpdateStreams& streams);
  Status allocate(TierArena& gpu, TierArena& cpu, std::vector<std::string>* notes);
  Status allocate_staging(TierArena& cpu);
  Status open_file(const std::vector<std::size_t>& payloads, std::vector<std::string>* notes);
  // What becomes of one record on its way through the pipeline.
  struct Home {
    Buffer memory;  // home gpu or cpu
    std::uint64_t version = 0;
    Event written;
  };
  struct Window {
    Buffer memory;
    Event free;
  };
  // Between the memories: a record's gradients on their way down, its 16-bit parameters on their way up.
  struct Staging {
    Buffer grads;   // f32
    Buffer params;  // bf16; empty in f32, where p itself is copied
    Event free;
  };
  // Whether the CPU updates what the GPU computes with.
  bool staged() const { return separate_ && options_.home != Tier::gpu; }
  // Whether records hold p.
  bool has_master() const { return options_.compute != DType::f32 || staged(); }
  // Elements from one array of a record to the next: large arrays whose addresses differ by a power of two would share cache
  // sets and halve the speed of the update.
  static std::int64_t stride(const OptimizerRecord& record) {
    return record.range.count + (record.range.count >= (std::int64_t{1} << 18) ? 8192 : 0);
  }
  std::size_t payload_bytes(const OptimizerRecord& record) const;
  RecordState state_in(std::size_t r, std::byte* memory) const;
  // Memory of record r, usable by operations enqueued on the update stream from now on. `load`: with its contents.
  std::byte* bring(std::size_t r, bool load);
  // The update stream's operations so far are the last that use the memory of bring(); `changed`: what they wrote is the
  // record's next version.
  void put_back(std::size_t r, std::byte* memory, bool changed);
  // grads: of the record's first element. p16: where its 16-bit parameters go, or null.
  void enqueue_update(std::size_t r, RecordState state, const float* grads, bf16* p16, const AdamWScalars& scalars);
  void step_record(std::size_t r, const AdamWScalars& scalars);
  // Makes the compute copy of p anew, on the update stream.
  void enqueue_refresh(std::size_t r, RecordState state);
  // Copies a staged record's parameters to the GPU once the update stream's operations so far have written them.
  void send_up(std::size_t r, RecordState state);
  std::byte* stored_params(std::size_t r) const;  // of the record's first element
  // The event after which the parameter store has what this rank updated so far.
  Event updated() const { return staged() ? streams_.cpu_to_gpu.record() : streams_.update.record(); }
  Status fill_on_gpu(const std::function<Status(const OptimizerRecord&, RecordState)>& fill);
  Status visit_on_gpu(const std::function<Status(const OptimizerRecord&, RecordState)>& visit);
  void copy_state(std::size_t r, RecordState from, RecordState to, StreamRef stream) const;
  RecordState image_of(std::size_t r) const;
  // Calls each(r) for the records of every unit in order and publishes the unit after them, also where this rank has none.
  void for_each_unit(const std::function<void(int u)>& before, const std::function<void(std::size_t r)>& each, bool publish);
  Window& window(std::size_t r) { return windows_[r % windows_.size()]; }
  Staging& staging(std::size_t r) { return staging_[r % staging_.size()]; }

  const StateLayout& layout_;
  OptimizerStoreOptions options_;
  ParamStore& params_;
  GradStore& grads_;
  UpdateStreams streams_;
  std::vector<OptimizerRecord> records_;
  std::vector<Home> homes_;
  std::vector<Window> windows_;
  std::vector<Staging> staging_;
  Buffer image_;  // p, m, v of one record in host memory, where records live in a GPU's
  bool separate_;
  std::unique_ptr<RecordFile> file_;
  std::unique_ptr<IoEngine> read_engine_;   // used by the nvme_read stream only
  std::unique_ptr<IoEngine> write_engine_;  // used by the nvme_write stream only
  std::size_t nvme_bytes_ = 0;
};

}  // namespace strata
