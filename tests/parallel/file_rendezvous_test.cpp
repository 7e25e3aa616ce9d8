#include "parallel/file_rendezvous.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <functional>
#include <map>
#include <thread>

#include "communicator_contract.h"

namespace strata {
namespace {

using std::chrono::milliseconds;

class FileRendezvousTest : public ::testing::Test {
 protected:
  FileRendezvousTest() {
    std::string pattern = ::testing::TempDir() + "/strata-rendezvous-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp " + pattern);
    folder_ = pattern;
  }
  ~FileRendezvousTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  RendezvousOptions options(int rank, int size, milliseconds timeout = std::chrono::seconds(60)) const {
    return {.path = folder_ + "/run", .rank = {rank}, .size = {size}, .timeout = timeout};
  }
  static void run(int size, const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int r = 0; r < size; ++r) threads.emplace_back([&, r] { body(r); });
    for (std::thread& thread : threads) thread.join();
  }
  std::string folder_;
};

std::vector<std::byte> bytes_of(int job, int call, int rank) {
  return std::vector<std::byte>(static_cast<std::size_t>(rank * call), static_cast<std::byte>(job * 16 + call));
}

// The second job finds the files of the first, at every point of its own start.
TEST_F(FileRendezvousTest, GathersAlsoWhereAnEarlierJobLeftItsFiles) {
  for (int size = 1; size <= 4; ++size)
    for (int job = 1; job <= 3; ++job)
      run(size, [&](int rank) {
        std::this_thread::sleep_for(milliseconds((rank * job) % 3 * 20));  // in different orders
        const auto meeting = FileRendezvous::meet(options(rank, size));
        ASSERT_TRUE(meeting.ok()) << meeting.status().message();
        for (int call = 0; call < 5; ++call) {
          const auto all = (*meeting)->gather(bytes_of(job, call, rank), "test");
          ASSERT_TRUE(all.ok()) << all.status().message();
          ASSERT_EQ(all->size(), static_cast<std::size_t>(size));
          for (int r = 0; r < size; ++r)
            ASSERT_EQ((*all)[static_cast<std::size_t>(r)], bytes_of(job, call, r)) << "job " << job << ", call " << call;
        }
      });
}

TEST_F(FileRendezvousTest, DoesNotTakeAnEarlierJobsRankForThisOnes) {
  run(3, [&](int rank) { ASSERT_TRUE(FileRendezvous::meet(options(rank, 3)).ok()); });
  run(2, [&](int rank) {  // rank 2 is missing now, and its old files are there
    const auto meeting = FileRendezvous::meet(options(rank, 3, milliseconds(300)));
    ASSERT_FALSE(meeting.ok());
    EXPECT_EQ(meeting.status().code(), Code::peer_lost);
    EXPECT_THAT(meeting.status().message(), ::testing::HasSubstr(rank == 0 ? "rank 2" : "rank 0 or a rank"));
  });
}

TEST_F(FileRendezvousTest, NamesTheRanksThatAreMissing) {
  const auto meeting = FileRendezvous::meet(options(0, 3, milliseconds(100)));
  ASSERT_FALSE(meeting.ok());
  EXPECT_THAT(meeting.status().message(), ::testing::HasSubstr("rank 1, rank 2 did not come to the start of 3 ranks"));
  EXPECT_THAT(meeting.status().message(), ::testing::HasSubstr("0.1 s"));
}

TEST_F(FileRendezvousTest, LeavesRanksOfAnotherJobAlone) {
  run(2, [&](int rank) {
    RendezvousOptions mine = options(rank, 2, milliseconds(200));
    mine.job = std::to_string(rank);
    const auto meeting = FileRendezvous::meet(mine);
    ASSERT_FALSE(meeting.ok());
    EXPECT_EQ(meeting.status().code(), Code::peer_lost);
  });
}

TEST_F(FileRendezvousTest, NamesTheRankThatDoesNotComeToAGather) {
  run(3, [&](int rank) {
    const auto meeting = FileRendezvous::meet(options(rank, 3, milliseconds(500)));
    ASSERT_TRUE(meeting.ok()) << meeting.status().message();
    if (rank == 1) return;
    const auto all = (*meeting)->gather({}, "exchange of ids");
    ASSERT_FALSE(all.ok());
    EXPECT_THAT(all.status().message(), ::testing::HasSubstr("rank 1 did not come to exchange of ids"));
  });
}

TEST_F(FileRendezvousTest, SaysWhichFileItCannotWrite) {
  RendezvousOptions nowhere = options(0, 1);
  nowhere.path = folder_ + "/none/run";
  const auto meeting = FileRendezvous::meet(nowhere);
  ASSERT_FALSE(meeting.ok());
  EXPECT_EQ(meeting.status().code(), Code::io_error);
  EXPECT_THAT(meeting.status().message(), ::testing::HasSubstr("/none/run.join.0"));
}

TEST_F(FileRendezvousTest, MakesACommunicatorWithoutMpi) {
  for (int size = 1; size <= 4; ++size)
    run(size, [&](int rank) {
      const auto meeting = FileRendezvous::meet(options(rank, size));
      ASSERT_TRUE(meeting.ok()) << meeting.status().message();
      const auto world = make_world(**meeting, std::chrono::seconds(60));
      ASSERT_TRUE(world.ok()) << world.status().message();
      contract::reduce_scatter_adds_in_rank_order(**world);
      contract::duplicates_work_side_by_side(**world);
    });
}

// Sets variables for a test; the others are unset.
class Environment {
 public:
  explicit Environment(const std::map<std::string, std::string>& values) {
    for (const char* const name : kNames) ::unsetenv(name);
    for (const auto& [name, value] : values) ::setenv(name.c_str(), value.c_str(), 1);
  }
  ~Environment() {
    for (const char* const name : kNames) ::unsetenv(name);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  static constexpr const char* kNames[] = {"STRATA_RENDEZVOUS",    "STRATA_RANK",  "STRATA_WORLD", "SLURM_PROCID",
                                           "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_STEP_ID"};
};

TEST(RendezvousOptions, AreNoneWithoutThePath) {
  const Environment environment({{"STRATA_RANK", "1"}, {"STRATA_WORLD", "2"}});
  const auto options = RendezvousOptions::from_environment();
  ASSERT_TRUE(options.ok());
  EXPECT_FALSE(options->has_value());
}

TEST(RendezvousOptions, ComeFromOurVariablesBeforeSlurms) {
  const Environment environment(
      {{"STRATA_RENDEZVOUS", "/x"}, {"STRATA_RANK", "1"}, {"STRATA_WORLD", "2"}, {"SLURM_PROCID", "7"}});
  const auto options = RendezvousOptions::from_environment();
  ASSERT_TRUE(options.ok()) << options.status().message();
  EXPECT_EQ((*options)->path, "/x");
  EXPECT_EQ((*options)->rank.v, 1);
  EXPECT_EQ((*options)->size.v, 2);
  EXPECT_EQ((*options)->job, "");
}

TEST(RendezvousOptions, ComeFromSlurm) {
  const Environment environment({{"STRATA_RENDEZVOUS", "/x"},
                                 {"SLURM_PROCID", "3"},
                                 {"SLURM_NTASKS", "16"},
                                 {"SLURM_STEP_NUM_TASKS", "4"},
                                 {"SLURM_JOB_ID", "77"},
                                 {"SLURM_STEP_ID", "0"}});
  const auto options = RendezvousOptions::from_environment();
  ASSERT_TRUE(options.ok()) << options.status().message();
  EXPECT_EQ((*options)->rank.v, 3);
  EXPECT_EQ((*options)->size.v, 4);
  EXPECT_EQ((*options)->job, "77.0.");
}

TEST(RendezvousOptions, RefuseWhatIsNoRankOfTheWorld) {
  for (const auto& [rank, world] : std::vector<std::pair<std::string, std::string>>{
           {"2", "2"}, {"-1", "2"}, {"x", "2"}, {"1 ", "2"}, {"0", "0"}, {"", "2"}, {"99999999999", "2"}}) {
    const Environment environment({{"STRATA_RENDEZVOUS", "/x"}, {"STRATA_RANK", rank}, {"STRATA_WORLD", world}});
    const auto options = RendezvousOptions::from_environment();
    ASSERT_FALSE(options.ok()) << rank << " of " << world;
    EXPECT_EQ(options.status().code(), Code::invalid_config);
  }
  const Environment environment({{"STRATA_RENDEZVOUS", "/x"}, {"STRATA_WORLD", "2"}});
  EXPECT_THAT(RendezvousOptions::from_environment().status().message(), ::testing::HasSubstr("STRATA_RANK, SLURM_PROCID"));
}

}  // namespace
}  // namespace strata
