// Measures what the parts of this machine do for a configuration, each alone and all at once: what a plan decides by
// (device.rates). A step keeps all of them busy, and they share memory, links and processors: so the rates that count are those
// under concurrent traffic.
//
// Not thread-safe; measuring takes threads of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "model/unit.h"
#include "offload/resource.h"
#include "parallel/communicator.h"
#include "runtime/status.h"
#include "runtime/stream.h"
#include "trainer/engine.h"
#include "trainer/plan.h"

namespace strata {

struct ProbeOptions {
  bool unused = false;         // also what the configuration has no use for
  std::size_t nvme_bytes = 0;  // of this rank's scratch files together, about
};

// Something that is not measured, and why.
struct LeftOut {
  std::string what;  // "nvme_read, nvme_write"
  std::string why;
};

class Probe {
 public:
  // Allocates and fills what is measured with, within `budgets`: what does not fit is left out. Creates the state files of
  // `options.optimizer` in folders that exist; they are removed on destruction. What `device` does not have (copies and a GPU's
  // updates on the host) is not measured. Errors: invalid_config where the files cannot be made, io_error where they cannot be
  // written. device and model outlive the probe; nobody else uses them meanwhile.
  static Result<std::unique_ptr<Probe>> create(const EngineOptions& options, const Model& model, WorldSize world,
                                               Device& device, const Budgets& budgets, const ProbeOptions& probe);
  ~Probe();

  // Each for `seconds`, one after the other.
  Result<Rates> alone(double seconds);
  // All for `seconds` at once; longer where something takes longer to be done once. Work done by the time it took; of compute,
  // by the median of its forwards. What computes updates too (a GPU; without one the host's threads) and in a step does
  // mostly one of them: each is measured beside everything but the other, for half of `seconds`.
  Result<Rates> together(double seconds);

  const std::vector<LeftOut>& left_out() const;
  // To be said aloud: an I/O engine that fell back, a path that goes through the page cache.
  const std::vector<std::string>& notes() const;

 private:
  class Impl;
  explicit Probe(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
