#include "launcher/command.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace strata {

int finish_command(const Status& status) {
  if (!status.ok()) std::fprintf(stderr, "strata: error: %s\n", status.message().c_str());
  return exit_code(status);
}

int finish_rank(const Status& status, const Environment& environment) {
  if (status.ok()) return 0;
  const bool alone = environment.world().size().v > 1 && !status.is_on_every_rank();
  const std::string rank = alone ? "rank " + std::to_string(environment.world().rank().v) + ": " : "";
  if (alone || environment.leader()) std::fprintf(stderr, "strata: error: %s%s\n", rank.c_str(), status.message().c_str());
  std::fflush(stderr);
  return exit_code(status);
}

// srun's ranks are known by Slurm's or PMIx's variables.
bool first_of_launch() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"})
    if (const char* rank = std::getenv(name)) return std::string(rank) == "0";
  return true;
}

}  // namespace strata
