// Trains as `strata train` does, with an optimizer of its own: alone, or on several ranks under mpirun.
//   custom_optimizer CONFIG.yaml [section.key=value ...]
// Its state lives where offload.optimizer.device says, in records of any size, is saved and resumed, and changes no bit by
// where it lies. optimizer.lr, weight_decay and groups hold for it too; the other keys of that section do not.
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "trainer/stop_signal.h"
#include "trainer/trainer.h"

namespace {

// RMSProp (Tieleman and Hinton 2012) with decoupled weight decay: one value of state a parameter, the running mean of squared
// gradients. It runs on CPUs; override updates_on_gpu() and enqueue_on_gpu() for more.
class RmsProp final : public strata::Optimizer {
 public:
  const char* name() const override { return "rmsprop"; }
  std::vector<std::string> states() const override { return {"mean_square"}; }

  void update(const strata::UpdateSlice& s, const strata::UpdateStep& step, const strata::ParamGroup& group) const override {
    const double rate = step.lr * group.lr_scale;
    const auto lr = static_cast<float>(rate), decay = static_cast<float>(1.0 - rate * group.weight_decay);
    const auto grad_scale = static_cast<float>(step.grad_scale);
    // While a step may still be taken back, the results go beside the old values.
    float* const p = s.new_p != nullptr ? s.new_p : s.p;
    float* const mean = s.new_p != nullptr ? s.new_states[0] : s.states[0];
    for (std::int64_t i = 0; i < s.n; ++i) {
      const float g = (s.g16 != nullptr ? strata::to_float(s.g16[i]) : s.g[i]) * grad_scale;
      mean[i] = std::fma(0.01f, g * g, 0.99f * s.states[0][i]);
      p[i] = std::fma(-lr, g / (std::sqrt(mean[i]) + 1e-6f), s.p[i] * decay);
      if (s.p16 != nullptr) s.p16[i] = strata::to_bf16(p[i]);
    }
  }
};

strata::Status run(const std::string& path, const std::vector<std::string>& overrides) {
  strata::install_stop_signals();
  STRATA_ASSIGN_OR_RETURN(const strata::Config config, strata::load_config(path, overrides));
  STRATA_ASSIGN_OR_RETURN(const auto environment, strata::Environment::from_launcher(config.parallel));
  strata::TrainerExtras extras;
  extras.optimizer = std::make_shared<RmsProp>();
  extras.on_note = [](const std::string& text) { std::printf("%s\n", text.c_str()); };
  STRATA_ASSIGN_OR_RETURN(const auto trainer, strata::Trainer::create(config, *environment, std::move(extras)));
  return trainer->train();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s CONFIG.yaml [section.key=value ...]\n", argv[0]);
    return 2;
  }
  const strata::Status status = run(argv[1], std::vector<std::string>(argv + 2, argv + argc));
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return strata::exit_code(status);
}
