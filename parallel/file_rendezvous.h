// How the ranks of a job find each other without MPI: through small files beside a path that all of them see. For starting
// only: a shared file system shows new files late.
//
//   STRATA_ASSIGN_OR_RETURN(const auto options, RendezvousOptions::from_environment());
//   STRATA_ASSIGN_OR_RETURN(auto rendezvous, FileRendezvous::meet(*options));
//   STRATA_ASSIGN_OR_RETURN(auto world, make_world(*rendezvous, timeout));
//
// Files of an earlier job at the same path are not taken for this one's: every rank draws a number, and the group stands when
// all have seen the numbers of all. Files are replaced as a whole and few; the next job at the path reuses them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace strata {

struct RendezvousOptions {
  std::string path;  // files are path.join.0, ...; its folder exists
  Rank rank;
  WorldSize size;
  std::string job = {};  // of the launcher's, when it has one: what has another is left alone
  std::chrono::milliseconds timeout{600'000};

  // From STRATA_RENDEZVOUS (nothing without it) and STRATA_RANK, STRATA_WORLD, or Slurm's SLURM_PROCID, SLURM_STEP_NUM_TASKS
  // (or SLURM_NTASKS), SLURM_JOB_ID, SLURM_STEP_ID. Error: invalid_config.
  static Result<std::optional<RendezvousOptions>> from_environment();
};

// Used by one thread.
class FileRendezvous {
 public:
  // Returns when all ranks are there. Errors: peer_lost naming the ranks that did not come in time, or came with another job or
  // number of ranks; io_error.
  static Result<std::unique_ptr<FileRendezvous>> meet(const RendezvousOptions& options);

  Rank rank() const { return options_.rank; }
  WorldSize size() const { return options_.size; }
  // Every rank's bytes, by rank. Collective; as many calls in the same order on every rank. Errors as above.
  Result<std::vector<std::vector<std::byte>>> gather(std::span<const std::byte> mine, const char* what);

 private:
  explicit FileRendezvous(const RendezvousOptions& options) : options_(options) {}
  Status lead(std::uint64_t nonce);
  Status follow(std::uint64_t nonce);
  std::string file(const char* kind, int rank) const;

  RendezvousOptions options_;
  std::uint64_t group_ = 0;  // the numbers of all ranks in one
  std::uint64_t calls_ = 0;
};

// The communicator of all ranks, which are on one host and share memory. Collective. Error: unsupported when they are on
// several hosts (those need MPI) or share no memory.
Result<std::unique_ptr<Communicator>> make_world(FileRendezvous& rendezvous, std::chrono::milliseconds timeout);

}  // namespace strata
