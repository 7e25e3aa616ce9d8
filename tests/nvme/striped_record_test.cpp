// Records that are spread over several paths: the same bytes come back wherever they were put.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <vector>

#include "nvme/format.h"
#include "nvme/record_file.h"
#include "nvme/record_layout.h"
#include "nvme/state_files.h"
#include "small_file_system.h"
#include "support.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kChunk = format::kChunkBytes;

class StripedRecords : public EachEngine {
 protected:
  // "state" in folders of their own.
  std::vector<std::string> paths(std::size_t count) const {
    std::vector<std::string> all;
    for (std::size_t p = 0; p < count; ++p) {
      std::filesystem::create_directory(folder_.file("drive" + std::to_string(p)));
      all.push_back(folder_.file("drive" + std::to_string(p)) + "/state");
    }
    return all;
  }
  std::unique_ptr<RecordFile> create(std::size_t count, std::vector<std::size_t> payloads, std::vector<double> weights) const {
    return RecordFile::create(paths(count), std::move(payloads), {.prewrite = false, .weights = std::move(weights)}).value();
  }
  Status write(RecordFile& file, std::int64_t id, std::uint64_t version) {
    Blocks buffer(file.buffer_bytes({id}));
    buffer.fill(seed(id, version));
    return file.write(*engine_, {id}, version, buffer.span());
  }
  Status read(RecordFile& file, std::int64_t id, std::uint64_t version, std::size_t payload) {
    Blocks buffer(file.buffer_bytes({id}));
    STRATA_RETURN_IF_ERROR(file.read(*engine_, {id}, version, buffer.span()));
    return buffer.first_difference(seed(id, version), payload) == payload ? Status() : Status(Code::internal, "unnoticed");
  }
  static std::uint64_t seed(std::int64_t id, std::uint64_t version) { return static_cast<std::uint64_t>(id) * 1000 + version; }
};

TEST_P(StripedRecords, ComeBackFromAnyNumberOfPathsAndWeights) {
  const std::vector<std::size_t> payloads = {0, 1, 4096, kChunk - 1, kChunk, kChunk + 1, 3 * kChunk + 5};
  for (const std::vector<double>& weights : {std::vector<double>{1}, {1, 1}, {5, 1}, {1, 2, 3}, {1, 1, 1, 1}}) {
    const auto file = create(weights.size(), payloads, weights);
    for (std::uint64_t version = 1; version <= 3; ++version) {
      for (std::size_t r = 0; r < payloads.size(); ++r) ASSERT_TRUE(write(*file, static_cast<std::int64_t>(r), version).ok());
      for (std::size_t r = 0; r < payloads.size(); ++r) {
        for (std::uint64_t v = version > 1 ? version - 1 : version; v <= version; ++v) {
          const Status status = read(*file, static_cast<std::int64_t>(r), v, payloads[r]);
          EXPECT_TRUE(status.ok()) << status.message() << ", " << weights.size() << " paths";
        }
      }
    }
  }
}

TEST_P(StripedRecords, TheFilesHoldWhatTheLayoutSays) {
  const auto file = create(2, {3 * kChunk}, {1, 1});
  ASSERT_TRUE(write(*file, 0, 1).ok());
  const RecordLayout layout({3 * kChunk}, std::vector<double>{1, 1});
  for (const RecordPiece& piece : layout.extent(0, 1).payload) {
    std::ifstream in(file->paths()[piece.path], std::ios::binary);
    in.seekg(static_cast<std::streamoff>(piece.offset));
    for (const std::size_t at : {std::size_t{0}, std::size_t{1}, piece.bytes - 1}) {
      in.seekg(static_cast<std::streamoff>(piece.offset + at));
      ASSERT_EQ(static_cast<std::byte>(in.get()), Blocks::expected(seed(0, 1), piece.first + at)) << at;
    }
  }
  for (std::size_t p = 0; p < 2; ++p) EXPECT_EQ(std::filesystem::file_size(file->paths()[p]), layout.file_bytes(p));
}

TEST_P(StripedRecords, DamageOnAnyPathIsNoticed) {
  const std::vector<std::size_t> payloads = {4 * kChunk};
  const auto file = RecordFile::create(paths(2), payloads, {.direct = false, .weights = {1, 1}}).value();
  ASSERT_TRUE(write(*file, 0, 1).ok());
  ASSERT_TRUE(write(*file, 0, 2).ok());
  const RecordExtent extent = RecordLayout(payloads, std::vector<double>{1, 1}).extent(0, 2);
  ASSERT_EQ(extent.payload.size(), 4U);
  for (const RecordPiece& piece : extent.payload) {
    flip_bit(file->paths()[piece.path], piece.offset + piece.bytes / 2);
    const Status status = read(*file, 0, 2, payloads[0]);
    EXPECT_EQ(status.code(), Code::corrupt);
    EXPECT_THAT(status.message(), AllOf(HasSubstr(file->paths()[0] + ": record 0, version 2, at offset "),
                                        HasSubstr(" and of " + file->paths()[1] + " at offset "), HasSubstr("checksum")));
    EXPECT_TRUE(read(*file, 0, 1, payloads[0]).ok()) << "the version before is intact";
    flip_bit(file->paths()[piece.path], piece.offset + piece.bytes / 2);
  }
  EXPECT_TRUE(read(*file, 0, 2, payloads[0]).ok());
}

// One path writes its part of version 4 and the other does not get to it.
TEST_P(StripedRecords, AVersionThatIsOnlyOnSomePathsIsNotRead) {
  const std::vector<std::size_t> payloads = {4 * kChunk};
  const auto file = RecordFile::create(paths(2), payloads, {.direct = false, .weights = {1, 1}}).value();
  for (std::uint64_t version = 1; version <= 3; ++version) ASSERT_TRUE(write(*file, 0, version).ok());
  const RecordExtent extent = RecordLayout(payloads, std::vector<double>{1, 1}).extent(0, 4);
  for (const std::size_t arrived : {0, 1}) {
    for (const RecordPiece& piece : extent.payload) {
      if (piece.path != arrived) continue;
      std::fstream raw(file->paths()[piece.path], std::ios::in | std::ios::out | std::ios::binary);
      raw.seekp(static_cast<std::streamoff>(piece.offset));
      for (std::size_t i = 0; i < piece.bytes; ++i) raw.put(static_cast<char>(Blocks::expected(seed(0, 4), piece.first + i)));
    }
    EXPECT_EQ(read(*file, 0, 4, payloads[0]).code(), Code::corrupt);
    EXPECT_TRUE(read(*file, 0, 3, payloads[0]).ok());
  }
}

TEST_P(StripedRecords, TrafficIsCountedByPathAndDirection) {
  const auto file = create(2, {4 * kChunk}, {1, 1});
  ASSERT_TRUE(write(*file, 0, 1).ok());
  ASSERT_TRUE(read(*file, 0, 1, 4 * kChunk).ok());
  const std::vector<PathTraffic> traffic = file->take_traffic();
  ASSERT_EQ(traffic.size(), 2U);
  for (std::size_t p = 0; p < 2; ++p) {
    EXPECT_EQ(traffic[p].path, file->paths()[p]);
    for (const LatencySummary& summary : {traffic[p].read, traffic[p].write}) {
      EXPECT_EQ(summary.bytes, 2 * kChunk + (p == 1 ? 4096 : 0)) << "the header is behind the last chunk";
      EXPECT_GE(summary.count, summary.bytes / (64 << 10));
      EXPECT_GT(summary.p50, 0.0);
      EXPECT_GE(summary.p99, summary.p50);
      EXPECT_GE(summary.max, summary.p99);
    }
  }
  for (const PathTraffic& later : file->take_traffic()) EXPECT_EQ(later.read.count + later.write.count, 0U);
}

TEST_P(StripedRecords, RegisteredMemoryAndFilesMoveTheSameBytes) {
  const auto file = create(2, {2 * kChunk + 4097}, {1, 1});
  Blocks buffer(file->buffer_bytes({0})), other(file->buffer_bytes({0})), unused(4096);
  const std::span<std::byte> windows[] = {unused.span(), buffer.span()};
  engine_->register_files(file->io_files());
  engine_->register_buffers(windows);
  for (std::uint64_t version = 1; version <= 4; ++version) {
    Blocks& memory = version % 2 == 1 ? buffer : other;  // registered and not
    memory.fill(version);
    ASSERT_TRUE(file->write(*engine_, {0}, version, memory.span()).ok());
    for (Blocks* into : {&other, &buffer}) {
      into->fill(99);
      const Status status = file->read(*engine_, {0}, version, into->span());
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(into->first_difference(version, 2 * kChunk + 4097), 2 * kChunk + 4097);
    }
  }
}

STRATA_FOR_EACH_ENGINE(StripedRecords);

TEST(RecordPaths, OneFolderTwiceIsAnErrorThatNamesBoth) {
  TempFolder folder;
  std::filesystem::create_directory(folder.file("a"));
  std::filesystem::create_directory_symlink(folder.file("a"), folder.file("b"));
  for (const std::string& again : {folder.file("a"), folder.file("a/."), folder.file("b")}) {
    const auto file = RecordFile::create({state_file_path(folder.file("a"), 0), state_file_path(again, 0)}, {1000}, {});
    ASSERT_FALSE(file.ok()) << again;
    EXPECT_EQ(file.status().code(), Code::invalid_config);
    EXPECT_THAT(file.status().message(),
                AllOf(HasSubstr("nvme.path: " + folder.file("a") + " and "), HasSubstr("the same folder")));
    EXPECT_TRUE(std::filesystem::is_empty(folder.file("a")));
  }
}

TEST(RecordPaths, APathThatFailsLeavesNoFileOnTheOthers) {
  TempFolder folder;
  for (const bool first : {false, true}) {
    std::vector<std::string> paths = {folder.file("state"), folder.file("absent/state")};
    if (first) std::swap(paths[0], paths[1]);
    const auto file = RecordFile::create(paths, {10 * kChunk}, {.weights = {1, 1}});
    EXPECT_THAT(file.status().message(), HasSubstr("open: " + folder.file("absent/state") + ": No such file or directory"));
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
}

TEST(RecordPaths, WeightsAreMeasuredWhereNoneAreGivenAndSaid) {
  TempFolder folder;
  std::filesystem::create_directory(folder.file("a"));
  std::filesystem::create_directory(folder.file("b"));
  const std::vector<std::string> paths = {folder.file("a") + "/state", folder.file("b") + "/state"};
  {
    const auto file = RecordFile::create(paths, {40 * kChunk}, {});
    ASSERT_TRUE(file.ok()) << file.status().message();
    std::uint64_t bytes = 0;
    for (const std::string& path : paths) bytes += std::filesystem::file_size(path);
    EXPECT_EQ(bytes, RecordFile::file_bytes(std::vector<std::size_t>{40 * kChunk}));
    for (const std::string& path : paths)
      EXPECT_THAT((*file)->notes(), ::testing::Contains(AllOf(HasSubstr(path + ": gets "), HasSubstr("GB/s reading"))));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.file("a"))) << "neither state nor what the probe wrote is left";
  const auto one = RecordFile::create({paths[0]}, {1000}, {});
  ASSERT_TRUE(one.ok());
  for (const std::string& note : (*one)->notes()) EXPECT_THAT(note, ::testing::Not(HasSubstr("gets")));
}

TEST(RecordPaths, MeasuringNeedsNoMoreRoomThanTheState) {
  SmallFileSystem small(1 << 20);
  if (small.why_not()) GTEST_SKIP() << *small.why_not();
  TempFolder folder;
  const std::vector<std::string> paths = {small.file("state"), folder.file("state")};
  for (const std::vector<std::size_t>& payloads : {std::vector<std::size_t>{100000}, {}}) {
    const auto file = RecordFile::create(paths, payloads, {});
    EXPECT_TRUE(file.ok()) << file.status().message();
  }
  const auto larger = RecordFile::create(paths, {100 * kChunk}, {});
  EXPECT_THAT(larger.status().message(), AllOf(HasSubstr("nvme.weights makes that unnecessary"), HasSubstr(paths[0])));
}

TEST(RecordPaths, LeftoversOnEveryPathAreTakenOver) {
  TempFolder folder;
  const std::vector<std::string> paths = {folder.file("a"), folder.file("b")};
  for (const std::string& path : paths) std::ofstream(path) << std::string(1 << 20, 'x');
  {
    const auto file = RecordFile::create(paths, {2 * kChunk}, {.weights = {1, 1}});
    ASSERT_TRUE(file.ok());
    const auto engine = make_io_engine({}, nullptr).value();
    Blocks buffer((*file)->buffer_bytes({0}));
    EXPECT_THAT((*file)->read(*engine, {0}, 1, buffer.span()).message(), HasSubstr("there is no record header"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace strata
