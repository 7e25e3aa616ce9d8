#include "runtime/status.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <set>

namespace strata {
namespace {

TEST(Status, OkHasNoMessageAndContextDoesNotChangeIt) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.with_context("reading").message(), "");
  EXPECT_TRUE(status.with_context("reading").ok());
}

TEST(Status, ContextIsPutBeforeTheMessageAndKeepsTheCode) {
  const Status status = Status(Code::corrupt, "checksum differs").with_context("record 3").with_context("resume");
  EXPECT_EQ(status.message(), "resume: record 3: checksum differs");
  EXPECT_EQ(status.code(), Code::corrupt);
}

TEST(Status, FromErrnoNamesOperationPlaceAndReason) {
  const Status status = Status::from_errno("write of 4096 bytes at 8192", "/x/y", EIO);
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_EQ(status.message(), "write of 4096 bytes at 8192: /x/y: Input/output error");
  EXPECT_EQ(Status::from_errno("write", "/x/y", ENOSPC).message(),
            "write: /x/y: No space left on device; make room there and start again");
}

TEST(Status, ExitCodesAreThePromisedOnes) {
  EXPECT_EQ(exit_code(Status()), 0);
  EXPECT_EQ(exit_code(Status(Code::invalid_config, "x")), 2);
  for (const Code code : {Code::invalid_argument, Code::not_found, Code::unsupported, Code::out_of_budget, Code::io_error,
                          Code::corrupt, Code::peer_lost, Code::numerical, Code::cancelled, Code::internal})
    EXPECT_EQ(exit_code(Status(code, "x")), 1) << to_string(code);
}

TEST(Status, EveryCodeHasItsOwnName) {
  std::set<std::string> names;
  for (int code = 0; code <= static_cast<int>(Code::internal); ++code) names.insert(to_string(static_cast<Code>(code)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(Code::internal) + 1);
  EXPECT_EQ(names.count("unknown"), 0u);
}

TEST(Result, HoldsAValueThatCanBeMovedOut) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  ASSERT_TRUE(result.ok());
  const std::unique_ptr<int> moved = std::move(result).value();
  EXPECT_EQ(*moved, 7);
}

TEST(Result, ReadingAFailedOneThrowsItsStatus) {
  const Result<int> result(Status(Code::not_found, "no such key"));
  EXPECT_FALSE(result.ok());
  try {
    (void)*result;
    FAIL() << "did not throw";
  } catch (const StatusError& error) {
    EXPECT_EQ(error.status().code(), Code::not_found);
    EXPECT_STREQ(error.what(), "no such key");
  }
}

TEST(Result, WithoutValueNeedsAnError) { EXPECT_THROW(Result<int>{Status()}, ContractViolation); }

Result<int> half(int x) {
  if (x % 2 != 0) return Status(Code::invalid_argument, "odd");
  return x / 2;
}
Result<int> quarter(int x) {
  STRATA_ASSIGN_OR_RETURN(const int once, half(x));
  STRATA_ASSIGN_OR_RETURN(const int twice, half(once));
  return twice;
}
Status fails_second(int& reached) {
  STRATA_RETURN_IF_ERROR(Status());
  reached = 1;
  STRATA_RETURN_IF_ERROR(Status(Code::cancelled, "stop"));
  reached = 2;
  return {};
}

TEST(StatusMacros, PassValuesOnAndErrorsOut) {
  EXPECT_EQ(*quarter(12), 3);
  EXPECT_EQ(quarter(6).status().message(), "odd");
  EXPECT_EQ(quarter(5).status().message(), "odd");
  int reached = 0;
  EXPECT_EQ(fails_second(reached).code(), Code::cancelled);
  EXPECT_EQ(reached, 1);
}

TEST(Check, ThrowsWithFileLineReasonAndCondition) {
  try {
    STRATA_CHECK(1 + 1 == 3, "arithmetic");
    FAIL() << "did not throw";
  } catch (const ContractViolation& violation) {
    const std::string what = violation.what();
    for (const char* part : {"status_test.cpp:", "arithmetic", "1 + 1 == 3"})
      EXPECT_NE(what.find(part), std::string::npos) << what;
  }
}

TEST(ThrowIfError, ThrowsOnlyErrors) {
  EXPECT_NO_THROW(throw_if_error(Status()));
  EXPECT_THROW(throw_if_error(Status(Code::internal, "x")), StatusError);
}

}  // namespace
}  // namespace strata
