#include <gtest/gtest.h>
#include <sys/mount.h>

#include <cmath>
#include <map>

#include "tests/trainer/data_files.h"
#include "trainer/data/bigram.h"
#include "trainer/data/byte_tokenizer.h"
#include "trainer/data/prepare.h"

namespace strata {
namespace {

using test::all_tokens;
using test::ScratchFolder;
using test::write_file;

class Prepare : public testing::Test {
 protected:
  Status run() { return prepare_data(options_, &report_); }
  void run_ok() {
    const Status status = run();
    ASSERT_TRUE(status.ok()) << status.message();
  }
  // Documents of a part, the end of each shown as '|'.
  std::string text(const std::string& part) const {
    std::string shown;
    for (const std::int32_t token : all_tokens(options_.output_prefix + part))
      shown.push_back(token == ByteTokenizer::kEndOfText ? '|' : static_cast<char>(token));
    return shown;
  }
  void use(const std::string& name, const std::string& content) {
    write_file(in_ / name, content);
    options_.inputs = {in_.path()};
  }

  ScratchFolder in_;
  ScratchFolder out_;
  PrepareOptions options_{.inputs = {}, .output_prefix = out_ / "d", .document_separator = ""};
  PrepareReport report_;
};

TEST_F(Prepare, TextOfAllFilesInOrderOfTheirPaths) {
  std::filesystem::create_directories(in_ / "sub/.git");
  use("b.txt", "second");
  use("a.txt", "first");
  use("sub/c.txt", "third");
  use("empty.txt", "");
  use(".hidden", "no");
  use("sub/.git/no.txt", "no");
  options_.validation_fraction = 0.0;
  run_ok();
  EXPECT_EQ(text("_train"), "first|second|third|");
  EXPECT_EQ(report_.files, 4u);
  EXPECT_EQ(report_.train.documents, 3u);
  EXPECT_EQ(report_.train.tokens, 16u + 3u);
  EXPECT_EQ(report_.bytes, 16u);
  EXPECT_EQ(test::names_in(out_.path()), (std::vector<std::string>{"d_train.bin", "d_train.idx"}));
}

TEST_F(Prepare, TailOfEveryFileBecomesValidationData) {
  use("a.txt", "0123456789");
  use("b.txt", "abcdefghij");
  options_.validation_fraction = 0.2;
  run_ok();
  EXPECT_EQ(text("_train"), "01234567|abcdefgh|");
  EXPECT_EQ(text("_validation"), "89|ij|");
}

TEST_F(Prepare, TailDoesNotCutACharacter) {
  use("a.txt",
      "ab\xE2\x82\xAC"
      "c");
  options_.validation_fraction = 0.5;  // byte 3, inside the euro sign
  run_ok();
  EXPECT_EQ(text("_train"), "ab\xE2\x82\xAC|");
  EXPECT_EQ(text("_validation"), "c|");
}

TEST_F(Prepare, TailIsTheSameHoweverTheFileIsReadInChunks) {
  std::string big(3 << 20, ' ');
  for (std::size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>('a' + i % 23);
  use("a.txt", big);
  for (const std::size_t cut :
       {std::size_t{1} << 20, (std::size_t{1} << 20) + 1, std::size_t{2} << 20, (std::size_t{2} << 20) - 1}) {
    options_.validation_fraction = 1.0 - static_cast<double>(cut) / static_cast<double>(big.size());
    run_ok();
    ASSERT_EQ(report_.train.tokens, cut + 1);
    ASSERT_EQ(text("_train"), big.substr(0, cut) + "|");
    ASSERT_EQ(text("_validation"), big.substr(cut) + "|");
  }
}

TEST_F(Prepare, SeparatorMayLieAnywhereEvenAcrossChunks) {
  const std::string separator = "<|end|>";
  options_.document_separator = separator;
  options_.validation_fraction = 0.0;
  for (std::size_t shift = 0; shift <= 2 * separator.size(); ++shift) {
    const std::string head((std::size_t{1} << 20) - shift, 'x');  // the next separator lies around the chunk's end
    use("a.txt", separator + head + separator + separator + "tail<|en" + separator);
    run_ok();
    ASSERT_EQ(text("_train"), head + "|tail<|en|") << shift;
  }
}

TEST_F(Prepare, JsonLinesMayEndAnywhereInAChunk) {
  options_.validation_fraction = 0.0;
  for (std::size_t shift = 0; shift < 4; ++shift) {
    const std::string head((std::size_t{1} << 20) - std::string("{\"text\": \"\"}").size() + 1 - shift, 'x');
    use("a.jsonl", "{\"text\": \"" + head + "\"}\n{\"text\": \"next\"}\n");
    run_ok();
    ASSERT_EQ(text("_train"), head + "|next|") << shift;
  }
}

TEST_F(Prepare, JsonLines) {
  use("a.jsonl", "{\"text\": \"one\\ntwo\"}\n\n{\"id\": 3, \"text\": \"three\"}\n{\"text\": \"\"}\n{\"text\": \"last\"}");
  options_.validation_fraction = 0.0;
  run_ok();
  EXPECT_EQ(text("_train"), "one\ntwo|three|last|");
  for (const char* bad : {"{\"text\": \"a\"}\nnot json", "{\"text\": \"a\"}\n[1]", "{\"text\": \"a\"}\n{\"text\": 5}"}) {
    use("a.jsonl", bad);
    const Status status = run();
    EXPECT_EQ(status.code(), Code::corrupt);
    EXPECT_NE(status.message().find("a.jsonl:2: "), std::string::npos) << status.message();
  }
}

TEST_F(Prepare, WholeDocumentsAreDrawnAlikeWhereverTheInputLies) {
  ScratchFolder elsewhere;
  for (int i = 0; i < 200; ++i) {
    use("f" + std::to_string(i), "text " + std::to_string(i));
    write_file(elsewhere / ("f" + std::to_string(i)), "text " + std::to_string(i));
  }
  options_.split = PrepareOptions::Split::document;
  options_.validation_fraction = 0.25;
  run_ok();
  EXPECT_EQ(report_.train.documents + report_.validation.documents, 200u);
  EXPECT_GT(report_.validation.documents, 30u);
  EXPECT_LT(report_.validation.documents, 70u);
  const std::string validation = text("_validation");
  options_.inputs = {elsewhere.path()};
  run_ok();
  EXPECT_EQ(text("_validation"), validation);
}

TEST_F(Prepare, SameInputGivesTheSameBytes) {
  use("a.txt", "some text\nof two lines");
  run_ok();
  const std::string bin = test::read_file(out_ / "d_train.bin");
  const std::string idx = test::read_file(out_ / "d_train.idx");
  run_ok();
  EXPECT_EQ(test::read_file(out_ / "d_train.bin"), bin);
  EXPECT_EQ(test::read_file(out_ / "d_train.idx"), idx);
}

TEST_F(Prepare, WhatCannotWorkIsSaid) {
  use("a.txt", "ab");
  const auto fails_with = [this](Code code, const std::string& message) {
    const Status status = run();
    EXPECT_EQ(status.code(), code);
    EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
    EXPECT_TRUE(test::names_in(out_.path()).empty());
  };
  options_.validation_fraction = 0.001;
  fails_with(Code::invalid_config, "no validation data");
  options_.validation_fraction = 1.0;
  fails_with(Code::invalid_config, "validation fraction");
  options_.validation_fraction = std::nan("");
  fails_with(Code::invalid_config, "validation fraction");
  options_.validation_fraction = 0.0;
  options_.tokenizer = "gpt2/tokenizer.json";
  fails_with(Code::invalid_config, "examples/tokenize_with_hf/tokenize_text.py");
  options_.tokenizer = "byte";
  options_.inputs = {in_ / "absent"};
  fails_with(Code::not_found, "absent");
  use("a.txt", "");
  fails_with(Code::invalid_config, "no text");
  use("a.txt", "\x1f\x8b compressed");
  fails_with(Code::corrupt, "unpack it first");
}

TEST_F(Prepare, FormerValidationDataIsNotLeftBesideTrainingDataThatHoldsIt) {
  use("a.txt", "some text that is long enough");
  options_.validation_fraction = 0.3;
  ASSERT_TRUE(run().ok());
  options_.validation_fraction = 0.0;
  const Status status = run();
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_NE(status.message().find("_validation.idx"), std::string::npos) << status.message();
}

TEST_F(Prepare, FullDiskLeavesNothingBehind) {
  if (::mount("tmpfs", out_.path().c_str(), "tmpfs", 0, "size=256k") != 0) GTEST_SKIP() << "mounting a small tmpfs needs root";
  for (const std::size_t bytes : {std::size_t{200} << 10, std::size_t{3} << 20}) {  // less and more than is buffered
    write_file(in_ / "a.txt", std::string(bytes, 'x'));
    options_.inputs = {in_.path()};
    const Status status = run();
    EXPECT_EQ(status.code(), Code::io_error);
    EXPECT_NE(status.message().find("No space left on device"), std::string::npos) << status.message();
    EXPECT_TRUE(test::names_in(out_.path()).empty());
  }
  EXPECT_EQ(::umount(out_.path().c_str()), 0);
}

TEST_F(Prepare, UnwritableFolderIsAnIoError) {
  use("a.txt", "text");
  write_file(out_ / "file", "");
  options_.output_prefix = out_ / "file/d";
  EXPECT_EQ(run().code(), Code::io_error);
}

TEST(Bigram, LearnsPairsOfTokens) {
  const ScratchFolder folder;
  std::string alternating;
  for (int i = 0; i < 5000; ++i) alternating += "ab";
  write_file(folder / "train", alternating);
  write_file(folder / "validation", alternating.substr(0, 1000));
  const auto report =
      bigram_loss(TokenStream::open({folder / "train"}).value(), TokenStream::open({folder / "validation"}).value()).value();
  EXPECT_EQ(report.tokens, 1000u);
  EXPECT_EQ(report.vocab_size, 257);
  EXPECT_NEAR(report.unigram_loss, std::log(2.0), 0.05);
  // Every pair but the last (b, end) is certain.
  EXPECT_LT(report.loss, 0.02);
  EXPECT_GT(report.loss, 0.0);
}

TEST(Bigram, LossOfRandomBytesIsTheirEntropy) {
  const ScratchFolder folder;
  // Four symbols, uniform and independent: no model can be below ln 4.
  std::uint32_t state = 1;
  const auto random_text = [&state](int n) {
    std::string text;
    for (int i = 0; i < n; ++i) {
      state = state * 1664525u + 1013904223u;
      text.push_back(static_cast<char>('a' + (state >> 30)));
    }
    return text;
  };
  write_file(folder / "train", random_text(50000));
  write_file(folder / "validation", random_text(20000));
  const auto report =
      bigram_loss(TokenStream::open({folder / "train"}).value(), TokenStream::open({folder / "validation"}).value()).value();
  EXPECT_NEAR(report.loss, std::log(4.0), 0.01);
  EXPECT_NEAR(report.unigram_loss, std::log(4.0), 0.01);  // the add-one estimate gives the 253 unseen tokens 0.5 %
}

// The formula of the header, over counts taken in the plainest way.
TEST(Bigram, LossIsThatOfTheFormula) {
  const ScratchFolder folder;
  write_file(folder / "train", "the cat sat on the mat, and that cat had a hat");
  write_file(folder / "validation", "the bat sat");
  const TokenStream train = TokenStream::open({folder / "train"}).value();
  const TokenStream validation = TokenStream::open({folder / "validation"}).value();
  const auto report = bigram_loss(train, validation).value();
  std::map<std::int32_t, double> next;
  std::map<std::int32_t, std::map<std::int32_t, double>> pairs;
  const auto seen = all_tokens(train);
  for (std::size_t i = 1; i < seen.size(); ++i) {
    ++next[seen[i]];
    ++pairs[seen[i - 1]][seen[i]];
  }
  const auto asked = all_tokens(validation);
  double loss = 0.0;
  for (std::size_t i = 1; i < asked.size(); ++i) {
    const double unigram = (next[asked[i]] + 1.0) / (static_cast<double>(seen.size() - 1) + 257.0);
    auto& row = pairs[asked[i - 1]];
    const auto kinds = static_cast<double>(row.size());
    double total = 0.0;
    for (const auto& [token, count] : row) total += count;
    const double pair = row.contains(asked[i]) ? row[asked[i]] - report.discount : 0.0;
    loss -= std::log(total == 0.0 ? unigram : (pair + report.discount * kinds * unigram) / total);
  }
  EXPECT_NEAR(report.loss, loss / static_cast<double>(asked.size() - 1), 1e-12);
}

TEST(Bigram, TooLittleDataIsAnError) {
  const ScratchFolder folder;
  write_file(folder / "a", "abc");
  const TokenStream stream = TokenStream::open({folder / "a"}).value();
  EXPECT_EQ(bigram_loss(stream, stream).status().code(), Code::invalid_config);
}

}  // namespace
}  // namespace strata
