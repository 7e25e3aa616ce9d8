// Records whose buffers lie in a GPU's memory, between it and their files by cuFile: the same bytes in the file as from the
// host, the same checks and errors. The GPU is the emulator, the library one that stands in for cuFile
// (tests/emulator/fake_cufile.cpp). Mutations that must fail: a checksum that is not compared; the header taken from where it
// was encoded; a result of cuFile that is not looked at; the offset of a buffer left out; handles that outlive the library's
// driver.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "nvme/cufile_engine.h"
#include "nvme/gpu_record_memory.h"
#include "nvme/record_file.h"
#include "nvme/record_layout.h"
#include "support.h"
#include "tests/emulator/emulated_driver.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<std::size_t> kPayloads = {0, 3, 240, 241, 5000, 12 * 4096, (std::size_t{2} << 20) + 4097};

// A GPU with a window, and the files of records on one path or two.
class GpuRecords : public ::testing::Test {
 protected:
  ~GpuRecords() override {
    engine_.reset();
    known_.reset();
    memory_.reset();
    file_.reset();
    for (std::byte* device : {window_, scratch_}) gpu_->free_device(device);
    gpu_->free_pinned(bounce_, GpuRecordMemory::kHostBytes);
    unsetenv("STRATA_FAKE_CUFILE");
  }
  void create(std::vector<std::string> names = {"state"}, bool direct = true) {
    for (std::string& name : names) name = folder_.file(name);
    file_ = RecordFile::create(names, kPayloads, {.direct = direct, .weights = std::vector<double>(names.size(), 1.0)}).value();
  }
  Status open(const char* wish = "", std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
    setenv("STRATA_FAKE_CUFILE", wish, 1);
    engine_.reset();
    known_.reset();
    notes_.clear();
    const std::span<std::byte> window = {window_, kWindow};
    auto known = CuFileFiles::open(gpu_, file_->io_files(), {&window, 1}, &notes_);
    if (!known.ok()) return known.status();
    known_ = *known;
    engine_ = known_->make_engine({.queue_depth = 4, .block_bytes = 65536, .timeout = timeout});
    return {};
  }
  // The part of the window that a record's buffer is; not at its begin.
  std::span<std::byte> buffer(std::size_t r) const { return {window_ + kOffset, file_->buffer_bytes({std::int64_t(r)})}; }
  Status write(std::size_t r, std::uint64_t version, std::uint64_t seed) {
    for (std::size_t i = 0; i < kPayloads[r]; ++i) buffer(r)[i] = Blocks::expected(seed, i);
    for (std::size_t i = kPayloads[r]; i < buffer(r).size(); ++i) buffer(r)[i] = std::byte{0xee};
    return file_->write(*engine_, {std::int64_t(r)}, version, buffer(r), *memory_);
  }
  Status read(std::size_t r, std::uint64_t version) {
    std::memset(window_, 0xdd, kWindow);
    return file_->read(*engine_, {std::int64_t(r)}, version, buffer(r), *memory_);
  }
  bool holds(std::size_t r, std::uint64_t seed) const {
    for (std::size_t i = 0; i < kPayloads[r]; ++i)
      if (buffer(r)[i] != Blocks::expected(seed, i)) return false;
    return true;
  }

  static constexpr std::size_t kWindow = std::size_t{3} << 20, kOffset = 8192;
  TempFolder folder_;
  const std::shared_ptr<GpuDriver> gpu_ = gpu_emulated::make_emulated_driver();
  std::byte* const window_ = gpu_->allocate_device(kWindow).value();
  std::byte* const scratch_ = gpu_->allocate_device(GpuRecordMemory::kDeviceBytes).value();
  std::byte* const bounce_ = gpu_->allocate_pinned(GpuRecordMemory::kHostBytes).value();
  std::unique_ptr<GpuRecordMemory> memory_ = std::make_unique<GpuRecordMemory>(
      *gpu_, gpu_->make_queue("test").value(), std::span(scratch_, GpuRecordMemory::kDeviceBytes),
      std::span(bounce_, GpuRecordMemory::kHostBytes));
  std::unique_ptr<RecordFile> file_;
  std::shared_ptr<CuFileFiles> known_;
  std::unique_ptr<IoEngine> engine_;
  std::vector<std::string> notes_;
};

TEST_F(GpuRecords, AreReadByTheHostAndTheHostsByThem) {
  for (const std::vector<std::string>& names : {std::vector<std::string>{"one"}, {"two", "three"}}) {
    create(names);
    ASSERT_TRUE(open().ok());
    EXPECT_STREQ(engine_->name(), "cuFile");
    EXPECT_THAT(notes_, IsEmpty());
    const auto host = make_io_engine(options_of(IoEngineOptions::Kind::threads), nullptr).value();
    for (std::size_t r = 0; r < kPayloads.size(); ++r) {
      SCOPED_TRACE(kPayloads[r]);
      const RecordId id{static_cast<std::int64_t>(r)};
      Blocks there(file_->buffer_bytes(id));
      Status status = write(r, 1, 10 + r);
      ASSERT_TRUE(status.ok()) << status.message();
      status = file_->read(*host, id, 1, there.span());
      EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(there.first_difference(10 + r, kPayloads[r]), kPayloads[r]);
      for (std::size_t i = kPayloads[r]; i + format::kBlockBytes < there.span().size(); ++i)
        ASSERT_EQ(there.data()[i], std::byte{0}) << "padding is zero";
      there.fill(20 + r);
      ASSERT_TRUE(file_->write(*host, id, 2, there.span()).ok());
      status = read(r, 2);
      EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(holds(r, 20 + r));
      status = read(r, 1);
      EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(holds(r, 10 + r)) << "the other slot";
    }
    engine_.reset();
    known_.reset();
  }
}

TEST_F(GpuRecords, DamageIsFoundInEveryPartOfTheSlot) {
  create();
  ASSERT_TRUE(open().ok());
  for (std::size_t r = 1; r < kPayloads.size(); ++r) {
    const RecordExtent extent = RecordLayout(kPayloads).extent(r, 1);
    const std::string path = folder_.file("state"), name = "record " + std::to_string(r) + ", version 1, at offset ";
    for (const std::size_t at : {std::size_t{0}, kPayloads[r] / 2, kPayloads[r] - 1}) {
      ASSERT_TRUE(write(r, 1, r).ok());
      ASSERT_TRUE(read(r, 1).ok());
      flip_bit(path, extent.payload[0].offset + at);
      const Status status = read(r, 1);
      EXPECT_EQ(status.code(), Code::corrupt) << kPayloads[r] << " bytes, byte " << at;
      EXPECT_THAT(status.message(),
                  HasSubstr(path + ": " + name + std::to_string(extent.payload[0].offset) + ": its payload has checksum 0x"));
      flip_bit(path, extent.payload[0].offset + at);
    }
    flip_bit(path, extent.header.offset + format::kVersionAt);
    EXPECT_THAT(read(r, 1).message(),
                HasSubstr(path + ": " + name + std::to_string(extent.header.offset) + ": its header has checksum "));
  }
  EXPECT_THAT(read(3, 2).message(), HasSubstr("there is no record header")) << "a slot that was never written";
}

TEST_F(GpuRecords, ShortTransfersAreContinued) {
  create({"a", "b"});
  ASSERT_TRUE(open("short").ok());
  for (std::size_t r = 0; r < kPayloads.size(); ++r) {
    Status status = write(r, 1, r);
    ASSERT_TRUE(status.ok()) << status.message();
    status = read(r, 1);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(holds(r, r));
  }
}

TEST_F(GpuRecords, AFailedTransferNamesRecordPathOffsetSizeAndWhy) {
  create();
  const std::string path = folder_.file("state");
  ASSERT_TRUE(open().ok());
  ASSERT_TRUE(write(5, 1, 1).ok());
  const std::string offset = std::to_string(RecordLayout(kPayloads).extent(5, 1).payload[0].offset);
  const std::string read_of = "record 5, version 1: read of 53248 bytes at offset " + offset;
  ASSERT_TRUE(open("read EIO").ok());
  EXPECT_THAT(read(5, 1).message(), AllOf(HasSubstr(read_of), HasSubstr(path + ": Input/output error")));
  ASSERT_TRUE(open("read code").ok());
  const Status refused = read(5, 1);
  EXPECT_EQ(refused.code(), Code::io_error);
  EXPECT_THAT(refused.message(), HasSubstr(read_of + ": " + path + ": cuFile: CU_FILE_IO_NOT_SUPPORTED (5008)"));
  ASSERT_TRUE(open("write EIO").ok());
  EXPECT_THAT(write(5, 2, 1).message(),
              AllOf(HasSubstr("record 5, version 2: write of 49152 bytes"), HasSubstr("Input/output")));
  ASSERT_TRUE(open("write code:1").ok());
  EXPECT_THAT(write(5, 2, 1).message(), HasSubstr("record 5, version 2: write of 4096 bytes"))
      << "the header, or the last block";
  ASSERT_TRUE(open().ok());
  EXPECT_TRUE(write(5, 2, 1).ok()) << "an engine serves again after another's failure";
}

TEST_F(GpuRecords, AHangIsAnErrorAndNothingIsUsedAgain) {
  create();
  ASSERT_TRUE(open("hang", std::chrono::milliseconds(200)).ok());
  const Status status = read(5, 1);
  EXPECT_EQ(status.code(), Code::io_error);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("nothing was heard for 200 ms"), HasSubstr("must not be reused"), HasSubstr("nvme.timeout")));
  EXPECT_TRUE(file_->io_files()[0]->hangs);
  EXPECT_EQ(read(5, 1).message(), status.message()) << "and stays one";
  engine_.reset();
  known_.reset();
  EXPECT_GT(gpu_.use_count(), 1) << "the thread that hangs keeps what it uses";
  unsetenv("STRATA_FAKE_CUFILE");
  while (gpu_.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST_F(GpuRecords, WhatIsMissingIsAnErrorThatSaysIt) {
  create();
  const std::string path = folder_.file("state");
  EXPECT_THAT(open("open").message(), HasSubstr("cuFileDriverOpen: CU_FILE_DRIVER_NOT_INITIALIZED (5001)"));
  EXPECT_THAT(open("handle").message(), HasSubstr(path + ": cuFileHandleRegister: CU_FILE_IO_NOT_SUPPORTED (5008)"));
  EXPECT_TRUE(open().ok()) << "and nothing is left of the attempts";
  engine_.reset();
  known_.reset();
  create({"buffered"}, false);
  const Status buffered = open();
  EXPECT_EQ(buffered.code(), Code::unsupported);
  EXPECT_THAT(buffered.message(), HasSubstr(folder_.file("buffered") + ": goes through the page cache"));
}

TEST_F(GpuRecords, WindowsThatAreNotRegisteredWorkToo) {
  create();
  ASSERT_TRUE(open("buffer").ok());
  EXPECT_THAT(notes_, Contains(AllOf(HasSubstr("not registered"), HasSubstr("CU_FILE_GPU_MEMORY_PINNING_FAILED (5036)"))));
  ASSERT_TRUE(write(6, 1, 4).ok());
  ASSERT_TRUE(read(6, 1).ok());
  EXPECT_TRUE(holds(6, 4));
  ASSERT_TRUE(open("compat").ok());
  EXPECT_THAT(notes_, Contains(HasSubstr("through host memory")));
}

TEST_F(GpuRecords, AnEngineOutlivesTheObjectThatMadeItAndAnotherOneOfTheSameFiles) {
  create();
  ASSERT_TRUE(open().ok());
  auto second = known_->make_engine({});
  known_.reset();
  engine_.reset();
  engine_ = std::move(second);
  ASSERT_TRUE(write(4, 1, 7).ok());
  ASSERT_TRUE(read(4, 1).ok());
  EXPECT_TRUE(holds(4, 7));
}

}  // namespace
}  // namespace strata
