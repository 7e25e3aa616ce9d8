#include "trainer/environment.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>

#include "parallel/file_rendezvous.h"
#include "parallel/mpi_communicator.h"
#include "parallel/thread_communicator.h"
#include "runtime/cores.h"

namespace strata {

namespace fs = std::filesystem;

namespace {

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::size_t available_on_machine() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  std::size_t kib = 0;
  for (std::string unit; meminfo >> key >> kib; std::getline(meminfo, unit))
    if (key == "MemAvailable:") return kib * 1024;
  return std::size_t{1} << 40;  // unknown: the system will refuse what it does not have
}

std::chrono::milliseconds timeout_of(const Config::Parallel& options) {
  return std::chrono::milliseconds(std::llround(options.timeout * 1000.0));
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

std::size_t memory_limit() {
  std::vector<fs::path> files = {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
  std::ifstream groups("/proc/self/cgroup");  // lines "0::/a/b" (version 2) and "7:memory:/a/b" (version 1)
  for (std::string line; std::getline(groups, line);) {
    const bool second = line.rfind("0::", 0) == 0;
    const auto at = second ? line.find("::/") : line.find(":memory:/");
    if (at == std::string::npos) continue;
    const fs::path root = second ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    for (fs::path group = line.substr(line.find('/', at) + 1); !group.empty(); group = group.parent_path())
      files.push_back(root / group / (second ? "memory.max" : "memory.limit_in_bytes"));
  }
  std::size_t tightest = 0;
  for (const fs::path& file : files) {
    const std::size_t limit = std::strtoull(first_line(file).c_str(), nullptr, 10);  // "max" gives 0
    if (limit > 0 && limit < (std::size_t{1} << 60) && (tightest == 0 || limit < tightest)) tightest = limit;
  }
  return tightest;
}

std::size_t available_host_memory() {
  const std::size_t limit = memory_limit();
  return limit == 0 ? available_on_machine() : std::min(limit, available_on_machine());
}

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
  STRATA_ASSIGN_OR_RETURN(std::optional<RendezvousOptions> meeting, RendezvousOptions::from_environment());
  if (meeting) {
    meeting->timeout = timeout_of(options);
    STRATA_RETURN_IF_ERROR(environment->meet(*meeting));
  } else if (launched_under_mpi()) {
    STRATA_RETURN_IF_ERROR(environment->start_mpi(options));
  } else {
    environment->owned_ = make_single_rank_communicator();
  }
  environment->world_ = environment->owned_.get();
  return environment;
}

Status Environment::meet(const RendezvousOptions& options) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<FileRendezvous> rendezvous, FileRendezvous::meet(options));
  STRATA_ASSIGN_OR_RETURN(owned_, make_world(*rendezvous, options.timeout));
  ranks_on_machine_ = options.size.v;  // a rendezvous is of one host
  local_rank_ = options.rank.v;
  return find_ranks_on_cores("");
}

Status Environment::start_mpi(const Config::Parallel& options) {
  mpi_ = std::make_unique<Mpi>();
  STRATA_ASSIGN_OR_RETURN(mpi_->session, MpiSession::start());
  WorldOptions world;
  world.shared_memory = shared_memory(options.shared_memory);
  world.timeout = timeout_of(options);
  STRATA_ASSIGN_OR_RETURN(owned_, make_world(*mpi_->session, world, &notes_));
  const NodeInfo& node = mpi_->session->node();
  ranks_on_machine_ = node.local_size;
  local_rank_ = node.local_rank;
  STRATA_RETURN_IF_ERROR(find_ranks_on_cores(node.host));
  const Result<CoreMap> map = CoreMap::of_this_machine();
  if (map.ok() && ranks_on_cores_ == 1 && map->cores() * ranks_on_machine_ * 2 <= map->cores_of_machine())
    notes_.push_back("note: rank 0 may use " + std::to_string(map->cores()) + " of " + std::to_string(map->cores_of_machine()) +
                     " cores: the launcher has bound it; `mpirun --bind-to none` lets ranks share all of them out");
  return {};
}

// How many of the ranks run on this host and may use exactly the cores that this one may.
Status Environment::find_ranks_on_cores(const std::string& host) {
  cpu_set_t set;
  CPU_ZERO(&set);
  (void)sched_getaffinity(0, sizeof set, &set);
  std::string mine = host + '\0';
  mine.append(reinterpret_cast<const char*>(&set), sizeof set);
  STRATA_ASSIGN_OR_RETURN(const auto all, owned_->gather_all(std::as_bytes(std::span(mine)), "comparing cores"));
  const auto is_mine = [&](const std::vector<std::byte>& other) {
    return other.size() == mine.size() && std::memcmp(other.data(), mine.data(), mine.size()) == 0;
  };
  ranks_on_cores_ = static_cast<int>(std::count_if(all.begin(), all.end(), is_mine));
  rank_on_cores_ = static_cast<int>(std::count_if(all.begin(), all.begin() + owned_->rank().v, is_mine));
  return {};
}

std::unique_ptr<Environment> Environment::from_communicator(Communicator& world, int ranks_on_machine) {
  std::unique_ptr<Environment> environment(new Environment());
  environment->world_ = &world;
  environment->local_rank_ = environment->rank_on_cores_ = world.rank().v;
  environment->ranks_on_machine_ = environment->ranks_on_cores_ = ranks_on_machine;
  return environment;
}

HostThreads Environment::host_threads(const Config::Device& options, std::string* note) const {
  Status why_free;
  HostThreads threads = strata::host_threads(static_cast<int>(options.threads), rank_on_cores_ % ranks_on_cores_,
                                             ranks_on_cores_, options.bind, &why_free);
  if (!why_free.ok() && note != nullptr)
    *note = "note: compute threads run on any core and memory comes from any node, because the system forbids the choice (" +
            why_free.message() + "); device.bind: false asks for this";
  return threads;
}

std::size_t Environment::host_memory() const {
  return available_host_memory() / 20 * 19 / static_cast<std::size_t>(ranks_on_machine_);
}

}  // namespace strata
