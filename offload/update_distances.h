// How far updates move the blocks of a model (FreezePolicy::first_distances()): what a record's parameters were is kept until
// its update is done, and compared then, by the stream that updates it. Sums are of integers
// (kernels::sum_relative_changes()): the same for every record size, processor, partition and number of ranks. Called from the
// step's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "offload/kept_projections.h"
#include "offload/layout.h"
#include "offload/records.h"
#include "runtime/arena.h"
#include "runtime/stream.h"

namespace strata {

class UpdateDistances {
 public:
  // All references outlive it.
  UpdateDistances(const StateLayout& layout, StreamRef cpu_update, StreamRef gpu_update, StreamRef gpu_to_cpu)
      : layout_(layout), cpu_update_(cpu_update), gpu_update_(gpu_update), gpu_to_cpu_(gpu_to_cpu) {}
  ~UpdateDistances();  // waits for copies between the memories
  UpdateDistances(const UpdateDistances&) = delete;
  UpdateDistances& operator=(const UpdateDistances&) = delete;

  // measured: of each unit, whether it ever is; on_gpu: of each record, whether a GPU with its own memory updates it.
  Status allocate(const std::vector<OptimizerRecord>& records, const std::vector<char>& measured,
                  const std::vector<char>& on_gpu, TierArena& gpu, TierArena& cpu);

  // Around what updates the record, on the same stream. keep() gives where its parameters are as they were; an update that
  // leaves them where they are needs none.
  const float* keep(std::size_t record, const float* p, StreamRef stream);
  void compare(std::size_t record, const float* before, const float* after, StreamRef stream);

  // Of each unit the distance of its last update; 0 of those of which nothing was compared since the last call. Blocks until
  // the updates that are enqueued are done. gather: absent where every rank updates everything; else collective.
  Result<std::vector<double>> take(const ByteExchange* gather);
  // What was compared since the last take() was of updates that are dropped.
  void forget();

 private:
  struct Record {
    int unit = 0;
    std::int64_t n = 0;
    std::uint64_t* sum = nullptr;  // where it is updated; null: it is not measured
    bool on_gpu = false, compared = false;
  };
  const StateLayout& layout_;
  StreamRef cpu_update_, gpu_update_, gpu_to_cpu_;
  std::vector<Record> records_;
  Buffer kept_, sums_;                         // in CPU memory
  Buffer gpu_kept_, gpu_sums_, gpu_partials_;  // in the gpu tier
  Buffer image_;                               // of gpu_sums_, in CPU memory
};

}  // namespace strata
