// Records that wait for turns. Mutations that must fail: take none in write_slot() or read_slot(); take those of all paths;
// leave the sort out; swap the directions; ignore `ranks`.
#include "nvme/record_turns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>
#include <vector>

#include "nvme/block_device.h"
#include "nvme/record_file.h"
#include "refused_call.h"
#include "small_file_system.h"
#include "support.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using When = TurnOptions::When;

constexpr auto kRead = IoRequest::Kind::read, kWrite = IoRequest::Kind::write;
constexpr milliseconds kPlenty{60'000};

std::unique_ptr<IoEngine> engine() { return make_io_engine(options_of(IoEngineOptions::Kind::threads), nullptr).value(); }

RecordFileOptions by_turns(milliseconds timeout = kPlenty, When when = When::always, int ranks = 2) {
  return {.io = {.timeout = timeout}, .turns = {.when = when, .ranks = ranks}};
}

bool has_turns(const TempFolder& folder) { return fs::exists(folder.file(TurnFile::kName)); }

TEST(RecordTurns, ARecordWaitsForItsDirectionOnly) {
  const TempFolder folder;
  const auto io = engine();
  const auto file = RecordFile::create({folder.file("state")}, {100'000}, by_turns(milliseconds(200))).value();
  Blocks buffer(file->buffer_bytes({0}));
  ASSERT_TRUE(file->write(*io, {0}, 1, buffer.span()).ok());
  const auto other = TurnFile::open(folder.path()).value();
  for (const auto way : {kRead, kWrite}) {
    ASSERT_TRUE(other->take(way, kPlenty).ok());
    const Status read = file->read(*io, {0}, 1, buffer.span()), write = file->write(*io, {0}, 1, buffer.span());
    EXPECT_TRUE((way == kRead ? write : read).ok());
    const Status& waited = way == kRead ? read : write;
    EXPECT_EQ(waited.code(), Code::io_error);
    EXPECT_THAT(waited.message(), AllOf(HasSubstr("record 0, version 1: " + folder.file(TurnFile::kName)),
                                        HasSubstr(way == kRead ? "the turn to read" : "the turn to write")));
    other->give_back(way);
    EXPECT_TRUE(file->read(*io, {0}, 1, buffer.span()).ok());
    EXPECT_TRUE(file->write(*io, {0}, 1, buffer.span()).ok());
  }
}

TEST(RecordTurns, WhatAnErrorLeavesIsFree) {
  const TempFolder folder;
  const auto io = engine();
  const auto file = RecordFile::create({folder.file("state")}, {100'000}, by_turns()).value();
  Blocks buffer(file->buffer_bytes({0}));
  EXPECT_EQ(file->read(*io, {0}, 1, buffer.span()).code(), Code::corrupt);  // was never written
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(file->write(*io, {0}, 1, buffer.span()).ok());
  EXPECT_TRUE(TurnFile::open(folder.path()).value()->take(kRead, milliseconds(100)).ok());
}

// One waits for what the other has, and the other way round.
TEST(RecordTurns, TwoFilesWithTheirPathsInOppositeOrderGetOn) {
  const TempFolder a, b;
  RecordFileOptions options = by_turns(milliseconds(10'000));
  options.weights = {1.0, 1.0};
  constexpr std::size_t kBytes = std::size_t{4} << 20;  // chunks on both
  std::vector<std::jthread> ranks;
  std::vector<Status> statuses(2);
  for (std::size_t r = 0; r < 2; ++r)
    ranks.emplace_back([&, r] {
      const std::string name = "rank" + std::to_string(r);
      const std::vector<std::string> paths = {(r == 0 ? a : b).file(name), (r == 0 ? b : a).file(name)};
      const auto file = RecordFile::create(paths, {kBytes}, options).value();
      const auto io = engine();
      Blocks buffer(file->buffer_bytes({0}));
      for (std::uint64_t version = 1; version <= 40 && statuses[r].ok(); ++version)
        statuses[r] = file->write(*io, {0}, version, buffer.span());
    });
  ranks.clear();
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status.message();
}

TEST(RecordTurns, OnlyTheFoldersOfTheRecordCount) {
  const TempFolder a, b;
  RecordFileOptions options = by_turns(milliseconds(200));
  options.weights = {1.0, 1.0};
  const auto io = engine();
  const auto file = RecordFile::create({a.file("state"), b.file("state")}, {1000, 1000}, options).value();
  Blocks buffer(file->buffer_bytes({0}));
  const auto other = TurnFile::open(a.path()).value();
  ASSERT_TRUE(other->take(kWrite, kPlenty).ok());
  EXPECT_FALSE(file->write(*io, {0}, 1, buffer.span()).ok());
  EXPECT_TRUE(file->write(*io, {1}, 1, buffer.span()).ok());
}

TEST(RecordTurns, FilesOfOneFolderAreOneTurn) {
  const TempFolder folder;
  RecordFileOptions options = by_turns(milliseconds(200));
  options.weights = {1.0, 1.0};
  const auto io = engine();
  const auto file = RecordFile::create({folder.file("one"), folder.file("two")}, {std::size_t{4} << 20}, options).value();
  Blocks buffer(file->buffer_bytes({0}));
  const Status status = file->write(*io, {0}, 1, buffer.span());
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(RecordTurns, OneRankAloneTakesNone) {
  for (const auto& [when, ranks] : {std::pair{When::always, 1}, std::pair{When::never, 4}}) {
    const TempFolder folder;
    const auto file = RecordFile::create({folder.file("state")}, {1000}, by_turns(kPlenty, when, ranks)).value();
    EXPECT_FALSE(has_turns(folder));
    EXPECT_THAT(file->notes(), IsEmpty());
  }
}

TEST(RecordTurns, AutomaticIsForLargeRecordsOnDrivesThatRotate) {
  const TempFolder folder;
  struct stat info {};
  ASSERT_EQ(::stat(folder.path().c_str(), &info), 0);
  const bool rotates = device_queue_number(info.st_dev, "rotational") == 1;
  RecordFileOptions options = by_turns(kPlenty, When::automatic);
  options.prewrite = false;
  options.slots = 1;
  constexpr std::size_t kLarge = std::size_t{32} << 20, kSmall = kLarge / 2;
  const auto io = engine();
  Blocks buffer(RecordFile::buffer_bytes_for(kLarge));
  {
    const auto file = RecordFile::create({folder.file("state")}, {kLarge, kSmall}, options).value();
    EXPECT_EQ(has_turns(folder), rotates);
    EXPECT_EQ(file->notes().size(), rotates ? 1U : 0U);
    const auto other = TurnFile::open(folder.path()).value();
    ASSERT_TRUE(other->take(kWrite, kPlenty).ok());
    EXPECT_TRUE(file->write(*io, {1}, 1, buffer.span()).ok());
    std::atomic<bool> given_back{false};
    std::jthread later([&] {
      std::this_thread::sleep_for(milliseconds(50));
      given_back = true;
      other->give_back(kWrite);
    });
    EXPECT_TRUE(file->write(*io, {0}, 1, buffer.span()).ok());
    EXPECT_TRUE(given_back || !rotates);
  }
  const auto small = RecordFile::create({folder.file("state")}, {kSmall}, options).value();
  EXPECT_FALSE(has_turns(folder));
  EXPECT_THAT(small->notes(), IsEmpty());
  const SmallFileSystem memory(2 * kLarge);
  if (memory.why_not()) GTEST_SKIP() << *memory.why_not();
  options.direct = false;
  const auto in_memory = RecordFile::create({memory.file("state")}, {kLarge}, options).value();
  EXPECT_FALSE(fs::exists(memory.file(TurnFile::kName)));
  EXPECT_THAT(in_memory->notes(), IsEmpty());
}

TEST(RecordTurns, WhereTheyCannotBeTakenANoteSaysSoAndRecordsMove) {
  const auto moves_without = [](const TempFolder& folder) {
    const auto file = RecordFile::create({folder.file("state")}, {1000}, by_turns()).value();
    EXPECT_THAT(file->notes(), Contains(AllOf(HasSubstr(folder.path()), HasSubstr("do not take turns here (nvme.exclusive)"))));
    Blocks buffer(file->buffer_bytes({0}));
    const auto io = engine();
    EXPECT_TRUE(file->write(*io, {0}, 1, buffer.span()).ok());
    EXPECT_TRUE(file->read(*io, {0}, 1, buffer.span()).ok());
  };
  const TempFolder in_the_way, without_locks;
  std::ofstream(in_the_way.file(TurnFile::kName)) << "mine";
  moves_without(in_the_way);
  if (!where_refused({.number = __NR_fcntl, .error = ENOLCK}, [&] { moves_without(without_locks); }))
    GTEST_SKIP() << "system calls cannot be refused here";
}

}  // namespace
}  // namespace strata
