// Trains a model made of its own layer on its own data, through strata::Trainer: alone, or on several ranks under mpirun.
//   custom_model RUN_FOLDER [STEPS]
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "model/transformer.h"
#include "runtime/rng.h"
#include "shift_mix.h"
#include "trainer/stop_signal.h"
#include "trainer/trainer.h"

namespace {

constexpr std::int64_t kVocab = 32;
constexpr std::int64_t kWidth = 64;

// Walks around a circle of tokens in steps of +1 or +3, changing its mind now and then: the token before last tells which.
class CircleSource final : public strata::DataSource {
 public:
  strata::Status sample(std::uint64_t k, std::span<std::int32_t> out) const override {
    const strata::Philox draw(1, k);
    std::uint32_t token = draw.u32(0) % kVocab;
    std::uint32_t stride = 1;
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<std::int32_t>(token);
      if (draw.u32(i + 1) % 16 == 0) stride = 4 - stride;
      token = (token + stride) % kVocab;
    }
    return {};
  }
  std::uint64_t samples_per_epoch() const override { return 1 << 16; }
  std::int64_t vocab_size() const override { return kVocab; }
};

std::unique_ptr<strata::Model> make_my_model(std::int64_t T) {
  strata::ModelConfig shape;  // the embedding and the head are the library's
  shape.architecture = strata::Architecture::llama;
  shape.vocab_size = kVocab;
  shape.hidden_size = kWidth;
  shape.num_layers = 2;
  shape.num_heads = shape.num_kv_heads = 1;
  shape.head_dim = kWidth;
  shape.ffn_size = 2 * kWidth;
  shape.max_positions = T;
  std::vector<std::unique_ptr<strata::BodyUnit>> body;
  body.push_back(std::make_unique<strata::EmbeddingUnit>(shape));
  for (int layer = 0; layer < 2; ++layer)
    body.push_back(std::make_unique<ShiftMixUnit>("mix." + std::to_string(layer), kWidth, 2 * kWidth));
  return std::make_unique<strata::Model>(std::move(body), std::make_unique<strata::HeadUnit>(shape), kVocab, T);
}

strata::Config make_config(const char* folder, std::int64_t steps) {
  strata::Config config;
  config.run.folder = folder;
  config.training.steps = steps;
  config.training.seq_length = 64;
  config.training.micro_batch_size = 4;
  config.training.global_batch_size = 24;
  config.training.eval_interval = 50;
  config.optimizer.lr = 1e-2;
  config.scheduler.warmup_steps = 10;
  config.zero.stage = 3;
  config.logging.log_interval = 20;
  return config;
}

strata::Status run(const char* folder, std::int64_t steps) {
  strata::install_stop_signals();
  const strata::Config config = make_config(folder, steps);
  STRATA_ASSIGN_OR_RETURN(const auto environment, strata::Environment::from_launcher(config.parallel));
  strata::TrainerExtras extras;
  extras.model = make_my_model(config.training.seq_length);
  extras.train = extras.validation = std::make_shared<CircleSource>();
  extras.on_note = [](const std::string& text) { std::printf("%s\n", text.c_str()); };
  STRATA_ASSIGN_OR_RETURN(const auto trainer, strata::Trainer::create(config, *environment, std::move(extras)));
  STRATA_RETURN_IF_ERROR(trainer->train());
  STRATA_ASSIGN_OR_RETURN(const double loss, trainer->evaluate());
  if (environment->leader()) std::printf("validation loss %.4f\n", loss);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s RUN_FOLDER [STEPS]\n", argv[0]);
    return 2;
  }
  const strata::Status status = run(argv[1], argc > 2 ? std::atoll(argv[2]) : 200);
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return strata::exit_code(status);
}
