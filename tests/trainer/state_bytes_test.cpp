// Bytes of optimizer state of the LLaMA shapes of the papers, as records are cut, beside the published table (FRUGAL, arXiv
// 2411.07837, Table 2, and the same sums for 7B; of APOLLO 8 bytes x rank x longer dim a matrix, of
// GaLore also 4 x rank x shorter dim; of 8-bit states 260 bytes for 256 elements; of BAdam and LISA the states of what is
// trained at once): f32 states but for those, without masters, GiB, within 0.5 %.
#include <gtest/gtest.h>

#include <cmath>

#include "model/transformer.h"
#include "optim/apollo_optimizer.h"
#include "optim/freeze_policy.h"
#include "optim/frugal.h"
#include "optim/galore_optimizer.h"
#include "tests/trainer/placement.h"
#include "tests/trainer/turn_states_testing.h"
#include "trainer/engine.h"

namespace strata {
namespace {

struct Size {
  const char* name;
  std::int64_t hidden, ffn, layers, heads;
  std::int64_t rank;                             // of APOLLO
  double adamw, frugal, frugal_0, apollo, mini;  // GiB
  std::int64_t galore_rank;
  double galore;  // with its projections
  double eight_bit, badam, lisa;
};
constexpr Size kSizes[] = {
    {"60M", 512, 1376, 8, 8, 128, 0.433, 0.291, 0.244, 0.291, 0.245, 128, 0.305, 0.110, 0.02357, 0.291},
    {"130M", 768, 2048, 12, 12, 192, 0.999, 0.525, 0.366, 0.525, 0.367, 256, 0.639, 0.254, 0.05275, 0.472},
    {"350M", 1024, 2736, 24, 16, 256, 2.742, 1.052, 0.489, 1.052, 0.491, 256, 1.216, 0.696, 0.094, 0.676},
    {"1B", 2048, 5461, 24, 32, 512, 9.977, 3.227, 0.977, 3.227, 0.982, 512, 3.883, 2.533, 0.375, 1.727},
    {"7B", 4096, 11008, 32, 32, 256, 50.21, 14.02, 1.955, 4.971, 1.967, 1024, 17.52, 12.75, 1.508, 4.971}};

// Where a policy drops states, blocks have those of as many as are trained at once.
double state_gib(const Size& size, const Optimizer& method, int world, std::shared_ptr<const FreezePolicy> freeze = nullptr) {
  ModelConfig config;
  config.vocab_size = 32000;
  config.hidden_size = size.hidden;
  config.num_layers = size.layers;
  config.num_heads = config.num_kv_heads = size.heads;
  config.head_dim = size.hidden / size.heads;
  config.ffn_size = size.ffn;
  config.max_positions = 1024;
  config.long_rows = method.rows() != nullptr;
  const std::unique_ptr<Model> model = make_model(config).value();
  const ParamGroups groups(0.1);
  const StateLayout layout = make_layout(*model, WorldSize{world}, groups, method);
  ActiveUnits units(std::move(freeze), model->unit_count());
  units.move_to(1);
  std::int64_t states = 0, of_block = 0, unused = 0;
  for (int rank = 0; rank < world; ++rank) {
    const auto records = cut_optimizer_records(layout, Rank{rank}, 3, std::int64_t{16} << 20, method, groups);
    for (const OptimizerRecord& record : records)
      (units.shares_states(record.unit) ? (record.unit == 1 ? of_block : unused) : states) += record.states + record.row_states;
    states += turn_states(layout, records, method, groups);
  }
  states += of_block * units.blocks_at_once();
  std::int64_t projections = 0;
  for (const UnitLayout& unit : layout.units)
    for (const ParamExtent& param : unit.params)
      if (method.rows() != nullptr && method.rows()->keeps_projections())
        projections += param.columns * method.rows()->rank(shape_of(param), groups[param.group]) *
                       std::max<std::int64_t>(1, std::ssize(param.parts));
  const std::int64_t bytes = method.state_format().bytes(states) * std::ssize(method.states()) + kF32States.bytes(projections);
  return static_cast<double>(bytes) / 0x1p30;
}

Apollo apollo(ApolloScaling scaling, std::int64_t rank) { return Apollo({.apollo = {.scaling = scaling}, .rank = rank}); }

TEST(StateBytes, AreThoseOfThePapers) {
  for (const Size& size : kSizes) {
    SCOPED_TRACE(size.name);
    const auto near = [](double got, double wanted) { EXPECT_NEAR(got / wanted, 1.0, 0.005) << got; };
    near(state_gib(size, AdamW(), 1), size.adamw);
    near(state_gib(size, Lion(), 1), size.adamw / 2);
    near(state_gib(size, AdamW({}, {.format = kBf16States}), 1), size.adamw / 2);
    near(state_gib(size, AdamW({}, {.format = kEightBitStates}), 1), size.eight_bit);
    near(state_gib(size, AdamW(), 1, std::make_shared<BAdam>(BAdamConfig(), 1)), size.badam);
    near(state_gib(size, AdamW(), 1, std::make_shared<Lisa>(LisaConfig(), 1)), size.lisa);
    for (const int world : {1, 8}) {
      for (const FrugalChoice choice : {FrugalChoice::columns, FrugalChoice::entries, FrugalChoice::rows}) {
        const double most = choice == FrugalChoice::rows ? 1.05 : 1.0;  // rows are long, and records cut their layers
        const double got = state_gib(size, Frugal({.choice = choice, .density = 0.25}), world);
        EXPECT_GT(got / size.frugal, 0.995);
        EXPECT_LT(got / size.frugal, most * 1.005) << got;
      }
      // As many whole layers as all have: of every rank the same.
      near(state_gib(size, Frugal({.choice = FrugalChoice::tensors, .density = 0.25}), world), size.frugal);
      near(state_gib(size, Frugal({.density = 0.0}), world), size.frugal_0);
      near(state_gib(size, apollo(ApolloScaling::channel, size.rank), world), size.apollo);
      near(state_gib(size, apollo(ApolloScaling::tensor, 1), world), size.mini);
      near(state_gib(size, Galore({.rank = size.galore_rank}), world), size.galore);
    }
  }
}

}  // namespace
}  // namespace strata
