#include "trainer/environment.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>

#include "parallel/mpi_communicator.h"
#include "parallel/thread_communicator.h"

namespace strata {
namespace {

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int machine_cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

std::size_t available_memory() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::size_t kib = 0;
  for (std::string unit; meminfo >> key >> kib; std::getline(meminfo, unit))
    if (key == "MemAvailable:") return kib * 1024;
  return std::size_t{1} << 40;  // unknown: the system will refuse what it does not have
}

WorldOptions::SharedMemory shared_memory(AutoOnOff wish) {
  switch (wish) {
    case AutoOnOff::on: return WorldOptions::SharedMemory::on;
    case AutoOnOff::off: return WorldOptions::SharedMemory::off;
    case AutoOnOff::automatic: break;
  }
  return WorldOptions::SharedMemory::automatic;
}

}  // namespace

class Environment::Mpi {
 public:
  std::unique_ptr<MpiSession> session;
};

Environment::Environment() = default;

Environment::~Environment() {
  owned_.reset();
  mpi_.reset();
}

Result<std::unique_ptr<Environment>> Environment::from_launcher(const Config::Parallel& options) {
  std::unique_ptr<Environment> environment(new Environment());
  if (!launched_under_mpi()) {
    environment->owned_ = make_single_rank_communicator();
  } else {
    environment->mpi_ = std::make_unique<Mpi>();
    STRATA_ASSIGN_OR_RETURN(environment->mpi_->session, MpiSession::start());
    WorldOptions world;
    world.shared_memory = shared_memory(options.shared_memory);
    world.timeout = std::chrono::milliseconds(std::llround(options.timeout * 1000.0));
    STRATA_ASSIGN_OR_RETURN(environment->owned_, make_world(*environment->mpi_->session, world));
    environment->ranks_on_machine_ = environment->mpi_->session->node().local_size;
  }
  environment->world_ = environment->owned_.get();
  return environment;
}

std::unique_ptr<Environment> Environment::from_communicator(Communicator& world, int ranks_on_machine) {
  std::unique_ptr<Environment> environment(new Environment());
  environment->world_ = &world;
  environment->ranks_on_machine_ = ranks_on_machine;
  return environment;
}

int Environment::compute_threads(std::int64_t requested) const {
  if (requested > 0) return static_cast<int>(requested);
  // A launcher that binds its ranks has divided the cores already.
  const int usable = usable_cores();
  return usable < machine_cores() ? usable : std::max(1, usable / ranks_on_machine_);
}

std::size_t Environment::host_memory() const {
  return available_memory() / 20 * 19 / static_cast<std::size_t>(ranks_on_machine_);
}

}  // namespace strata
