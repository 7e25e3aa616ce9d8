#include <gtest/gtest.h>

#include <set>

#include "tests/trainer/data_files.h"
#include "trainer/data/byte_tokenizer.h"
#include "trainer/data/llmc.h"
#include "trainer/data/megatron.h"
#include "trainer/data/token_dataset.h"

namespace strata {
namespace {

using test::all_tokens;
using test::ScratchFolder;
using test::write_file;
using Tokens = std::vector<std::int32_t>;

std::string llmc_file(std::uint32_t magic, std::uint32_t version, std::uint32_t count, const std::string& tokens) {
  std::vector<std::uint32_t> header(256);
  header[0] = magic;
  header[1] = version;
  header[2] = count;
  return test::raw_bytes(header) + tokens;
}

std::string gpt2_shard(const std::vector<std::uint16_t>& tokens) {
  return llmc_file(20240520, 1, static_cast<std::uint32_t>(tokens.size()), test::raw_bytes(tokens));
}

TEST(Llmc, Reads16And32BitShards) {
  const ScratchFolder folder;
  write_file(folder / "a.bin", gpt2_shard({50256, 1, 2}));
  write_file(folder / "b.bin", llmc_file(20240801, 7, 2, test::raw_bytes(std::vector<std::uint32_t>{128000, 7})));
  EXPECT_EQ(all_tokens(folder / "a.bin"), (Tokens{50256, 1, 2}));
  EXPECT_EQ(all_tokens(folder / "b.bin"), (Tokens{128000, 7}));
}

TEST(Llmc, ContradictionsAreCorrupt) {
  const ScratchFolder folder;
  const std::string good = gpt2_shard({1, 2, 3});
  for (std::size_t size = 0; size < good.size(); size = size < 1000 ? size + 97 : size + 1) {
    write_file(folder / "a.bin", good.substr(0, size));
    ASSERT_EQ(open_llmc(folder / "a.bin").status().code(), Code::corrupt) << size;
  }
  write_file(folder / "a.bin", good + "x");
  EXPECT_EQ(open_llmc(folder / "a.bin").status().code(), Code::corrupt);
  write_file(folder / "a.bin", llmc_file(20240520, 2, 0, ""));
  EXPECT_NE(open_llmc(folder / "a.bin").status().message().find("version: expected 1, found 2"), std::string::npos);
  write_file(folder / "a.bin", llmc_file(20240521, 1, 0, ""));
  EXPECT_NE(open_llmc(folder / "a.bin").status().message().find("magic"), std::string::npos);
}

TEST(TokenStream, BytesEndWithTheEndOfDocument) {
  const ScratchFolder folder;
  write_file(folder / "a.txt", "ab\xff");
  write_file(folder / "empty.txt", "");
  EXPECT_EQ(all_tokens(folder / "a.txt"), (Tokens{'a', 'b', 255, 256}));
  EXPECT_EQ(all_tokens(folder / "empty.txt"), (Tokens{256}));
}

TEST(TokenStream, JoinsShardsOfDifferentFormatsInTheOrderGiven) {
  const ScratchFolder folder;
  write_file(folder / "z.txt", "z");
  write_file(folder / "a.bin", gpt2_shard({300, 301}));
  const TokenStream stream = TokenStream::open({folder / "z.txt", folder / "a.bin", folder / "z.txt"}).value();
  EXPECT_EQ(all_tokens(stream), (Tokens{'z', 256, 300, 301, 'z', 256}));
  EXPECT_EQ(stream.scan_vocab_size().value(), 302);
}

TEST(TokenStream, EveryRangeReadsAsThePartOfTheWhole) {
  const ScratchFolder folder;
  std::string text;
  for (int i = 0; i < 40; ++i) text.push_back(static_cast<char>(i));
  write_file(folder / "a", text.substr(0, 1));
  write_file(folder / "b", "");
  write_file(folder / "c", text.substr(1));
  const TokenStream stream = TokenStream::open({folder.path()}).value();
  const Tokens whole = all_tokens(stream);
  ASSERT_EQ(whole.size(), 43u);
  for (std::size_t begin = 0; begin <= whole.size(); ++begin) {
    for (std::size_t end = begin; end <= whole.size(); ++end) {
      Tokens part(end - begin);
      ASSERT_TRUE(stream.read(begin, part).ok());
      ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(begin)));
    }
  }
  Tokens beyond(1);
  EXPECT_THROW((void)stream.read(whole.size(), beyond), ContractViolation);
}

TEST(TokenStream, FoldersAndPatternsAreSorted) {
  const ScratchFolder folder;
  for (const char* name : {"s_2.bin", "s_10.bin", "s_1.bin"})
    write_file(folder / name, gpt2_shard({static_cast<std::uint16_t>(1000 + std::stoi(name + 2))}));
  write_file(folder / ".hidden", "x");
  EXPECT_EQ(all_tokens(folder.path()), (Tokens{1001, 1010, 1002}));
  EXPECT_EQ(all_tokens(folder / "s_1*.bin"), (Tokens{1001, 1010}));
  EXPECT_EQ(TokenStream::open({folder / "t_*"}).status().code(), Code::not_found);
}

// "books.en.bin" sorts between "books.bin" and "books.idx".
TEST(TokenStream, APairInAFolderIsReadOnceWhateverLiesBetweenItsFiles) {
  const ScratchFolder folder;
  const auto write_pair = [&](const std::string& name, std::int32_t token) {
    auto writer = MegatronWriter::create(folder / name, TokenType::u16).value();
    throw_if_error(writer->append(Tokens{token}));
    throw_if_error(writer->end_document());
    throw_if_error(writer->finish());
    MegatronWriter* writers[] = {writer.get()};
    throw_if_error(MegatronWriter::commit(writers));
  };
  write_pair("books", 1);
  write_pair("books.en", 2);
  EXPECT_EQ(all_tokens(folder.path()), (Tokens{1, 2}));
  EXPECT_EQ(all_tokens(folder / "books*"), (Tokens{1, 2}));
}

TEST(TokenStream, WhatCannotBeReadIsNamed) {
  const ScratchFolder folder;
  write_file(folder / "x.bin", "not a token file");
  EXPECT_EQ(TokenStream::open({}).status().code(), Code::invalid_config);
  EXPECT_EQ(TokenStream::open({folder / "absent"}).status().code(), Code::not_found);
  EXPECT_EQ(TokenStream::open({folder / "absent.bin"}).status().code(), Code::not_found);
  EXPECT_EQ(TokenStream::open({folder / "absent.idx"}).status().code(), Code::not_found);
  EXPECT_EQ(TokenStream::open({folder / "x.bin"}).status().code(), Code::invalid_config);
  EXPECT_EQ(TokenStream::open({"/dev/null"}).status().code(), Code::unsupported);
  EXPECT_TRUE(TokenStream::open({folder / "x.bin"}, TokenFormat::bytes).ok());
}

class Samples : public testing::Test {
 protected:
  // 0, 1, ..., count - 1 as 16-bit tokens.
  std::string counting_file(std::size_t count) {
    std::vector<std::uint16_t> tokens(count);
    for (std::size_t i = 0; i < count; ++i) tokens[i] = static_cast<std::uint16_t>(i);
    write_file(folder_ / "n.bin", gpt2_shard(tokens));
    return folder_ / "n.bin";
  }
  Result<std::unique_ptr<TokenSource>> open(std::size_t tokens, std::int64_t length, std::uint64_t seed = 1,
                                            std::int64_t vocab = 0) {
    return TokenSource::open({.paths = {counting_file(tokens)}, .sequence_length = length, .seed = seed, .vocab_size = vocab});
  }
  static Tokens sample(const TokenSource& source, std::uint64_t k, std::size_t length) {
    Tokens out(length + 1);
    throw_if_error(source.sample(k, out));
    return out;
  }
  // First tokens of an epoch's samples in their order.
  static Tokens order(const TokenSource& source, std::uint64_t epoch, std::size_t length) {
    Tokens firsts;
    const std::uint64_t n = source.samples_per_epoch();
    for (std::uint64_t k = epoch * n; k < (epoch + 1) * n; ++k) firsts.push_back(sample(source, k, length)[0]);
    return firsts;
  }
  ScratchFolder folder_;
};

TEST_F(Samples, CountFollowsFromTheNumberOfTokens) {
  const std::pair<std::size_t, std::uint64_t> expected[] = {{5, 1}, {6, 1}, {8, 1}, {9, 2}, {10, 2}, {12, 2}, {13, 3}};
  for (const auto& [tokens, samples] : expected) EXPECT_EQ(open(tokens, 4).value()->samples_per_epoch(), samples) << tokens;
}

TEST_F(Samples, TooFewTokensSaysHowManyAreNeeded) {
  for (const std::size_t tokens : {0, 1, 4}) {
    const Status status = open(tokens, 4).status();
    EXPECT_EQ(status.code(), Code::invalid_config);
    EXPECT_NE(status.message().find(std::to_string(tokens) + " tokens; one sample of sequence length 4 needs 5"),
              std::string::npos)
        << status.message();
  }
}

TEST_F(Samples, TargetsAreTheInputsOneLater) {
  const auto source = open(100, 8).value();
  for (std::uint64_t k = 0; k < 30; ++k) {
    const Tokens out = sample(*source, k, 8);
    EXPECT_EQ(out[0] % 8, 0);
    for (std::size_t i = 1; i < out.size(); ++i) EXPECT_EQ(out[i], out[i - 1] + 1);
  }
}

TEST_F(Samples, EveryEpochHoldsEachSampleOnceInAnOrderOfItsOwn) {
  const auto source = open(64 * 4 + 1, 4).value();
  std::set<Tokens> orders;
  for (std::uint64_t epoch = 0; epoch < 4; ++epoch) {
    const Tokens firsts = order(*source, epoch, 4);
    EXPECT_EQ(std::set<std::int32_t>(firsts.begin(), firsts.end()).size(), 64u);
    orders.insert(firsts);
  }
  EXPECT_EQ(orders.size(), 4u);
}

TEST_F(Samples, OrderDependsOnTheSeedAlone) {
  const Tokens a = order(*open(257, 4, 1).value(), 0, 4);
  const Tokens again = order(*open(257, 4, 1).value(), 0, 4);
  const Tokens b = order(*open(257, 4, 2).value(), 0, 4);
  EXPECT_EQ(a, again);
  EXPECT_NE(a, b);
}

TEST_F(Samples, AnySampleCanBeDrawnFirst) {  // ranks and resumed runs start anywhere
  const auto source = open(257, 4).value();
  const Tokens firsts = order(*source, 1, 4);
  const auto other = open(257, 4).value();
  for (std::uint64_t k = 128; k-- > 64;) EXPECT_EQ(sample(*other, k, 4)[0], firsts[static_cast<std::size_t>(k - 64)]);
}

TEST_F(Samples, VocabularyIsKnownAndChecked) {
  EXPECT_EQ(open(100, 4).value()->vocab_size(), 100);
  const auto source = open(100, 99, 1, 60).value();
  Tokens out(100);
  const Status status = source->sample(0, out);
  EXPECT_EQ(status.code(), Code::corrupt);
  EXPECT_NE(status.message().find("n.bin at byte 1144: token 60 is outside the model's vocabulary of 60"), std::string::npos)
      << status.message();
  EXPECT_TRUE(open(100, 99, 1, 100).value()->sample(0, out).ok());
}

TEST(ByteTokenizer, RoundTripsEveryByteAndReplacesTheRest) {
  std::string text;
  for (int i = 0; i < 256; ++i) text.push_back(static_cast<char>(i));
  EXPECT_EQ(ByteTokenizer::decode(ByteTokenizer::encode(text)), text);
  EXPECT_EQ(ByteTokenizer::decode(Tokens{'a', 256, 300, -1, 'b'}),
            "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "b");
  EXPECT_TRUE(ByteTokenizer::encode("").empty());
}

}  // namespace
}  // namespace strata
