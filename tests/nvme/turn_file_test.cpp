// Turns at a folder, between processes and between threads. Mutations that must fail: lock nothing; lock one byte for both
// directions; keep `mine_` out of it; leave the gate out; give the turn back to nobody; forget has_name(); remove a file in
// use.
#include "nvme/turn_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>
#include <vector>

#include "nvme/state_files.h"
#include "processes.h"
#include "support.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kRead = IoRequest::Kind::read, kWrite = IoRequest::Kind::write;
constexpr milliseconds kPlenty{60'000};

struct Watch {
  std::atomic<int> inside{0}, overlaps{0}, turns{0}, errors{0};
  void enter() {
    if (++inside > 1) ++overlaps;
    std::this_thread::sleep_for(200us);
    ++turns;
    --inside;
  }
};

void take_often(TurnFile& file, int times, Watch& watch) {
  for (int i = 0; i < times; ++i) {
    if (!file.take(kRead, kPlenty).ok()) {
      ++watch.errors;
      return;
    }
    watch.enter();
    file.give_back(kRead);
  }
}

// Holds the turn to write from when `held` says so until it is killed.
struct Holder {
  explicit Holder(const std::string& folder)
      : process([this, folder] {
          auto file = TurnFile::open(folder);
          if (!file.ok() || !(*file)->take(kWrite, kPlenty).ok()) return 1;
          held->store(true);
          for (;;) std::this_thread::sleep_for(1s);
          return 0;
        }) {
    for (int i = 0; i < 10'000 && !held->load(); ++i) std::this_thread::sleep_for(1ms);
  }
  SharedBetweenProcesses<std::atomic<bool>> held;
  ChildProcess process;
};

TEST(TurnFile, ProcessesTakeTurns) {
  const TempFolder folder;
  SharedBetweenProcesses<Watch> watch;
  {
    std::vector<std::unique_ptr<ChildProcess>> processes;
    for (int p = 0; p < 3; ++p)
      processes.push_back(std::make_unique<ChildProcess>([&] {
        auto file = TurnFile::open(folder.path());
        if (!file.ok()) return 1;
        take_often(**file, 30, *watch.operator->());
        return 0;
      }));
    for (auto& process : processes) EXPECT_EQ(process->wait(), 0);
  }
  EXPECT_EQ(watch->turns, 90);
  EXPECT_EQ(watch->overlaps, 0);
  EXPECT_TRUE(fs::is_empty(folder.path())) << "the last one to leave removes the file";
}

TEST(TurnFile, ThreadsTakeTurnsWithOneObjectAndWithTheirOwn) {
  const TempFolder folder;
  auto shared = TurnFile::open(folder.path()).value();
  Watch watch;
  std::vector<std::jthread> threads;
  for (int t = 0; t < 2; ++t) threads.emplace_back([&] { take_often(*shared, 30, watch); });
  for (int t = 0; t < 2; ++t) threads.emplace_back([&] { take_often(*TurnFile::open(folder.path()).value(), 30, watch); });
  threads.clear();
  EXPECT_EQ(watch.turns, 120);
  EXPECT_EQ(watch.overlaps, 0);
}

TEST(TurnFile, ReadingAndWritingAreTurnsOfTheirOwn) {
  const TempFolder folder;
  auto reader = TurnFile::open(folder.path()).value(), writer = TurnFile::open(folder.path()).value();
  ASSERT_TRUE(reader->take(kRead, kPlenty).ok());
  EXPECT_TRUE(writer->take(kWrite, 100ms).ok());
  EXPECT_TRUE(writer->take(kRead, 100ms).code() == Code::io_error);
  EXPECT_TRUE(reader->take(kWrite, 100ms).code() == Code::io_error);
  reader->give_back(kRead);
  EXPECT_TRUE(writer->take(kRead, 100ms).ok());
}

// Otherwise a rank that is back soon keeps a drive for itself, for who waits looks now and then only.
TEST(TurnFile, WhoHadTheTurnQueuesBehindWhoWaits) {
  const TempFolder folder;
  auto mine = TurnFile::open(folder.path()).value(), other = TurnFile::open(folder.path()).value();
  std::atomic<int> turns{0};
  std::jthread greedy([&](const std::stop_token& stop) {
    while (!stop.stop_requested() && other->take(kRead, kPlenty).ok()) {
      std::this_thread::sleep_for(20ms);
      ++turns;
      other->give_back(kRead);
    }
  });
  while (turns == 0) std::this_thread::sleep_for(1ms);
  for (int i = 0; i < 5; ++i) {
    const int before = turns;
    ASSERT_TRUE(mine->take(kRead, kPlenty).ok());
    EXPECT_LE(turns - before, 2);
    mine->give_back(kRead);
    std::this_thread::sleep_for(5ms);
  }
}

TEST(TurnFile, AHolderThatDiesGivesItsTurnBack) {
  const TempFolder folder;
  Holder holder(folder.path());
  auto file = TurnFile::open(folder.path()).value();
  EXPECT_FALSE(file->take(kWrite, 50ms).ok());
  std::jthread killer([&] {
    std::this_thread::sleep_for(100ms);
    holder.process.end_with(SIGKILL);
  });
  const Status status = file->take(kWrite, 20s);
  EXPECT_TRUE(status.ok()) << status.message();
}

TEST(TurnFile, AHolderThatIsStoppedIsAnErrorThatNamesItAndComesInTime) {
  const TempFolder folder;
  Holder holder(folder.path());
  holder.process.send(SIGSTOP);
  auto file = TurnFile::open(folder.path()).value();
  const auto begin = std::chrono::steady_clock::now();
  const Status status = file->take(kWrite, 300ms);
  const auto waited = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr(folder.file(TurnFile::kName) + ": waited 300 ms for the turn to write"),
                    HasSubstr("process " + std::to_string(holder.process.pid()) + " has"), HasSubstr("nvme.exclusive: off")));
  EXPECT_GE(waited, 300ms);
  EXPECT_LT(waited, 10s);
  holder.process.send(SIGCONT);
  holder.process.end_with(SIGTERM);
  EXPECT_TRUE(file->take(kWrite, kPlenty).ok()) << "the wait in vain left nothing behind";
}

TEST(TurnFile, WhatAKilledRunLeavesIsTakenOverOrRemoved) {
  const TempFolder folder;
  const std::string path = folder.file(TurnFile::kName);
  const auto kill_a_run = [&] { Holder(folder.path()).process.end_with(SIGKILL); };
  kill_a_run();
  ASSERT_TRUE(fs::exists(path));
  EXPECT_TRUE(TurnFile::open(folder.path()).value()->take(kWrite, kPlenty).ok());
  EXPECT_FALSE(fs::exists(path));
  kill_a_run();
  ASSERT_TRUE(fs::exists(path));
  EXPECT_TRUE(remove_stale_state_files(folder.path(), 1).ok());
  EXPECT_FALSE(fs::exists(path));
  const Holder holder(folder.path());
  EXPECT_TRUE(remove_stale_state_files(folder.path(), 1).ok());
  EXPECT_TRUE(fs::exists(path)) << "one in use stays";
}

// Who opens a file just before its last user removes it would take turns with nobody.
TEST(TurnFile, WhatIsInUseHasItsNameHoweverOthersComeAndGo) {
  const TempFolder folder;
  const std::string path = folder.file(TurnFile::kName);
  std::atomic<int> nameless{0}, errors{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        const auto file = TurnFile::open(folder.path());
        struct stat named {};
        if (!file.ok()) {
          ++errors;
        } else if (::stat(path.c_str(), &named) != 0 || named.st_ino != (*file)->identity().inode) {
          ++nameless;
        }
      }
    });
  threads.clear();
  EXPECT_EQ(errors, 0);
  EXPECT_EQ(nameless, 0);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(TurnFile, AFileOfAnotherKindIsLeftAlone) {
  const TempFolder folder;
  const std::string path = folder.file(TurnFile::kName);
  std::ofstream(path) << "mine";
  EXPECT_THAT(TurnFile::open(folder.path()).status().message(), AllOf(HasSubstr(path), HasSubstr("remove it")));
  EXPECT_TRUE(remove_stale_state_files(folder.path(), 1).ok());
  EXPECT_TRUE(fs::exists(path));
  fs::remove(path);
  std::ofstream(folder.file("elsewhere")) << "";
  fs::create_symlink(folder.file("elsewhere"), path);
  EXPECT_FALSE(TurnFile::open(folder.path()).ok());
  EXPECT_TRUE(remove_stale_state_files(folder.path(), 1).ok());
  EXPECT_TRUE(fs::is_symlink(path));
  EXPECT_EQ(TurnFile::open(folder.file("absent")).status().code(), Code::io_error);
}

}  // namespace
}  // namespace strata
