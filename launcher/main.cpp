// The program: finds the command, runs it, and turns whatever goes wrong into one line and an exit code.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "launcher/bench.h"
#include "launcher/checkpoint_command.h"
#include "launcher/command.h"
#include "launcher/config_command.h"
#include "launcher/data_command.h"
#include "launcher/doctor.h"
#include "launcher/generate_command.h"
#include "launcher/machine.h"
#include "launcher/plot_command.h"
#include "launcher/probe_command.h"
#include "launcher/train_command.h"
#include "runtime/config.h"
#include "runtime/gpu/cuda.h"

namespace strata {
namespace {

using Action = std::function<int()>;

// In the order of `strata --help`.
constexpr std::array kCommands = {add_train_command, add_plan_command,       add_probe_command,    add_data_command,
                                  add_model_command, add_checkpoint_command, add_generate_command, add_config_command,
                                  add_plot_command,  add_bench_command,      add_doctor_command};

std::string version() {
  const Machine machine = describe_machine();
  return "strata " STRATA_VERSION " (commit " + machine.commit + ", preset " + machine.preset + ", " + machine.build_type +
         ", " + machine.compiler + ")\nbackends: host (" + machine.isa + ")" +
         (built_with_cuda() ? ", cuda" : "; built without CUDA");
}

// The command that was named last: whose help helps.
const CLI::App& deepest(const CLI::App& app) {
  const auto chosen = app.get_subcommands();
  return chosen.empty() ? app : deepest(*chosen.front());
}

std::string path_of(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return (parent == nullptr ? "" : path_of(*parent) + " ") + command.get_name();
}

// What was meant by a word that is not a command of `app`.
std::string explain_word(const CLI::App& app, const std::string& word) {
  if (word.starts_with("-")) return "unknown option " + word;
  std::string nearest;
  int least = 3;  // more edits than two are another word
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    const int edits = edit_distance(word, command->get_name());
    if (edits < least) nearest = command->get_name();
    least = std::min(least, edits);
  }
  const std::string kind = app.get_subcommands(nullptr).empty() ? "unexpected argument " : "unknown command ";
  return kind + word + (nearest.empty() ? "" : "; did you mean " + nearest + "?");
}

int usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = deepest(app);
  const std::vector<std::string> extra = command.remaining();
  const std::string what = extra.empty() ? error.what() : explain_word(command, extra.front());
  std::fprintf(stderr, "strata: error: %s\nsee: %s --help\n", what.c_str(), path_of(command).c_str());
  return 2;
}

// Output that could not be written is a failure, also when everything else went well.
int flushed(int code) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  const int status = finish_command(Status::from_errno("write", "standard output", errno));
  return code != 0 ? code : status;
}

int run(int argc, char** argv) {
  CLI::App app("Trains transformer language models whose states do not fit the GPU.", "strata");
  app.set_version_flag("--version", version);
  app.require_subcommand(1);
  Action action;
  for (const auto add : kCommands) add(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return error.get_exit_code() == 0 ? flushed(app.exit(error)) : usage_error(app, error);
  }
  return flushed(action());
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  using strata::Code;
  using strata::Status;
  try {
    return strata::run(argc, argv);
  } catch (const strata::StatusError& error) {
    return strata::finish_command(error.status());
  } catch (const strata::ContractViolation& error) {
    return strata::finish_command(Status(Code::internal, std::string("a defect of Strata: ") + error.what()));
  } catch (const std::bad_alloc&) {
    return strata::finish_command(Status(Code::out_of_budget, "out of memory"));
  } catch (const std::exception& error) {
    return strata::finish_command(Status(Code::internal, error.what()));
  }
}
