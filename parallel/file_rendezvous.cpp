#include "parallel/file_rendezvous.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <system_error>
#include <thread>
#include <utility>

#include "parallel/node_setup.h"
#include "parallel/process_communicator.h"

namespace strata {

namespace {

using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;

constexpr std::chrono::milliseconds kFirstSleep{2};
constexpr std::chrono::milliseconds kLongestSleep{200};
constexpr std::uint64_t kMagic = 0x3156'5a52'4154'5253u;  // "STRAZRV1"

// In front of the bytes of every file.
struct Header {
  std::uint64_t magic = kMagic;
  std::uint64_t group = 0;  // 0: before the group stands
  std::uint64_t call = 0;
};

std::uint64_t hash(std::span<const std::byte> bytes) {
  std::uint64_t value = 0xcbf29ce484222325u;  // FNV-1a
  for (const std::byte b : bytes) value = (value ^ static_cast<std::uint64_t>(b)) * 0x100000001b3u;
  return value == 0 ? 1 : value;
}

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// Whoever reads sees all of it or none.
Status replace_file(const std::string& path, const Header& header, std::span<const std::byte> bytes) {
  const std::string draft = path + ".new";
  std::FILE* const file = std::fopen(draft.c_str(), "wb");
  if (file == nullptr) return Status::from_errno("rendezvous: open", draft, errno);
  const bool written = std::fwrite(&header, sizeof(header), 1, file) == 1 &&
                       (bytes.empty() || std::fwrite(bytes.data(), bytes.size(), 1, file) == 1) && std::fflush(file) == 0 &&
                       ::fsync(::fileno(file)) == 0;
  const int write_error = errno;
  if (std::fclose(file) != 0 || !written) return Status::from_errno("rendezvous: write", draft, write_error);
  if (std::rename(draft.c_str(), path.c_str()) != 0) return Status::from_errno("rendezvous: rename to", path, errno);
  return {};
}

// Nothing: no such file yet, or one of another group or call.
std::optional<Bytes> read_file(const std::string& path, const Header& wanted) {
  std::ifstream stream(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (text.size() < sizeof(Header) || std::memcmp(text.data(), &wanted, sizeof(Header)) != 0) return std::nullopt;
  const auto* const bytes = reinterpret_cast<const std::byte*>(text.data());
  return Bytes(bytes + sizeof(Header), bytes + text.size());
}

// What a rank says before the group stands; the job's name follows.
struct Join {
  std::uint64_t nonce = 0;
  std::int64_t size = 0;
};

// Looks until `done`; its errors end the wait. missing(): what is still awaited.
Status wait_until(std::chrono::milliseconds timeout, const char* what, const std::function<Result<bool>()>& done,
                  const std::function<std::string()>& missing) {
  const Clock::time_point deadline = Clock::now() + timeout;
  for (auto sleep = kFirstSleep;; sleep = std::min(2 * sleep, kLongestSleep)) {
    STRATA_ASSIGN_OR_RETURN(const bool is_done, done());
    if (is_done) return {};
    if (Clock::now() >= deadline) break;
    std::this_thread::sleep_for(sleep);
  }
  char seconds[32];
  std::snprintf(seconds, sizeof(seconds), "%.3g s", std::chrono::duration<double>(timeout).count());
  return {Code::peer_lost, missing() + " did not come to " + what + " within " + seconds};
}

std::string ranks_text(const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += (text.empty() ? "" : ", ") + ("rank " + std::to_string(rank));
  return text.empty() ? "some rank" : text;
}

}  // namespace

std::string FileRendezvous::file(const char* kind, int rank) const {
  return options_.path + "." + kind + "." + std::to_string(rank);
}

Result<std::unique_ptr<FileRendezvous>> FileRendezvous::meet(const RendezvousOptions& options) {
  STRATA_CHECK(options.rank.v >= 0 && options.rank.v < options.size.v, "a rank of the world");
  std::unique_ptr<FileRendezvous> made(new FileRendezvous(options));
  std::random_device random;
  const std::uint64_t nonce = (std::uint64_t{random()} << 32 | random()) ^ static_cast<std::uint64_t>(::getpid());
  const Join join{nonce, options.size.v};
  Bytes bytes(sizeof(join) + options.job.size());
  std::memcpy(bytes.data(), &join, sizeof(join));
  if (!options.job.empty()) std::memcpy(bytes.data() + sizeof(join), options.job.data(), options.job.size());
  STRATA_RETURN_IF_ERROR(replace_file(made->file("join", options.rank.v), {}, bytes));
  STRATA_RETURN_IF_ERROR(options.rank.v == 0 ? made->lead(nonce) : made->follow(nonce));
  return made;
}

// Shows the numbers of all ranks, again whenever one changes (its file was an earlier job's), until all have seen the same.
Status FileRendezvous::lead(std::uint64_t nonce) {
  const auto size = static_cast<std::size_t>(options_.size.v);
  std::vector<std::uint64_t> shown;
  std::vector<int> missing;
  const auto look = [&]() -> Result<bool> {
    missing.clear();
    std::vector<std::uint64_t> nonces = {nonce};
    for (int r = 1; r < options_.size.v; ++r) {
      const std::optional<Bytes> bytes = read_file(file("join", r), {});
      Join join;
      if (bytes && bytes->size() >= sizeof(join)) std::memcpy(&join, bytes->data(), sizeof(join));
      const bool is_ours = bytes && bytes->size() == sizeof(join) + options_.job.size() &&
                           std::memcmp(bytes->data() + sizeof(join), options_.job.data(), options_.job.size()) == 0 &&
                           join.size == options_.size.v;
      if (!is_ours) missing.push_back(r);
      nonces.push_back(join.nonce);
    }
    if (!missing.empty()) return false;
    const auto all = std::as_bytes(std::span(nonces));
    if (nonces != shown) STRATA_RETURN_IF_ERROR(replace_file(file("all", 0), {}, all));
    shown = nonces;
    group_ = hash(all);
    for (int r = 1; r < options_.size.v; ++r)
      if (!read_file(file("seen", r), {.group = group_})) missing.push_back(r);
    if (missing.empty()) STRATA_RETURN_IF_ERROR(replace_file(file("go", 0), {.group = group_}, {}));
    return missing.empty();
  };
  return wait_until(options_.timeout, ("the start of " + std::to_string(size) + " ranks at " + options_.path).c_str(), look,
                    [&] { return ranks_text(missing); });
}

Status FileRendezvous::follow(std::uint64_t nonce) {
  const auto self = static_cast<std::size_t>(options_.rank.v), size = static_cast<std::size_t>(options_.size.v);
  std::uint64_t seen = 0;
  const auto look = [&]() -> Result<bool> {
    const std::optional<Bytes> bytes = read_file(file("all", 0), {});
    if (!bytes || bytes->size() != size * sizeof(std::uint64_t)) return false;
    std::uint64_t mine = 0;
    std::memcpy(&mine, bytes->data() + self * sizeof(mine), sizeof(mine));
    if (mine != nonce) return false;  // an earlier job's
    group_ = hash(*bytes);
    if (group_ != seen) STRATA_RETURN_IF_ERROR(replace_file(file("seen", options_.rank.v), {.group = group_}, {}));
    seen = group_;
    return read_file(file("go", 0), {.group = group_}).has_value();
  };
  return wait_until(options_.timeout, ("the start of " + std::to_string(size) + " ranks at " + options_.path).c_str(), look,
                    [&] { return seen == 0 ? "rank 0" : "rank 0 or a rank that it waits for"; });
}

// Two files a rank, in turn: whoever writes for call k has seen all files of call k - 1, so nobody reads those of k - 2 any
// more.
Result<std::vector<Bytes>> FileRendezvous::gather(std::span<const std::byte> mine, const char* what) {
  const Header header{.group = group_, .call = ++calls_};
  const char* const kind = calls_ % 2 == 0 ? "even" : "odd";
  STRATA_RETURN_IF_ERROR(replace_file(file(kind, options_.rank.v), header, mine));
  std::vector<std::optional<Bytes>> found(static_cast<std::size_t>(options_.size.v));
  std::vector<int> missing;
  STRATA_RETURN_IF_ERROR(wait_until(
      options_.timeout, what,
      [&]() -> Result<bool> {
        missing.clear();
        for (int r = 0; r < options_.size.v; ++r) {
          auto& bytes = found[static_cast<std::size_t>(r)];
          if (!bytes) bytes = read_file(file(kind, r), header);
          if (!bytes) missing.push_back(r);
        }
        return missing.empty();
      },
      [&] { return ranks_text(missing); }));
  std::vector<Bytes> all;
  for (auto& bytes : found) all.push_back(std::move(*bytes));
  return all;
}

namespace {

Result<std::optional<int>> number(const char* name, int least) {
  const char* const text = std::getenv(name);
  if (text == nullptr) return std::optional<int>();
  int value = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end || value < least)
    return Status(Code::invalid_config,
                  std::string(name) + " is a number of at least " + std::to_string(least) + ", not \"" + text + "\"");
  return std::optional<int>(value);
}

Result<int> first_number(std::initializer_list<const char*> names, int least) {
  std::string tried;
  for (const char* const name : names) {
    STRATA_ASSIGN_OR_RETURN(const std::optional<int> value, number(name, least));
    if (value) return *value;
    tried += (tried.empty() ? "" : ", ") + std::string(name);
  }
  return Status(Code::invalid_config, "STRATA_RENDEZVOUS is set, but none of " + tried);
}

}  // namespace

Result<std::optional<RendezvousOptions>> RendezvousOptions::from_environment() {
  const char* const path = std::getenv("STRATA_RENDEZVOUS");
  if (path == nullptr) return std::optional<RendezvousOptions>();
  RendezvousOptions options;
  options.path = path;
  STRATA_ASSIGN_OR_RETURN(options.rank.v, first_number({"STRATA_RANK", "SLURM_PROCID"}, 0));
  STRATA_ASSIGN_OR_RETURN(options.size.v, first_number({"STRATA_WORLD", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}, 1));
  if (options.rank.v >= options.size.v)
    return Status(Code::invalid_config, "rank " + std::to_string(options.rank.v) + " of " + std::to_string(options.size.v) +
                                            " ranks: ranks count from 0");
  for (const char* const name : {"SLURM_JOB_ID", "SLURM_STEP_ID"})
    if (const char* const text = std::getenv(name)) options.job += std::string(text) + ".";
  return std::optional<RendezvousOptions>(std::move(options));
}

Result<std::unique_ptr<Communicator>> make_world(FileRendezvous& rendezvous, std::chrono::milliseconds timeout) {
  constexpr std::size_t kChunk = std::size_t{256} << 10;
  char host[256] = "";
  if (::gethostname(host, sizeof(host) - 1) != 0) return Status::from_errno("gethostname", "this host", errno);
  STRATA_ASSIGN_OR_RETURN(const auto hosts, rendezvous.gather(bytes_of(host), "exchange of host names"));
  ProcessCommunicator::Group group;
  group.self = rendezvous.rank();
  group.timeout = timeout;
  for (int r = 0; r < rendezvous.size().v; ++r) {
    group.members.push_back({reinterpret_cast<const char*>(hosts[static_cast<std::size_t>(r)].data()), 0, r});
    if (group.members.back().host != group.members.front().host)
      return Status(Code::unsupported, "rank 0 is on host " + group.members.front().host + ", rank " + std::to_string(r) +
                                           " on " + group.members.back().host +
                                           ": ranks of several hosts are started with MPI");
  }
  if (kChunk < 64 * group.members.size())
    return Status(Code::unsupported, std::to_string(group.members.size()) + " ranks on one host");
  STRATA_ASSIGN_OR_RETURN(
      std::shared_ptr<NodeChannel> node,
      open_node_channels(group.members, group.self, kChunk, ProcessCommunicator::kRoundsInFlight,
                         [&](std::span<const std::byte> mine) { return rendezvous.gather(mine, "sharing memory"); }));
  group.gather_chunk = kChunk;
  group.reduce_chunk = ProcessCommunicator::reduce_chunk_for(kChunk, rendezvous.size().v);
  return std::unique_ptr<Communicator>(std::make_unique<ProcessCommunicator>(std::move(group), std::move(node)));
}

}  // namespace strata
