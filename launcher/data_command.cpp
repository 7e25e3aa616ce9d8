#include "launcher/data_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "launcher/command.h"
#include "runtime/status.h"
#include "trainer/data/bigram.h"
#include "trainer/data/byte_tokenizer.h"
#include "trainer/data/prepare.h"
#include "trainer/data/token_stream.h"

namespace strata {
namespace {

const std::map<std::string, TokenFormat> kFormats = {{"auto", TokenFormat::automatic},
                                                     {"megatron", TokenFormat::megatron},
                                                     {"llmc", TokenFormat::llmc},
                                                     {"bytes", TokenFormat::bytes}};
const std::map<std::string, PrepareOptions::Split> kSplits = {{"tail", PrepareOptions::Split::tail},
                                                              {"document", PrepareOptions::Split::document}};

void print_part(const PrepareReport::Part& part) {
  if (part.prefix.empty()) return;
  fmt::print("{}.bin, .idx: {} documents, {} tokens\n", part.prefix, part.documents, part.tokens);
}

int prepare(const PrepareOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  PrepareReport report;
  if (const Status status = prepare_data(options, &report); !status.ok()) return finish_command(status);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  fmt::print("{} files, {} bytes in {:.2f} s\n", report.files, report.bytes, seconds);
  print_part(report.train);
  print_part(report.validation);
  return 0;
}

// Text as it may be shown on a terminal: one line, no control characters.
std::string printable(const std::string& text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      shown += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      shown += fmt::format("\\x{:02x}", byte);
    } else {
      shown += c;
    }
  }
  return shown;
}

void print_shard(const TokenShard& shard) {
  fmt::print("{}\n  format {}, tokens of type {}: {}", shard.path, to_string(shard.format), to_string(shard.type),
             shard.tokens);
  if (shard.documents) fmt::print(", documents: {}", *shard.documents);
  if (shard.sequences) fmt::print(", sequences: {}", *shard.sequences);
  fmt::print("\n");
}

Status info(const std::vector<std::string>& paths, TokenFormat format) {
  STRATA_ASSIGN_OR_RETURN(const TokenStream stream, TokenStream::open(paths, format));
  for (const TokenShard& shard : stream.shards()) print_shard(shard);
  STRATA_ASSIGN_OR_RETURN(const std::int64_t vocab_size, stream.scan_vocab_size());
  fmt::print("tokens in all: {}\nvocabulary: {} (one more than the largest id)\n", stream.size(), vocab_size);
  std::vector<std::int32_t> first(std::min<std::size_t>(static_cast<std::size_t>(stream.size()), 120));
  STRATA_RETURN_IF_ERROR(stream.read(0, first));
  if (vocab_size <= ByteTokenizer::kVocabSize) {
    fmt::print("first tokens, as bytes: {}\n", printable(ByteTokenizer::decode(first)));
  } else {
    first.resize(std::min<std::size_t>(first.size(), 16));
    fmt::print("first tokens: {}\n", fmt::join(first, " "));
  }
  return {};
}

Status bigram(const std::vector<std::string>& train_paths, const std::string& validation_path, TokenFormat format) {
  STRATA_ASSIGN_OR_RETURN(const TokenStream train, TokenStream::open(train_paths, format));
  STRATA_ASSIGN_OR_RETURN(const TokenStream validation, TokenStream::open({validation_path}, format));
  STRATA_ASSIGN_OR_RETURN(const BigramReport report, bigram_loss(train, validation));
  fmt::print("bigram loss {:.4f} nats per token ({} tokens predicted, discount {:.2f})\nunigram loss {:.4f}\n", report.loss,
             report.tokens, report.discount, report.unigram_loss);
  return {};
}

void add_prepare(CLI::App& data, std::function<int()>& action) {
  CLI::App* command = data.add_subcommand("prepare", "Turn text files or folders into token files for training");
  const auto options = std::make_shared<PrepareOptions>();
  command->add_option("--input", options->inputs, "Text or .jsonl files, or folders with such files")
      ->required()
      ->type_name("PATH");
  command->add_option("--output", options->output_prefix, "Writes PREFIX_train.{bin,idx} and PREFIX_validation.{bin,idx}")
      ->required()
      ->type_name("PREFIX");
  command->add_option("--tokenizer", options->tokenizer, "byte; see examples/tokenize_with_hf for others")
      ->capture_default_str();
  command->add_option("--validation-fraction", options->validation_fraction, "Part kept for validation; 0: none")
      ->capture_default_str();
  command->add_option("--split", options->split, "Validation data: the tail of every file, or whole documents at random")
      ->transform(CLI::CheckedTransformer(kSplits).description(""))
      ->type_name("tail|document")
      ->default_str("tail");
  command->add_option("--document-separator", options->document_separator, "Text between the documents of a text file");
  command->add_option("--json-key", options->json_key, "Key of the text in .jsonl files")->capture_default_str();
  command->callback([options, &action] { action = [options] { return prepare(*options); }; });
}

struct Reading {
  std::vector<std::string> paths;
  std::string validation;
  TokenFormat format = TokenFormat::automatic;
};

void add_format(CLI::App& command, const std::shared_ptr<Reading>& reading) {
  command.add_option("--format", reading->format, "How to read the files")
      ->transform(CLI::CheckedTransformer(kFormats).description(""))
      ->type_name("auto|megatron|llmc|bytes")
      ->default_str("auto");
}

void add_info(CLI::App& data, std::function<int()>& action) {
  CLI::App* command = data.add_subcommand("info", "Check and describe token files");
  const auto reading = std::make_shared<Reading>();
  command->add_option("paths", reading->paths, "Files, Megatron prefixes, folders or patterns")->required()->type_name("PATH");
  add_format(*command, reading);
  command->callback(
      [reading, &action] { action = [reading] { return finish_command(info(reading->paths, reading->format)); }; });
}

void add_bigram(CLI::App& data, std::function<int()>& action) {
  CLI::App* command = data.add_subcommand("bigram", "Loss of a bigram model, the baseline of a validation loss");
  const auto reading = std::make_shared<Reading>();
  reading->paths.resize(1);
  command->add_option("train", reading->paths[0], "Training data")->required();
  command->add_option("validation", reading->validation, "Validation data")->required();
  add_format(*command, reading);
  command->callback([reading, &action] {
    action = [reading] { return finish_command(bigram(reading->paths, reading->validation, reading->format)); };
  });
}

}  // namespace

void add_data_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* data = app.add_subcommand("data", "Prepare and inspect training data");
  data->require_subcommand(1);
  add_prepare(*data, action);
  add_info(*data, action);
  add_bigram(*data, action);
}

}  // namespace strata
