#include "launcher/checkpoint_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "launcher/command.h"
#include "runtime/arena.h"
#include "trainer/checkpoint/atomic_dir.h"
#include "trainer/checkpoint/hf_checkpoint.h"
#include "trainer/checkpoint/load.h"
#include "trainer/config.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

Status list(const std::string& dir) {
  std::string parent = dir;
  STRATA_ASSIGN_OR_RETURN(std::vector<StepDir> steps, list_step_dirs(parent));
  if (steps.empty() && fs::is_directory(dir + "/checkpoints")) {
    parent = dir + "/checkpoints";
    STRATA_ASSIGN_OR_RETURN(steps, list_step_dirs(parent));
  }
  if (steps.empty()) return {Code::not_found, "no checkpoint in " + dir + " (looked for step_<N>/ and checkpoints/step_<N>/)"};
  fmt::print("{:>10} {:>14} {:>6} {:>12}  {}\n", "step", "samples", "ranks", "bytes", "path");
  for (const StepDir& step : steps) {
    STRATA_ASSIGN_OR_RETURN(const Manifest manifest, read_manifest(step.path));
    std::uint64_t bytes = 0;
    for (const CheckpointFile& file : manifest.files) bytes += file.bytes;
    fmt::print("{:>10} {:>14} {:>6} {:>12}  {}\n", manifest.step, manifest.samples, manifest.world_size,
               format_bytes(static_cast<std::size_t>(bytes)), step.path);
  }
  return {};
}

Status verify(const std::string& dir) {
  STRATA_ASSIGN_OR_RETURN(const std::string found, find_checkpoint(dir));
  STRATA_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::open(found));
  for (std::size_t i = 0; i < reader.file_count(); ++i) STRATA_RETURN_IF_ERROR(reader.verify_file(i));
  fmt::print("{}: step {}, {} parameters in {} files, every checksum is right\n", found, reader.manifest().step,
             reader.manifest().params.size(), reader.file_count());
  return {};
}

Status digest(const std::string& dir) {
  STRATA_ASSIGN_OR_RETURN(const std::string found, find_checkpoint(dir));
  STRATA_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::open(found));
  STRATA_ASSIGN_OR_RETURN(const std::string hex, reader.digest());
  fmt::print("{}\n", hex);
  return {};
}

void add_action(CLI::App& command, const std::string& name, const std::string& help, Status (*run)(const std::string&),
                std::function<int()>& action) {
  CLI::App* sub = command.add_subcommand(name, help);
  const auto dir = std::make_shared<std::string>();
  sub->add_option("dir", *dir, "checkpoint folder, folder of checkpoints, or run folder")->required()->type_name("DIR");
  sub->callback([dir, run, &action] { action = [dir, run] { return finish_command(run(*dir)); }; });
}

struct ModelOptions {
  std::string from, to, tokenizer, dtype;
};

int import_model(const ModelOptions& options) {
  const Status status = import_checkpoint(options.from, options.to, Config::Run().seed, false);
  if (status.ok()) fmt::print("{}/step_0\n", options.to);
  return finish_command(status);
}

int export_model(const ModelOptions& options) {
  return finish_command(export_checkpoint(options.from, options.to, options.dtype, options.tokenizer));
}

}  // namespace

void add_checkpoint_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* command = app.add_subcommand("checkpoint", "Look at checkpoints");
  command->require_subcommand(1);
  add_action(*command, "list", "every committed checkpoint", list, action);
  add_action(*command, "verify", "read the newest (or the given) checkpoint and compare every checksum", verify, action);
  add_action(*command, "digest", "one SHA-256 over parameters and optimizer state in global coordinates", digest, action);
}

void add_model_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* command = app.add_subcommand("model", "Convert between Hugging Face folders and checkpoints");
  command->require_subcommand(1);
  const auto options = std::make_shared<ModelOptions>();
  CLI::App* importing = command->add_subcommand("import", "HF_DIR -> CHECKPOINT_DIR/step_0, without optimizer state");
  importing->add_option("hf_dir", options->from, "folder with config.json and safetensors")->required()->type_name("HF_DIR");
  importing->add_option("checkpoint_dir", options->to, "folder of checkpoints")->required()->type_name("CHECKPOINT_DIR");
  importing->callback([options, &action] { action = [options] { return import_model(*options); }; });
  CLI::App* exporting = command->add_subcommand("export", "CHECKPOINT_DIR -> HF_DIR that transformers loads");
  exporting->add_option("checkpoint_dir", options->from, "checkpoint, folder of checkpoints or run folder")
      ->required()
      ->type_name("CHECKPOINT_DIR");
  exporting->add_option("hf_dir", options->to, "folder to create")->required()->type_name("HF_DIR");
  exporting
      ->add_option("--dtype", options->dtype,
                   "f32, bf16 or f16; default: what loses nothing, which is the dtype of the imported folder before the first "
                   "step of training, and f32 after")
      ->check(CLI::IsMember({"f32", "bf16", "f16"}));
  exporting->add_option("--tokenizer-from", options->tokenizer, "Hugging Face folder whose tokenizer files are copied")
      ->type_name("HF_DIR");
  exporting->callback([options, &action] { action = [options] { return export_model(*options); }; });
}

}  // namespace strata
