// cuFile through a library that stands in for it (fake_cufile.cpp).
#include "runtime/gpu/cufile.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "tests/emulator/emulated_driver.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CuFileTest : public ::testing::Test {
 protected:
  ~CuFileTest() override {
    unsetenv("STRATA_FAKE_CUFILE");
    ::close(fd_);
    ::unlink(path_.c_str());
  }
  Result<std::shared_ptr<CuFile>> open(const char* wish = "") {
    setenv("STRATA_FAKE_CUFILE", wish, 1);
    return CuFile::open(gpu_emulated::make_emulated_driver()->file_library());
  }
  const std::string path_ = ::testing::TempDir() + "/strata_cufile_" + std::to_string(::getpid());
  const int fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_DIRECT, 0644);
};

TEST_F(CuFileTest, MovesBytesToAndFromAFile) {
  ASSERT_GE(fd_, 0) << std::strerror(errno);
  const auto library = open();
  ASSERT_TRUE(library.ok()) << library.status().message();
  EXPECT_THAT((*library)->through_host(), IsEmpty());
  const auto handle = (*library)->register_file(fd_, path_);
  ASSERT_TRUE(handle.ok()) << handle.status().message();
  alignas(4096) static std::byte memory[3 * 4096];
  std::memset(memory, 0x5a, 4096);
  ASSERT_TRUE((*library)->register_buffer(memory, sizeof memory).ok());
  EXPECT_EQ((*library)->write(*handle, memory, 4096, 8192, 0), 4096);
  EXPECT_EQ((*library)->read(*handle, memory, 4096, 8192, 8192), 4096);
  EXPECT_EQ(std::memcmp(memory, memory + 8192, 4096), 0);
  EXPECT_EQ(memory[4096], std::byte{0});
  EXPECT_EQ((*library)->read(*handle, memory, 4096, 1 << 20, 0), 0) << "behind the end";
  (*library)->deregister_buffer(memory);
  (*library)->deregister_file(*handle);
}

TEST_F(CuFileTest, SaysThatTransfersGoThroughTheHost) {
  EXPECT_THAT((*open("compat"))->through_host(), AllOf(HasSubstr("neither nvidia-fs"), HasSubstr("through host memory")));
  EXPECT_THAT((*open("allowed"))->through_host(), AllOf(HasSubstr("allow_compat_mode"), HasSubstr("through host memory")));
}

TEST_F(CuFileTest, ErrorsHaveTheCodesNameAndTheFile) {
  const Status driver = open("open").status();
  EXPECT_EQ(driver.code(), Code::unsupported);
  EXPECT_THAT(driver.message(),
              AllOf(HasSubstr("cuFileDriverOpen: CU_FILE_DRIVER_NOT_INITIALIZED (5001)"), HasSubstr("cufile.so")));
  const auto library = open("handle");
  EXPECT_THAT((*library)->register_file(fd_, path_).status().message(),
              HasSubstr(path_ + ": cuFileHandleRegister: CU_FILE_IO_NOT_SUPPORTED (5008)"));
  EXPECT_EQ(CuFile::describe({5011, 700}), "CU_FILE_CUDA_DRIVER_ERROR (5011), CUDA's code is 700");
  setenv("STRATA_FAKE_CUFILE", "open hangs", 1);
  const Status silent =
      CuFile::open(gpu_emulated::make_emulated_driver()->file_library(), {}, std::chrono::milliseconds(50)).status();
  EXPECT_EQ(silent.code(), Code::unsupported);
  EXPECT_THAT(silent.message(), HasSubstr("cuFileDriverOpen has not returned for 50 ms"));
  const Status missing = CuFile::open("libcufile-that-nobody-has.so.0").status();
  EXPECT_EQ(missing.code(), Code::unsupported);
  EXPECT_THAT(missing.message(), AllOf(HasSubstr("libcufile-that-nobody-has.so.0"), HasSubstr("install GPUDirect Storage")));
}

}  // namespace
}  // namespace strata
