#include "launcher/train_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/command.h"
#include "model/transformer.h"
#include "parallel/thread_communicator.h"
#include "runtime/cores.h"
#include "trainer/gpu_setup.h"
#include "trainer/measured_rates.h"
#include "trainer/model_setup.h"
#include "trainer/plan_timeline.h"
#include "trainer/run_report.h"
#include "trainer/stop_signal.h"
#include "trainer/trainer.h"

namespace strata {
namespace {

constexpr int kTimelineColumns = 100;

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  bool json = false;
  bool timeline = false;
  int ranks = 1;
};

void print_start(const Trainer& trainer, const Environment& environment) {
  const Config& c = trainer.config();
  fmt::print("{}", format_plan(trainer.plan(), trainer.budgets()));
  const HostThreads threads = environment.host_threads(c.device);
  fmt::print("run folder {}, {} rank{} on this machine, {} compute thread{} each{}\n\n", c.run.folder,
             environment.ranks_on_machine(), environment.ranks_on_machine() == 1 ? "" : "s", threads.count,
             threads.count == 1 ? "" : "s", threads.cores ? "; rank 0 on " + threads.cores->describe() : "");
  std::fflush(stdout);
}

// Returns whether a signal ended it.
Result<bool> run_training(const Config& config, Environment& environment, const std::function<void(const Status&)>& on_error) {
  TrainerExtras extras;
  extras.on_error = on_error;
  extras.on_note = [](const std::string& text) {
    fmt::print("{}\n", text);
    std::fflush(stdout);
  };
  RunReport measured;
  if (environment.leader()) {
    for (const std::string& text : environment.notes()) extras.on_note(text);
    extras.on_step = [&measured](const StepMetrics& metrics) { measured.add(metrics); };
  }
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, Trainer::create(config, environment, std::move(extras)));
  if (environment.leader()) print_start(*trainer, environment);
  STRATA_RETURN_IF_ERROR(trainer->train());
  if (environment.leader()) fmt::print("{}", measured.format(trainer->plan()));
  return trainer->stopped_by_signal();
}

int train(const Options& options) {
  install_stop_signals();
  Result<Config> config = load_config(options.config, options.overrides);
  // Before MPI starts, every rank has the same error; only one of them should say so.
  if (!config.ok()) return first_of_launch() ? finish_command(config.status()) : exit_code(config.status());
  Result<std::unique_ptr<Environment>> environment = Environment::from_launcher(config->parallel);
  if (!environment.ok()) return finish_command(environment.status());
  std::optional<int> reported;
  const auto report_once = [&](const Status& status) {
    if (!reported) reported = finish_rank(status, **environment);
  };
  bool stopped = false;
  try {
    const Result<bool> run = run_training(*config, **environment, report_once);
    report_once(run.status());
    stopped = run.ok() && *run;
  } catch (const std::exception& error) {
    report_once(Status(Code::internal, error.what()));
  }
  return *reported == 0 && stopped ? kStoppedExitCode : *reported;
}

// Of `ranks` that are to be on this machine, one alone.
Result<MeasuredRates> measure_here(const Config& config, const Model& model, int threads, int ranks) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Device> device, make_device(config, threads, 0));
  return measure_rates(config, model, *device, *make_single_rank_communicator(),
                       available_host_memory() / static_cast<std::size_t>(ranks));
}

Status print_plan(const Options& options) {
  STRATA_ASSIGN_OR_RETURN(const Config written, load_config(options.config, options.overrides));
  STRATA_ASSIGN_OR_RETURN(Config config, resolve(written, WorldSize{options.ranks}));
  STRATA_ASSIGN_OR_RETURN(const ModelConfig model_shape, model_config_of(config));
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, make_model(model_shape));
  const int threads = host_threads(static_cast<int>(config.device.threads), 0, options.ranks, false).count;
  if (config.device.probe) {
    STRATA_ASSIGN_OR_RETURN(const MeasuredRates measured, measure_here(config, *model, threads, options.ranks));
    if (!options.json) fmt::print("{}\n", measured.line());
    config = with_rates(config, measured.together);
  }
  Budgets budgets = budgets_of(config, 0);
  budgets.host_memory.reset();  // the plan is for the machine the config describes, not for this one
  STRATA_ASSIGN_OR_RETURN(Plan plan, make_plan(*model, engine_options(config, Rank{0}), WorldSize{options.ranks},
                                               largest_rank(*model, WorldSize{options.ranks}, engine_options(config, Rank{0})),
                                               threads, planned_backend(config), budgets));
  plan.drives = drive_use_of(config);
  fmt::print("{}", options.json ? plan_to_json(plan) : format_plan(plan, budgets));
  if (options.timeline) {
    if (!plan.update.forecast)
      return {Code::invalid_config,
              "--timeline needs to know how fast the machine is: set device.rates, device.hardware or device.emulate"};
    fmt::print("\n{}", format_timeline(plan.update, kTimelineColumns));
  }
  std::fflush(stdout);
  return check_budgets(plan, budgets);
}

void add_config_arguments(CLI::App& command, const std::shared_ptr<Options>& options) {
  command.add_option("config", options->config, "YAML file (docs/config.md lists every key)")
      ->required()
      ->type_name("CONFIG.yaml");
  command.add_option("overrides", options->overrides, "values that replace the file's")->type_name("section.key=value");
}

}  // namespace

void add_train_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* command = app.add_subcommand("train", "Train a model: one rank, or all ranks under mpirun or srun");
  const auto options = std::make_shared<Options>();
  add_config_arguments(*command, options);
  command->callback([options, &action] { action = [options] { return train(*options); }; });
}

void add_plan_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* command =
      app.add_subcommand("plan", "Show what a run needs in each tier, without allocating it; exit code 2 if it does not fit");
  const auto options = std::make_shared<Options>();
  add_config_arguments(*command, options);
  command->add_option("--ranks", options->ranks, "world size to plan for")->check(CLI::PositiveNumber)->capture_default_str();
  CLI::Option* json = command->add_flag("--json", options->json, "print JSON");
  command->add_flag("--timeline", options->timeline, "draw the step that device.rates or device.emulate promise")
      ->excludes(json);
  command->callback([options, &action] { action = [options] { return finish_command(print_plan(*options)); }; });
}

}  // namespace strata
