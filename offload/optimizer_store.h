// Optimizer state in records, each at home in the gpu tier, in CPU memory or on NVMe and updated by the GPU or by the CPU, as
// its placement says. Executes the update schedule of offload/schedule.h: five stages (NVMe read | up | update | down | NVMe
// write) overlap over shared windows. Record size, windows, homes, processors and order change no bit.
//
// A record is a slice of one unit that this rank updates, with what the optimizer keeps of it (and p, the f32 master, when the
// parameter store's own slice cannot serve: it is 16 bit, or not in the memory where the record is updated) side by side. Where
// the gpu tier is a memory of its own, whatever an update needs or makes in the other memory is copied: gradients, parameters,
// and whole states for what the GPU updates away from its home. Called from the step's thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "offload/grad_store.h"
#include "offload/layout.h"
#include "offload/nvme_records.h"
#include "offload/param_store.h"
#include "offload/records.h"
#include "offload/row_updates.h"
#include "offload/stateful_choices.h"
#include "offload/turn_states.h"
#include "offload/update_distances.h"
#include "offload/update_plan.h"
#include "optim/adamw.h"
#include "optim/freeze_policy.h"
#include "optim/param_groups.h"

namespace strata {

struct OptimizerStoreOptions {
  std::shared_ptr<const Optimizer> method = std::make_shared<AdamW>();
  ParamGroups groups{0.01};                              // those that the layout's numbers mean
  std::shared_ptr<const FreezePolicy> freeze = nullptr;  // null: every unit is trained in every step
  int zero_stage = 0;
  std::optional<Tier> home = Tier::cpu;  // of every record; absent: `homes` tells each
  std::vector<Tier> homes = {};
  UpdateShare share = {};  // who updates
  Rates rates = {};        // known ones, for who updates and in which order; they change no bit
  ComputeShape compute_shape = {};
  std::int64_t record_size = std::int64_t{16} << 20;  // parameters; rounded up to kLayoutBlock
  DType compute = DType::f32;                         // of the parameter store: f32 or bf16
  std::vector<std::string> nvme_files = {};           // paths of this rank's state files
  NvmeOptions nvme = {};
  ByteExchange exchange = {};  // of sums: rows of matrices (Optimizer::rows()), distances (FreezePolicy::first_distances())
};

// f32: range.count elements. States: OptimizerRecord::states values of each in the optimizer's format; and what the record has
// of rows of matrices (OptimizerRecord::row_states) or of matrices that take turns lies apart, in f32.
struct RecordState {
  float* p = nullptr;
  std::array<std::byte*, kMaxStates> states{};  // in the order of Optimizer::states(); the first `count` are there
  StateFormat format = kF32States;              // of `states`
  std::size_t count = 0;
  std::array<float*, kMaxStates> apart{};  // where the record has some; likewise
  std::int64_t apart_count = 0;            // values in each
  // Of f32 states.
  float* values(std::size_t k) const {
    STRATA_CHECK(format == kF32States, "states are looked at in their format");
    return reinterpret_cast<float*>(states[k]);
  }
};

// Sets all of a record's values to 0. Padding between parameters must be.
void zero(const OptimizerRecord& record, const RecordState& state);

// What a record holds of a parameter: elements, and the states of those that have some.
struct HeldPiece {
  std::size_t param = 0;          // of the unit
  std::int64_t first = 0;         // element, in the parameter
  std::int64_t offset = 0;        // the same element's place in the record
  std::int64_t count = 0;         // elements
  std::int64_t first_state = 0;   // place among the states of all the parameter's elements that have some
  std::int64_t state_offset = 0;  // the same one's place in each of the record's state arrays
  std::int64_t state_count = 0;
  bool states_are_zero = false;  // whatever is stored
  bool apart = false;            // its states are RecordState::apart
};

struct UpdateStreams {
  StreamRef cpu_update;
  StreamRef gpu_update;  // unused where CPU and GPU memory are one: there the CPU updates
  StreamRef nvme_read;
  StreamRef nvme_write;
  StreamRef gpu_to_cpu;  // copies between the memories; unused where there is one
  StreamRef cpu_to_gpu;
  StreamRef host;  // served by the host: fills and visits records
};

class OptimizerStore {
 public:
  // Plans, and allocates homes, windows and the state file. All references outlive the store. `notes` receives lines worth
  // telling the user, each with the state file's path (an I/O engine that fell back, a file without direct I/O).
  static Result<std::unique_ptr<OptimizerStore>> create(const StateLayout& layout, Rank rank,
                                                        const OptimizerStoreOptions& options, TierArena& gpu, TierArena& cpu,
                                                        ParamStore& params, GradStore& grads, const UpdateStreams& streams,
                                                        std::vector<std::string>* notes);
  // Waits for what is enqueued. An error that nobody was given stays with its stream, whose destructor prints it.
  ~OptimizerStore();
  OptimizerStore(const OptimizerStore&) = delete;
  OptimizerStore& operator=(const OptimizerStore&) = delete;

  // Before the backward of a step: the units that it trains (OptimizerStoreOptions::freeze). Until the next call units that are
  // frozen are neither updated nor published, and take no part in begin_step() to finish_update(). Finishes the last update
  // where other units may be trained now; where that depends on distances as know_distances() does. At first those of step 1
  // are trained.
  Status choose_units(std::int64_t step);
  const ActiveUnits& units() const { return units_; }
  // Where the next choice depends on how far the last update moved the units (ActiveUnits::measures()), units() knows it
  // afterwards. Blocks then until that update is done; collective.
  Status know_distances();
  // ActiveUnits::resume().
  void resume_units(std::int64_t step, const std::vector<char>& frozen, std::span<const std::int64_t> updates_done,
                    const std::vector<double>& distances);

  // Begins what a step's update can do before the norm is known: states arrive, gradients leave; and, with `guess`, the records
  // that speculate are updated as this step would, their old states kept. What needs a unit's gradients, and all behind it in
  // the schedule, is enqueued by complete() of this unit. So it takes turns with what the backward moves.
  void begin_step(const std::optional<UpdateStep>& guess = {});
  // Unit u's last reduce() of the step was enqueued.
  void complete(int u);
  // Those of all units. Begins the step if begin_step() did not.
  void complete_all(const std::optional<UpdateStep>& guess = {});
  // Enqueues the rest of the update; each record starts when its gradient sums and `after` are there, and each unit is
  // published to the parameter store. Begins the step if begin_step() did not. Does not block; errors poison the streams. A
  // record that could not be written stops the next step (its read waits for that write); after the last step, synchronize
  // nvme_write to hear of it. Where `step` is not the one that was guessed, every record is updated from its old state: the
  // same bits as without the guess. Returns whether the guess was kept.
  Result<bool> step(const UpdateStep& step, const Event& after) {
    Result<bool> kept = begin_update(step, after);
    if (kept.ok()) finish_update();
    return kept;
  }
  // The same in pieces. begin_update() enqueues only what could have begun before the norm was known; advance() enqueues as
  // much as makes the parameters of units 0 to u new, in the order of the schedule, and publishes them; finish_update() the
  // rest. So what the next forward moves can be enqueued in between, and need not stand behind all of the update on the streams
  // they share. begin_step(), fill() and visit() finish it first.
  // Where rows of matrices are measured first, begin_update() enqueues that, blocks until it is done, and exchanges what the
  // other ranks must know (OptimizerStoreOptions::exchange). Where projections are kept and a new one begins, it blocks until
  // that is made, which may take much longer than a step (KeptProjections). A failure of it is its error.
  Result<bool> begin_update(const UpdateStep& step, const Event& after);
  void advance(int u);
  void finish_update();
  // Blocking. Instead of step(): the step has no update. Parameters and states are as they were before begin_step().
  Status drop_step();

  // Blocking. Calls `fill` for every record with p and its states to be set (contents undefined before; no states of a record
  // that shares memory for them and is frozen), stores them, refreshes the compute copy and publishes every unit. Collective.
  Status fill(const std::function<Status(const OptimizerRecord&, RecordState)>& fill);
  // Blocking. Calls `visit` with every record's state, up to date; it must not change it.
  Status visit(const std::function<Status(const OptimizerRecord&, RecordState)>& visit);

  // What a record of records() holds of `within`, a range of its unit, by place; with the states that are there now.
  std::vector<HeldPiece> held(const OptimizerRecord& record, Slice within) const;
  // Which of the optimizer's choices the states are of (Optimizer::choice); -1: of none, they are zero.
  std::int64_t held_choice() const { return choices_.held(); }
  // Values of each of the optimizer's states that a parameter has in the choice that holds, on all ranks together.
  std::int64_t state_count(int unit, std::size_t param) const;
  // What fill() gives next are states of this choice, after as many updates.
  void hold_choice(std::int64_t choice, std::int64_t updates_done) {
    choices_.hold(choice, updates_done);
    turns_.place(choices_);
  }

  // What matrices keep from step to step beside their states (RowMethod::scale), one number for each part; of others none.
  std::vector<double> row_memory(int unit, std::size_t param) const { return rows_.memory(unit, param); }
  void set_row_memory(int unit, std::size_t param, const std::vector<double>& values) { rows_.set_memory(unit, param, values); }

  // Of a parameter's matrices the projections that are kept (RowUpdates::projections()).
  std::vector<RowUpdates::HeldProjection> projections(int unit, std::size_t param) { return rows_.projections(unit, param); }
  bool holds_projections() const { return rows_.holds_projections(); }
  Status hold_projections(std::int64_t updates_done) { return rows_.hold_projections(updates_done); }

  const std::vector<OptimizerRecord>& records() const { return plan_.schedule.shape.records; }
  const UpdatePlan& plan() const { return plan_; }
  // When record r's parameters are new, as enqueued so far.
  const Event& updated(std::size_t r) const {
    return slots_[static_cast<std::size_t>(plan_.schedule.slots.params(static_cast<int>(r)))].written;
  }
  std::size_t nvme_bytes() const { return file_->bytes(); }
  std::vector<PathTraffic> take_nvme_traffic() { return file_->take_traffic(); }

 private:
  OptimizerStore(const StateLayout& layout, const OptimizerStoreOptions& options, ParamStore& params, GradStore& grads,
                 const UpdateStreams& streams);
  void make_plan(Rank rank);
  Status allocate(Rank rank, TierArena& gpu, TierArena& cpu, std::vector<std::string>* notes);
  Status allocate_windows(TierArena& gpu, TierArena& cpu);
  Status allocate_direct(TierArena& gpu, TierArena& cpu, std::size_t window_bytes);
  std::optional<GpuDirectMemory> direct_memory() const;

  // What reads and writes of a buffer or a file's record are enqueued.
  struct SlotEvents {
    Event written;
    std::vector<Event> read;  // since
  };
  struct Staging {
    Buffer grads;   // empty where no record needs it
    Buffer params;  // bf16; likewise, and in f32, where p itself is copied
  };
  // Where the host finds a record's state during fill() and visit().
  struct HostView {
    RecordState state;
    int slot = 0;
    std::span<std::byte> window = {};  // of a record on NVMe
    int apart = -1;                    // slot of what lies apart; -1: nothing does
  };
  const UpdateSchedule& schedule(bool guessing) const { return guessing || !plan_.waiting ? plan_.schedule : *plan_.waiting; }
  const RecordPlacement& placement(std::size_t r) const { return plan_.schedule.shape.placements[r]; }
  const StateFormat& format() const { return plan_.schedule.shape.format; }
  std::size_t states() const { return static_cast<std::size_t>(plan_.schedule.shape.states); }
  std::size_t payload_bytes(std::size_t r) const;
  // What of it lies at the record's home, and not in shared memory.
  std::size_t home_bytes(std::size_t r) const;
  std::size_t shared_bytes(std::size_t r) const;  // its states there
  bool shares(std::size_t r) const { return shares_states(plan_.schedule.shape, r); }
  Status allocate_shared(TierArena& gpu, TierArena& cpu);
  const Buffer& shared_memory(std::size_t r) const;
  RecordState state_in(std::size_t r, std::byte* memory) const;
  std::byte* stored_params(std::size_t r) const;  // of the record's first element
  bool reaches_params(std::size_t r) const;       // whether host code does
  bool params_on_nvme(std::size_t r) const { return params_.home(records()[r].unit) == Tier::nvme; }
  static std::span<std::byte> window_of(const std::vector<Buffer>& windows, int w) {
    const Buffer& window = windows[static_cast<std::size_t>(w)];
    return {window.data(), window.size()};
  }
  std::span<std::byte> grads_window(int w) const { return window_of(grads_windows_, w); }
  std::span<std::byte> params_window(int w) const { return window_of(params_windows_, w); }
  const Staging* staging_of(const Instruction& instruction) const;  // null: has none
  StreamRef stream_of(Resource resource) const;

  // Makes `stream` wait until the slots may be read and written, calls `enqueue`, and notes what it enqueued.
  template <class Enqueue>
  void ordered(StreamRef stream, std::span<const int> reads, std::span<const int> writes, const Enqueue& enqueue);
  void execute(const Instruction& instruction, const UpdateStep& step);
  void advance_early();
  // What a guess has made of the states is the states, or is not.
  void commit();
  void forget();
  std::byte* cpu_memory(const Instruction& instruction) const;   // of the state, at home or on its way
  std::byte* work_memory(const Instruction& instruction) const;  // where it is updated
  // Where its update leaves it: while the guess is open, the old state stays.
  std::byte* result_memory(const Instruction& instruction) const;
  // The record's newest state from and to its file: through a window that the schedule gives it, or that of fill() and visit().
  void enqueue_read(const Instruction& instruction);
  void enqueue_write(const Instruction& instruction);
  // Elements of a record that are updated at once.
  struct Run {
    std::int64_t first = 0, count = 0;
    std::int64_t states_at = 0;
    int group = 0;
    std::optional<StatefulSet> set = {};  // of the matrix that it is a part of; absent: all elements have states
    std::int64_t first_of_param = 0;      // where there is a set, or another format than f32
    std::uint64_t noise_stream = 0;       // of such a format
    const StatefulWord* gpu_words = nullptr;
    bool states_are_zero = false;
    bool apart = false;  // states_at is in what lies apart
  };
  std::vector<Run> runs_of(std::size_t r) const;
  // The padding that none of `runs` and no rows cover, in order.
  std::vector<Slice> not_updated(std::size_t r, const std::vector<Run>& runs) const;
  void enqueue_measure(const Instruction& instruction, const UpdateStep& step);
  void enqueue_update(const Instruction& instruction, const UpdateStep& step);
  const std::byte* near_grads(const Instruction& instruction) const;  // of its record, where it is updated
  void enqueue_params(const Instruction& instruction);                // up or down
  const std::byte* sums_of(const Instruction& instruction) const;     // gradients of its record, at home or in their window
  void enqueue_grads(const Instruction& instruction);
  // Keeps every unit's gradient sums until what is enqueued has read them.
  void hold_gradients();
  // Makes unit u's new parameters known.
  void publish(int u);
  void publish_all();
  // fill() and visit(): the state of record r in memory that the host reaches; the window or image after it is used in turn.
  HostView host_view(std::size_t r);
  // What the host reads and writes through a view.
  static std::vector<int> slots_of(const HostView& view);
  void load(std::size_t r, const HostView& view);
  void store(std::size_t r, const HostView& view);
  // Makes the compute copy of p anew.
  void refresh(std::size_t r, const HostView& view);
  void enqueue_compute_copy(const float* p, std::byte* to, std::int64_t n);  // on the host stream
  void copy_state(std::size_t r, RecordState from, RecordState to, StreamRef stream) const;
  // States that lie apart: where the record is updated, and for the host. Of rows, or of matrices that take turns.
  using Arrays = std::array<float*, kMaxStates>;
  bool has_apart(std::size_t r) const { return rows_.has(r) || turns_.has(r); }
  bool apart_on_gpu(std::size_t r) const { return rows_.has(r) ? rows_.on_gpu(r) : turns_.on_gpu(r); }
  Arrays apart(std::size_t r) const { return rows_.has(r) ? rows_.moments(r) : turns_.arrays(r); }
  Arrays apart_image(std::size_t r) const { return rows_.has(r) ? rows_.image(r) : turns_.image(r); }
  std::int64_t apart_count(std::size_t r) const { return rows_.has(r) ? rows_.moment_count(r) : turns_.count(r); }
  void copy_apart(std::size_t r, const Arrays& from, const Arrays& to, StreamRef stream) const;
  void choose(std::int64_t step) {
    choices_.choose(step);
    turns_.place(choices_);
  }
  Status synchronize();

  const StateLayout& layout_;
  OptimizerStoreOptions options_;
  ParamStore& params_;
  GradStore& grads_;
  UpdateStreams streams_;
  UpdatePlan plan_;
  ActiveUnits units_;
  bool distances_are_due_ = false;  // know_distances() has something to learn
  bool begun_ = false;
  std::size_t next_early_ = 0;   // instruction of the step that has begun
  std::vector<char> completed_;  // units of it
  // An update that was begun and is not all enqueued.
  struct Update {
    const UpdateSchedule* schedule = nullptr;
    std::vector<std::size_t> through;  // instructions_through_units()
    UpdateStep step;
    std::size_t next = 0;  // instruction
    int published = 0;     // units
  };
  std::optional<Update> update_;
  std::optional<UpdateStep> guess_;  // of the step that has begun
  std::vector<SlotEvents> slots_;  // of the schedule, then of image_, rounded_, direct_image_ and the image of what lies apart
  std::vector<Buffer> homes_;      // empty for records on NVMe
  std::vector<Buffer> shadows_;    // empty for records that need none
  // States of blocks that take turns (ActiveUnits), in the gpu tier and in CPU memory: of each record of a unit, by its number
  // there, once for each block that is active at a time. What updates a tier's records is one stream, so no turn overlaps
  // the one before.
  std::array<std::vector<Buffer>, 2> shared_;
  std::vector<std::size_t> number_in_unit_;   // of each record
  std::vector<std::uint64_t> kept_versions_;  // of the file's records, when the step began
  std::vector<std::int64_t> file_records_;    // place in the state file, by record
  std::vector<Buffer> cpu_windows_, gpu_windows_;
  std::vector<Buffer> params_windows_;  // in CPU memory, of parameters on their way to NVMe
  std::vector<Buffer> grads_windows_;   // in CPU memory, of gradients on their way from NVMe
  std::vector<Staging> staging_;        // in CPU memory
  std::vector<Staging> gpu_staging_;    // in the gpu tier
  Buffer image_;                        // p and the states of one record in host memory, where some live in a GPU's
  Buffer rounded_;                      // 16-bit p of one record on its way up, where there is no staging
  // For records that move between their files and the GPU: what fill() and visit() read and write one through, and what
  // checksums and headers need, for reading and for writing.
  Buffer direct_image_;
  std::vector<Buffer> direct_scratch_, direct_bounce_;
  std::vector<std::vector<StatePiece>> pieces_;  // of each record
  StatefulChoices choices_;
  TurnStates turns_;
  RowUpdates rows_;
  UpdateDistances distances_;
  const bool separate_;  // whether the gpu tier is another memory
  std::unique_ptr<NvmeRecords> file_;
};

template <class Enqueue>
void OptimizerStore::ordered(StreamRef stream, std::span<const int> reads, std::span<const int> writes,
                             const Enqueue& enqueue) {
  const auto slot = [this](int s) -> SlotEvents& { return slots_[static_cast<std::size_t>(s)]; };
  for (const int s : reads) stream.wait(slot(s).written);
  for (const int s : writes) {
    stream.wait(slot(s).written);
    for (const Event& read : slot(s).read) stream.wait(read);
  }
  enqueue();
  const Event done = stream.record();
  for (const int s : reads) slot(s).read.push_back(done);
  for (const int s : writes) slot(s) = {done, {}};
}

}  // namespace strata
