#include "parallel/mpi_communicator.h"

#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>

#include "parallel/mpi_peers.h"
#include "parallel/process_communicator.h"
#include "parallel/thread_communicator.h"

namespace strata {

namespace {

constexpr std::size_t kHostBytes = 256;

std::string host_name() {
  char name[kHostBytes] = "";
  if (::gethostname(name, sizeof(name) - 1) != 0) return "unknown";
  return name;
}

int number_from_environment(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

// How many ranks the launcher says there are; 0: it does not say.
int launched_ranks() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const int ranks = number_from_environment(name); ranks > 0) return ranks;
  return 0;
}

// Who is where: host names, and nodes numbered by their first rank.
Result<std::vector<GroupMember>> find_members(MPI_Comm comm, int size) {
  MPI_Comm node = MPI_COMM_NULL;
  STRATA_RETURN_IF_ERROR(
      mpi_status(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node), "MPI_Comm_split_type"));
  struct Entry {
    int node = 0;
    int local = 0;
    char host[kHostBytes] = "";
  } mine;
  MPI_Comm_rank(comm, &mine.node);
  MPI_Comm_rank(node, &mine.local);
  MPI_Bcast(&mine.node, 1, MPI_INT, 0, node);  // the rank of the node's first
  MPI_Comm_free(&node);
  const std::string host = host_name();
  std::memcpy(mine.host, host.c_str(), host.size() + 1);
  std::vector<Entry> entries(static_cast<std::size_t>(size));
  STRATA_RETURN_IF_ERROR(mpi_status(
      MPI_Allgather(&mine, sizeof(Entry), MPI_BYTE, entries.data(), sizeof(Entry), MPI_BYTE, comm), "MPI_Allgather"));
  std::vector<GroupMember> members;
  for (const Entry& entry : entries) members.push_back({entry.host, entry.node, entry.local});
  return members;
}

// Every rank's bytes by MPI alone: what the shared-memory channel is set up with.
Result<std::vector<std::vector<std::byte>>> gather_by_mpi(std::span<const std::byte> mine, int size) {
  const int bytes = static_cast<int>(mine.size());
  std::vector<int> sizes(static_cast<std::size_t>(size)), offsets(static_cast<std::size_t>(size));
  STRATA_RETURN_IF_ERROR(
      mpi_status(MPI_Allgather(&bytes, 1, MPI_INT, sizes.data(), 1, MPI_INT, MPI_COMM_WORLD), "MPI_Allgather"));
  int total = 0;
  for (std::size_t r = 0; r < sizes.size(); ++r) {
    offsets[r] = total;
    total += sizes[r];
  }
  std::vector<std::byte> all(static_cast<std::size_t>(total));
  STRATA_RETURN_IF_ERROR(mpi_status(
      MPI_Allgatherv(mine.data(), bytes, MPI_BYTE, all.data(), sizes.data(), offsets.data(), MPI_BYTE, MPI_COMM_WORLD),
      "MPI_Allgatherv"));
  std::vector<std::vector<std::byte>> by_rank;
  for (std::size_t r = 0; r < sizes.size(); ++r)
    by_rank.emplace_back(all.begin() + offsets[r], all.begin() + offsets[r] + sizes[r]);
  return by_rank;
}

int largest_node(const std::vector<GroupMember>& members) {
  int largest = 0;
  for (const GroupMember& member : members) largest = std::max(largest, member.local + 1);
  return largest;
}

}  // namespace

bool launched_under_mpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return std::getenv("SLURM_PROCID") != nullptr && number_from_environment("SLURM_STEP_NUM_TASKS") > 1;
}

NodeInfo this_node() { return {.local_rank = 0, .local_size = 1, .host = host_name()}; }

MpiSession::MpiSession(bool owns_mpi)
    : owns_mpi_(owns_mpi),
      exceptions_at_start_(std::uncaught_exceptions()),
      abandoned_(std::make_shared<std::atomic<bool>>(false)) {}

Result<std::unique_ptr<MpiSession>> MpiSession::start() {
  int initialized = 0;
  int provided = MPI_THREAD_SINGLE;
  MPI_Initialized(&initialized);
  if (initialized != 0)
    MPI_Query_thread(&provided);
  else
    STRATA_RETURN_IF_ERROR(mpi_status(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread"));
  std::unique_ptr<MpiSession> session(new MpiSession(initialized == 0));
  if (provided < MPI_THREAD_MULTIPLE)
    return Status(Code::unsupported, "this MPI library offers thread level " + std::to_string(provided) +
                                         "; Strata communicates from several threads and needs MPI_THREAD_MULTIPLE");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &session->rank_.v);
  MPI_Comm_size(MPI_COMM_WORLD, &session->size_.v);
  if (session->size_.v == 1 && launched_ranks() > 1)
    return Status(Code::invalid_config,
                  "the launcher started " + std::to_string(launched_ranks()) +
                      " tasks but MPI sees only this one: its launcher and the MPI library do not know each other. "
                      "Under Slurm use `srun --mpi=pmix` or mpirun inside the job");
  STRATA_ASSIGN_OR_RETURN(const std::vector<GroupMember> members, find_members(MPI_COMM_WORLD, session->size_.v));
  const GroupMember& self = members[static_cast<std::size_t>(session->rank_.v)];
  const auto on_this_node = std::count_if(members.begin(), members.end(), [&](const auto& m) { return m.node == self.node; });
  session->node_ = {.local_rank = self.local, .local_size = static_cast<int>(on_this_node), .host = self.host};
  return session;
}

MpiSession::~MpiSession() {
  const bool unwinding = std::uncaught_exceptions() > exceptions_at_start_;
  if (owns_mpi_ && !is_abandoned() && !unwinding) MPI_Finalize();
}

namespace {

Result<std::shared_ptr<NodeChannel>> open_world_channels(const std::vector<GroupMember>& members, Rank self,
                                                         const WorldOptions& options, std::vector<std::string>* notes) {
  if (options.shared_memory == WorldOptions::SharedMemory::off) return std::shared_ptr<NodeChannel>();
  const int size = static_cast<int>(members.size());
  auto opened = open_node_channels(members, self, options.chunk_bytes, ProcessCommunicator::kRoundsInFlight,
                                   [size](std::span<const std::byte> mine) { return gather_by_mpi(mine, size); });
  const bool may_do_without = options.shared_memory == WorldOptions::SharedMemory::automatic;
  if (opened.ok() || !may_do_without || opened.status().code() != Code::unsupported) return opened;
  if (notes != nullptr)
    notes->push_back(opened.status().message() + "; ranks of one host use point-to-point MPI instead, which is slower");
  return std::shared_ptr<NodeChannel>();
}

Status pretend(const std::vector<int>& hosts, std::vector<GroupMember>* members) {
  if (hosts.size() != members->size())
    return {Code::invalid_argument, "pretended_hosts has an entry for each of the " + std::to_string(members->size()) +
                                        " ranks, not " + std::to_string(hosts.size())};
  std::map<int, int> ranks_of;
  for (std::size_t r = 0; r < hosts.size(); ++r) {
    (*members)[r].node = hosts[r];
    (*members)[r].local = ranks_of[hosts[r]]++;
  }
  return {};
}

std::vector<int> ranks_without_shared_memory(const std::vector<GroupMember>& members, Rank self, bool shared) {
  std::vector<int> ranks;
  for (int r = 0; r < static_cast<int>(members.size()); ++r) {
    const bool same_node = members[static_cast<std::size_t>(r)].node == members[static_cast<std::size_t>(self.v)].node;
    if (r != self.v && !(shared && same_node)) ranks.push_back(r);
  }
  return ranks;
}

}  // namespace

Result<std::unique_ptr<Communicator>> make_world(MpiSession& session, const WorldOptions& options,
                                                 std::vector<std::string>* notes) {
  if (options.chunk_bytes < 64 || options.chunk_bytes % 64 != 0 || options.chunk_bytes > (std::size_t{1} << 30))
    return Status(Code::invalid_argument,
                  "chunk_bytes is a multiple of 64 between 64 and 2^30, not " + std::to_string(options.chunk_bytes));
  if (session.size().v == 1) return make_single_rank_communicator();

  const Rank self = session.rank();
  STRATA_ASSIGN_OR_RETURN(std::vector<GroupMember> members, find_members(MPI_COMM_WORLD, session.size().v));
  if (!options.pretended_hosts.empty()) STRATA_RETURN_IF_ERROR(pretend(options.pretended_hosts, &members));
  if (options.chunk_bytes < 64 * static_cast<std::size_t>(largest_node(members)))
    return Status(Code::invalid_argument, "chunk_bytes is at least 64 for each of the " +
                                              std::to_string(largest_node(members)) + " ranks of a host, not " +
                                              std::to_string(options.chunk_bytes));
  STRATA_ASSIGN_OR_RETURN(std::shared_ptr<NodeChannel> node, open_world_channels(members, self, options, notes));
  const std::vector<int> others = ranks_without_shared_memory(members, self, node != nullptr);
  // Where no rank needs it MPI is not asked for more; whether one does is the same answer everywhere.
  const bool needs_mpi = node == nullptr || largest_node(members) < session.size().v;
  std::unique_ptr<MpiPeers> remote;
  std::shared_ptr<MpiAbortLine> abort_line;
  if (needs_mpi) {
    STRATA_ASSIGN_OR_RETURN(const MPI_Comm data_comm, duplicate_comm(MPI_COMM_WORLD));
    STRATA_ASSIGN_OR_RETURN(const MPI_Comm abort_comm, duplicate_comm(MPI_COMM_WORLD));
    remote = std::make_unique<MpiPeers>(data_comm, others, options.chunk_bytes, ProcessCommunicator::kRoundsInFlight);
    abort_line = std::make_shared<MpiAbortLine>(abort_comm, self, others);
  }
  ProcessCommunicator::Group group;
  group.self = self;
  group.timeout = options.timeout;
  group.gather_chunk = options.chunk_bytes;
  group.reduce_chunk =
      node ? ProcessCommunicator::reduce_chunk_for(options.chunk_bytes, largest_node(members)) : options.chunk_bytes;
  group.members = std::move(members);
  group.on_failure = [abandoned = session.abandoned_] { abandoned->store(true); };
  return std::unique_ptr<Communicator>(
      std::make_unique<ProcessCommunicator>(std::move(group), std::move(node), std::move(remote), std::move(abort_line)));
}

}  // namespace strata
