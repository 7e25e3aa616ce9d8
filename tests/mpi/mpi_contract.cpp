// The communicator contract on real MPI processes: `mpirun -n W mpi_contract PATH [gtest flags]`. PATH: shm; p2p; mix,
// interleaved and uneven (shared memory inside two pretended hosts, point-to-point between them). Every rank runs the same
// tests in the same order, each on a world of its own.
#include <gtest/gtest.h>
#include <mpi.h>

#include <cerrno>
#include <cstdio>

#include "../nvme/refused_call.h"
#include "../parallel/communicator_contract.h"
#include "parallel/mpi_communicator.h"

namespace strata {
namespace {

MpiSession* g_session = nullptr;  // gtest constructs its tests by itself
std::string g_path;

// Two hosts: filled one after the other, in turn, or all but one rank on the first.
std::vector<int> pretended_hosts() {
  std::vector<int> hosts;
  const int size = g_session->size().v;
  for (int r = 0; r < size; ++r) {
    if (g_path == "mix") hosts.push_back(r / ((size + 1) / 2));
    if (g_path == "interleaved") hosts.push_back(r % 2);
    if (g_path == "uneven") hosts.push_back(r == size - 1 ? 1 : 0);
  }
  return hosts;
}

WorldOptions options(std::size_t chunk_bytes, std::chrono::milliseconds timeout) {
  return {.shared_memory = g_path == "p2p" ? WorldOptions::SharedMemory::off : WorldOptions::SharedMemory::on,
          .timeout = timeout,
          .chunk_bytes = chunk_bytes,
          .pretended_hosts = pretended_hosts()};
}

class MpiContract : public ::testing::TestWithParam<std::tuple<std::size_t, contract::Case>> {};

TEST_P(MpiContract, Holds) {
  auto world = make_world(*g_session, options(std::get<0>(GetParam()), std::chrono::seconds(60)));
  ASSERT_TRUE(world.ok()) << world.status().message();
  std::get<1>(GetParam()).run(**world);
  EXPECT_TRUE((*world)->barrier("end of test").ok());
}

class MpiFaults : public ::testing::TestWithParam<contract::Case> {};

TEST_P(MpiFaults, AreReported) {
  if (g_session->size().v < 2) GTEST_SKIP() << "one rank has nobody to lose";
  auto world = make_world(*g_session, options(4096, contract::kFaultTimeout));
  ASSERT_TRUE(world.ok()) << world.status().message();
  GetParam().run(**world);
  MPI_Barrier(MPI_COMM_WORLD);  // the ranks leave a fault at different times, and the next world has a short timeout
}

INSTANTIATE_TEST_SUITE_P(All, MpiContract,
                         ::testing::Combine(::testing::Values(4096, 262144), ::testing::ValuesIn(contract::kCases)),
                         [](const auto& test) {
                           return "Chunk" + std::to_string(std::get<0>(test.param)) + std::get<1>(test.param).name;
                         });
INSTANTIATE_TEST_SUITE_P(All, MpiFaults, ::testing::ValuesIn(contract::kFaultCases),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(MpiSession, KnowsItsNode) {
  const NodeInfo& node = g_session->node();
  EXPECT_GE(node.local_rank, 0);
  EXPECT_LT(node.local_rank, node.local_size);
  EXPECT_LE(node.local_size, g_session->size().v);
  EXPECT_FALSE(node.host.empty());
  EXPECT_TRUE(launched_under_mpi());
}

TEST(MakeWorld, RefusesChunksThatNoSlotHolds) {
  auto world = make_world(*g_session, {.chunk_bytes = 100});
  ASSERT_FALSE(world.ok());
  EXPECT_EQ(world.status().code(), Code::invalid_argument);
}

TEST(MakeWorld, RefusesPretendedHostsOfAnotherNumberOfRanks) {
  if (g_session->size().v < 2) GTEST_SKIP() << "one rank needs no hosts";
  auto world = make_world(*g_session, {.pretended_hosts = {0}});
  ASSERT_FALSE(world.ok());
  EXPECT_EQ(world.status().code(), Code::invalid_argument);
}

// Makes a world in a thread in which shared memory cannot be made.
void without_memfd(int error, const std::function<void()>& body) {
  if (g_session->size().v < 2) GTEST_SKIP() << "one rank shares nothing";
  if (!where_refused({.number = __NR_memfd_create, .error = error}, body))
    GTEST_SKIP() << "seccomp filters are not allowed here";
}

TEST(MakeWorld, SaysWhySharedMemoryIsNotUsed) {
  without_memfd(EPERM, [] {
    std::vector<std::string> notes;
    auto world = make_world(*g_session, {.timeout = std::chrono::seconds(60)}, &notes);
    ASSERT_TRUE(world.ok()) << world.status().message();
    EXPECT_TRUE((*world)->barrier("barrier").ok());
    ASSERT_EQ(notes.size(), 1u);
    for (const char* part :
         {"shared memory", g_session->node().host.c_str(), "memfd_create", "not permitted", "point-to-point"})
      EXPECT_THAT(notes[0], ::testing::HasSubstr(part));
    auto needed = make_world(*g_session, {.shared_memory = WorldOptions::SharedMemory::on});
    EXPECT_EQ(needed.status().code(), Code::unsupported);
  });
}

TEST(MakeWorld, DoesNotTakeAFailureForMissingSupport) {
  without_memfd(EMFILE, [] {
    std::vector<std::string> notes;
    auto world = make_world(*g_session, {}, &notes);
    ASSERT_FALSE(world.ok());
    EXPECT_EQ(world.status().code(), Code::io_error);
    EXPECT_THAT(world.status().message(), ::testing::HasSubstr("Too many open files"));
    EXPECT_TRUE(notes.empty());
  });
}

// Other ranks than 0 print their failures only.
class FailurePrinter : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (result.failed())
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", g_session->rank().v, result.file_name() ? result.file_name() : "?",
                   result.line_number(), result.message());
  }
};

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc != 2) {
    std::fprintf(stderr, "usage: mpirun -n W mpi_contract shm|p2p|mix|interleaved|uneven\n");
    return 2;
  }
  strata::g_path = argv[1];
  auto session = strata::MpiSession::start();
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", session.status().message().c_str());
    return 1;
  }
  strata::g_session = session->get();
  auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (strata::g_session->rank().v != 0) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new strata::FailurePrinter);
  }
  const int result = RUN_ALL_TESTS();
  // The fault cases abandon the session on purpose; here all ranks are known to be alive.
  if (result == 0 && strata::g_session->is_abandoned()) MPI_Finalize();
  return result;
}
