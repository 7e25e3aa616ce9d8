// Every single operation of writing and reading a record fails once, in every way: the Status says so, and the version before
// stays readable. On one path and on two.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

#include "nvme/faulty_engine.h"
#include "nvme/format.h"
#include "nvme/record_file.h"
#include "support.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::uint64_t kForever = ~std::uint64_t{0};

struct Case {
  IoEngineOptions::Kind engine;
  std::size_t paths;
  std::size_t payload;
  std::size_t block;
  std::uint64_t reads, writes;                  // operations of a record
  std::uint64_t checked_reads, checked_writes;  // the first of them: those whose middle byte means something
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto kind : {IoEngineOptions::Kind::io_uring, IoEngineOptions::Kind::threads}) {
    // 3 full blocks and a rest; the last read is the rest and the header in one sweep.
    all.push_back({kind, 1, 3 * 16384 + 5, 16384, 4, 5, 3, 3});
    // Chunks of 2 blocks, on the first path, on the second and, with a rest in it, on the first again.
    all.push_back({kind, 2, 2 * format::kChunkBytes + 12293, format::kChunkBytes / 2, 5, 6, 5, 5});
  }
  return all;
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) {
  return engine_name(info.param.engine) + "_" + std::to_string(info.param.paths) + "_paths";
}

class RecordFaults : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const IoEngineOptions options = options_of(GetParam().engine, 4, GetParam().block);
    auto engine = make_io_engine(options, nullptr);
    if (!engine.ok()) GTEST_SKIP() << engine.status().message();
    faulty_ = std::make_unique<FaultyEngine>(std::move(engine).value(), options);
    for (std::size_t p = 0; p < GetParam().paths; ++p) paths_.push_back(folder_.file("state" + std::to_string(p)));
  }
  void create() {
    file_.reset();
    faulty_->reset();
    file_ = RecordFile::create(paths_, {payload()}, {.weights = std::vector<double>(paths_.size(), 1.0)}).value();
    ASSERT_TRUE(write(1).ok());
    faulty_->reset();
  }
  Status write(std::uint64_t version) {
    Blocks buffer(file_->buffer_bytes({0}));
    buffer.fill(version);
    return file_->write(*faulty_, {0}, version, buffer.span());
  }
  // With what the engine gives; wrong bytes that nobody noticed are Code::internal.
  Status read(std::uint64_t version) {
    Blocks buffer(file_->buffer_bytes({0}));
    STRATA_RETURN_IF_ERROR(file_->read(*faulty_, {0}, version, buffer.span()));
    return buffer.first_difference(version, payload()) == payload() ? Status() : Status(Code::internal, "unnoticed");
  }
  std::uint64_t operations_of_a_write() {
    create();
    EXPECT_TRUE(write(2).ok());
    return faulty_->operations();
  }
  std::uint64_t operations_of_a_read() {
    create();
    EXPECT_TRUE(read(1).ok());
    return faulty_->operations();
  }
  // After a write of version 2 that went wrong: 1 is readable, and writing again succeeds.
  void expect_recovery() {
    faulty_->reset();
    const Status before = read(1);
    EXPECT_TRUE(before.ok()) << before.message();
    EXPECT_EQ(read(2).code(), Code::corrupt);
    EXPECT_TRUE(write(2).ok());
    EXPECT_TRUE(read(2).ok());
  }

  std::size_t payload() const { return GetParam().payload; }
  // Of a write or a read, whose operations go to the first path and then to the second; a write ends with the header.
  const std::string& path_of(std::uint64_t operation) const {
    return paths_[paths_.size() > 1 && (operation == 3 || operation == 4) ? 1 : 0];
  }

  TempFolder folder_;
  std::vector<std::string> paths_;
  std::unique_ptr<FaultyEngine> faulty_;
  std::unique_ptr<RecordFile> file_;
};

TEST_P(RecordFaults, CountsWhatAWriteDoes) {
  EXPECT_EQ(operations_of_a_read(), GetParam().reads) << "payload and header in one sweep of blocks";
  EXPECT_EQ(operations_of_a_write(), GetParam().writes) << "payload, then header";
}

TEST_P(RecordFaults, AnyFailingOperationOfAWriteIsReported) {
  const std::uint64_t operations = operations_of_a_write();
  for (const int error : {EIO, ENOSPC}) {
    for (std::uint64_t i = 0; i < operations; ++i) {
      create();
      faulty_->inject({.kind = Fault::Kind::fail, .first = i, .error = error});
      const Status status = write(2);
      ASSERT_EQ(status.code(), Code::io_error) << i;
      EXPECT_THAT(status.message(), AllOf(StartsWith("record 0, version 2: write of "), HasSubstr("bytes at offset "),
                                          HasSubstr(path_of(i) + ": " + std::generic_category().message(error))));
      expect_recovery();
    }
  }
}

TEST_P(RecordFaults, AWriterThatStopsAnywhereLeavesTheVersionBefore) {
  const std::uint64_t operations = operations_of_a_write();
  for (std::uint64_t i = 0; i < operations; ++i) {
    create();
    ASSERT_TRUE(write(2).ok());
    ASSERT_TRUE(write(3).ok());
    faulty_->reset();
    faulty_->inject({.kind = Fault::Kind::fail, .first = i, .count = kForever});
    EXPECT_FALSE(write(4).ok());
    faulty_->reset();
    EXPECT_TRUE(read(3).ok());
    EXPECT_EQ(read(4).code(), Code::corrupt);
    EXPECT_EQ(read(2).code(), i == 0 ? Code::ok : Code::corrupt) << "half a payload never passes for the old version";
  }
}

TEST_P(RecordFaults, AnyFailingOperationOfAReadIsReported) {
  const std::uint64_t operations = operations_of_a_read();
  for (std::uint64_t i = 0; i < operations; ++i) {
    create();
    faulty_->inject({.kind = Fault::Kind::fail, .first = i});
    const Status status = read(1);
    EXPECT_EQ(status.code(), Code::io_error);
    EXPECT_THAT(status.message(), AllOf(StartsWith("record 0, version 1: read of "), HasSubstr("bytes at offset "),
                                        EndsWith(path_of(i) + ": Input/output error")));
    EXPECT_TRUE(read(1).ok()) << "and the next read works";
  }
}

TEST_P(RecordFaults, ShortTransfersAreContinued) {
  const std::uint64_t writes = operations_of_a_write();
  for (std::uint64_t i = 0; i <= writes; ++i) {
    create();
    faulty_->inject({.kind = Fault::Kind::shorten, .first = i == writes ? 0 : i, .count = i == writes ? 3U : 1U});
    const Status status = write(2);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_GT(faulty_->operations(), writes);
    EXPECT_TRUE(read(2).ok());
  }
  const std::uint64_t reads = operations_of_a_read();
  for (std::uint64_t i = 0; i < reads; ++i) {
    create();
    faulty_->inject({.kind = Fault::Kind::shorten, .first = i});
    EXPECT_TRUE(read(1).ok());
    EXPECT_EQ(faulty_->operations(), reads + 1);
  }
}

TEST_P(RecordFaults, TransfersThatEndEarlyAreReported) {
  const std::uint64_t writes = operations_of_a_write();
  for (std::uint64_t i = 0; i < writes; ++i) {
    create();
    faulty_->inject({.kind = Fault::Kind::truncate, .first = i});
    EXPECT_THAT(write(2).message(), AllOf(HasSubstr(path_of(i)), HasSubstr("only 0 bytes were transferred")));
    expect_recovery();
  }
  const std::uint64_t reads = operations_of_a_read();
  for (std::uint64_t i = 0; i < reads; ++i) {
    create();
    faulty_->inject({.kind = Fault::Kind::truncate, .first = i});
    EXPECT_THAT(read(1).message(), HasSubstr("the file ends there"));
  }
}

TEST_P(RecordFaults, BytesThatChangeOnTheWayAreNoticed) {
  for (std::uint64_t i = 0; i < GetParam().checked_reads; ++i) {
    create();
    faulty_->inject({.kind = Fault::Kind::corrupt, .first = i});
    const Status status = read(1);
    EXPECT_EQ(status.code(), Code::corrupt) << i;
    for (const std::string& path : paths_) EXPECT_THAT(status.message(), HasSubstr(path));
    EXPECT_TRUE(read(1).ok()) << "the file itself is intact";
  }
  for (std::uint64_t i = 0; i < GetParam().checked_writes; ++i) {
    create();
    faulty_->inject({.kind = Fault::Kind::corrupt, .first = i});
    ASSERT_TRUE(write(2).ok()) << "nobody can know yet";
    EXPECT_EQ(read(2).code(), Code::corrupt) << i;
    EXPECT_TRUE(read(1).ok());
  }
}

TEST_P(RecordFaults, LostWritesAreNoticed) {
  const std::uint64_t writes = operations_of_a_write();
  for (std::uint64_t i = 0; i <= writes; ++i) {
    create();
    faulty_->inject({.kind = Fault::Kind::lose, .first = i == writes ? 0 : i, .count = i == writes ? kForever : 1});
    ASSERT_TRUE(write(2).ok());
    faulty_->reset();
    EXPECT_EQ(read(2).code(), Code::corrupt) << i;
    EXPECT_TRUE(read(1).ok());
  }
}

TEST_P(RecordFaults, DelaysChangeNothing) {
  create();
  faulty_->inject({.kind = Fault::Kind::delay, .first = 0, .count = kForever, .delay = std::chrono::milliseconds(2)});
  EXPECT_TRUE(write(2).ok());
  EXPECT_TRUE(read(2).ok());
}

INSTANTIATE_TEST_SUITE_P(All, RecordFaults, ::testing::ValuesIn(cases()), case_name);

}  // namespace
}  // namespace strata
