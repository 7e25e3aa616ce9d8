#include "parallel/node_setup.h"

#include <algorithm>
#include <cstring>

namespace strata {

namespace {

struct Opening {
  Status status;
  std::shared_ptr<SharedMemory> memory;

  void take(Result<std::shared_ptr<SharedMemory>> result) {
    status = result.status();
    if (result.ok()) memory = *result;
  }
};

// One byte of code, then the message.
std::vector<std::byte> to_bytes(const Status& status) {
  std::vector<std::byte> bytes = {static_cast<std::byte>(status.code())};
  const auto text = std::as_bytes(std::span(status.message()));
  bytes.insert(bytes.end(), text.begin(), text.end());
  return bytes;
}

// Of all ranks; a failure counts more than what is not supported.
Status first_error(const std::vector<GroupMember>& members, const std::vector<std::vector<std::byte>>& statuses) {
  Status first;
  for (std::size_t r = 0; r < statuses.size(); ++r) {
    const auto code = static_cast<Code>(statuses[r].front());
    if (code == Code::ok || (!first.ok() && (first.code() != Code::unsupported || code == Code::unsupported))) continue;
    const std::string text(reinterpret_cast<const char*>(statuses[r].data()) + 1, statuses[r].size() - 1);
    first = {code, "shared memory between the ranks of host " + members[r].host + ", rank " + std::to_string(r) + ": " + text};
  }
  return first;
}

}  // namespace

Result<std::shared_ptr<NodeChannel>> open_node_channels(const std::vector<GroupMember>& members, Rank self,
                                                        std::size_t slot_bytes, int slots, const GatherBytes& gather) {
  const GroupMember& me = members[static_cast<std::size_t>(self.v)];
  NodeChannel::Shape shape{.ranks = 0, .slot_bytes = slot_bytes, .slots = slots};
  std::size_t first = members.size();
  for (std::size_t r = members.size(); r-- > 0;) {
    if (members[r].node != me.node) continue;
    ++shape.ranks;
    first = r;
  }

  Opening opening;
  SharedMemory::Address address;
  if (me.local == 0) opening.take(NodeChannel::create(shape));
  if (opening.memory) address = opening.memory->address();
  STRATA_ASSIGN_OR_RETURN(const auto addresses, gather(std::as_bytes(std::span(&address, 1))));
  std::memcpy(&address, addresses[first].data(), sizeof(address));
  if (me.local != 0 && address.cookie != 0) opening.take(SharedMemory::open(address));
  // Joined before the others hear of it: from here on they notice when this process dies.
  std::shared_ptr<NodeChannel> channel;
  if (opening.memory) channel = std::make_shared<NodeChannel>(opening.memory, shape, me.local);
  STRATA_ASSIGN_OR_RETURN(const auto statuses, gather(to_bytes(opening.status)));
  if (opening.memory) opening.memory->hide();
  STRATA_RETURN_IF_ERROR(first_error(members, statuses));
  return channel;
}

}  // namespace strata
