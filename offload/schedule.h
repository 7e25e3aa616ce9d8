// A step's update as a list of instructions: what moves or is computed, on which resource, through which windows, in which
// order. A value: the optimizer store executes it, the simulator times it, `strata plan` prints it.
//
// Instructions name the slots they read and write. Whoever executes a list derives all waiting from them: a reader waits for
// the slot's last writer, a writer for it and for the readers since; a resource takes its instructions in the list's order. So
// nothing waits for what comes later in the list, and no list can deadlock.
#pragma once

#include <vector>

#include "offload/few.h"
#include "offload/records.h"
#include "offload/resource.h"
#include "optim/state_format.h"
#include "runtime/dtype.h"

namespace strata {

enum class Action {
  read_state,    // NVMe file -> CPU window, or GPU window
  read_grads,    // gradient sums in an NVMe file -> gradient window
  state_up,      // CPU home or window -> GPU window
  grads_down,    // gradient sums -> staging in CPU memory
  grads_up,      // gradient sums -> staging on the GPU
  measure,       // on cpu_update or gpu_update: rows of matrices, before any of them is updated (optim/row_method.h)
  update,        // likewise
  params_up,     // staging or the CPU's p -> compute copy in the gpu tier
  params_down,   // staging or the GPU's p -> compute copy in CPU memory, or parameter window
  write_params,  // parameter window -> compute copy in an NVMe file
  state_down,    // GPU window -> CPU home or window
  write_state,   // CPU window, or GPU window -> NVMe file
};
const char* to_string(Action action);

// Buffers that records share, one after another. 0 where no record needs one.
struct WindowCounts {
  int cpu = 0;          // states of a record on its way from and to NVMe
  int gpu = 0;          // states of a record that the GPU updates away from its home, also on its way from and to NVMe
  int staging = 0;      // CPU memory: gradients that come down to the CPU's update, parameters that go up from it
  int gpu_staging = 0;  // gradients that go up to the GPU's update, parameters that come down from it
  int params = 0;       // CPU memory: parameters on their way to NVMe
  int grads = 0;        // CPU memory: gradients on their way from NVMe
  bool operator==(const WindowCounts&) const = default;
};

struct Instruction {
  Action action = Action::update;
  Resource resource = Resource::cpu_update;
  int record = 0;
  double amount = 0.0;  // of the resource's unit (Rates)
  // Of the record; -1: has none.
  int cpu_window = -1, gpu_window = -1, staging = -1, gpu_staging = -1, params_window = -1, grads_window = -1;
  Few reads, writes;  // slots
};

// Numbers of the slots.
class Slots {
 public:
  Slots() = default;
  Slots(int units, int records, WindowCounts windows) : units_(units), records_(records), windows_(windows) {}
  int grads(int unit) const { return unit; }
  int norm() const { return units_; }
  int params(int record) const { return units_ + 1 + record; }
  int home(int record) const { return params(records_) + record; }
  int rows(int record) const { return home(records_) + record; }  // what lies apart of its matrices' rows
  int cpu_window(int w) const { return rows(records_) + w; }
  int gpu_window(int w) const { return cpu_window(windows_.cpu) + w; }
  int staging(int s) const { return gpu_window(windows_.gpu) + s; }
  int gpu_staging(int s) const { return staging(windows_.staging) + s; }
  int params_window(int w) const { return gpu_staging(windows_.gpu_staging) + w; }
  int grads_window(int w) const { return params_window(windows_.params) + w; }
  int count() const { return grads_window(windows_.grads); }

 private:
  int units_ = 0, records_ = 0;
  WindowCounts windows_;
};

// What is known of the records before a schedule is made.
struct UpdateShape {
  int units = 0;
  std::vector<OptimizerRecord> records;
  std::vector<RecordPlacement> placements;     // of each record
  std::vector<UnitPlacement> unit_placements;  // of each unit; empty: all in the gpu tier
  // Of each record: updated as soon as its gradients are there, before the norm is known, in such a way that what it was can
  // still be had (speculation; offload/optimizer_store.h). Empty: none.
  std::vector<char> speculates = {};
  // What lives on NVMe and is updated by the GPU moves between the file and a GPU window, past CPU memory (cuFile).
  bool gpu_direct = false;
  // Of each unit: it is not trained in this step, so that its records have no instructions. Empty: none.
  std::vector<char> frozen = {};
  // Of each unit: its states share memory with those of others, where they are at home in memory. Empty: none.
  std::vector<char> shares_states = {};
  bool separate_memory = false;  // CPU and GPU memory are two: gradients and parameters are copied between them
  DType compute = DType::f32;    // of the parameters that are computed with
  DType grads = DType::f32;      // of the gradient sums that the update reads
  bool two_passes = false;       // some rank has records whose rows are measured before they are updated; then none speculates
  int states = 2;                // of the optimizer: arrays that a record has of OptimizerRecord::states values each
  StateFormat format = kF32States;  // of these values
};

// Of the record's unit.
UnitPlacement unit_placement(const UpdateShape& shape, std::size_t record);
// Whether the record holds p, the f32 master: its compute copy is 16 bit, or not in the memory where the state is updated.
bool has_master(const UpdateShape& shape, std::size_t record);
double state_bytes(const UpdateShape& shape, std::size_t record);
bool speculates(const UpdateShape& shape, std::size_t record);
// Whether its unit is frozen. What a record is and where it lives does not depend on it.
bool is_frozen(const UpdateShape& shape, std::size_t record);
// Whether its states lie in memory that records of other units use too: of a unit that shares, and neither on NVMe nor
// updated by the GPU away from it.
bool shares_states(const UpdateShape& shape, std::size_t record);
// Whether it has rows of matrices to be measured: then all of those are before any such record is updated, and gradients that
// come from elsewhere come twice.
bool measures(const UpdateShape& shape, std::size_t record);
// Whether it could: it has no rows of matrices, whose moments have no second copy, nor states in memory that others share; it
// holds its master, so that the compute copy can be made again; and it lives where a second copy can be kept beside the first:
// on NVMe, where every record has two slots, or in CPU memory.
bool can_speculate(const UpdateShape& shape, std::size_t record);
// Whether it does, and needs memory for its second copy.
bool needs_shadow(const UpdateShape& shape, std::size_t record);

// How many of `records`, the first ones, are updated before the next forward begins where the share `delayed` may be late.
std::size_t prompt_records(std::size_t records, double delayed);

// How a record passes through the pipeline. Where CPU and GPU memory are one, nothing is copied between them.
struct UpdateRoute {
  bool on_gpu = false;  // updated there
  bool reads_file = false;
  bool direct = false;                          // between the file and the GPU
  bool state_travels = false;                   // up and down: the GPU updates what is not at home there
  bool grads_down = false, grads_up = false;    // to where they are needed
  bool params_up = false, params_down = false;  // to where they live
  bool writes_params = false;                   // to NVMe, where they live
  bool reads_grads = false;                     // from NVMe, likewise; up from there where grads_up
  bool has_cpu_window() const { return reads_file && !direct; }
  bool has_gpu_window() const { return state_travels || direct; }
};
UpdateRoute route_of(const UpdateShape& shape, std::size_t record);

// When the first step's backward gives what the update needs; 0 everywhere: at once.
struct GradientTimes {
  std::vector<double> grads;  // seconds, of each unit
  double norm = 0.0;
};

struct UpdateSchedule {
  UpdateShape shape;
  WindowCounts windows;
  Slots slots;
  std::vector<Instruction> instructions;
};

// How many instructions at the list's beginning do not wait for the norm: they run beside the backward.
std::size_t early_instructions(const UpdateSchedule& schedule);

// How many, from the list's beginning, until all rows are measured; 0: none is.
std::size_t measuring_instructions(const UpdateSchedule& schedule);

// The unit whose gradient sums the instruction reads where they are at home, or -1.
int needs_gradients_of(const UpdateSchedule& schedule, const Instruction& instruction);

// Of each unit, how many instructions, from the list's beginning, make all parameters of it and of the units before it new.
std::vector<std::size_t> instructions_through_units(const UpdateSchedule& schedule);

// The windows that `shape` needs so that every stage of the pipeline has one in hand: three of each kind, or as many as there
// are records that use the kind, whichever units are frozen.
WindowCounts full_windows(const UpdateShape& shape);

// List scheduling: each resource, when free, takes the first record's instruction that could begin; windows are granted in
// the same order. Records that speculate come first, the last unit's before the others', as a backward gives their gradients;
// then the others, the first unit's first, as the next forward needs their parameters. The order depends on `rates` (all
// unknown: those of a common machine), the result of executing it does not.
UpdateSchedule make_update_schedule(const UpdateShape& shape, WindowCounts windows, const Rates& rates,
                                    const GradientTimes& times = {});

}  // namespace strata
