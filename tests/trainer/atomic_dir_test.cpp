#include "trainer/checkpoint/atomic_dir.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <vector>

namespace strata {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class AtomicDir : public ::testing::Test {
 protected:
  AtomicDir() {
    std::string pattern = ::testing::TempDir() + "/strata-atomic-XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp " + pattern);
    root_ = pattern;
  }
  ~AtomicDir() override {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  std::string at(const std::string& name) const { return root_ + "/" + name; }
  static void put(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(path).parent_path());
    std::ofstream(path) << text;
  }
  static std::string get(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void commit(const std::string& name, const std::string& text) {
    ASSERT_TRUE(begin_atomic_dir(at(name)).ok());
    put(temporary_path(at(name)) + "/file", text);
    const Status status = commit_atomic_dir(at(name));
    ASSERT_TRUE(status.ok()) << status.message();
  }
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> result;
    const auto found = list_step_dirs(root_);
    for (const StepDir& dir : found.value()) result.push_back(dir.step);
    return result;
  }
  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& entry : fs::directory_iterator(root_)) result.push_back(entry.path().filename().string());
    std::sort(result.begin(), result.end());
    return result;
  }
  std::string root_;
};

TEST_F(AtomicDir, IsNotThereUntilItIsCommitted) {
  const std::string path = at("a/b/step_1");
  ASSERT_TRUE(begin_atomic_dir(path).ok()) << "parents are created";
  put(temporary_path(path) + "/file", "one");
  put(temporary_path(path) + "/sub/deep", "two");
  EXPECT_FALSE(fs::exists(path));
  const Status status = commit_atomic_dir(path);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(get(path + "/file"), "one");
  EXPECT_EQ(get(path + "/sub/deep"), "two");
  EXPECT_FALSE(fs::exists(temporary_path(path)));
}

TEST_F(AtomicDir, TemporaryPathIgnoresATrailingSlash) {
  EXPECT_EQ(temporary_path("x/step_1/"), "x/step_1.tmp");
  ASSERT_TRUE(begin_atomic_dir(at("step_1/")).ok());
  ASSERT_TRUE(commit_atomic_dir(at("step_1/")).ok());
  EXPECT_THAT(names(), ElementsAre("step_1"));
}

TEST_F(AtomicDir, RelativePathsWork) {
  const fs::path before = fs::current_path();
  fs::current_path(root_);
  const Status begun = begin_atomic_dir("step_1");
  const Status committed = commit_atomic_dir("step_1");
  fs::current_path(before);
  EXPECT_TRUE(begun.ok()) << begun.message();
  EXPECT_TRUE(committed.ok()) << committed.message();
  EXPECT_THAT(names(), ElementsAre("step_1"));
}

TEST_F(AtomicDir, BeginForgetsWhatACrashLeft) {
  put(at("step_1.tmp/stale"), "half a checkpoint");
  commit("step_1", "new");
  EXPECT_FALSE(fs::exists(at("step_1/stale")));
}

TEST_F(AtomicDir, CommitReplacesWhatIsThere) {
  commit("step_1", "old");
  put(at("step_1.old/file"), "leftover of a crash");
  commit("step_1", "new");
  EXPECT_EQ(get(at("step_1/file")), "new");
  EXPECT_THAT(names(), ElementsAre("step_1"));
}

TEST_F(AtomicDir, DiscardRemovesOnlyTheTemporary) {
  commit("step_1", "committed");
  ASSERT_TRUE(begin_atomic_dir(at("step_1")).ok());
  put(temporary_path(at("step_1")) + "/file", "not wanted");
  EXPECT_TRUE(discard_atomic_dir(at("step_1")).ok());
  EXPECT_TRUE(discard_atomic_dir(at("step_1")).ok()) << "nothing to discard is fine";
  EXPECT_EQ(get(at("step_1/file")), "committed");
  EXPECT_THAT(names(), ElementsAre("step_1"));
}

TEST_F(AtomicDir, ErrorsNamePathAndErrno) {
  put(at("file"), "");
  EXPECT_THAT(begin_atomic_dir(at("file/step_1")).message(), HasSubstr(at("file")));
  EXPECT_EQ(commit_atomic_dir(at("step_1")).message(), "list folder: " + at("step_1.tmp") + ": No such file or directory");
  EXPECT_FALSE(list_step_dirs(at("file")).ok());
}

TEST_F(AtomicDir, AnUnwritableFolderIsAnError) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write anywhere";
  fs::permissions(root_, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(begin_atomic_dir(at("step_1")).message(), "create folder: " + at("step_1.tmp") + ": Permission denied");
  fs::permissions(root_, fs::perms::owner_all);
}

TEST_F(AtomicDir, ListsCommittedStepsByNumber) {
  for (const char* name : {"step_10", "step_9", "step_0", "step_11.tmp", "step_9.old", "step_", "step_x", "step_-1", "step_07",
                           "stop_3", "step_5x", "step_99999999999999999999"}) {
    fs::create_directory(at(name));
  }
  put(at("step_12"), "a file is no checkpoint");
  EXPECT_THAT(steps(), ElementsAre(0, 9, 10));
  EXPECT_EQ(list_step_dirs(root_)->back().path, at("step_10"));
  EXPECT_TRUE(list_step_dirs(at("absent"))->empty()) << "no folder, no checkpoints";
}

TEST_F(AtomicDir, ACrashInsideAReplacementLosesNothing) {
  put(at("step_5.old/file"), "committed before");
  put(at("step_5.tmp/file"), "complete, but not renamed");
  ASSERT_THAT(steps(), ElementsAre(5));
  EXPECT_EQ(get(list_step_dirs(root_)->front().path + "/file"), "committed before");
  ASSERT_TRUE(prune_step_dirs(root_, 1).ok());
  EXPECT_THAT(names(), ElementsAre("step_5"));
  EXPECT_EQ(get(at("step_5/file")), "committed before");
}

TEST_F(AtomicDir, PruneKeepsTheLastN) {
  for (const char* name : {"step_1", "step_2", "step_9", "step_10"}) commit(name, name);
  ASSERT_TRUE(prune_step_dirs(root_, 0).ok());
  EXPECT_THAT(steps(), ElementsAre(1, 2, 9, 10)) << "0 keeps all";
  ASSERT_TRUE(prune_step_dirs(root_, 4).ok());
  EXPECT_THAT(steps(), ElementsAre(1, 2, 9, 10));
  ASSERT_TRUE(prune_step_dirs(root_, 3).ok());
  EXPECT_THAT(steps(), ElementsAre(2, 9, 10));
  ASSERT_TRUE(prune_step_dirs(root_, 1).ok());
  EXPECT_THAT(names(), ElementsAre("step_10"));
  ASSERT_TRUE(prune_step_dirs(root_, -1).ok());
  EXPECT_THAT(steps(), ElementsAre(10));
  EXPECT_TRUE(prune_step_dirs(at("absent"), 1).ok());
}

TEST_F(AtomicDir, PruneRemovesLeftoversAndNothingElse) {
  commit("step_3", "");
  put(at("step_4.tmp/file"), "crashed save");
  put(at("step_3.old/file"), "crashed replacement");
  put(at("notes.tmp/file"), "somebody's");
  put(at("step_7.bak/file"), "somebody's");
  ASSERT_TRUE(prune_step_dirs(root_, 2).ok());
  EXPECT_THAT(names(), ElementsAre("notes.tmp", "step_3", "step_7.bak"));
}

}  // namespace
}  // namespace strata
