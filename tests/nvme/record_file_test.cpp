#include "nvme/record_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "nvme/format.h"
#include "nvme/record_header.h"
#include "nvme/record_layout.h"
#include "support.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kMiB = std::size_t{1} << 20;

class RecordFileTest : public EachEngine {
 protected:
  std::unique_ptr<RecordFile> create(std::vector<std::size_t> payloads, const RecordFileOptions& options = {}) {
    payloads_ = payloads;
    return RecordFile::create({path()}, std::move(payloads), options).value();
  }
  std::string path() const { return folder_.file("state"); }
  // Writes fill(version) as that version; 0 <= offset of its bytes is checked by read().
  Status write(RecordFile& file, std::int64_t id, std::uint64_t version) {
    Blocks buffer(file.buffer_bytes({id}));
    buffer.fill(seed(id, version));
    return file.write(*engine_, {id}, version, buffer.span());
  }
  Status read(RecordFile& file, std::int64_t id, std::uint64_t version) {
    Blocks buffer(file.buffer_bytes({id}));
    STRATA_RETURN_IF_ERROR(file.read(*engine_, {id}, version, buffer.span()));
    const std::size_t bytes = payloads_[static_cast<std::size_t>(id)];
    const std::size_t at = buffer.first_difference(seed(id, version), bytes);
    return at == bytes ? Status() : Status(Code::internal, "byte " + std::to_string(at) + " differs and nobody noticed");
  }
  static std::uint64_t seed(std::int64_t id, std::uint64_t version) { return static_cast<std::uint64_t>(id) * 1000 + version; }
  // First byte of a version of the first record.
  std::uint64_t at(std::uint64_t version) const { return version % 2 * RecordFile::buffer_bytes_for(payloads_[0]); }

  // What is wrong with a version of the first record as it lies in the file that a dead process left.
  std::string damage_in_file(std::uint64_t version) const {
    const RecordExtent extent = RecordLayout(payloads_).extent(0, version);
    Blocks bytes(extent.bytes());
    std::ifstream in(path(), std::ios::binary);
    in.seekg(static_cast<std::streamoff>(extent.payload[0].offset));
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(extent.bytes()));
    if (!in) return "the file is too short";
    std::uint64_t stored = 0;
    const std::string wrong = check_header(bytes.span().subspan(extent.padded_payload).first<format::kBlockBytes>(), 0, version,
                                           payloads_[0], &stored);
    if (!wrong.empty()) return wrong;
    if (stored != checksum(bytes.span().first(payloads_[0]))) return "its payload has another checksum";
    return bytes.first_difference(seed(0, version), payloads_[0]) == payloads_[0] ? "" : "other bytes, unnoticed";
  }

  std::vector<std::size_t> payloads_;
};

TEST_P(RecordFileTest, RoundTripOfEverySizeAndVersion) {
  const std::vector<std::size_t> payloads = {0, 1, 511, 512, 513, 4095, 4096, 4097, kMiB + 1, 5 * kMiB + 3};
  for (const RecordFileOptions& options : {RecordFileOptions{}, {.prewrite = false}, {.direct = false}}) {
    const auto file = create(payloads, options);
    const auto records = static_cast<std::int64_t>(payloads.size());
    for (std::uint64_t version = 1; version <= 3; ++version) {
      for (std::int64_t id = 0; id < records; ++id) ASSERT_TRUE(write(*file, id, version).ok());
      for (std::int64_t id = 0; id < records; ++id) {
        const Status newest = read(*file, id, version);
        EXPECT_TRUE(newest.ok()) << newest.message();
        if (version > 1) {
          EXPECT_TRUE(read(*file, id, version - 1).ok()) << "the version before is still there";
        }
      }
    }
  }
}

TEST_P(RecordFileTest, SizesArePureAndMatchTheFile) {
  const std::vector<std::size_t> payloads = {0, 1, 4096, 4097};
  EXPECT_EQ(RecordFile::buffer_bytes_for(0), 4096U);
  EXPECT_EQ(RecordFile::buffer_bytes_for(1), 8192U);
  EXPECT_EQ(RecordFile::buffer_bytes_for(4096), 8192U);
  EXPECT_EQ(RecordFile::buffer_bytes_for(4097), 12288U);
  EXPECT_EQ(RecordFile::file_bytes(payloads), 2 * (4096U + 8192U + 8192U + 12288U));
  const auto file = create(payloads);
  EXPECT_EQ(std::filesystem::file_size(path()), RecordFile::file_bytes(payloads));
  for (std::size_t i = 0; i < payloads.size(); ++i) {
    EXPECT_EQ(file->buffer_bytes({static_cast<std::int64_t>(i)}), RecordFile::buffer_bytes_for(payloads[i]));
  }
  EXPECT_EQ(RecordFile::file_bytes({}), 0U);
}

// For what a crash may take: half the space, and a version is gone when the next one begins to be written.
TEST_P(RecordFileTest, OneSlotIsWrittenOver) {
  const std::vector<std::size_t> payloads = {1, 4097, 3 * kMiB};
  const auto file = create(payloads, {.slots = 1});
  EXPECT_EQ(std::filesystem::file_size(path()), RecordFile::file_bytes(payloads, 1));
  EXPECT_EQ(2 * RecordFile::file_bytes(payloads, 1), RecordFile::file_bytes(payloads));
  for (std::uint64_t version = 1; version <= 3; ++version)
    for (std::int64_t id = 0; id < 3; ++id) {
      ASSERT_TRUE(write(*file, id, version).ok());
      const Status newest = read(*file, id, version);
      EXPECT_TRUE(newest.ok()) << newest.message();
      EXPECT_EQ(read(*file, id, version - 1).code(), Code::corrupt);
    }
  for (std::int64_t id = 0; id < 3; ++id) EXPECT_TRUE(read(*file, id, 3).ok()) << "records do not overlap";
  EXPECT_THROW((void)write(*file, 0, 2), ContractViolation) << "an older version";
}

TEST_P(RecordFileTest, OtherVersionsAreCorrupt) {
  const auto file = create({5000});
  EXPECT_THAT(read(*file, 0, 1).message(), HasSubstr("there is no record header"));
  ASSERT_TRUE(write(*file, 0, 1).ok());
  for (const std::uint64_t version : {0, 2, 3, 7}) EXPECT_EQ(read(*file, 0, version).code(), Code::corrupt) << version;
  const Status status = read(*file, 0, 3);
  EXPECT_EQ(status.message(), path() + ": record 0, version 3, at offset 20480: its header says version 1 instead of 3");
}

TEST_P(RecordFileTest, OldVersionIsGoneOnceItsSlotIsReused) {
  const auto file = create({5000});
  for (std::uint64_t version = 1; version <= 3; ++version) ASSERT_TRUE(write(*file, 0, version).ok());
  EXPECT_EQ(read(*file, 0, 1).code(), Code::corrupt);
}

TEST_P(RecordFileTest, FlippedBitAnywhereInPayloadOrHeaderIsNoticed) {
  const auto file = create({9000, 1}, {.direct = false});
  ASSERT_TRUE(write(*file, 0, 1).ok());
  ASSERT_TRUE(write(*file, 0, 2).ok());
  const std::uint64_t header = at(2) + 12288;
  for (const std::uint64_t offset : {at(2), at(2) + 4096, at(2) + 8999, header, header + 8, header + 12, header + 16,
                                     header + 24, header + 32, header + 40, header + 47, header + 48, header + 55}) {
    flip_bit(path(), offset);
    const Status status = read(*file, 0, 2);
    EXPECT_EQ(status.code(), Code::corrupt) << offset;
    EXPECT_THAT(status.message(), AllOf(HasSubstr(path()), HasSubstr("record 0, version 2"))) << offset;
    EXPECT_TRUE(read(*file, 0, 1).ok()) << "the version before is intact";
    flip_bit(path(), offset);
    EXPECT_TRUE(read(*file, 0, 2).ok()) << offset;
  }
}

TEST_P(RecordFileTest, TornWriteLeavesTheVersionBefore) {
  const auto file = create({9000}, {.direct = false});
  for (std::uint64_t version = 1; version <= 3; ++version) ASSERT_TRUE(write(*file, 0, version).ok());
  // Payload of version 4 over that of 2, as much of it as got there; the header is still that of 2.
  for (const std::size_t arrived : {1, 4096, 9000}) {
    std::fstream raw(path(), std::ios::in | std::ios::out | std::ios::binary);
    raw.seekp(static_cast<std::streamoff>(at(4)));
    for (std::size_t i = 0; i < arrived; ++i) raw.put(static_cast<char>(Blocks::expected(seed(0, 4), i)));
    raw.close();
    EXPECT_EQ(read(*file, 0, 4).code(), Code::corrupt);
    EXPECT_EQ(read(*file, 0, 2).code(), Code::corrupt);
    EXPECT_TRUE(read(*file, 0, 3).ok());
  }
}

TEST_P(RecordFileTest, RecordsInEachOthersPlaceAreNoticed) {
  auto file = create({100, 100});
  ASSERT_TRUE(write(*file, 0, 1).ok());
  ASSERT_TRUE(write(*file, 1, 1).ok());
  {
    std::fstream raw(path(), std::ios::in | std::ios::out | std::ios::binary);
    std::string extent(8192, '\0');
    raw.seekg(8192);
    raw.read(extent.data(), 8192);
    raw.seekp(8192 * 3);
    raw.write(extent.data(), 8192);
  }
  EXPECT_THAT(read(*file, 1, 1).message(), HasSubstr("its header says record 0 instead of 1"));
}

TEST_P(RecordFileTest, MisuseIsAContractViolation) {
  const auto file = create({100});
  Blocks small(8191), good(8192);
  EXPECT_THROW((void)file->write(*engine_, {0}, 1, small.span()), ContractViolation);
  EXPECT_THROW((void)file->read(*engine_, {0}, 1, small.span()), ContractViolation);
  EXPECT_THROW((void)file->read(*engine_, {1}, 1, good.span()), ContractViolation);
  EXPECT_THROW((void)file->read(*engine_, {-1}, 1, good.span()), ContractViolation);
  ASSERT_TRUE(file->write(*engine_, {0}, 5, good.span()).ok());
  EXPECT_THROW((void)file->write(*engine_, {0}, 4, good.span()), ContractViolation);
  EXPECT_THROW((void)file->write(*engine_, {0}, 7, good.span()), ContractViolation) << "it shares the slot of the newest";
}

TEST_P(RecordFileTest, TheNewestVersionMayBeWrittenAgainAndTheOneBeforeItStays) {
  const auto file = create({300001});
  ASSERT_TRUE(write(*file, 0, 4).ok());
  Blocks other(file->buffer_bytes({0}));
  other.fill(12345);
  ASSERT_TRUE(file->write(*engine_, {0}, 5, other.span()).ok());
  EXPECT_FALSE(read(*file, 0, 5).ok()) << "another content";
  EXPECT_TRUE(read(*file, 0, 4).ok());
  ASSERT_TRUE(write(*file, 0, 5).ok());
  EXPECT_TRUE(read(*file, 0, 5).ok());
  EXPECT_TRUE(read(*file, 0, 4).ok());
  ASSERT_TRUE(write(*file, 0, 6).ok());
}

TEST_P(RecordFileTest, IsRemovedAndTakesNothingOverFromAnEarlierOne) {
  std::ofstream(path()) << "left by a run that was killed";
  auto file = create({100});
  EXPECT_THAT(read(*file, 0, 1).message(), HasSubstr("there is no record header"));
  ASSERT_TRUE(write(*file, 0, 1).ok());
  file.reset();
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_P(RecordFileTest, TwoThreadsOnDifferentRecords) {
  const auto file = create({200000, 300001});
  std::vector<std::thread> threads;
  std::vector<Status> statuses(2);
  for (std::size_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      const auto engine = make();
      const RecordId id{static_cast<std::int64_t>(t)};
      Blocks buffer(file->buffer_bytes(id));
      for (std::uint64_t version = 1; version <= 10 && statuses[t].ok(); ++version) {
        buffer.fill(version);
        statuses[t] = file->write(*engine, id, version, buffer.span());
        if (!statuses[t].ok()) return;
        statuses[t] = file->read(*engine, id, version, buffer.span());
        if (buffer.first_difference(version, payloads_[t]) != payloads_[t]) statuses[t] = {Code::internal, "differs"};
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status.message();
}

// A process that is killed while it writes leaves one of its last two versions readable.
TEST_P(RecordFileTest, KilledWriterLeavesAVersion) {
  const std::vector<std::size_t> payloads = {200000};
  payloads_ = payloads;
  for (int round = 0; round < 5; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      auto engine = make_io_engine(options_of(GetParam(), 1), nullptr);
      auto file = RecordFile::create({path()}, payloads);
      Blocks buffer(RecordFile::buffer_bytes_for(payloads[0]));
      for (std::uint64_t version = 1;; ++version) {
        buffer.fill(seed(0, version));
        if (!file.value()->write(**engine, {0}, version, buffer.span()).ok()) ::_exit(1);
        if (::write(ends[1], &version, sizeof version) != sizeof version) ::_exit(1);
      }
    }
    ::close(ends[1]);
    std::uint64_t version = 0;
    for (int i = 0; i < 3 + round; ++i) ASSERT_EQ(::read(ends[0], &version, sizeof version), 8);
    ::usleep(static_cast<useconds_t>(100 * round));
    ::kill(child, SIGKILL);
    while (::read(ends[0], &version, sizeof version) == 8) {
    }
    ::close(ends[0]);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    EXPECT_EQ(damage_in_file(version), "");
  }
}

STRATA_FOR_EACH_ENGINE(RecordFileTest);

// The worked example of docs/state_format.md.
TEST(StateFormat, HeaderBlockOfTheExample) {
  std::array<std::byte, 3> payload = {std::byte{'a'}, std::byte{'b'}, std::byte{'c'}};
  std::array<std::byte, format::kBlockBytes> block{};
  block.fill(std::byte{0xff});
  encode({5, 7, payload.size(), checksum(payload)}, block);
  const unsigned char expected[format::kHeaderBytes] = {
      'S', 'T', 'R', 'A', 'T', 'R', 'E', 'C', 1, 0, 0, 0, 56, 0, 0, 0, 5, 0, 0, 0,
      0,   0,   0,   0,   7,   0,   0,   0,   0, 0, 0, 0, 3,  0, 0, 0, 0, 0, 0, 0,
  };
  EXPECT_EQ(std::memcmp(block.data(), expected, 40), 0);
  for (std::size_t i = format::kHeaderBytes; i < block.size(); ++i) ASSERT_EQ(block[i], std::byte{0});
  std::uint64_t found = 0;
  EXPECT_EQ(check_header(block, 5, 7, 3, &found), "");
  EXPECT_EQ(found, checksum(payload));
  EXPECT_EQ(hex(found), "0x78af5f94892f3950");
  std::uint64_t header_checksum = 0;
  std::memcpy(&header_checksum, block.data() + format::kHeaderChecksumAt, 8);
  EXPECT_EQ(hex(header_checksum), "0xa2ae9f553c966887");
}

}  // namespace
}  // namespace strata
