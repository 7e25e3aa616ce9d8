// Rows of matrices that a RowMethod updates: their moments, which lie apart from the records' other state, in the memory where
// the record is updated and at every step; the projections, kept (kept_projections.h) or made anew when a step needs them; and
// where rows are measured, what that leaves of each, and the sums that the ranks tell each other. Called from the step's
// thread.
//
// Sums over a matrix's rows are those of its cuts (ParamExtent::cut), each added row by row, added in their order: the same
// bits for every partition, record size and processor.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "offload/kept_projections.h"
#include "offload/layout.h"
#include "offload/records.h"
#include "optim/row_method.h"
#include "runtime/arena.h"
#include "runtime/stream.h"

namespace strata {

struct RowStreams {
  StreamRef cpu_update, gpu_update, gpu_to_cpu, cpu_to_gpu, host;
};

class RowUpdates {
 public:
  // All references outlive it.
  RowUpdates(const StateLayout& layout, const Optimizer& method, const ParamGroups& groups, const RowStreams& streams);
  ~RowUpdates();  // waits for copies between the memories
  RowUpdates(const RowUpdates&) = delete;
  RowUpdates& operator=(const RowUpdates&) = delete;

  // on_gpu: of each record of `rank`, whether a GPU with its own memory updates it.
  Status allocate(const std::vector<OptimizerRecord>& records, const std::vector<char>& on_gpu, Rank rank, int zero_stage,
                  TierArena& gpu, TierArena& cpu);

  // Whether the method has such matrices, on any rank; and whether their rows are measured before they are updated.
  bool any() const { return !matrices_.empty(); }
  bool measures() const { return any() && method_->measures(); }
  bool has(std::size_t record) const { return !records_.empty() && !records_[record].stretches.empty(); }

  // Rows of one matrix in a record.
  struct Stretch {
    std::size_t matrix = 0;
    int group = 0;
    std::int64_t offset = 0;     // element of the record
    std::int64_t first_row = 0;  // of the parameter
    std::int64_t rows = 0, columns = 0, rank = 0;
    std::int64_t cut_rows = 0;   // of ParamExtent::cut
    std::int64_t states_at = 0;  // in each array of the record's rows
    std::int64_t rows_at = 0;    // among the record's rows
  };
  const std::vector<Stretch>& stretches(std::size_t record) const { return records_[record].stretches; }

  // Where kept projections of another number hold in `step`: waits for what is enqueued, and makes them. Blocking then, and
  // collective where ranks share the work.
  Status refresh(const UpdateStep& step, const GradientLook& look, const ByteExchange& exchange);

  // grads: the record's, of `dtype`, where it is updated. `stream` updates it.
  void enqueue_measure(std::size_t record, const std::byte* grads, DType dtype, const UpdateStep& step, StreamRef stream,
                       double amount);
  // Blocks until all is measured. What application() needs is known then. Collective where ranks share the work.
  Status exchange(const ByteExchange& gather);
  // What updates stretch `s` of a record on its stream, after measuring if there is any; by value.
  struct Application {
    LowRankBlock block;
    const float* s = nullptr;
    WeightRows weights;
    double scale = 1.0;
    int group = 0;
  };
  Application application(std::size_t record, const Stretch& s, const std::byte* grads, DType dtype, float* p, bf16* p16) const;

  // The record's moments, in the memory where it is updated: as many arrays as the optimizer has states.
  std::array<float*, kMaxStates> moments(std::size_t record) const { return arrays_in(records_[record].memory, record); }
  std::int64_t moment_count(std::size_t record) const { return records_[record].values; }
  // Of records that a GPU updates, in memory of the host, one record at a time.
  std::array<float*, kMaxStates> image(std::size_t record) const { return arrays_in(image_, record); }
  bool on_gpu(std::size_t record) const { return records_[record].on_gpu; }

  // What matrices keep from step to step (RowMethod::scale), by unit and parameter; empty of those that have nothing.
  std::vector<double> memory(int unit, std::size_t param) const;
  void set_memory(int unit, std::size_t param, const std::vector<double>& values);

  // The kept projections of a parameter's matrices, one below the other; empty: they are not kept.
  struct HeldProjection {
    std::int64_t first_element = 0;     // of the matrix, in the parameter
    std::int64_t first = 0, count = 0;  // values, among those of all of the parameter's projections
    std::span<float> values = {};       // for reading, or to be set; empty: this rank does not need it
  };
  std::vector<HeldProjection> projections(int unit, std::size_t param);
  // Whether projections were made, or set.
  bool holds_projections() const { return kept_ != nullptr && kept_->held() >= 0; }
  // The projections that were set are those of the last of so many updates. Blocking.
  Status hold_projections(std::int64_t updates_done);

 private:
  struct Matrix {
    ProjectedMatrix projected;
    double memory = -1.0;  // RowMethod::scale
    double scale = 1.0;    // of the step
  };
  struct Record {
    std::vector<Stretch> stretches;
    bool on_gpu = false;
    std::int64_t rows = 0, values = 0;
    Buffer memory;   // moments, then what measuring leaves
    Buffer results;  // copy of the latter on the host; empty where it is not needed
  };
  // A projection on its way to the GPU, or there; without an image where the GPU makes it.
  struct Window {
    Buffer memory, image;
    std::size_t matrix = 0;
    std::int64_t number = -1;  // none
    Event copied, used;
  };
  std::vector<Stretch> stretches_in(std::size_t unit, Slice range) const;
  RowResults results(const Record& record) const;  // where it is measured
  RowResults results_on_host(const Record& record) const;
  static RowResults results_at(std::byte* memory, std::int64_t rows);
  std::size_t result_bytes(std::int64_t rows) const {
    return method_->measures() ? static_cast<std::size_t>(rows) * (3 * sizeof(double) + sizeof(float)) : 0;
  }
  std::size_t moment_bytes(const Record& record) const {
    return arrays_ * static_cast<std::size_t>(record.values) * sizeof(float);
  }
  std::array<float*, kMaxStates> arrays_in(const Buffer& memory, std::size_t record) const;
  Status allocate_kept(Rank rank, TierArena& gpu, TierArena& cpu);
  LowRankBlock block(const Record& record, const Stretch& s, const std::byte* grads, DType dtype) const;
  // Calls body(sums of the stretch's rows in one cut).
  template <class Body>
  static void for_cuts(const Stretch& s, Body body);
  Window& projection_on_gpu(const Stretch& s, std::int64_t number, StreamRef stream);
  void measure_on_gpu(Record& record, const std::byte* grads, DType dtype, const UpdateStep& step, StreamRef stream);
  void measure_on_host(Record& record, const std::byte* grads, DType dtype, const UpdateStep& step, StreamRef stream,
                       double amount);

  const StateLayout& layout_;
  const RowMethod* method_;   // null: there is none
  const std::size_t arrays_;  // of moments
  const ParamGroups& groups_;
  RowStreams streams_;
  std::vector<Matrix> matrices_;
  std::vector<std::vector<std::size_t>> first_matrix_;  // by unit and parameter
  std::vector<Record> records_;
  std::vector<std::vector<Slice>> shares_;  // by rank that has a part of the sums, of every unit
  std::unique_ptr<KeptProjections> kept_;   // null: they are made anew
  Buffer projection_;                       // of what the CPU updates
  std::size_t projection_matrix_ = 0;
  std::int64_t projection_number_ = -1;
  std::vector<Window> windows_;
  std::size_t next_window_ = 0;
  Buffer image_;
  bool some_on_gpu_ = false, some_on_cpu_ = false;
};

}  // namespace strata
