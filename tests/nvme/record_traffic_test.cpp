// Measuring moves real records: checked on every read, beside writes, in a file that is gone afterwards. Mutations that must
// fail: write one slot only; write the records that are read; keep the file.
#include "nvme/record_traffic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "small_file_system.h"
#include "support.h"

namespace strata {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::size_t bytes_in(const std::string& folder) {
  std::size_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) bytes += entry.file_size();
  return bytes;
}

// Blocks that nothing was written to.
int holes_in(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> block(4096);
  int holes = 0;
  while (in.read(block.data(), 4096)) holes += std::all_of(block.begin(), block.end(), [](char c) { return c == 0; });
  return holes;
}

TEST(RecordTraffic, ReadsAndWritesBesideEachOtherAndLeavesNothing) {
  const TempFolder one, two;
  const RecordTrafficOptions options{.payload_bytes = 100'000, .file_bytes = 2 * kMiB, .weights = {1.0, 2.0}};
  const Blocks reading(RecordTraffic::window_bytes(options)), writing(RecordTraffic::window_bytes(options));
  {
    auto traffic = RecordTraffic::create({one.file("state"), two.file("state")}, options, reading.span(), writing.span());
    ASSERT_TRUE(traffic.ok()) << traffic.status().message();
    ASSERT_TRUE((*traffic)->write_all().ok());
    const std::size_t bytes = bytes_in(one.path()) + bytes_in(two.path());
    EXPECT_LE(bytes, options.file_bytes);
    EXPECT_GE(bytes, options.file_bytes / 2);
    EXPECT_EQ(holes_in(one.file("state")) + holes_in(two.file("state")), 0) << "the first writes would be slower";
    Status wrote;
    std::thread writer([&] {
      for (int i = 0; i < 30 && wrote.ok(); ++i) wrote = (*traffic)->write();
    });
    for (int i = 0; i < 30; ++i) {
      const Status status = (*traffic)->read();
      EXPECT_TRUE(status.ok()) << status.message();
    }
    writer.join();
    EXPECT_TRUE(wrote.ok()) << wrote.message();
  }
  EXPECT_EQ(bytes_in(one.path()) + bytes_in(two.path()), 0u);
}

TEST(RecordTraffic, HasTwoRecordsHoweverSmallTheFile) {
  const TempFolder folder;
  const RecordTrafficOptions options{.payload_bytes = 5, .file_bytes = 1};
  const Blocks reading(RecordTraffic::window_bytes(options)), writing(RecordTraffic::window_bytes(options));
  auto traffic = RecordTraffic::create({folder.file("state")}, options, reading.span(), writing.span());
  ASSERT_TRUE(traffic.ok()) << traffic.status().message();
  ASSERT_TRUE((*traffic)->write_all().ok());
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE((*traffic)->write().ok());
    EXPECT_TRUE((*traffic)->read().ok());
  }
}

TEST(RecordTraffic, NoRoomIsAnErrorAndLeavesNothing) {
  const SmallFileSystem small(kMiB);
  if (small.why_not()) GTEST_SKIP() << *small.why_not();
  const RecordTrafficOptions options{.payload_bytes = kMiB, .file_bytes = 4 * kMiB};
  const Blocks reading(RecordTraffic::window_bytes(options)), writing(RecordTraffic::window_bytes(options));
  const auto traffic = RecordTraffic::create({small.file("state")}, options, reading.span(), writing.span());
  EXPECT_THAT(traffic.status().message(), HasSubstr("No space left"));
  EXPECT_FALSE(std::filesystem::exists(small.file("state")));
}

}  // namespace
}  // namespace strata
