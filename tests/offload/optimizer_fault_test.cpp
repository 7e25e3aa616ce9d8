// Training steps on a device that goes wrong: every fault in every transfer of a step ends in a Status that names the record,
// or changes no bit. Never in other numbers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "nvme/faulty_engine.h"
#include "nvme/record_layout.h"
#include "support.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::size_t kRecords = 6;

std::string state_file() { return ::testing::TempDir() + "/strata_optimizer_" + std::to_string(::getpid()); }

// On a file whose transfers pass two engines that can be told to fail.
struct FaultyRank {
  explicit FaultyRank(bool master = false) : rank(options(this, master)) {
    if (!rank.created.ok()) throw std::runtime_error(rank.created.message());
  }
  static OptimizerStoreOptions options(FaultyRank* self, bool master) {
    OptimizerStoreOptions o;
    o.home = Tier::nvme;
    o.compute = master ? DType::bf16 : DType::f32;
    o.nvme_files = {state_file()};
    o.nvme.io.kind = IoEngineOptions::Kind::threads;
    o.nvme.make_engine = [self](const IoEngineOptions& io, std::string* why) -> Result<std::unique_ptr<IoEngine>> {
      STRATA_ASSIGN_OR_RETURN(auto inner, make_io_engine(io, why));
      auto engine = std::make_unique<FaultyEngine>(std::move(inner), io);
      (self->read == nullptr ? self->read : self->write) = engine.get();
      return std::unique_ptr<IoEngine>(std::move(engine));
    };
    return o;
  }
  // Until the state of `steps` steps is in the file and nothing is in flight.
  void train(int steps) {
    ASSERT_TRUE(rank.fill().ok());
    for (int s = 1; s <= steps; ++s) rank.step(s);
    ASSERT_TRUE(rank.update.ref().synchronize().ok());
    ASSERT_TRUE(rank.nvme_write.ref().synchronize().ok());
    read->reset();
    write->reset();
  }

  FaultyEngine* read = nullptr;
  FaultyEngine* write = nullptr;
  OneRank rank;
};

std::vector<float> undisturbed(bool master, int steps) {
  OneRank rank({.home = Tier::cpu, .compute = master ? DType::bf16 : DType::f32});
  EXPECT_TRUE(rank.fill().ok());
  for (int s = 1; s <= steps; ++s) rank.step(s);
  return rank.state().value();
}

class OptimizerFaults : public ::testing::TestWithParam<bool> {};  // with a master copy

TEST_P(OptimizerFaults, StepsOnNvmeGiveTheBitsOfStepsInMemory) {
  FaultyRank faulty(GetParam());
  faulty.train(0);
  for (int s = 1; s <= 4; ++s) {
    faulty.rank.step(s);
    const auto state = faulty.rank.state();
    ASSERT_TRUE(state.ok()) << state.status().message();
    ASSERT_TRUE(*state == undisturbed(GetParam(), s)) << "step " << s;
  }
}

TEST_P(OptimizerFaults, InAnyTransferOfAStepStopTheNextOneOrChangeNothing) {
  using Kind = Fault::Kind;
  const std::vector<float> expected = undisturbed(GetParam(), 3);
  for (const Kind kind : {Kind::fail, Kind::truncate, Kind::corrupt, Kind::lose, Kind::shorten, Kind::delay})
    for (const bool writing : {false, true}) {
      const std::uint64_t transfers = writing ? 2 * kRecords : kRecords;  // a write: payload and header
      for (std::uint64_t i = 0; i < transfers; ++i) {
        SCOPED_TRACE(::testing::Message() << "kind " << static_cast<int>(kind) << (writing ? ", write " : ", read ") << i);
        FaultyRank faulty(GetParam());
        faulty.train(1);
        (writing ? faulty.write : faulty.read)->inject({.kind = kind, .first = i, .delay = std::chrono::milliseconds(2)});
        faulty.rank.step(2);
        faulty.rank.step(3);
        // What the next forward would wait for.
        for (int u = 0; u < 2; ++u) (void)faulty.rank.params.acquire(u);
        const Status stopped = faulty.rank.compute.ref().synchronize();
        const bool harmless = kind == Kind::shorten || kind == Kind::delay;
        // The middle of a header block and that of record 3, the smallest, are padding.
        const bool in_padding = kind == Kind::corrupt && writing && (i % 2 == 1 || i / 2 == 3);
        EXPECT_EQ(stopped.ok(), harmless || in_padding) << stopped.message();
        if (stopped.ok()) {
          const auto state = faulty.rank.state();
          ASSERT_TRUE(state.ok()) << state.status().message();
          EXPECT_TRUE(*state == expected) << "other numbers";
        } else {
          const std::string record = "record " + std::to_string(writing ? i / 2 : i);
          EXPECT_THAT(stopped.message(),
                      AllOf(HasSubstr(state_file()), HasSubstr(record + ", version "), HasSubstr("at offset ")));
        }
      }
    }
}

TEST_P(OptimizerFaults, ARecordDamagedInTheFileStopsTheNextStep) {
  for (std::size_t r = 0; r < kRecords; ++r) {
    FaultyRank faulty(GetParam());
    faulty.train(1);  // version 1 is the fill's, 2 the step's
    std::vector<std::size_t> payloads;
    for (const OptimizerRecord& record : faulty.rank.store->records())
      payloads.push_back(static_cast<std::size_t>(record.range.count) * (GetParam() ? 12 : 8));
    const RecordExtent extent = RecordLayout(payloads).extent(r, 2);
    {
      std::fstream file(state_file(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(extent.payload[0].offset));
      file.write("damaged!", 8);
      ASSERT_TRUE(file.flush());
    }
    faulty.rank.step(2);
    const Status status = faulty.rank.update.ref().synchronize();
    EXPECT_EQ(status.code(), Code::corrupt) << r;
    EXPECT_THAT(status.message(), HasSubstr(state_file() + ": record " + std::to_string(r) + ", version 2, at offset " +
                                            std::to_string(extent.payload[0].offset) + ": its payload has checksum "));
  }
}

INSTANTIATE_TEST_SUITE_P(All, OptimizerFaults, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "WithMaster" : "WithoutMaster"; });

std::size_t occurrences(const std::string& text, const std::string& word) {
  std::size_t n = 0;
  for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
  return n;
}

// Nobody reads a record after the last step: only teardown can tell.
TEST(OptimizerStoreTeardown, PrintsAFailedLastWriteOnce) {
  ::testing::internal::CaptureStderr();
  {
    FaultyRank faulty;
    faulty.train(1);
    faulty.write->inject({.kind = Fault::Kind::fail, .first = 2 * kRecords - 1});
    faulty.rank.step(2);
    EXPECT_TRUE(faulty.rank.update.ref().synchronize().ok()) << "the update itself went well";
  }
  const std::string printed = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(occurrences(printed, state_file()), 1u) << printed;
  EXPECT_THAT(printed, AllOf(HasSubstr("stream write: record 5, version 3: write of"), HasSubstr("Input/output error")));
}

TEST(OptimizerStoreTeardown, PrintsAnErrorThatReachedSeveralStreamsOnce) {
  ::testing::internal::CaptureStderr();
  {
    FaultyRank faulty;
    faulty.train(1);
    faulty.write->inject({.kind = Fault::Kind::fail, .first = 0});
    faulty.rank.step(2);
    faulty.rank.step(3);
  }
  const std::string printed = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(occurrences(printed, state_file()), 1u) << printed;
}

TEST(OptimizerStoreTeardown, PrintsNothingThatTheCallerWasTold) {
  ::testing::internal::CaptureStderr();
  {
    FaultyRank faulty;
    faulty.train(1);
    faulty.read->inject({.kind = Fault::Kind::fail, .first = 4});
    faulty.rank.step(2);
    EXPECT_FALSE(faulty.rank.update.ref().synchronize().ok());
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(OptimizerStoreNotes, SayWhichFileAnEngineFellBackFor) {
  for (const bool alike : {true, false}) {
    int made = 0;
    OptimizerStoreOptions options;
    options.home = Tier::nvme;
    options.nvme_files = {state_file()};
    options.nvme.make_engine = [&](const IoEngineOptions& io, std::string* why) {
      *why = ++made == 1 || alike ? "no ring" : "no second ring";
      return make_io_engine(io, nullptr);
    };
    const OneRank rank(options);
    ASSERT_TRUE(rank.created.ok()) << rank.created.message();
    std::vector<std::string> notes;
    for (const std::string& note : rank.notes)
      if (note.find("page cache") == std::string::npos) notes.push_back(note);
    if (alike)
      EXPECT_THAT(notes, ElementsAre(state_file() + ": no ring"));
    else
      EXPECT_THAT(notes, ElementsAre(state_file() + ": no ring", state_file() + ": no second ring"));
  }
}

}  // namespace
}  // namespace strata
