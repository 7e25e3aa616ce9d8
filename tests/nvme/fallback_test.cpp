// A container that forbids io_uring, imitated by a thread whose system call is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "nvme/block_file.h"
#include "refused_call.h"
#include "support.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

// False: this machine has no seccomp.
bool where_forbidden(int error, const std::function<void()>& body) {
  return where_refused({.number = __NR_io_uring_setup, .error = error}, body);
}

TEST(IoEngineFallback, AutomaticTakesThreadsAndSaysWhy) {
  for (const int error : {EPERM, ENOSYS, ENOMEM}) {
    const bool ran = where_forbidden(error, [&] {
      std::string why;
      const auto engine = make_io_engine(options_of(IoEngineOptions::Kind::automatic), &why);
      ASSERT_TRUE(engine.ok());
      EXPECT_STREQ(engine.value()->name(), "threads");
      EXPECT_THAT(why, HasSubstr("io_uring is not available"));
      EXPECT_THAT(why, HasSubstr(std::generic_category().message(error)));
      EXPECT_TRUE(make_io_engine(options_of(IoEngineOptions::Kind::automatic), nullptr).ok());
    });
    if (!ran) GTEST_SKIP() << "seccomp filters are not allowed here";
  }
}

TEST(IoEngineFallback, AskedForByNameItIsAnError) {
  const bool ran = where_forbidden(EPERM, [&] {
    const auto engine = make_io_engine(options_of(IoEngineOptions::Kind::io_uring), nullptr);
    ASSERT_FALSE(engine.ok());
    EXPECT_EQ(engine.status().code(), Code::unsupported);
    EXPECT_THAT(engine.status().message(), HasSubstr("kernel.io_uring_disabled"));
  });
  if (!ran) GTEST_SKIP() << "seccomp filters are not allowed here";
}

// What was not submitted is not waited for.
TEST(UringEngine, ARingThatFailsIsAnErrorThatNamesTheFile) {
  TempFolder folder;
  auto file = BlockFile::create(folder.file("f"), 1 << 20, {}).value();
  Blocks in(1 << 20);
  const IoRequest request{IoRequest::Kind::read, &file.io(), in.data(), 1 << 20, 0};
  const bool ran = where_refused({.number = __NR_io_uring_enter, .error = EIO}, [&] {
    auto engine = make_io_engine(options_of(IoEngineOptions::Kind::io_uring), nullptr);
    if (!engine.ok()) GTEST_SKIP() << engine.status().message();
    for (int repeat = 0; repeat < 2; ++repeat)
      EXPECT_EQ((*engine)->run({&request, 1}).message(), "submission to io_uring: " + file.path() + ": Input/output error");
  });
  if (!ran) GTEST_SKIP() << "seccomp filters are not allowed here";
}

// As where `ulimit -l` is low.
TEST(UringEngine, WorksWithoutRegistrationWhereTheKernelRefusesIt) {
  auto made = make_io_engine(options_of(IoEngineOptions::Kind::io_uring), nullptr);
  if (!made.ok()) GTEST_SKIP() << made.status().message();
  TempFolder folder;
  const auto file = BlockFile::create(folder.file("f"), 1 << 20, {}).value();
  Blocks out(1 << 20), in(1 << 20);
  out.fill(1);
  const std::span<std::byte> buffers[] = {out.span(), in.span()};
  IoFile* const files[] = {&file.io()};
  (*made)->register_files(files);
  (*made)->register_buffers(buffers);
  const bool ran = where_refused({.number = __NR_io_uring_register, .error = ENOMEM}, [&] {
    const IoRequest write{IoRequest::Kind::write, &file.io(), out.data(), 1 << 20, 0};
    const IoRequest read{IoRequest::Kind::read, &file.io(), in.data(), 1 << 20, 0};
    for (const IoRequest& request : {write, read}) {
      const Status status = (*made)->run({&request, 1});
      EXPECT_TRUE(status.ok()) << status.message();
    }
  });
  if (!ran) GTEST_SKIP() << "seccomp filters are not allowed here";
  EXPECT_EQ(in.first_difference(1, 1 << 20), std::size_t{1} << 20);
}

TEST(IoEngineFallback, NoReasonWhereNothingFellBack) {
  std::string why = "unset";
  const auto engine = make_io_engine(options_of(IoEngineOptions::Kind::threads), &why);
  ASSERT_TRUE(engine.ok());
  EXPECT_EQ(why, "unset");
}

}  // namespace
}  // namespace strata
