// The communicator contract on real MPI processes: `mpirun -n W mpi_contract shm|p2p [gtest flags]`. Every rank runs the same
// tests in the same order, each on a world of its own.
#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdio>

#include "../parallel/communicator_contract.h"
#include "parallel/mpi_communicator.h"

namespace strata {
namespace {

MpiSession* g_session = nullptr;  // gtest constructs its tests by itself
bool g_shared_memory = true;

WorldOptions options(std::size_t chunk_bytes, std::chrono::milliseconds timeout) {
  return {.shared_memory = g_shared_memory ? WorldOptions::SharedMemory::on : WorldOptions::SharedMemory::off,
          .timeout = timeout,
          .chunk_bytes = chunk_bytes};
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
    std::fprintf(stderr, "usage: mpirun -n W mpi_contract shm|p2p\n");
    return 2;
  }
  strata::g_shared_memory = std::string(argv[1]) == "shm";
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
