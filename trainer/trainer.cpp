#include "trainer/trainer.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "model/config.h"
#include "model/text_file.h"
#include "model/transformer.h"
#include "nvme/state_files.h"
#include "optim/freeze_policy.h"
#include "optim/schedule.h"
#include "trainer/agree.h"
#include "trainer/checkpoint/atomic_dir.h"
#include "trainer/checkpoint/hf_checkpoint.h"
#include "trainer/checkpoint/load.h"
#include "trainer/checkpoint/save.h"
#include "trainer/data/token_dataset.h"
#include "trainer/gpu_setup.h"
#include "trainer/initialise.h"
#include "trainer/measured_rates.h"
#include "trainer/model_setup.h"
#include "trainer/run_lock.h"
#include "trainer/stop_signal.h"

namespace strata {

namespace fs = std::filesystem;

class Trainer::Impl {
 public:
  Impl(Environment& environment, TrainerExtras extras) : environment_(environment), extras_(std::move(extras)) {}

  // Runs one call of the public interface. An error of this rank alone is told to the others, which would wait for it.
  template <class Call>
  auto guarded(const Call& call) -> decltype(call());

  Status setup(const Config& config);
  Status train();
  Result<StepMetrics> step();
  Result<double> evaluate();
  Status save();

 private:
  friend class Trainer;
  Status make_model();
  Status open_data();
  Status choose_device();
  Status measure_if_asked();
  Status check_freeze(const OptimizerStoreOptions& options) const;
  Status check_plan();
  Status prepare_run_folder();
  Status describe_run();
  Status prepare_nvme_folder() const;
  Status start_engine();
  Status initialise();
  Status refuse_newer_checkpoints();
  Status check_resumable(const Manifest& manifest, const std::string& checkpoint_dir) const;
  Status resume(const std::string& checkpoint_dir);
  Result<std::string> checkpoint_to_resume();
  Result<std::shared_ptr<const DataSource>> open_source(const std::vector<std::string>& paths) const;
  Status load_rows(const DataSource& source, std::uint64_t first_sample, std::span<std::int32_t> tokens,
                   std::span<std::int32_t> targets) const;
  Status after_step(StepMetrics metrics, ProgressPrinter* progress);
  Status trace_if_due();
  std::optional<GpuReadings> read_sensors_if_due(std::chrono::steady_clock::time_point now);
  void note(const std::string& text) const {
    if (environment_.leader() && extras_.on_note) extras_.on_note(text);
  }
  int rank() const { return environment_.world().rank().v; }
  int world() const { return environment_.world().size().v; }
  std::string checkpoints_folder() const { return config_.run.folder + "/checkpoints"; }

  Environment& environment_;
  TrainerExtras extras_;
  Config config_;
  std::string model_json_;
  Budgets budgets_;
  Plan plan_;
  std::optional<RunLock> lock_;  // rank 0; released when all below is gone
  // The engine's streams belong to the device and its units to extras_.model: it goes first.
  std::unique_ptr<Device> device_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<MetricsFile> metrics_file_;
  std::int64_t done_ = 0;
  std::uint64_t samples_ = 0;
  bool stopped_ = false;
  std::chrono::steady_clock::time_point last_step_end_{};
  BusySeconds last_busy_;
  std::chrono::steady_clock::time_point next_reading_{};  // of the GPU's sensors; max(): they cannot be read
  std::int64_t trace_first_ = 0;                          // step after which recording began
};

namespace {

const Status& status_of(const Status& status) { return status; }
template <class T>
const Status& status_of(const Result<T>& result) {
  return result.status();
}

}  // namespace

template <class Call>
auto Trainer::Impl::guarded(const Call& call) -> decltype(call()) {
  const auto failed = [&](const Status& status) {
    if (extras_.on_error) extras_.on_error(status);
    if (!status.is_on_every_rank()) environment_.world().abort(status.message());
  };
  try {
    auto result = call();
    if (!result.ok()) failed(status_of(result));
    return result;
  } catch (const StatusError& error) {
    failed(error.status());
    return error.status();
  } catch (const std::exception& error) {
    failed(Status(Code::internal, error.what()));
    throw;
  }
}

Status Trainer::Impl::setup(const Config& config) {
  Communicator& comm = environment_.world();
  const Supplied supplied = {
      .model = extras_.model != nullptr, .train = extras_.train != nullptr, .validation = extras_.validation != nullptr};
  Result<Config> resolved = resolve(config, comm.size(), supplied);
  STRATA_RETURN_IF_ERROR(agree(comm, resolved.status(), "configuration"));
  config_ = std::move(resolved).value();
  STRATA_RETURN_IF_ERROR(agree(comm, make_model(), "model setup"));
  STRATA_RETURN_IF_ERROR(agree(comm, open_data(), "opening data"));
  STRATA_RETURN_IF_ERROR(agree(comm, choose_device(), "choosing the device"));
  STRATA_RETURN_IF_ERROR(measure_if_asked());
  STRATA_RETURN_IF_ERROR(agree(comm, check_plan(), "planning"));
  STRATA_RETURN_IF_ERROR(agree(comm, environment_.leader() ? prepare_run_folder() : Status(), "preparing the run folder"));
  STRATA_RETURN_IF_ERROR(agree(comm, prepare_nvme_folder(), "preparing nvme.path"));
  STRATA_RETURN_IF_ERROR(start_engine());
  STRATA_RETURN_IF_ERROR(initialise());
  return agree(comm, environment_.leader() ? describe_run() : Status(), "describing the run");
}

// Last: a refused run leaves the description of the one before it.
Status Trainer::Impl::describe_run() {
  STRATA_RETURN_IF_ERROR(write_text_file(config_.run.folder + "/config.resolved.yaml", dump(config_)));
  plan_.drives = drive_use_of(config_, done_);
  STRATA_RETURN_IF_ERROR(write_text_file(config_.run.folder + "/plan.json", plan_to_json(plan_)));
  STRATA_ASSIGN_OR_RETURN(MetricsFile metrics, MetricsFile::open(config_.run.folder, done_));
  metrics_file_ = std::make_unique<MetricsFile>(std::move(metrics));
  return {};
}

Status Trainer::Impl::make_model() {
  if (!extras_.model) {
    STRATA_ASSIGN_OR_RETURN(const ModelConfig model_config, model_config_of(config_));
    model_json_ = to_json(model_config).dump();
    STRATA_ASSIGN_OR_RETURN(extras_.model, strata::make_model(model_config));
  }
  if (config_.training.seq_length > extras_.model->max_tokens())
    return {Code::invalid_config, "training.seq_length = " + std::to_string(config_.training.seq_length) + " > " +
                                      std::to_string(extras_.model->max_tokens()) +
                                      " positions of the model; lower it or raise model.max_positions"};
  return {};
}

Result<std::shared_ptr<const DataSource>> Trainer::Impl::open_source(const std::vector<std::string>& paths) const {
  static_assert(static_cast<int>(Config::Data::Format::bytes) == static_cast<int>(TokenFormat::bytes));
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<TokenSource> source,
                          TokenSource::open({.paths = paths,
                                             .format = static_cast<TokenFormat>(config_.data.format),
                                             .sequence_length = config_.training.seq_length,
                                             .seed = config_.run.seed,
                                             .vocab_size = extras_.model->vocab_size()}));
  return std::shared_ptr<const DataSource>(std::move(source));
}

Status Trainer::Impl::open_data() {
  if (!extras_.train) {
    STRATA_ASSIGN_OR_RETURN(extras_.train, open_source(config_.data.train));
  }
  if (!extras_.validation && !config_.data.validation.empty()) {
    STRATA_ASSIGN_OR_RETURN(extras_.validation, open_source(config_.data.validation));
  }
  const std::int64_t vocab = extras_.model->vocab_size();
  const auto check = [vocab](const char* key, const DataSource& source) -> Status {
    if (source.vocab_size() <= vocab) return {};
    return {Code::invalid_config, std::string(key) + " holds token " + std::to_string(source.vocab_size() - 1) +
                                      ", model.vocab_size is " + std::to_string(vocab) + "; raise it to at least " +
                                      std::to_string(source.vocab_size())};
  };
  STRATA_RETURN_IF_ERROR(check("data.train", *extras_.train));
  return extras_.validation ? check("data.validation", *extras_.validation) : Status();
}

Status Trainer::Impl::choose_device() {
  std::string why_free;
  HostThreads threads = environment_.host_threads(config_.device, &why_free);
  if (!why_free.empty()) note(why_free);
  if (!extras_.make_gpu) {
    STRATA_ASSIGN_OR_RETURN(device_, make_device(config_, std::move(threads), environment_.local_rank()));
    return {};
  }
  if (config_.device.emulate.any())
    return {Code::invalid_config,
            "device.emulate: this program brings its own GPU, which has its own speed; remove device.emulate"};
  STRATA_ASSIGN_OR_RETURN(std::unique_ptr<GpuDriver> gpu, extras_.make_gpu());
  device_ = std::make_unique<Device>(std::move(gpu), std::move(threads));
  return {};
}

Status Trainer::Impl::measure_if_asked() {
  if (!config_.device.probe) return {};
  STRATA_ASSIGN_OR_RETURN(const MeasuredRates measured,
                          measure_rates(config_, *extras_.model, *device_, environment_.world(), environment_.host_memory(),
                                        {.ranks_on_machine = environment_.ranks_on_machine(), .optimizer = extras_.optimizer}));
  note(measured.line());
  config_ = with_rates(config_, measured.together);
  return {};
}

// What a configuration alone does not tell.
Status Trainer::Impl::check_freeze(const OptimizerStoreOptions& options) const {
  if (options.freeze == nullptr) return {};
  const int units = extras_.model->unit_count(), blocks = units - 2;
  if (blocks < 1) return {Code::invalid_config, "optimizer.freeze.type: the model has no blocks to train in turn; set none"};
  if (config_.optimizer.freeze.lisa_activated_layers > blocks)
    return {Code::invalid_config, "optimizer.freeze.lisa_activated_layers: the model has fewer blocks: " +
                                      std::to_string(config_.optimizer.freeze.lisa_activated_layers) + " > " +
                                      std::to_string(blocks)};
  if (const std::optional<double> rate = config_.optimizer.freeze.freezing_rate; rate && slimfit_frozen(*rate, blocks) == 0)
    return {Code::invalid_config, "optimizer.freeze.freezing_rate: of the model's " + std::to_string(blocks) +
                                      " blocks it freezes none; set more, or optimizer.freeze.type: none"};
  if (options.method->choice_rule().empty()) return {};
  return {Code::invalid_config, std::string("optimizer.freeze.type: ") + options.method->name() +
                                    " chooses states or projections for all units at once; set optimizer.freeze.type: none"};
}

Status Trainer::Impl::check_plan() {
  budgets_ = budgets_of(config_, environment_.host_memory(), *device_);
  EngineOptions options = engine_options(config_, environment_.world().rank());
  if (extras_.optimizer) options.optimizer.method = extras_.optimizer;
  STRATA_RETURN_IF_ERROR(check_freeze(options.optimizer));
  STRATA_ASSIGN_OR_RETURN(plan_, make_plan(*extras_.model, options, environment_.world().size(), environment_.world().rank(),
                                           device_->threads(), device_->backend(), budgets_));
  return check_budgets(plan_, budgets_);
}

Status Trainer::Impl::prepare_run_folder() {
  STRATA_RETURN_IF_ERROR(make_folders(checkpoints_folder()).with_context("run.folder " + config_.run.folder));
  STRATA_ASSIGN_OR_RETURN(lock_, RunLock::take(config_.run.folder));
  return {};
}

// On every rank: nvme.path is a local disk of each machine.
Status Trainer::Impl::prepare_nvme_folder() const {
  if (plan_.nvme.bytes() == 0) return {};
  for (const std::string& folder : config_.nvme.path) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) return Status::from_errno("create nvme.path", folder, error.value());
  }
  return {};
}

Status Trainer::Impl::start_engine() {
  EngineOptions options = plan_.options;
  options.gpu_budget = plan_.gpu.high_water;
  options.cpu_budget = plan_.cpu.high_water;
  options.nvme.turns.ranks = environment_.ranks_on_machine();
  if (extras_.make_gpu_communicator) options.make_gpu_communicator = extras_.make_gpu_communicator;
  std::vector<std::string> notes;
  Result<std::unique_ptr<Engine>> engine = Engine::create(*device_, *extras_.model, options, environment_.world(), &notes);
  if (engine.ok() && plan_.nvme.bytes() > 0) {
    for (const std::string& folder : config_.nvme.path) {
      const Result<std::uint64_t> freed = remove_stale_state_files(folder, world());
      if (!freed.ok()) notes.push_back("state files of an earlier run could not be removed: " + freed.status().message());
      if (freed.ok() && *freed > 0)
        notes.push_back("removed " + format_bytes(*freed) + " of state files that a larger run left in " + folder);
    }
  }
  std::string mine;
  for (const std::string& text : notes) mine += text + "\n";
  std::vector<std::string> parts;
  STRATA_RETURN_IF_ERROR(agree(environment_.world(), engine.status(), "allocating", mine, &parts));
  engine_ = std::move(engine).value();
  for (std::size_t r = 0; r < parts.size(); ++r) {
    std::istringstream lines(parts[r]);
    for (std::string line; std::getline(lines, line);)
      note((parts.size() > 1 ? "rank " + std::to_string(r) + ": " : "") + line);
  }
  return {};
}

// The folder of the checkpoint to start from, or nothing. Rank 0 looks; a folder that others cannot read is found on opening.
Result<std::string> Trainer::Impl::checkpoint_to_resume() {
  const std::string& wish = config_.checkpoint.resume;
  if (wish == "never") return std::string();
  if (wish != "auto") return find_checkpoint(wish);
  STRATA_ASSIGN_OR_RETURN(const std::vector<StepDir> steps, list_step_dirs(checkpoints_folder()));
  return steps.empty() ? std::string() : steps.back().path;
}

// Checkpoints of another future in the same folder would be taken up by the next resume, or deleted as the oldest.
Status Trainer::Impl::refuse_newer_checkpoints() {
  STRATA_ASSIGN_OR_RETURN(const std::vector<StepDir> steps, list_step_dirs(checkpoints_folder()));
  if (steps.empty() || steps.back().step <= done_) return {};
  return {Code::invalid_config, "training would start at step " + std::to_string(done_) +
                                    " (checkpoint.resume: " + config_.checkpoint.resume + "), but " + steps.back().path +
                                    " is newer; set another run.folder, resume from it, or move it away"};
}

Status Trainer::Impl::initialise() {
  Communicator& comm = environment_.world();
  std::string from;
  Status looked;
  if (environment_.leader()) {
    // What a run left that was killed while it saved or removed a checkpoint.
    if (const Status tidied = prune_step_dirs(checkpoints_folder(), 0); !tidied.ok())
      note("what a killed run left could not be removed: " + tidied.message());
    Result<std::string> found = checkpoint_to_resume();
    looked = found.status();
    if (found.ok()) from = *found;
  }
  std::vector<std::string> parts;
  STRATA_RETURN_IF_ERROR(agree(comm, looked, "looking for a checkpoint", from, &parts));
  from = parts[0];
  if (from.empty()) {
    STRATA_RETURN_IF_ERROR(
        agree(comm, environment_.leader() ? refuse_newer_checkpoints() : Status(), "looking for newer checkpoints"));
    if (!config_.model.hf.empty()) {
      note("importing " + config_.model.hf);
      const auto import_weights = [this] {
        return import_checkpoint(config_.model.hf, checkpoints_folder(), config_.run.seed, wants_long_rows(config_.optimizer));
      };
      STRATA_RETURN_IF_ERROR(agree_on_leader(comm, import_weights, "importing model.hf"));
      from = checkpoints_folder() + "/step_0";
    }
  }
  if (!from.empty()) {
    STRATA_RETURN_IF_ERROR(resume(from));
    return agree(comm, environment_.leader() ? refuse_newer_checkpoints() : Status(), "looking for newer checkpoints");
  }
  note(config_.checkpoint.resume == "auto"
           ? "no checkpoint in " + checkpoints_folder() + ": nothing to resume, starting at step 0"
           : "starting at step 0");
  return agree(comm, initialise_parameters(*engine_, *extras_.model, config_.run.seed), "initialising parameters");
}

Status Trainer::Impl::resume(const std::string& checkpoint_dir) {
  Communicator& comm = environment_.world();
  Result<CheckpointReader> reader = CheckpointReader::open(checkpoint_dir);
  STRATA_RETURN_IF_ERROR(agree(comm, reader.status(), "opening the checkpoint"));
  const Manifest& manifest = reader->manifest();
  STRATA_RETURN_IF_ERROR(agree(comm, check_resumable(manifest, checkpoint_dir), "comparing the checkpoint with the config"));
  STRATA_RETURN_IF_ERROR(agree(comm, load_checkpoint(*engine_, *extras_.model, *reader), "loading the checkpoint"));
  done_ = manifest.step;
  samples_ = manifest.samples;
  note("resumed from " + checkpoint_dir + " at step " + std::to_string(done_));
  return {};
}

Status Trainer::Impl::check_resumable(const Manifest& manifest, const std::string& checkpoint_dir) const {
  if (manifest.samples > 0 && manifest.seed != config_.run.seed)
    return {Code::invalid_config, checkpoint_dir + " was trained with run.seed " + std::to_string(manifest.seed) +
                                      ", the config says " + std::to_string(config_.run.seed) +
                                      ": the data order would change; set run.seed to the former"};
  const auto compare = [&](const char* what, std::uint64_t then, std::uint64_t now) {
    if (manifest.samples == 0 || then == now) return;
    note("the checkpoint was trained with " + std::to_string(then) + " " + what + ", now it is " + std::to_string(now) +
         ": training goes on with sample " + std::to_string(manifest.samples) + " of the new order");
  };
  compare("tokens a sample", manifest.data.seq_length, static_cast<std::uint64_t>(config_.training.seq_length));
  compare("samples an epoch", manifest.data.samples_per_epoch, extras_.train->samples_per_epoch());
  return same_function(manifest.model_json, model_json_, checkpoint_dir);
}

Status Trainer::Impl::load_rows(const DataSource& source, std::uint64_t first_sample, std::span<std::int32_t> tokens,
                                std::span<std::int32_t> targets) const {
  const auto T = static_cast<std::size_t>(config_.training.seq_length);
  std::vector<std::int32_t> sample(T + 1);
  for (std::size_t b = 0; b < tokens.size() / T; ++b) {
    STRATA_RETURN_IF_ERROR(source.sample(first_sample + b, sample));
    std::copy(sample.begin(), sample.end() - 1, tokens.begin() + static_cast<std::ptrdiff_t>(b * T));
    std::copy(sample.begin() + 1, sample.end(), targets.begin() + static_cast<std::ptrdiff_t>(b * T));
  }
  return {};
}

Result<StepMetrics> Trainer::Impl::step() {
  const auto begin = std::chrono::steady_clock::now();
  const auto micro = static_cast<std::uint64_t>(config_.training.micro_batch_size);
  StepMetrics metrics;
  metrics.step = done_ + 1;
  metrics.lr = learning_rate(schedule_of(config_), metrics.step);
  // Samples are dealt micro-batch by micro-batch, in rank order inside one: the order of the gradient sum.
  const auto load = [&](int index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
    const std::uint64_t block =
        static_cast<std::uint64_t>(index) * static_cast<std::uint64_t>(world()) + static_cast<std::uint64_t>(rank());
    return load_rows(*extras_.train, samples_ + block * micro, tokens, targets);
  };
  STRATA_ASSIGN_OR_RETURN(const StepResult result,
                          engine_->step(metrics.step, metrics.lr, load, [] { return stop_signal() != 0; }));
  done_ = metrics.step;
  samples_ += static_cast<std::uint64_t>(config_.training.global_batch_size);
  stopped_ = stopped_ || result.stop;
  metrics.loss = result.loss;
  metrics.grad_norm = result.grad_norm;
  metrics.clip = result.clip;
  metrics.guess = result.guess;
  metrics.tokens = static_cast<std::int64_t>(samples_) * config_.training.seq_length;
  const auto end = std::chrono::steady_clock::now();
  // From the end of the step before: its update may overlap this step.
  const auto from = last_step_end_ == std::chrono::steady_clock::time_point{} ? begin : last_step_end_;
  last_step_end_ = end;
  metrics.step_seconds = std::chrono::duration<double>(end - from).count();
  metrics.tokens_per_second =
      static_cast<double>(config_.training.global_batch_size * config_.training.seq_length) / metrics.step_seconds;
  const BusySeconds busy = engine_->busy();
  metrics.busy = {busy.compute - last_busy_.compute,       busy.communication - last_busy_.communication,
                  busy.cpu_update - last_busy_.cpu_update, busy.gpu_update - last_busy_.gpu_update,
                  busy.nvme_read - last_busy_.nvme_read,   busy.nvme_write - last_busy_.nvme_write,
                  busy.gpu_to_cpu - last_busy_.gpu_to_cpu, busy.cpu_to_gpu - last_busy_.cpu_to_gpu};
  last_busy_ = busy;
  metrics.gpu_peak = engine_->memory(Tier::gpu).high_water;
  metrics.cpu_peak = engine_->memory(Tier::cpu).high_water;
  metrics.nvme_bytes = engine_->nvme().bytes();
  metrics.nvme = engine_->take_nvme_traffic();
  metrics.gpu = read_sensors_if_due(end);
  return metrics;
}

std::optional<GpuReadings> Trainer::Impl::read_sensors_if_due(std::chrono::steady_clock::time_point now) {
  if (device_->backend() != Backend::cuda || !environment_.leader() || now < next_reading_) return {};
  Result<GpuReadings> readings = device_->gpu().readings();
  if (readings.ok()) {
    next_reading_ = now + std::chrono::seconds(1);
    return std::move(readings).value();
  }
  note("metrics will not have the GPU's sensors: " + readings.status().message());
  next_reading_ = std::chrono::steady_clock::time_point::max();
  return {};
}

Result<double> Trainer::Impl::evaluate() {
  if (!extras_.validation)
    return Status(Code::invalid_argument, "there is no validation data; set data.validation").on_every_rank();
  const auto micro = static_cast<std::uint64_t>(config_.training.micro_batch_size);
  const std::uint64_t round = micro * static_cast<std::uint64_t>(world());
  const std::uint64_t rounds = std::max<std::uint64_t>(1, extras_.validation->samples_per_epoch() / round);
  const int iterations =
      static_cast<int>(std::min<std::uint64_t>(rounds, static_cast<std::uint64_t>(config_.training.eval_iters)));
  return engine_->evaluate(iterations, [&](int index, std::span<std::int32_t> tokens, std::span<std::int32_t> targets) {
    return load_rows(*extras_.validation,
                     static_cast<std::uint64_t>(index) * round + static_cast<std::uint64_t>(rank()) * micro, tokens, targets);
  });
}

Status Trainer::Impl::save() {
  Manifest info;
  info.step = done_;
  info.samples = samples_;
  info.seed = config_.run.seed;
  info.model_json = model_json_;
  info.data = {static_cast<std::uint64_t>(config_.training.seq_length), extras_.train->samples_per_epoch()};
  STRATA_ASSIGN_OR_RETURN(const std::string remark,
                          save_checkpoint(*engine_, *extras_.model, info,
                                          {.parent = checkpoints_folder(), .keep_last = config_.checkpoint.keep_last}));
  if (!remark.empty()) note(remark);
  return {};
}

Status Trainer::Impl::after_step(StepMetrics metrics, ProgressPrinter* progress) {
  const auto due = [&](std::int64_t interval) { return interval > 0 && done_ % interval == 0; };
  const bool last = done_ == config_.training.steps;
  // Who asks to stop has little time: the checkpoint comes first, and the validation is left out.
  if (extras_.validation && !stopped_ && (due(config_.training.eval_interval) || last)) {
    STRATA_ASSIGN_OR_RETURN(metrics.validation_loss, evaluate());
  }
  if (metrics_file_) STRATA_RETURN_IF_ERROR(metrics_file_->append(metrics));
  if (progress != nullptr) progress->step(metrics);
  if (extras_.on_step) extras_.on_step(metrics);
  if (due(config_.checkpoint.interval) || (last && config_.checkpoint.save_final) || stopped_) STRATA_RETURN_IF_ERROR(save());
  STRATA_RETURN_IF_ERROR(trace_if_due());
  last_step_end_ = std::chrono::steady_clock::now();  // validation and saving are not the next step's time
  last_busy_ = engine_->busy();
  return {};
}

Status Trainer::Impl::trace_if_due() {
  if (!config_.logging.trace) return {};
  TraceRecorder& trace = device_->trace();
  if (!trace.enabled() && trace_first_ == 0) {
    STRATA_RETURN_IF_ERROR(engine_->finish());  // what is recorded begins with the next step
    trace_first_ = done_;
    trace.start();
  } else if (trace.enabled() &&
             (done_ >= trace_first_ + config_.logging.trace_steps || done_ == config_.training.steps || stopped_)) {
    STRATA_RETURN_IF_ERROR(engine_->finish());
    trace.stop();
    const std::string name = rank() == 0 ? "/trace.json" : "/trace_rank_" + std::to_string(rank()) + ".json";
    return trace.write_json(config_.run.folder + name, "rank " + std::to_string(rank()), rank());
  }
  return {};
}

Status Trainer::Impl::train() {
  std::unique_ptr<ProgressPrinter> progress;
  if (environment_.leader()) {
    const AutoOnOff wish = config_.logging.progress;
    const bool terminal = wish == AutoOnOff::on || (wish == AutoOnOff::automatic && output_is_terminal());
    progress = std::make_unique<ProgressPrinter>(stdout, terminal, config_.training.steps, config_.logging.log_interval);
  }
  while (done_ < config_.training.steps && !stopped_) {
    STRATA_ASSIGN_OR_RETURN(const StepMetrics metrics, step());
    STRATA_RETURN_IF_ERROR(after_step(metrics, progress.get()));
  }
  STRATA_RETURN_IF_ERROR(engine_->finish());
  if (progress) progress->end_line();
  if (stopped_)
    note("stopped by a signal after step " + std::to_string(done_) + "; checkpoint saved in " + checkpoints_folder());
  return agree(environment_.world(), {}, "end of training");
}

Trainer::Trainer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Trainer::~Trainer() = default;

Result<std::unique_ptr<Trainer>> Trainer::create(const Config& config, Environment& environment, TrainerExtras extras) {
  auto impl = std::make_unique<Impl>(environment, std::move(extras));
  STRATA_RETURN_IF_ERROR(impl->guarded([&] { return impl->setup(config); }));
  return std::unique_ptr<Trainer>(new Trainer(std::move(impl)));
}

Status Trainer::train() {
  return impl_->guarded([this] { return impl_->train(); });
}
Result<StepMetrics> Trainer::step() {
  return impl_->guarded([this] { return impl_->step(); });
}
Result<double> Trainer::evaluate() {
  return impl_->guarded([this] { return impl_->evaluate(); });
}
Status Trainer::save() {
  return impl_->guarded([this] { return impl_->save(); });
}
std::int64_t Trainer::steps_done() const { return impl_->done_; }
std::uint64_t Trainer::samples_consumed() const { return impl_->samples_; }
bool Trainer::stopped_by_signal() const { return impl_->stopped_; }
const Config& Trainer::config() const { return impl_->config_; }
const Plan& Trainer::plan() const { return impl_->plan_; }
const Budgets& Trainer::budgets() const { return impl_->budgets_; }
Engine& Trainer::engine() { return *impl_->engine_; }

}  // namespace strata
