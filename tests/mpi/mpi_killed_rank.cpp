// `mpirun -n W mpi_killed_rank shm|p2p [TIMEOUT_MS]`: the last rank kills itself in the middle of a run. The others print what
// they are told.
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "parallel/mpi_communicator.h"

namespace {

strata::Status run(bool shared_memory, std::chrono::milliseconds timeout) {
  using namespace strata;
  STRATA_ASSIGN_OR_RETURN(auto session, MpiSession::start());
  using SharedMemory = WorldOptions::SharedMemory;
  STRATA_ASSIGN_OR_RETURN(
      auto world,
      make_world(*session, {.shared_memory = shared_memory ? SharedMemory::on : SharedMemory::off, .timeout = timeout}));
  for (int step = 0;; ++step) {
    if (step == 100 && world->rank().v == world->size().v - 1) ::raise(SIGKILL);
    STRATA_RETURN_IF_ERROR(world->barrier("the end of a step"));
  }
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGTERM, SIG_IGN);  // mpirun's; its SIGKILL comes a second later
  const int timeout = argc > 2 ? std::atoi(argv[2]) : 600'000;
  const strata::Status status = run(argc > 1 && std::string(argv[1]) == "shm", std::chrono::milliseconds(timeout));
  std::printf("error: %s\n", status.message().c_str());
  std::fflush(stdout);
  return 1;
}
