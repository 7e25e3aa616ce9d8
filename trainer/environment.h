// Where this process runs: its group of ranks and its share of the machine. Created once, before anything else, and kept alive
// until the end of main.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"
#include "trainer/config.h"

namespace strata {

struct RendezvousOptions;

class Environment {
 public:
  // Where STRATA_RENDEZVOUS is set: the ranks of one host that meet there, without MPI (parallel/file_rendezvous.h). Else under
  // mpirun or srun: the group of all started ranks, by MPI. Otherwise one rank, and MPI is not touched.
  static Result<std::unique_ptr<Environment>> from_launcher(const Config::Parallel& options);
  // Around a communicator that the caller keeps alive (ranks as threads of one process).
  static std::unique_ptr<Environment> from_communicator(Communicator& world, int ranks_on_machine);
  ~Environment();

  Communicator& world() const { return *world_; }
  bool leader() const { return world_->rank().v == 0; }
  int ranks_on_machine() const { return ranks_on_machine_; }
  // This rank's place among them.
  int local_rank() const { return local_rank_; }
  // Compute threads for this rank: as many as `options` say, or the physical cores that it may use divided by the ranks that
  // may use the same (at least 1). With options.bind they stay on its part of those cores, where it has a part. `note` (may be
  // null) receives why they do not although they were to.
  HostThreads host_threads(const Config::Device& options, std::string* note = nullptr) const;
  // Host memory this rank may use: what is available now, less a twentieth, divided by the ranks on the machine.
  std::size_t host_memory() const;
  // What the user should know about how ranks were connected; on every rank.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  class Mpi;
  Environment();
  Status meet(const RendezvousOptions& options);
  Status start_mpi(const Config::Parallel& options);
  Status find_ranks_on_cores(const std::string& host);
  std::unique_ptr<Mpi> mpi_;
  std::unique_ptr<Communicator> owned_;
  Communicator* world_ = nullptr;
  int ranks_on_machine_ = 1;
  int local_rank_ = 0;
  int ranks_on_cores_ = 1;  // that may use the same cores as this one
  int rank_on_cores_ = 0;   // this one's place among them
  std::vector<std::string> notes_;
};

// Bytes a process may still take: what the machine has available, and no more than a control group (version 1 or 2) allows.
std::size_t available_host_memory();
// The tightest limit that control groups put on this process's memory; 0: none is visible.
std::size_t memory_limit();

}  // namespace strata
