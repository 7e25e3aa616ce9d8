#include "launcher/generate_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "launcher/command.h"
#include "model/safetensors.h"
#include "runtime/cores.h"
#include "trainer/data/byte_tokenizer.h"
#include "trainer/inference.h"

namespace strata {
namespace {

struct Options {
  std::string checkpoint;
  std::string prompt;
  std::vector<std::int32_t> prompt_ids;
  int tokens = 200;
  int threads = 0;
  std::string logits_file;
  SamplingOptions sampling;
};

// The f32 logits of every prompt position, as tensor "logits" [T, V] of a safetensors file.
Status write_logits(InferenceModel& model, const std::vector<std::int32_t>& ids, const std::string& path) {
  const auto T = static_cast<std::int64_t>(ids.size());
  STRATA_ASSIGN_OR_RETURN(const std::vector<float> logits, model.logits(ids, T));
  STRATA_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::create(path, {{"logits", SafetensorsType::f32, {T, model.model().vocab_size()}}}, {}));
  STRATA_RETURN_IF_ERROR(writer.append_f32("logits", logits));
  return writer.finish(false);
}

Status generate(const Options& options) {
  const int threads = options.threads > 0 ? options.threads : usable_cores();
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<InferenceModel> model, InferenceModel::load(options.checkpoint, threads));
  // Bytes are the tokens of a vocabulary that is just large enough for them; any other needs its own tokenizer outside.
  const bool bytes = options.prompt_ids.empty();
  if (bytes && model->model().vocab_size() > 512)
    return {Code::invalid_config, "this model's vocabulary of " + std::to_string(model->model().vocab_size()) +
                                      " tokens is not the byte tokenizer's; tokenize the prompt and give --prompt-ids"};
  std::vector<std::int32_t> ids = bytes ? ByteTokenizer::encode(options.prompt) : options.prompt_ids;
  if (ids.empty()) ids = {ByteTokenizer::kEndOfText};
  for (const std::int32_t id : ids)
    if (id < 0 || id >= model->model().vocab_size())
      return {Code::invalid_config, "prompt token " + std::to_string(id) + " is not in the model's vocabulary of " +
                                        std::to_string(model->model().vocab_size())};
  if (!options.logits_file.empty()) return write_logits(*model, ids, options.logits_file);
  const auto window = static_cast<std::size_t>(model->model().max_tokens());
  if (bytes) fmt::print("{}", options.prompt);
  for (int i = 0; i < options.tokens; ++i) {
    const std::size_t seen = std::min(ids.size(), window);
    STRATA_ASSIGN_OR_RETURN(const std::vector<float> logits, model->logits(std::span(ids).last(seen), 1));
    const std::int32_t next = sample_token(logits, options.sampling, static_cast<std::uint64_t>(i));
    ids.push_back(next);
    if (bytes && next == ByteTokenizer::kEndOfText) break;
    if (bytes)
      fmt::print("{}", ByteTokenizer::decode({&next, 1}));
    else
      fmt::print("{}{}", i == 0 ? "" : " ", next);
    std::fflush(stdout);
  }
  fmt::print("\n");
  return {};
}

}  // namespace

void add_generate_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt with a checkpoint's model");
  const auto options = std::make_shared<Options>();
  command->add_option("checkpoint_dir", options->checkpoint, "checkpoint, folder of checkpoints or run folder")
      ->required()
      ->type_name("CHECKPOINT_DIR");
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "text, for models of the byte tokenizer");
  command->add_option("--prompt-ids", options->prompt_ids, "token ids, comma-separated, for any other model; prints ids")
      ->delimiter(',')
      ->excludes(prompt);
  command->add_option("--tokens", options->tokens, "how many to generate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0: always the most likely token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-k", options->sampling.top_k, "0: all tokens")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "of the random choice")->capture_default_str();
  command->add_option("--threads", options->threads, "0: all cores")->check(CLI::NonNegativeNumber)->capture_default_str();
  command
      ->add_option("--logits", options->logits_file,
                   "write the prompt's logits [T, V] to this safetensors file instead of generating")
      ->type_name("FILE");
  command->callback([options, &action] { action = [options] { return finish_command(generate(*options)); }; });
}

}  // namespace strata
