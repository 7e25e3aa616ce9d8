#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "tests/trainer/data_files.h"
#include "trainer/data/megatron.h"

namespace strata {
namespace {

using test::all_tokens;
using test::ScratchFolder;
using Documents = std::vector<std::vector<std::int32_t>>;

void write_documents(const std::string& prefix, TokenType type, const Documents& documents,
                     std::uint64_t max_sequence = 0x7fffffff) {
  auto writer = MegatronWriter::create(prefix, type, max_sequence).value();
  for (const auto& document : documents) {
    throw_if_error(writer->append(document));
    throw_if_error(writer->end_document());
  }
  throw_if_error(writer->finish());
  MegatronWriter* const writers[] = {writer.get()};
  throw_if_error(MegatronWriter::commit(writers));
}

std::vector<std::int32_t> joined(const Documents& documents) {
  std::vector<std::int32_t> tokens;
  for (const auto& document : documents) tokens.insert(tokens.end(), document.begin(), document.end());
  return tokens;
}

// Writes `value` at `offset` of a file.
template <class T>
void patch(const std::string& path, std::size_t offset, T value) {
  std::string bytes = test::read_file(path);
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
  test::write_file(path, bytes);
}

class MegatronTypes : public testing::TestWithParam<TokenType> {};

TEST_P(MegatronTypes, ReadsBackWhatWasWritten) {
  const ScratchFolder folder;
  const Documents documents = {{1, 2, 3}, {}, {255}, {7, 7, 7, 7, 0}};
  write_documents(folder / "d", GetParam(), documents);
  const TokenShard shard = open_megatron(folder / "d").value();
  EXPECT_EQ(shard.type, GetParam());
  EXPECT_EQ(shard.documents, 4u);
  EXPECT_EQ(shard.sequences, 4u);
  EXPECT_EQ(shard.tokens, 9u);
  EXPECT_EQ(all_tokens(folder / "d"), joined(documents));
}

INSTANTIATE_TEST_SUITE_P(Types, MegatronTypes, testing::Values(TokenType::u8, TokenType::u16, TokenType::i32, TokenType::i64),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST(Megatron, NoDocumentsAtAll) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::u16, {});
  const TokenShard shard = open_megatron(folder / "d").value();
  EXPECT_EQ(shard.documents, 0u);
  EXPECT_EQ(shard.tokens, 0u);
}

TEST(Megatron, LongDocumentBecomesSeveralSequences) {
  const ScratchFolder folder;
  const Documents documents = {{1, 2, 3}, {1, 2, 3, 4}, {1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8, 9}};
  write_documents(folder / "d", TokenType::i32, documents, 4);
  const TokenShard shard = open_megatron(folder / "d").value();
  EXPECT_EQ(shard.documents, 4u);
  EXPECT_EQ(shard.sequences, 1u + 1u + 2u + 3u);
  EXPECT_EQ(all_tokens(folder / "d"), joined(documents));
}

TEST(Megatron, TokenThatDoesNotFitIsRefused) {
  const ScratchFolder folder;
  auto writer = MegatronWriter::create(folder / "d", TokenType::u16).value();
  EXPECT_TRUE(writer->append(std::vector<std::int32_t>{0, 65535}).ok());
  EXPECT_EQ(writer->append(std::vector<std::int32_t>{65536}).code(), Code::invalid_argument);
  EXPECT_EQ(writer->append(std::vector<std::int32_t>{-1}).code(), Code::invalid_argument);
}

TEST(Megatron, NothingAppearsBeforeCommit) {
  const ScratchFolder folder;
  {
    auto writer = MegatronWriter::create(folder / "d", TokenType::u16).value();
    ASSERT_TRUE(writer->append(std::vector<std::int32_t>{1, 2, 3}).ok());
    ASSERT_TRUE(writer->end_document().ok());
    ASSERT_TRUE(writer->finish().ok());
    EXPECT_FALSE(std::filesystem::exists(folder / "d.idx"));
  }
  EXPECT_TRUE(test::names_in(folder.path()).empty());
}

TEST(Megatron, SecondWriterOfTheSameFilesIsRefused) {
  const ScratchFolder folder;
  const auto first = MegatronWriter::create(folder / "d", TokenType::u16).value();
  EXPECT_EQ(MegatronWriter::create(folder / "d", TokenType::u16).status().code(), Code::io_error);
}

TEST(Megatron, LeftoverOfAKilledWriterIsTakenOver) {
  const ScratchFolder folder;
  test::write_file(folder / "d.bin.partial", std::string(1000, 'x'));
  write_documents(folder / "d", TokenType::u16, {{5, 6}});
  EXPECT_EQ(std::filesystem::file_size(folder / "d.bin"), 4u);
}

// Another writer of the format: struct and array of Python's standard library.
TEST(Megatron, ReadsWhatPythonWrote) {
  const ScratchFolder folder;
  test::write_file(folder / "w.py", R"(
import struct, sys
docs, bins, lengths, pointers, at = [[3, 1, 4], [1, 5], [], [9, 2, 65535]], b'', [], [], 0
for d in docs:
    lengths.append(len(d)); pointers.append(at); at += 2 * len(d)
    bins += struct.pack('<%dH' % len(d), *d)
open(sys.argv[1] + '.bin', 'wb').write(bins)
open(sys.argv[1] + '.idx', 'wb').write(b'MMIDIDX\0\0' + struct.pack('<QBQQ', 1, 8, 4, 5)
    + struct.pack('<4i', *lengths) + struct.pack('<4q', *pointers) + struct.pack('<5q', 0, 1, 2, 3, 4))
print('ok')
)");
  if (test::output_of("python3 " + (folder / "w.py") + " " + (folder / "d")) != "ok\n") GTEST_SKIP() << "no python3";
  EXPECT_EQ(all_tokens(folder / "d"), (std::vector<std::int32_t>{3, 1, 4, 1, 5, 9, 2, 65535}));
  EXPECT_EQ(open_megatron(folder / "d").value().documents, 4u);
}

TEST(Megatron, PythonReadsWhatWasWritten) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::i32, {{70000, 1}, {2, 3, 4}});
  test::write_file(folder / "r.py", R"(
import struct, sys
i, b = open(sys.argv[1] + '.idx', 'rb').read(), open(sys.argv[1] + '.bin', 'rb').read()
assert i[:9] == b'MMIDIDX\0\0'
v, t, s, d = struct.unpack_from('<QBQQ', i, 9)
print(v, t, s, d, *struct.unpack_from('<%di%dq%dq' % (s, s, d), i, 34), *struct.unpack('<5i', b), len(i) - 34 - 12 * s - 8 * d)
)");
  const std::string text = test::output_of("python3 " + (folder / "r.py") + " " + (folder / "d"));
  if (text.empty()) GTEST_SKIP() << "no python3";
  EXPECT_EQ(text, "1 4 2 3 2 3 0 8 0 1 2 70000 1 2 3 4 0\n");
}

TEST(Megatron, SequencesMayLieInAnyOrderInTheFile) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::u16, {{1, 2, 3}, {4, 5}, {6}});
  const std::size_t pointers = 34 + 3 * 4;
  patch<std::int64_t>(folder / "d.idx", pointers, 6);      // the first sequence: 3 tokens from the fourth on
  patch<std::int64_t>(folder / "d.idx", pointers + 8, 0);  // the second: 2 tokens from the first on
  EXPECT_EQ(all_tokens(folder / "d"), (std::vector<std::int32_t>{4, 5, 6, 1, 2, 6}));
}

TEST(Megatron, EveryTruncationOfTheIndexIsAnError) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::u16, {{1, 2, 3}, {4}, {5, 6}});
  const std::string index = test::read_file(folder / "d.idx");
  for (std::size_t size = 0; size < index.size(); ++size) {
    test::write_file(folder / "d.idx", index.substr(0, size));
    const auto opened = open_megatron(folder / "d");
    ASSERT_EQ(opened.status().code(), Code::corrupt) << "truncated to " << size;
    ASSERT_NE(opened.status().message().find("d.idx: at byte "), std::string::npos) << opened.status().message();
    ASSERT_NE(opened.status().message().find("expected"), std::string::npos);
  }
  test::write_file(folder / "d.idx", index + "x");
  EXPECT_EQ(open_megatron(folder / "d").status().code(), Code::corrupt);
}

TEST(Megatron, EveryTruncationOfTheTokensIsAnError) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::u16, {{1, 2, 3}, {4}, {5, 6}});
  const std::string tokens = test::read_file(folder / "d.bin");
  for (std::size_t size = 0; size < tokens.size(); ++size) {
    test::write_file(folder / "d.bin", tokens.substr(0, size));
    ASSERT_EQ(open_megatron(folder / "d").status().code(), Code::corrupt) << "truncated to " << size;
  }
}

// Sets every byte of the index to several values: each either is refused or gives tokens that can be read.
TEST(Megatron, NoDamagedIndexCrashes) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::u16, {{1, 2, 3}, {4}, {5, 6}});
  const std::string index = test::read_file(folder / "d.idx");
  for (std::size_t at = 0; at < index.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
      std::string damaged = index;
      damaged[at] = static_cast<char>(value);
      test::write_file(folder / "d.idx", damaged);
      auto opened = open_megatron(folder / "d");
      if (!opened.ok()) continue;
      std::vector<TokenShard> shards;
      shards.push_back(std::move(opened).value());
      const TokenStream stream(std::move(shards));
      ASSERT_LE(stream.size(), 18u) << "byte " << at;
      std::vector<std::int32_t> out(static_cast<std::size_t>(stream.size()));
      (void)stream.read(0, out).ok();
    }
  }
}

struct Damage {
  const char* name;
  std::size_t offset;
  std::uint64_t value;
  std::size_t width;
  Code code;
  const char* message;
};

class MegatronDamage : public testing::TestWithParam<Damage> {};

// Index of 3 sequences and 4 bounds: lengths at 34, pointers at 46, bounds at 70.
TEST_P(MegatronDamage, IsNamedWithPlaceExpectedAndFound) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::u16, {{1, 2, 3}, {4}, {5, 6}});
  std::string index = test::read_file(folder / "d.idx");
  std::memcpy(index.data() + GetParam().offset, &GetParam().value, GetParam().width);
  test::write_file(folder / "d.idx", index);
  const Status status = open_megatron(folder / "d").status();
  EXPECT_EQ(status.code(), GetParam().code);
  EXPECT_NE(status.message().find(GetParam().message), std::string::npos) << status.message();
}

constexpr std::uint64_t kMinusOne = ~std::uint64_t{0};
INSTANTIATE_TEST_SUITE_P(
    Kinds, MegatronDamage,
    testing::Values(
        Damage{"magic", 0, 'X', 1, Code::corrupt, "magic number"},
        Damage{"version", 9, 3, 8, Code::corrupt, "at byte 9: version: expected 1, found 3"},
        Damage{"type", 17, 9, 1, Code::corrupt, "token type: expected a code from 1 to 8, found 9"},
        Damage{"floats", 17, 7, 1, Code::unsupported, "floating-point"},
        Damage{"sequences", 18, 6, 8, Code::corrupt, "count of sequences: expected at most 5 (12 bytes each), found 6"},
        Damage{"sequencesOverflow", 18, (std::uint64_t{1} << 62) + 3, 8, Code::corrupt, "count of sequences"},
        Damage{"bounds", 26, std::uint64_t{1} << 61, 8, Code::corrupt, "count of document bounds"},
        Damage{"noBounds", 26, 0, 8, Code::corrupt, "count of document bounds"},
        Damage{"fewerBounds", 26, 3, 8, Code::corrupt, "end of index: expected end of file, found 8 more bytes"},
        Damage{"negativeLength", 34, 0xffffffff, 4, Code::corrupt, "length of sequence 0: expected 0 or more, found -1"},
        Damage{"longSequence", 42, 3, 4, Code::corrupt, "extent of sequence 2: expected inside the 12 bytes"},
        Damage{"negativePointer", 46, kMinusOne, 8, Code::corrupt, "extent of sequence 0"},
        Damage{"farPointer", 54, 1000, 8, Code::corrupt, "extent of sequence 1"},
        Damage{"oddPointer", 54, 1, 8, Code::corrupt, "pointer of sequence 1: expected a multiple of 2, found 1"},
        Damage{"firstBound", 70, 1, 8, Code::corrupt, "document bound 0: expected 0, found 1"},
        Damage{"bigBound", 78, 4, 8, Code::corrupt, "document bound 1: expected 0 to 3, found 4"},
        Damage{"smallBound", 86, 0, 8, Code::corrupt, "document bound 2: expected 1 to 3, found 0"},
        Damage{"lastBound", 94, 2, 8, Code::corrupt, "document bound 3: expected 3"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Megatron, MissingHalfOfAPairIsNotFound) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::u16, {{1}});
  std::filesystem::remove(folder / "d.bin");
  const Status status = open_megatron(folder / "d").status();
  EXPECT_EQ(status.code(), Code::not_found);
  EXPECT_NE(status.message().find("d.bin"), std::string::npos);
}

TEST(Megatron, FileThatShrinksAfterOpeningIsAnErrorNotASignal) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::u16, {std::vector<std::int32_t>(10000, 1)});
  const TokenStream stream = TokenStream::open({folder / "d"}).value();
  std::filesystem::resize_file(folder / "d.bin", 10);
  std::vector<std::int32_t> out(100);
  EXPECT_EQ(stream.read(5000, out).code(), Code::corrupt);
}

TEST(Megatron, NegativeTokenIsCorruptWithItsPlace) {
  const ScratchFolder folder;
  write_documents(folder / "d", TokenType::i64, {{1, 2, 3}});
  patch<std::int64_t>(folder / "d.bin", 16, -5);
  const TokenStream stream = TokenStream::open({folder / "d"}).value();
  std::vector<std::int32_t> out(3);
  const Status status = stream.read(0, out);
  EXPECT_EQ(status.code(), Code::corrupt);
  EXPECT_NE(status.message().find("at byte 16"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace strata
