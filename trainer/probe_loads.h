// What a probe keeps busy: one load for each resource, of the operations that training gives it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/unit.h"
#include "nvme/record_traffic.h"
#include "offload/resource.h"
#include "optim/optimizer.h"
#include "trainer/engine.h"
#include "trainer/stream_timer.h"
#include "trainer/unit_forward.h"
#include "trainer/workbench.h"

namespace strata {

// How large what is measured with is; 0 or false: is not measured.
struct ProbeSizes {
  bool compute = false, copies = false;
  std::int64_t cpu_update = 0, gpu_update = 0;  // parameters
  std::size_t payload_bytes = 0;                // of a record on NVMe
  std::size_t nvme_bytes = 0;                   // of the files together, about
};

struct ProbeLoad {
  Resource resource = Resource::compute;
  double amount = 0;  // of one operation, in the resource's unit
  std::unique_ptr<Stream> stream{};
  std::unique_ptr<StreamTimer> timer{};
};

// Made on a dry bench to know how much memory it needs, and again in earnest.
class ProbeLoads {
 public:
  // Allocates and fills. The bench and the model outlive it. Throws StatusError.
  ProbeLoads(Workbench& bench, const Model& model, const EngineOptions& options, const ProbeSizes& sizes);

  // The files of the state, in folders that exist; nothing where no records are measured. Error invalid_config: they cannot be
  // made there.
  Status open_files(const std::vector<std::string>& paths);
  // One load each, warmed up; destroyed before this. Throws StatusError.
  std::vector<ProbeLoad> start();
  // To be said aloud; see RecordTraffic.
  std::vector<std::string> notes() const;

 private:
  struct Copy {
    Resource resource = Resource::cpu_to_gpu;
    TensorRef from{}, to{};
  };
  void make_copies();
  void make_windows(const EngineOptions& options, const ProbeSizes& sizes);

  Workbench& bench_;
  TensorSet on_gpu_, on_cpu_;
  const std::shared_ptr<const Optimizer> method_;
  std::optional<UnitForward> forward_;
  UpdateSlice cpu_update_, gpu_update_;
  std::vector<Copy> copies_;
  RecordTrafficOptions file_;
  std::vector<Buffer> windows_;
  std::unique_ptr<RecordTraffic> traffic_;
};

}  // namespace strata
