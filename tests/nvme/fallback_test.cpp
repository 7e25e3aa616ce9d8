// A container that forbids io_uring, imitated by a seccomp filter on one thread.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <functional>
#include <thread>

#include "support.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

// Lets io_uring_setup fail with `error` in the calling thread, for ever.
bool forbid_io_uring(unsigned error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{4, filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// False: this machine has no seccomp.
bool where_forbidden(unsigned error, const std::function<void()>& body) {
  bool forbidden = false;
  std::thread([&] {
    forbidden = forbid_io_uring(error);
    if (forbidden) body();
  }).join();
  return forbidden;
}

TEST(IoEngineFallback, AutomaticTakesThreadsAndSaysWhy) {
  for (const unsigned error : {EPERM, ENOSYS, ENOMEM}) {
    const bool ran = where_forbidden(error, [&] {
      std::string why;
      const auto engine = make_io_engine(options_of(IoEngineOptions::Kind::automatic), &why);
      ASSERT_TRUE(engine.ok());
      EXPECT_STREQ(engine.value()->name(), "threads");
      EXPECT_THAT(why, HasSubstr("io_uring is not available"));
      EXPECT_THAT(why, HasSubstr(std::generic_category().message(static_cast<int>(error))));
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

TEST(IoEngineFallback, NoReasonWhereNothingFellBack) {
  std::string why = "unset";
  const auto engine = make_io_engine(options_of(IoEngineOptions::Kind::threads), &why);
  ASSERT_TRUE(engine.ok());
  EXPECT_EQ(why, "unset");
}

}  // namespace
}  // namespace strata
