#include "nvme/state_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nvme/record_file.h"
#include "support.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

void leave_behind(const std::string& path, std::size_t bytes = 65536) {
  std::ofstream(path, std::ios::binary) << std::string(bytes, 'x');
}

TEST(StateFiles, AreNamedByRank) {
  EXPECT_EQ(state_file_path("/nvme", 3), "/nvme/state_rank_00003.bin");
  EXPECT_EQ(state_file_path("/nvme/", 123456), "/nvme/state_rank_123456.bin");
  EXPECT_EQ(state_file_path("/nvme", 3, StateFileKind::parameters), "/nvme/parameters_rank_00003.bin");
  EXPECT_EQ(state_file_path("/nvme", 3, StateFileKind::gradients), "/nvme/gradients_rank_00003.bin");
  EXPECT_EQ(state_file_path("/nvme", 3, StateFileKind::activations), "/nvme/activations_rank_00003.bin");
}

TEST(StateFiles, OnlyThoseOfRanksBeyondTheWorldAreRemoved) {
  TempFolder folder;
  for (int rank = 0; rank < 5; ++rank) leave_behind(state_file_path(folder.path(), rank));
  leave_behind(state_file_path(folder.path(), 123456));
  const std::string kept = state_file_path(folder.path(), 1, StateFileKind::activations);
  const std::string stale = state_file_path(folder.path(), 2, StateFileKind::activations);
  leave_behind(kept, 1);
  leave_behind(stale, 1);
  const std::vector<std::string> others = {
      "state_rank_7.bin",       "state_rank_00007.bin.bak", "state_rank_-0007.bin",       "state_rank_.bin",
      "state_rank_0000007.bin", "my_state_rank_00007.bin",  "state_rank_99999999999.bin", "activations_rank_7.bin"};
  for (const std::string& other : others) leave_behind(folder.file(other));
  fs::create_directory(state_file_path(folder.path(), 8));
  fs::create_symlink(state_file_path(folder.path(), 0), state_file_path(folder.path(), 1) + ".link");

  const auto freed = remove_stale_state_files(folder.path(), 2);
  ASSERT_TRUE(freed.ok()) << freed.status().message();
  EXPECT_TRUE(fs::exists(kept));
  EXPECT_FALSE(fs::exists(stale));
  EXPECT_GE(*freed, 4U * 65536U);
  EXPECT_LT(*freed, 5U * 65536U);
  for (int rank = 0; rank < 5; ++rank) EXPECT_EQ(fs::exists(state_file_path(folder.path(), rank)), rank < 2) << rank;
  EXPECT_FALSE(fs::exists(state_file_path(folder.path(), 123456)));
  for (const std::string& other : others) EXPECT_TRUE(fs::exists(folder.file(other))) << other;
  EXPECT_TRUE(fs::is_directory(state_file_path(folder.path(), 8)));

  const auto again = remove_stale_state_files(folder.path(), 2);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(*again, 0U);
}

TEST(StateFiles, OneInUseStays) {
  TempFolder folder;
  const std::string path = state_file_path(folder.path(), 3);
  auto running = RecordFile::create({path}, {1000});
  ASSERT_TRUE(running.ok()) << running.status().message();
  auto freed = remove_stale_state_files(folder.path(), 2);
  ASSERT_TRUE(freed.ok()) << freed.status().message();
  EXPECT_EQ(*freed, 0U);
  EXPECT_TRUE(fs::exists(path));
}

TEST(StateFiles, WhatCannotBeRemovedIsNamedAfterTheRestIsGone) {
  TempFolder folder;
  leave_behind(state_file_path(folder.path(), 5));
  fs::create_symlink("/dev/null", state_file_path(folder.path(), 4));
  leave_behind(state_file_path(folder.path(), 3));
  const auto freed = remove_stale_state_files(folder.path(), 0);
  ASSERT_FALSE(freed.ok());
  EXPECT_THAT(freed.status().message(), HasSubstr(state_file_path(folder.path(), 4)));
  EXPECT_FALSE(fs::exists(state_file_path(folder.path(), 3)));
  EXPECT_FALSE(fs::exists(state_file_path(folder.path(), 5)));
  EXPECT_FALSE(remove_stale_state_files(folder.file("absent"), 1).ok());
}

}  // namespace
}  // namespace strata
