// Devices that do not answer: an error after the limit, an engine that can be destroyed, and no buffer that is used again.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>
#include <vector>

#include "nvme/record_file.h"
#include "support.h"

namespace strata {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr milliseconds kLimit{200};

IoEngineOptions impatient(IoEngineOptions::Kind kind) {
  return {.kind = kind, .queue_depth = 4, .block_bytes = 65536, .timeout = kLimit};
}

// A pipe that nobody writes to: a read that can be cancelled.
TEST(UringEngine, CancelsWhatDoesNotAnswerAndWorksOn) {
  auto made = make_io_engine(impatient(IoEngineOptions::Kind::io_uring), nullptr);
  if (!made.ok()) GTEST_SKIP() << made.status().message();
  IoEngine& engine = **made;
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  IoFile pipe;
  pipe.fd = ends[0];
  pipe.path = "/silent";
  Blocks in(3 * 65536);
  const IoRequest request{IoRequest::Kind::read, &pipe, in.data(), 3 * 65536, 0};
  const Status status = engine.run({&request, 1});
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_THAT(status.message(), AllOf(HasSubstr("read of 65536 bytes at offset 0: /silent: nothing was heard for 200 ms"),
                                      HasSubstr("nvme.timeout")));
  EXPECT_FALSE(pipe.hangs) << "the kernel gave the buffers back";
  TempFolder folder;
  const auto file = RecordFile::create({folder.file("state")}, {100000}).value();
  Blocks buffer(file->buffer_bytes({0}));
  EXPECT_TRUE(file->write(engine, {0}, 1, buffer.span()).ok());
  ::close(ends[0]);
  ::close(ends[1]);
}

// Twice the limit, and the user waits for two minutes where one was promised.
TEST(UringEngine, NoticesAHangWhenTheLimitIsOver) {
  constexpr milliseconds kLong{1000};
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  IoFile pipe;
  pipe.fd = ends[0];
  Blocks in(4096);
  const IoRequest request{IoRequest::Kind::read, &pipe, in.data(), 4096, 0};
  auto fastest = std::chrono::steady_clock::duration::max();
  for (int i = 0; i < 3 && fastest > kLong * 3 / 2; ++i) {  // on a busy machine everything takes longer
    auto made = make_io_engine({.kind = IoEngineOptions::Kind::io_uring, .timeout = kLong}, nullptr);
    if (!made.ok()) GTEST_SKIP() << made.status().message();
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_FALSE((*made)->run({&request, 1}).ok());
    fastest = std::min(fastest, std::chrono::steady_clock::now() - begin);
  }
  EXPECT_GE(fastest, kLong);
  EXPECT_LE(fastest, kLong * 3 / 2);
  ::close(ends[0]);
  ::close(ends[1]);
}

// Slow is not hanging: something is heard again and again.
TEST(UringEngine, ASlowDeviceIsWaitedFor) {
  auto made = make_io_engine(impatient(IoEngineOptions::Kind::io_uring), nullptr);
  if (!made.ok()) GTEST_SKIP() << made.status().message();
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  IoFile pipe;
  pipe.fd = ends[0];
  pipe.path = "/slow";
  std::thread writer([&] {
    const std::string block(4096, 'x');
    for (int i = 0; i < 5; ++i) {
      std::this_thread::sleep_for(kLimit * 3 / 5);
      EXPECT_EQ(::write(ends[1], block.data(), block.size()), static_cast<ssize_t>(block.size()));
    }
  });
  Blocks in(5 * 4096);
  std::vector<IoRequest> requests;
  for (std::size_t i = 0; i < 5; ++i) requests.push_back({IoRequest::Kind::read, &pipe, in.data() + i * 4096, 4096, 0});
  const Status status = (*made)->run(requests);
  writer.join();
  EXPECT_TRUE(status.ok()) << status.message();
  ::close(ends[0]);
  ::close(ends[1]);
}

// An ext4 of its own in a file, where the tests may mount. While it is frozen, writes hang in the kernel and cannot be
// cancelled.
class FrozenFileSystem {
 public:
  FrozenFileSystem() {
    const std::string image = folder_.file("image"), on = folder_.file("mounted");
    std::filesystem::create_directory(on);
    const std::string quiet = " > /dev/null 2>&1";
    mounted_ = std::system(("truncate -s 32M " + image + " && mkfs.ext4 -q -F " + image + " && mount -o loop " + image + " " +
                            on + quiet)
                               .c_str()) == 0;
    if (mounted_) fd_ = ::open(on.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }
  ~FrozenFileSystem() {
    thaw();
    if (fd_ >= 0) ::close(fd_);
    if (mounted_) ::umount2(folder_.file("mounted").c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  std::string file(const std::string& name) const { return folder_.file("mounted/" + name); }
  // Until thaw(), or for 20 s: code that waits for the device then fails its test instead of hanging for ever.
  bool freeze() {
    if (::ioctl(fd_, FIFREEZE, 0) != 0) return false;
    watchdog_ = std::jthread([fd = fd_](const std::stop_token& stop) {
      for (int i = 0; i < 200 && !stop.stop_requested(); ++i) std::this_thread::sleep_for(milliseconds(100));
      ::ioctl(fd, FITHAW, 0);
    });
    return true;
  }
  void thaw() { watchdog_ = {}; }

 private:
  TempFolder folder_;
  bool mounted_ = false;
  int fd_ = -1;
  std::jthread watchdog_;
};

class HangingDevice : public ::testing::TestWithParam<IoEngineOptions::Kind> {};

TEST_P(HangingDevice, IsAnErrorThatNamesRecordAndPathAndNothingWaitsForIt) {
  auto made = make_io_engine(impatient(GetParam()), nullptr);
  if (!made.ok()) GTEST_SKIP() << made.status().message();
  FrozenFileSystem device;
  if (!device.mounted()) GTEST_SKIP() << "file systems in files cannot be mounted here";
  const std::string path = device.file("state");
  auto file = RecordFile::create({path}, {200000}).value();
  Blocks buffer(file->buffer_bytes({0}));
  ASSERT_TRUE(file->write(**made, {0}, 1, buffer.span()).ok());
  if (!device.freeze()) GTEST_SKIP() << "file systems cannot be frozen here";
  Blocks other(file->buffer_bytes({0}));
  for (const Blocks* memory : {&buffer, &other}) {
    const Status status = file->write(**made, {0}, 2, memory->span());
    EXPECT_EQ(status.code(), Code::io_error);
    EXPECT_THAT(status.message(), AllOf(HasSubstr("record 0, version 2: "), HasSubstr("buffers must not be reused"),
                                        HasSubstr("write of 65536 bytes at offset "), HasSubstr(path + ": nothing was heard")));
  }
  EXPECT_TRUE(file->io_files()[0]->hangs);
  const int fd = file->io_files()[0]->fd;
  const auto begin = std::chrono::steady_clock::now();
  made->reset();
  file.reset();  // removing its name would wait for the device
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  EXPECT_TRUE(std::filesystem::exists(path));
  // In a thread that has yet to begin its call, a number that is free for others would be another file.
  const bool open = ::fcntl(fd, F_GETFD) >= 0;
  EXPECT_EQ(open, GetParam() == IoEngineOptions::Kind::threads);
  device.thaw();
  // What was in flight has the file's lock until it lands; whoever comes next waits for that.
  EXPECT_TRUE(RecordFile::create({path}, {200000}).ok());
}

STRATA_FOR_EACH_ENGINE(HangingDevice);

TEST(HangingFileSystem, IsAnErrorBeforeTrainingToo) {
  FrozenFileSystem device;
  if (!device.mounted()) GTEST_SKIP() << "file systems in files cannot be mounted here";
  const std::string path = device.file("state");
  if (!device.freeze()) GTEST_SKIP() << "file systems cannot be frozen here";
  const auto file = RecordFile::create({path}, {200000}, {.io = {.timeout = kLimit}});
  EXPECT_EQ(file.status().code(), Code::io_error);
  EXPECT_THAT(file.status().message(), AllOf(HasSubstr(path + ": "), HasSubstr("nothing was heard for 200 ms")));
  device.thaw();
  EXPECT_TRUE(RecordFile::create({path}, {200000}).ok());
}

}  // namespace
}  // namespace strata
