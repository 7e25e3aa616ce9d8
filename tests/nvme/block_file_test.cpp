#include "nvme/block_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "nvme/benchmark.h"
#include "refused_call.h"
#include "small_file_system.h"
#include "support.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::uint64_t allocated_bytes(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<std::uint64_t>(info.st_blocks) * 512 : 0;
}

// An io_uring holds the files it knows until some time after its end.
TEST(BlockFile, RemovingFreesTheSpaceAlthoughAnEngineHoldsTheFile) {
  const auto engine = make_io_engine(options_of(IoEngineOptions::Kind::automatic), nullptr).value();
  TempFolder folder;
  int held = -1;
  {
    auto file = BlockFile::create(folder.file("f"), kMiB, {}).value();
    held = ::open(folder.file("f").c_str(), O_RDONLY | O_CLOEXEC);
    IoFile* const files[] = {&file.io()};
    engine->register_files(files);
    Blocks out(4096);
    const IoRequest request{IoRequest::Kind::write, &file.io(), out.data(), 4096, 0};
    ASSERT_TRUE(engine->run({&request, 1}).ok());
    file.remove();
  }
  struct stat info {};
  ASSERT_EQ(::fstat(held, &info), 0);
  EXPECT_EQ(info.st_blocks, 0);
  EXPECT_FALSE(std::filesystem::exists(folder.file("f")));
  ::close(held);
}

TEST(BlockFile, CreateAllocatesEverythingAndReadsAsZeros) {
  TempFolder folder;
  for (const bool prewrite : {false, true}) {
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{4096}, 4 * kMiB, 4 * kMiB + 4096}) {
      std::ofstream(folder.file("f")) << "leftover of an earlier run";
      auto file = BlockFile::create(folder.file("f"), bytes, {.prewrite = prewrite});
      ASSERT_TRUE(file.ok()) << file.status().message();
      EXPECT_EQ(file->bytes(), bytes);
      EXPECT_EQ(std::filesystem::file_size(folder.file("f")), bytes);
      EXPECT_GE(allocated_bytes(folder.file("f")), bytes);
      std::ifstream in(folder.file("f"), std::ios::binary);
      std::string content(bytes, 'x');
      in.read(content.data(), static_cast<std::streamsize>(bytes));
      EXPECT_EQ(content, std::string(bytes, '\0'));
    }
  }
}

TEST(BlockFile, DirectUnlessItSaysWhyNot) {
  TempFolder folder;
  const auto file = BlockFile::create(folder.file("f"), 4096, {});
  ASSERT_TRUE(file.ok());
  EXPECT_NE(file->direct(), !file->why_buffered().empty());
  EXPECT_EQ((::fcntl(file->fd(), F_GETFL) & O_DIRECT) != 0, file->direct());
  EXPECT_EQ(4096 % file->alignment(), 0U);
}

TEST(BlockFile, BufferedWhenAskedNeedsNoExcuse) {
  TempFolder folder;
  const auto file = BlockFile::create(folder.file("f"), 4096, {.direct = false});
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE(file->direct());
  EXPECT_EQ(file->why_buffered(), "");
  EXPECT_EQ(file->alignment(), 1U);
}

TEST(BlockFile, AFileInUseIsNotTakenOver) {
  TempFolder folder;
  auto first = BlockFile::create(folder.file("f"), 8192, {});
  ASSERT_TRUE(first.ok());
  const BlockFileOptions at_once{.lock_wait = std::chrono::milliseconds(0)};
  const auto second = BlockFile::create(folder.file("f"), 4096, at_once);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(second.status().message(), AllOf(HasSubstr(folder.file("f")), HasSubstr("another process uses this file")));
  EXPECT_EQ(std::filesystem::file_size(folder.file("f")), 8192U);
  { const BlockFile closed = std::move(first).value(); }
  EXPECT_TRUE(BlockFile::create(folder.file("f"), 4096, at_once).ok());
}

TEST(BlockFile, WaitsForAPredecessorThatIsOnItsWayOut) {
  TempFolder folder;
  auto first = BlockFile::create(folder.file("f"), 8192, {});
  ASSERT_TRUE(first.ok());
  std::thread leaving([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    const BlockFile closed = std::move(first).value();
  });
  const auto second = BlockFile::create(folder.file("f"), 4096, {});
  leaving.join();
  EXPECT_TRUE(second.ok()) << second.status().message();
}

// Whose name would otherwise be free for a third run.
TEST(BlockFile, APredecessorThatRemovesItsFileLeavesTheSuccessorItsName) {
  TempFolder folder;
  auto first = BlockFile::create(folder.file("f"), 8192, {});
  ASSERT_TRUE(first.ok());
  std::thread leaving([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    BlockFile closed = std::move(first).value();
    closed.remove();
  });
  const auto second = BlockFile::create(folder.file("f"), 4096, {});
  leaving.join();
  ASSERT_TRUE(second.ok()) << second.status().message();
  EXPECT_TRUE(std::filesystem::exists(folder.file("f")));
  EXPECT_FALSE(BlockFile::create(folder.file("f"), 4096, {.lock_wait = std::chrono::milliseconds(0)}).ok());
}

TEST(BlockFile, AFileSystemThatRefusesDirectTransfersIsUsedThroughThePageCache) {
  TempFolder folder;
  for (const int call : {__NR_pread64, __NR_pwrite64}) {
    // The probe has 4096 bytes, what the file is prewritten with has not.
    const bool ran = where_refused({.number = call, .error = EINVAL, .third_argument = 4096}, [&] {
      const auto file = BlockFile::create(folder.file("f"), 8192, {});
      ASSERT_TRUE(file.ok()) << file.status().message();
      EXPECT_FALSE(file->direct());
      EXPECT_EQ(::fcntl(file->fd(), F_GETFL) & O_DIRECT, 0);
      EXPECT_THAT(file->why_buffered(), HasSubstr(call == __NR_pread64 ? "refused a direct read" : "refused a direct write"));
    });
    if (!ran) GTEST_SKIP() << "seccomp filters are not allowed here";
  }
}

TEST(BlockFile, ADeviceThatFailsIsNotAFullOne) {
  TempFolder folder;
  const auto message = [&](const RefusedCall& call) {
    std::string text = "not run";
    where_refused(call, [&] { text = BlockFile::create(folder.file("f"), 8192, {}).status().message(); });
    EXPECT_FALSE(std::filesystem::exists(folder.file("f")));
    return text;
  };
  if (message({.number = __NR_pread64, .error = EIO}) == "not run") GTEST_SKIP() << "seccomp filters are not allowed here";
  const std::string at = ": " + folder.file("f") + ": Input/output error";
  EXPECT_EQ(message({.number = __NR_pread64, .error = EIO}), "first direct read at offset 0" + at);
  EXPECT_EQ(message({.number = __NR_pwrite64, .error = EIO, .third_argument = 4096}), "first direct write at offset 0" + at);
  EXPECT_EQ(message({.number = __NR_pwrite64, .error = EIO, .third_argument = 8192}), "write of 8192 bytes at offset 0" + at);
  EXPECT_EQ(message({.number = __NR_fallocate, .error = EIO}), "allocate 8.00 KiB" + at);
  EXPECT_THAT(message({.number = __NR_pwrite64, .error = EDQUOT, .third_argument = 8192}), HasSubstr("make room"));
}

TEST(BlockFile, BadPathsAreNamed) {
  TempFolder folder;
  const auto no_folder = BlockFile::create(folder.file("absent/f"), 4096, {});
  ASSERT_FALSE(no_folder.ok());
  EXPECT_EQ(no_folder.status().message(), "open: " + folder.file("absent/f") + ": No such file or directory");
  EXPECT_FALSE(BlockFile::create(folder.path(), 4096, {}).ok());
  std::filesystem::create_symlink("/dev/null", folder.file("device"));
  EXPECT_THAT(BlockFile::create(folder.file("device"), 4096, {}).status().message(), HasSubstr("not a regular file"));
}

TEST(BlockFile, FullFileSystemSaysWhatIsNeededAndWhatIsFree) {
  SmallFileSystem small(2 * kMiB);
  if (small.why_not()) GTEST_SKIP() << *small.why_not();
  const auto fits = BlockFile::create(small.file("fits"), kMiB, {});
  ASSERT_TRUE(fits.ok()) << fits.status().message();
  for (const bool prewrite : {false, true}) {
    const auto file = BlockFile::create(small.file("f"), kMiB + 4096, {.prewrite = prewrite});
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), Code::io_error);
    EXPECT_THAT(file.status().message(),
                AllOf(HasSubstr(small.file("f")), HasSubstr("(1052672 bytes)"), HasSubstr("free are 1.00 MiB (1048576 bytes)"),
                      HasSubstr("No space left on device")));
    EXPECT_FALSE(std::filesystem::exists(small.file("f")));
  }
}

TEST(BlockFile, FullDeviceUnderTheEngineIsAnErrorWithItsPlace) {
  SmallFileSystem small(kMiB);
  if (small.why_not()) GTEST_SKIP() << *small.why_not();
  const auto file = BlockFile::create(small.file("f"), 0, {});
  ASSERT_TRUE(file.ok());
  Blocks out(2 * kMiB);
  for (const auto kind : {IoEngineOptions::Kind::automatic, IoEngineOptions::Kind::threads}) {
    const auto engine = make_io_engine(options_of(kind), nullptr).value();
    const IoRequest request{IoRequest::Kind::write, &file->io(), out.data(), 2 * kMiB, 0};
    const Status status = engine->run({&request, 1});
    EXPECT_THAT(status.message(), AllOf(HasSubstr("at offset "), HasSubstr(small.file("f") + ": No space left on device")));
  }
}

TEST(BlockFile, FileSizeLimitIsAnErrorAndNotASignal) {
  TempFolder folder;
  rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit limit{kMiB, old_limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto fits = BlockFile::create(folder.file("fits"), kMiB, {});
  const auto file = BlockFile::create(folder.file("f"), kMiB + 4096, {});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  EXPECT_TRUE(fits.ok()) << fits.status().message();
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(file.status().message(), AllOf(HasSubstr(folder.file("f")), HasSubstr("1052672"), HasSubstr("at most 1048576"),
                                             HasSubstr("ulimit -f"), HasSubstr("File too large")));
  EXPECT_FALSE(std::filesystem::exists(folder.file("f")));
}

TEST(MeasureNvme, GivesOneSampleARepeatAndRemovesItsFile) {
  TempFolder folder;
  // The last has blocks larger than the file, the one before blocks that do not divide it.
  const std::vector<IoEngineOptions> settings = {options_of(IoEngineOptions::Kind::automatic),
                                                 options_of(IoEngineOptions::Kind::threads, 2, 12 << 10),
                                                 options_of(IoEngineOptions::Kind::automatic, 4, 4 << 20)};
  const auto measured = measure_nvme(folder.path(), kMiB + 1, settings, 0.03, 3);
  ASSERT_TRUE(measured.ok()) << measured.status().message();
  ASSERT_EQ(measured->size(), settings.size());
  for (std::size_t i = 0; i < settings.size(); ++i) {
    const NvmeRates& rates = (*measured)[i];
    EXPECT_EQ(rates.options.block_bytes, std::min(settings[i].block_bytes, 2 * kMiB)) << "what was measured is said";
    for (const NvmeRate& rate : {rates.read, rates.write, rates.mixed}) {
      EXPECT_EQ(rate.samples.size(), 3U);
      EXPECT_GT(rate.median, 0);
      EXPECT_THAT(rate.samples, ::testing::Contains(rate.median));
      EXPECT_GT(rate.latency.count, 0U);
    }
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  EXPECT_FALSE(measure_nvme(folder.path(), kMiB - 1, settings, 1, 1).ok());
  EXPECT_FALSE(measure_nvme(folder.path(), kMiB, settings, 1, 0).ok());
  EXPECT_FALSE(measure_nvme(folder.file("absent"), kMiB, settings, 0, 1).ok());
}

}  // namespace
}  // namespace strata
