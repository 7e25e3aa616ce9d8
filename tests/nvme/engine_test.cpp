// The contract of IoEngine, on every engine.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "nvme/block_file.h"
#include "nvme/io_engine.h"
#include "support.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

class IoEngineContract : public EachEngine {
 protected:
  BlockFile file(std::uint64_t bytes, bool direct = true) {
    return BlockFile::create(folder_.file("data"), bytes, {.direct = direct, .prewrite = false}).value();
  }
  static Status run_one(IoEngine& engine, const BlockFile& file, IoRequest::Kind kind, std::span<std::byte> data,
                        std::uint64_t at) {
    const IoRequest request{kind, &file.io(), data.data(), data.size(), at};
    return engine.run({&request, 1});
  }
};

TEST_P(IoEngineContract, NothingToDoIsOk) {
  EXPECT_TRUE(engine_->run({}).ok());
  const IoRequest empty{IoRequest::Kind::read, nullptr, nullptr, 0, 0};
  EXPECT_TRUE(engine_->run({&empty, 1}).ok());
}

TEST_P(IoEngineContract, ReadsBackWhatItWrote) {
  for (const std::size_t blocks : {1U, 15U, 16U, 17U, 64U, 65U, 200U}) {
    const std::size_t bytes = blocks * 4096;
    BlockFile f = file(bytes + 8192);
    Blocks out(bytes), in(bytes);
    out.fill(blocks);
    ASSERT_TRUE(run_one(*engine_, f, IoRequest::Kind::write, out.span(), 8192).ok());
    ASSERT_TRUE(run_one(*engine_, f, IoRequest::Kind::read, in.span(), 8192).ok());
    EXPECT_EQ(in.first_difference(blocks, bytes), bytes);
  }
}

TEST_P(IoEngineContract, MixedRequestsMoreThanTheQueueDepth) {
  constexpr std::size_t kPart = 16384;
  constexpr std::size_t kParts = 50;
  BlockFile f = file(2 * kParts * kPart);
  Blocks out(kParts * kPart), in(kParts * kPart);
  out.fill(1);
  ASSERT_TRUE(run_one(*engine_, f, IoRequest::Kind::write, out.span(), 0).ok());
  std::vector<IoRequest> requests;
  for (std::size_t i = 0; i < kParts; ++i) {
    requests.push_back({IoRequest::Kind::read, &f.io(), in.data() + i * kPart, kPart, i * kPart});
    requests.push_back({IoRequest::Kind::write, &f.io(), out.data() + i * kPart, kPart, (kParts + i) * kPart});
  }
  ASSERT_TRUE(engine_->run(requests).ok());
  EXPECT_EQ(in.first_difference(1, kParts * kPart), kParts * kPart);
  ASSERT_TRUE(run_one(*engine_, f, IoRequest::Kind::read, in.span(), kParts * kPart).ok());
  EXPECT_EQ(in.first_difference(1, kParts * kPart), kParts * kPart);
}

TEST_P(IoEngineContract, BufferedFilesNeedNoAlignment) {
  BlockFile f = file(1 << 20, false);
  for (const std::size_t bytes : {1UL, 511UL, 513UL, 4097UL, 65537UL, 200001UL}) {
    Blocks out(bytes), in(bytes);
    out.fill(bytes);
    ASSERT_TRUE(run_one(*engine_, f, IoRequest::Kind::write, out.span(), 77).ok());
    ASSERT_TRUE(run_one(*engine_, f, IoRequest::Kind::read, in.span(), 77).ok());
    EXPECT_EQ(in.first_difference(bytes, bytes), bytes);
  }
}

TEST_P(IoEngineContract, DepthOneAndDeepQueuesWork) {
  for (const unsigned depth : {1U, 2U, 100U}) {
    const auto engine = make(depth, 4096);
    BlockFile f = file(1 << 20);
    Blocks out(1 << 20), in(1 << 20);
    out.fill(depth);
    ASSERT_TRUE(run_one(*engine, f, IoRequest::Kind::write, out.span(), 0).ok());
    ASSERT_TRUE(run_one(*engine, f, IoRequest::Kind::read, in.span(), 0).ok());
    EXPECT_EQ(in.first_difference(depth, 1 << 20), std::size_t{1} << 20);
  }
}

TEST_P(IoEngineContract, ReadBeyondTheEndSaysWhereTheFileEnds) {
  BlockFile f = file(3 * 65536);
  ASSERT_EQ(::ftruncate(f.fd(), 65536 + 100), 0);
  Blocks in(3 * 65536);
  const Status status = run_one(*engine_, f, IoRequest::Kind::read, in.span(), 0);
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_THAT(status.message(), HasSubstr(f.path()));
  EXPECT_THAT(status.message(), HasSubstr("the file ends there"));
}

TEST_P(IoEngineContract, ErrorsNamePathOffsetSizeAndErrno) {
  BlockFile f = file(1 << 20);
  IoFile read_only;
  read_only.path = f.path();
  read_only.fd = ::open(f.path().c_str(), O_RDONLY | O_CLOEXEC);
  Blocks out(65536);
  const IoRequest request{IoRequest::Kind::write, &read_only, out.data(), 65536, 131072};
  const Status status = engine_->run({&request, 1});
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_EQ(status.message(), "write of 65536 bytes at offset 131072: " + f.path() + ": Bad file descriptor");
  ::close(read_only.fd);
}

TEST_P(IoEngineContract, WorksAgainAfterAFailureAndTheOthersHadLanded) {
  BlockFile f = file(1 << 20);
  Blocks out(1 << 20), in(1 << 20);
  out.fill(3);
  IoFile closed;
  std::vector<IoRequest> requests;
  for (std::size_t at = 0; at < (1 << 20); at += 65536) {
    requests.push_back({IoRequest::Kind::write, at == 3 * 65536 ? &closed : &f.io(), out.data() + at, 65536, at});
  }
  EXPECT_FALSE(engine_->run(requests).ok());
  ASSERT_TRUE(run_one(*engine_, f, IoRequest::Kind::write, out.span(), 0).ok());
  ASSERT_TRUE(run_one(*engine_, f, IoRequest::Kind::read, in.span(), 0).ok());
  EXPECT_EQ(in.first_difference(3, 1 << 20), std::size_t{1} << 20);
}

TEST_P(IoEngineContract, MayMoveToAnotherThread) {
  BlockFile f = file(1 << 20);
  Blocks out(1 << 20), in(1 << 20);
  out.fill(4);
  Status written, read;
  std::thread([&] { written = run_one(*engine_, f, IoRequest::Kind::write, out.span(), 0); }).join();
  std::thread([&] { read = run_one(*engine_, f, IoRequest::Kind::read, in.span(), 0); }).join();
  ASSERT_TRUE(written.ok()) << written.message();
  ASSERT_TRUE(read.ok()) << read.message();
  EXPECT_EQ(in.first_difference(4, 1 << 20), std::size_t{1} << 20);
  EXPECT_TRUE(run_one(*engine_, f, IoRequest::Kind::read, in.span(), 0).ok());
}

// A limit in the middle of a block makes the kernel write a part of it; going on from there meets the error.
TEST_P(IoEngineContract, ShortWriteIsContinuedUntilTheErrorShows) {
  BlockFile f = file(0);
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit limit{65536 + 8192, old_limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  Blocks out(4 * 65536), in(65536 + 8192);
  out.fill(6);
  const auto engine = make(1);  // io_uring applies the limit of the thread that made the ring or runs it; one block at a time
  const Status status = run_one(*engine, f, IoRequest::Kind::write, out.span(), 0);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  ::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(status.message(), HasSubstr("File too large"));
  EXPECT_THAT(status.message(), HasSubstr("at offset 73728: " + f.path()));
  ASSERT_TRUE(run_one(*engine, f, IoRequest::Kind::read, in.span(), 0).ok());
  EXPECT_EQ(in.first_difference(6, 65536 + 8192), std::size_t{65536 + 8192});
}

TEST_P(IoEngineContract, TwoEnginesInTwoThreads) {
  BlockFile f = file(2 << 20);
  std::vector<std::thread> threads;
  std::vector<Status> statuses(2);
  for (std::size_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      const auto engine = make(8, 16384);
      Blocks out(1 << 20), in(1 << 20);
      for (std::uint64_t round = 0; round < 5 && statuses[t].ok(); ++round) {
        out.fill(10 * t + round);
        statuses[t] = run_one(*engine, f, IoRequest::Kind::write, out.span(), t << 20);
        if (statuses[t].ok()) statuses[t] = run_one(*engine, f, IoRequest::Kind::read, in.span(), t << 20);
        if (in.first_difference(10 * t + round, 1 << 20) != 1 << 20) statuses[t] = {Code::corrupt, "differs"};
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status.message();
}

STRATA_FOR_EACH_ENGINE(IoEngineContract);

TEST(MakeIoEngine, RefusesOptionsThatCannotWork) {
  using Kind = IoEngineOptions::Kind;
  for (const IoEngineOptions& bad :
       {options_of(Kind::threads, 0), options_of(Kind::threads, 4097), options_of(Kind::threads, 4, 0),
        options_of(Kind::threads, 4, 4095), options_of(Kind::threads, 4, 4097),
        options_of(Kind::threads, 4, (std::size_t{1} << 30) + 4096)}) {
    const auto engine = make_io_engine(bad, nullptr);
    ASSERT_FALSE(engine.ok());
    EXPECT_EQ(engine.status().code(), Code::invalid_argument);
  }
  EXPECT_TRUE(make_io_engine(options_of(Kind::threads, 1, 4096), nullptr).ok());
  EXPECT_TRUE(make_io_engine(options_of(Kind::threads, 4096, std::size_t{1} << 30), nullptr).ok());
}

}  // namespace
}  // namespace strata
