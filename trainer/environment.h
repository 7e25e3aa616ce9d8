// Where this process runs: its group of ranks and its share of the machine. Created once, before anything else, and kept alive
// until the end of main.
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.h"
#include "runtime/status.h"
#include "trainer/config.h"

namespace strata {

class Environment {
 public:
  // Under mpirun or srun: the group of all started ranks, by MPI. Otherwise one rank, and MPI is not touched.
  static Result<std::unique_ptr<Environment>> from_launcher(const Config::Parallel& options);
  // Around a communicator that the caller keeps alive (ranks as threads of one process).
  static std::unique_ptr<Environment> from_communicator(Communicator& world, int ranks_on_machine);
  ~Environment();

  Communicator& world() const { return *world_; }
  bool leader() const { return world_->rank().v == 0; }
  int ranks_on_machine() const { return ranks_on_machine_; }
  // Compute threads for this rank: `requested`, or the machine's usable cores divided by the ranks on it (at least 1).
  int compute_threads(std::int64_t requested) const;
  // Host memory this rank may use: what is available now, less a twentieth, divided by the ranks on the machine.
  std::size_t host_memory() const;

 private:
  class Mpi;
  Environment();
  std::unique_ptr<Mpi> mpi_;
  std::unique_ptr<Communicator> owned_;
  Communicator* world_ = nullptr;
  int ranks_on_machine_ = 1;
};

}  // namespace strata
