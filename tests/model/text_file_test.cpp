// Whole text files: what is missing, what is no file, what is too long, and what could not be written.
#include "model/text_file.h"

#include <sys/resource.h>

#include <csignal>

#include "support.h"

namespace strata::testing {
namespace {

TEST(TextFile, IsReadAsItWasWritten) {
  const TempDir dir;
  for (const std::string& text : {std::string(), std::string("a\nb\0c", 5), std::string(200'001, 'x')})
    for (const bool fsync : {false, true}) {
      ASSERT_TRUE(write_text_file(dir / "t", text, fsync).ok());
      EXPECT_EQ(read_text_file(dir / "t").value(), text);
    }
}

TEST(TextFile, MissingIsNotFoundAndAnythingElseAnIoError) {
  const TempDir dir;
  write_bytes(dir / "file", "x");
  EXPECT_EQ(read_text_file(dir / "none").status().code(), Code::not_found);
  EXPECT_EQ(read_text_file(dir.path()).status().code(), Code::io_error);
  EXPECT_EQ(read_text_file(dir / "file/below").status().code(), Code::io_error);
  EXPECT_EQ(write_text_file(dir / "none/t", "x").code(), Code::io_error);
  EXPECT_EQ(write_text_file(dir.path(), "x").code(), Code::io_error);
  EXPECT_EQ(flush_to_device(dir / "none").code(), Code::io_error);
  EXPECT_TRUE(flush_to_device(dir.path()).ok());
}

TEST(TextFile, LongerThanTheLimitIsCorrupt) {
  const TempDir dir;
  write_bytes(dir / "t", "x");
  std::filesystem::resize_file(dir / "t", (std::uintmax_t{256} << 20) + 1);  // a hole
  EXPECT_EQ(read_text_file(dir / "t").status().code(), Code::corrupt);
}

TEST(TextFile, AFullDiskIsAnErrorThatNamesTheFile) {
  const Status status = write_text_file("/dev/full", "x");
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_NE(status.message().find("/dev/full: No space left"), std::string::npos) << status.message();
  EXPECT_TRUE(std::filesystem::exists("/dev/full")) << "a device is not ours to remove";
}

TEST(TextFile, WhatCouldNotBeWrittenWholeIsRemoved) {
  const TempDir dir;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {1000, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = write_text_file(dir / "t", std::string(5000, 'x'));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_FALSE(std::filesystem::exists(dir / "t"));
}

}  // namespace
}  // namespace strata::testing
