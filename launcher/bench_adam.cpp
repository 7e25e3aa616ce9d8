// `strata bench adam`: the optimizer update against the machine's copy bandwidth, measured in turns.
#include <cmath>

#include "launcher/bench.h"
#include "launcher/bench_copy.h"
#include "launcher/bench_report.h"
#include "launcher/command.h"
#include "optim/adamw.h"

namespace strata {
namespace {

// The tensors of one update, filled with what training has: small parameters and gradients, moments of some steps.
class AdamState {
 public:
  AdamState(std::int64_t n, bool with16) : arena_(Tier::cpu, arena_bytes(n, with16)) {
    slice_ = {.p = floats(n), .m = floats(n), .v = floats(n), .g = gradient_ = floats(n), .n = n, .decay = true};
    if (with16) slice_.p16 = reinterpret_cast<bf16*>(allocate(static_cast<std::size_t>(n) * sizeof(bf16)));
    for (std::int64_t i = 0; i < n; ++i) {
      const float x = static_cast<float>(i % 1009) * 0x1p-10f - 0.5f;
      slice_.p[i] = 0.02f * x;
      slice_.m[i] = 1e-3f * x;
      slice_.v[i] = 1e-6f * (x + 1.0f);
      gradient_[i] = 1e-3f * (0.3f - x);
    }
  }
  static std::size_t arena_bytes(std::int64_t n, bool with16) {
    return static_cast<std::size_t>(n) * (with16 ? 18u : 16u) + 5 * (kArraySkew + TierArena::kAlignment);
  }
  const AdamWSlice& slice() const { return slice_; }

 private:
  std::byte* allocate(std::size_t bytes) {
    Result<Buffer> buffer = arena_.allocate(bytes + kArraySkew, Category::optimizer, "state of the benchmark");
    throw_if_error(buffer.status());
    buffers_.push_back(std::move(buffer).value());
    return buffers_.back().data();
  }
  float* floats(std::int64_t n) { return reinterpret_cast<float*>(allocate(static_cast<std::size_t>(n) * sizeof(float))); }

  TierArena arena_;
  std::vector<Buffer> buffers_;
  AdamWSlice slice_;
  float* gradient_ = nullptr;
};

Status bench_adam(const BenchOptions& options) {
  const Machine machine = describe_machine();
  const bool with16 = options.precision == "bf16";
  const std::int64_t n = options.parameters;
  const auto copied = static_cast<std::size_t>(n) * 2 * sizeof(float);  // as large as two of the update's tensors
  const std::size_t needed = AdamState::arena_bytes(n, with16) + CopyMeter::arena_bytes(copied);
  STRATA_RETURN_IF_ERROR(require_memory(needed, "bench adam with --parameters " + std::to_string(n)));
  TierArena arena(Tier::cpu, CopyMeter::arena_bytes(copied));
  CopyMeter copy(arena, copied);
  AdamState state(n, with16);
  ThreadPool pool(threads_or_all(options.threads, machine));

  // Read p, m, v, g and write p, m, v, and p16.
  const double bytes = static_cast<double>(n) * (with16 ? 30.0 : 28.0);
  Measurement parameters{.name = "update", .unit = "parameters/s"};
  Measurement traffic{.name = "update, traffic", .unit = "B/s"};
  for (int i = -1; i < options.repeats; ++i) {  // the first round warms up
    const AdamWScalars scalars = adamw_scalars({}, 1e-4, i + 2, 0.9);
    const double seconds = seconds_of([&] { adamw_update(state.slice(), scalars, pool); });
    copy.sample(pool);
    if (i < 0) {
      copy.discard();
      continue;
    }
    parameters.samples.push_back(static_cast<double>(n) / seconds);
    traffic.samples.push_back(bytes / seconds);
  }
  const Measurement best = copy.best();
  traffic.bound = statistics(best.samples).median;
  traffic.bound_name = best.name;
  BenchReport report{.benchmark = "adam",
                     .parameters = {{"precision", options.precision}, {"parameters", std::to_string(n)}},
                     .threads = pool.threads(),
                     .measurements = {parameters, traffic}};
  for (Measurement& m : copy.measurements()) report.measurements.push_back(std::move(m));
  report.notes.push_back("an update in place needs no line read for ownership, so it can exceed a copy");
  if (const std::string note = cache_note(static_cast<std::size_t>(n) * 16); !note.empty()) report.notes.push_back(note);
  print_report(report, machine, options.json);
  return {};
}

}  // namespace

int run_bench_adam(const BenchOptions& options) { return finish_command(bench_adam(options)); }

}  // namespace strata
