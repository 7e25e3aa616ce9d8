// What units keep of a forward for their backward: the input, and what the forward saved. At home in the gpu tier it stays
// where it was made; else it leaves while the next units compute, and comes back, in the order of the backward, while the
// units before it in that order do. Copies change no bit. Called from the thread that enqueues a step.
//
// Memory of the gpu tier for what is at home elsewhere: two units' in the forward (one computes, one leaves), in the backward
// that of the unit that computes and of `prefetch` others. CPU memory: what is at home there; for NVMe two windows on the way
// out, and in the backward one more than come back. It is taken for the step only: between two steps the store holds nothing.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "offload/nvme_records.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata {

// Of a unit: where what it keeps lives until its backward, and whether that is its input alone, from which the backward runs
// the forward again.
struct ActivationPlacement {
  Tier home = Tier::gpu;
  bool recompute = false;
  bool operator==(const ActivationPlacement&) const = default;
};

// One micro-batch's, of one unit. Tensors may be empty.
struct KeptActivations {
  Tensor input;
  std::vector<Tensor> saved;
  std::size_t bytes() const;
};

struct ActivationStoreOptions {
  std::vector<ActivationPlacement> units = {};
  std::vector<std::size_t> bytes = {};  // of what each unit keeps of a micro-batch; needed for those on NVMe
  int micro_batches = 1;                // of a unit that are kept at one time, numbered from 0
  int prefetch = 1;                     // how many come back ahead of the one that is taken; at least 1
  std::vector<std::string> nvme_files = {};
  NvmeOptions nvme = {};
};

struct ActivationStreams {
  StreamRef compute;
  StreamRef gpu_to_cpu;
  StreamRef cpu_to_gpu;
  StreamRef nvme_read;
  StreamRef nvme_write;
};

class ActivationStore {
 public:
  // Makes the file, where some unit is at home on NVMe. All references outlive the store. `notes` receives lines worth telling
  // the user.
  static Result<std::unique_ptr<ActivationStore>> create(const ActivationStoreOptions& options, TierArena& gpu, TierArena& cpu,
                                                         const ActivationStreams& streams, std::vector<std::string>* notes);
  ~ActivationStore();  // waits for what it has enqueued
  ActivationStore(const ActivationStore&) = delete;
  ActivationStore& operator=(const ActivationStore&) = delete;

  const ActivationPlacement& placement(int u) const { return options_.units[static_cast<std::size_t>(u)]; }

  // Before unit u's forward allocates: returns the memory of what has left to the arena, in compute order.
  void make_room(int u);
  // After the forward of unit u and micro-batch `index` was enqueued.
  void keep(int u, int index, KeptActivations kept);
  // Every forward was enqueued; they will be taken in this order (unit, micro-batch), each once.
  void begin_backward(std::vector<std::pair<int, int>> order);
  // Starts bringing back the next ones. Before the compute that should hide it is enqueued.
  void prefetch();
  // Makes the compute stream wait until it is there.
  KeptActivations take(int u, int index);

  // Bytes that unit u kept of a micro-batch; 0 before its first keep().
  std::size_t bytes(int u) const { return bytes_[static_cast<std::size_t>(u)]; }
  // The same, of the input alone.
  std::size_t input_bytes(int u) const { return input_bytes_[static_cast<std::size_t>(u)]; }
  std::size_t nvme_bytes() const { return file_->bytes(); }
  std::vector<PathTraffic> take_nvme_traffic() { return file_->take_traffic(); }

 private:
  struct Shell {  // a tensor without its memory
    DType dtype = DType::f32;
    Shape shape;
    bool empty = true;
  };
  struct Entry {
    KeptActivations kept;       // in the gpu tier: at home, or back
    std::vector<Shell> shells;  // input, then saved; of what is away
    Buffer memory;              // at home in CPU memory, or a window on its way back
    Event stored;               // at home
    Event in_memory;            // in CPU memory again
    Event fetched;              // in the gpu tier again
    bool reading = false, fetching = false;
  };
  struct Leaving {
    KeptActivations kept;
    Event done;
  };
  struct Writing {
    Buffer window;
    Event done;
  };
  ActivationStore(const ActivationStoreOptions& options, TierArena& gpu, TierArena& cpu, const ActivationStreams& streams);
  Status open_file(std::vector<std::string>* notes);
  bool away(int u) const { return placement(u).home != Tier::gpu; }
  Entry& entry(int u, int index) {
    return entries_[static_cast<std::size_t>(u) * static_cast<std::size_t>(options_.micro_batches) +
                    static_cast<std::size_t>(index)];
  }
  std::int64_t file_record(int u, int index) const;
  Buffer take_memory(std::size_t bytes, Category category, int u);
  // CPU memory that was freed may still be read or written by what was enqueued.
  void wait_for_freed_memory(StreamRef stream);
  void send_away(int u, int index, KeptActivations kept);
  void start_reading(int u, int index);
  void start_fetching(int u, int index);

  ActivationStoreOptions options_;
  TierArena& gpu_;
  TierArena& cpu_;
  ActivationStreams streams_;
  std::vector<Entry> entries_;
  std::vector<std::size_t> bytes_, input_bytes_;
  std::deque<Leaving> leaving_;                  // at most two
  std::deque<Writing> writing_;                  // at most two
  std::deque<std::pair<int, int>> coming_back_;  // those away, in the order in which they will be taken
  Event freed_by_write_, freed_by_fetch_;        // the last operations on CPU memory that was freed
  std::vector<std::int64_t> first_record_;       // of each unit in the file
  std::unique_ptr<NvmeRecords> file_;
};

}  // namespace strata
