// Ranks give up together, and each knows whether it speaks for all.
#include "trainer/agree.h"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <thread>

#include "parallel/thread_communicator.h"

namespace strata {
namespace {

std::vector<Status> on_ranks(int world, std::chrono::milliseconds timeout, const std::function<Status(Communicator&)>& body) {
  ThreadGroup group(WorldSize{world}, {.timeout = timeout});
  std::vector<Status> results(static_cast<std::size_t>(world));
  std::vector<std::thread> ranks;
  for (int r = 0; r < world; ++r)
    ranks.emplace_back([&, r] {
      const auto comm = group.communicator(Rank{r});
      results[static_cast<std::size_t>(r)] = body(*comm);
    });
  for (std::thread& rank : ranks) rank.join();
  return results;
}

constexpr std::chrono::seconds kPatient(60);

TEST(Agree, OneRanksErrorIsEveryRanksAndMarked) {
  for (const Status& status : on_ranks(3, kPatient, [](Communicator& comm) {
         return agree(comm, comm.rank().v == 1 ? Status(Code::io_error, "disk full") : Status(), "a test");
       })) {
    EXPECT_EQ(status.code(), Code::io_error);
    EXPECT_EQ(status.message(), "rank 1: disk full");
    EXPECT_TRUE(status.is_on_every_rank());
    EXPECT_TRUE(status.with_context("saving").is_on_every_rank());
  }
}

TEST(Agree, AnErrorThatIsAgreedTwiceIsNamedOnce) {
  for (const Status& status : on_ranks(2, kPatient, [](Communicator& comm) {
         const Status first = agree(comm, comm.rank().v == 1 ? Status(Code::corrupt, "bad") : Status(), "a test");
         return agree(comm, first, "the same");
       }))
    EXPECT_EQ(status.message(), "rank 1: bad");
}

TEST(Agree, AnErrorThatOnlyLooksAgreedIsNotMarked) {
  EXPECT_FALSE(Status(Code::peer_lost, "rank 0 died during a step").is_on_every_rank());
  EXPECT_FALSE(Status(Code::invalid_config, "a token outside the vocabulary").is_on_every_rank());
  EXPECT_FALSE(Status().on_every_rank().is_on_every_rank());
}

TEST(AgreeOnLeader, WaitsLongerThanTheGroupsTimeout) {
  const auto results = on_ranks(3, std::chrono::milliseconds(700), [](Communicator& comm) {
    return agree_on_leader(
        comm,
        [] {
          std::this_thread::sleep_for(std::chrono::milliseconds(2000));
          return Status(Code::not_found, "no such folder");
        },
        "a long import");
  });
  for (const Status& status : results) {
    EXPECT_EQ(status.code(), Code::not_found) << status.message();
    EXPECT_EQ(status.message(), "rank 0: no such folder");
  }
}

TEST(AgreeOnLeader, AnExceptionIsAnError) {
  for (const Status& status : on_ranks(2, kPatient, [](Communicator& comm) {
         return agree_on_leader(
             comm, []() -> Status { throw StatusError(Status(Code::io_error, "torn")); }, "a test");
       }))
    EXPECT_EQ(status.message(), "rank 0: torn");
}

}  // namespace
}  // namespace strata
