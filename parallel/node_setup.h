// Who shares a node with whom, and how the ranks of a node come to share a channel.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/node_channel.h"

namespace strata {

struct GroupMember {
  std::string host;
  int node = 0;   // equal for the ranks of one host
  int local = 0;  // rank within the host: 0 .. its number of ranks - 1, in order of rank
};

// gather(bytes) returns every rank's bytes, by rank.
using GatherBytes = std::function<Result<std::vector<std::vector<std::byte>>>(std::span<const std::byte>)>;

// Gives every rank the channel of its node, in memory made by the node's first rank. Collective over all ranks of `members`.
// An error on any rank is the same error on all. Code::unsupported: shared memory cannot be had on that host (containers that
// do not see each other's processes); any other code is a failure.
Result<std::shared_ptr<NodeChannel>> open_node_channels(const std::vector<GroupMember>& members, Rank self,
                                                        std::size_t slot_bytes, int slots, const GatherBytes& gather);

}  // namespace strata
