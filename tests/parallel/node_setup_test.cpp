#include "parallel/node_setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "parallel/thread_communicator.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using Change = std::function<void(std::vector<std::vector<std::byte>>&)>;

// Opens the channels of two ranks of one host, as threads. `change`: what the exchange does to what it carries.
std::vector<Status> open_on_two_ranks(std::size_t slot_bytes, const Change& change) {
  const std::vector<GroupMember> members = {{"here", 0, 0}, {"here", 0, 1}};
  ThreadGroup group({2}, {.timeout = std::chrono::seconds(60)});
  std::vector<Status> statuses(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      const auto comm = group.communicator({r});
      const auto gather = [&](std::span<const std::byte> mine) {
        auto all = comm->gather_all(mine, "setup");
        if (all.ok()) change(*all);
        return all;
      };
      statuses[static_cast<std::size_t>(r)] = open_node_channels(members, {r}, slot_bytes, 4, gather).status();
    });
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

TEST(OpenNodeChannels, GivesEveryRankItsChannel) {
  for (const Status& status : open_on_two_ranks(4096, [](auto&) {})) EXPECT_TRUE(status.ok()) << status.message();
}

// Which is a reason to go without, where a failure is none.
TEST(OpenNodeChannels, MemoryOfAProcessThatIsNotSeenIsUnsupportedOnAllRanks) {
  const auto another_cookie = [](std::vector<std::vector<std::byte>>& all) {
    if (all[0].size() != sizeof(SharedMemory::Address)) return;
    SharedMemory::Address address;
    std::memcpy(&address, all[0].data(), sizeof address);
    address.cookie += 2;
    std::memcpy(all[0].data(), &address, sizeof address);
  };
  for (const Status& status : open_on_two_ranks(4096, another_cookie)) {
    EXPECT_EQ(status.code(), Code::unsupported);
    EXPECT_THAT(status.message(), AllOf(HasSubstr("host here, rank 1"), HasSubstr("another process-id namespace")));
  }
}

TEST(OpenNodeChannels, MemoryThatIsNotThereIsAFailureOnAllRanks) {
  const std::size_t more_than_addresses = std::size_t{1} << 50;
  for (const Status& status : open_on_two_ranks(more_than_addresses, [](auto&) {})) {
    EXPECT_EQ(status.code(), Code::io_error) << status.message();
    EXPECT_THAT(status.message(), AllOf(HasSubstr("host here, rank 0"), HasSubstr("bytes of shared memory")));
  }
}

}  // namespace
}  // namespace strata
