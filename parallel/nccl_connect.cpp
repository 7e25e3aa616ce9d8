#include "parallel/nccl_connect.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace strata {

namespace {

std::string name_of(Rank rank) {
  char host[256] = "";
  if (::gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  return "rank " + std::to_string(rank.v) + " (pid " + std::to_string(::getpid()) + " on host " + host + ")";
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }
std::string text_of(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

Result<NcclId> agree_on_nccl_id(Communicator& inner, NcclApi& nccl) {
  constexpr std::byte kFine{1}, kFailed{0};
  std::vector<std::byte> mine;
  if (inner.rank().v == 0) {
    const Result<NcclId> made = nccl.make_id();
    mine.push_back(made.ok() ? kFine : kFailed);
    const std::span<const std::byte> rest =
        made.ok() ? std::span<const std::byte>(made->bytes) : bytes_of(made.status().message());
    mine.insert(mine.end(), rest.begin(), rest.end());
  }
  STRATA_ASSIGN_OR_RETURN(const auto all, inner.gather_all(mine, "forming a NCCL group"));
  const std::span<const std::byte> root(all[0]);
  if (root.empty() || root[0] != kFine)
    return Status(Code::internal,
                  "rank 0 cannot form a NCCL group: " + text_of(root.subspan(std::min<std::size_t>(1, root.size()))));
  NcclId id;
  STRATA_CHECK(root.size() == 1 + id.bytes.size(), "an id has one size");
  std::memcpy(id.bytes.data(), root.data() + 1, id.bytes.size());
  return id;
}

Result<std::vector<std::string>> agree_on_nccl_options(Communicator& inner, const NcclOptions& options) {
  const std::string same = options.axis + ": " + std::to_string(options.scratch_bytes) + " bytes of scratch, " +
                           std::to_string(options.connect_bytes) + " to connect";
  STRATA_ASSIGN_OR_RETURN(const auto all, inner.gather_all(bytes_of(same), "options of a NCCL group"));
  STRATA_ASSIGN_OR_RETURN(const auto named, inner.gather_all(bytes_of(name_of(inner.rank())), "names of a NCCL group"));
  std::vector<std::string> names;
  for (std::size_t r = 0; r < all.size(); ++r) {
    names.push_back(text_of(named[r]));
    if (text_of(all[r]) != text_of(all[0]))
      return Status(Code::invalid_argument, "the ranks of a NCCL group have different options: " + names[0] + " has " +
                                                text_of(all[0]) + "; " + names[r] + " has " + text_of(all[r]));
  }
  return names;
}

Status connect_gpus(GpuDriver& gpu, Rank rank, WorldSize size, std::size_t bytes, const NcclRunStep& run) {
  constexpr std::size_t kSmall = 256;
  const auto ranks = static_cast<std::size_t>(size.v), self = static_cast<std::size_t>(rank.v);
  const std::size_t large = std::max(kSmall, bytes / ranks / kSmall * kSmall);
  STRATA_ASSIGN_OR_RETURN(std::byte* const all, gpu.allocate_device(large * ranks));
  const std::unique_ptr<std::byte, std::function<void(std::byte*)>> owner(all, [&](std::byte* data) { gpu.free_device(data); });
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<GpuQueue> queue, gpu.make_queue("connect"));  // waits before the memory goes
  queue->zero(all, large * ranks);
  for (const std::size_t part : {kSmall, large}) {
    if (part == kSmall && large == kSmall) continue;
    STRATA_RETURN_IF_ERROR(run(*queue, [=](NcclComm& comm, GpuQueue& q) {
      std::vector<NcclComm::Send> sends;
      std::vector<NcclComm::Receive> receives;
      for (std::size_t r = 0; r < ranks; ++r) {
        if (r == self) continue;
        sends.push_back({.from = all + self * part, .bytes = part, .to = static_cast<int>(r)});
        receives.push_back({.to = all + r * part, .bytes = part, .from = static_cast<int>(r)});
      }
      return comm.exchange(sends, receives, q);
    }));
    STRATA_RETURN_IF_ERROR(
        run(*queue, [=](NcclComm& comm, GpuQueue& q) { return comm.all_gather(all + self * part, all, part, q); }));
    STRATA_RETURN_IF_ERROR(run(*queue, [=](NcclComm& comm, GpuQueue& q) {
      std::vector<NcclComm::Broadcast> broadcasts;
      for (std::size_t r = 0; r < ranks; ++r)
        broadcasts.push_back({.from = all + r * part, .to = all + r * part, .bytes = part, .root = static_cast<int>(r)});
      return comm.broadcast(broadcasts, q);
    }));
  }
  return queue->mark()->wait();
}

}  // namespace strata
