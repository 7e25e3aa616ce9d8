// APOLLO in the store against its passes over whole matrices, which are compared with the authors' numbers elsewhere: matrices
// that lie in parts, over ranks, records and homes. Mutations that must fail: sums of a rank's own rows alone; a part's rows
// given the projection of its neighbour; a projection that is kept over a refresh; moments that begin where the record's
// elements do; the limiter's memory forgotten; a matrix's number without the parameters before it.
#include "offload/row_updates.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "optim/apollo_optimizer.h"
#include "support.h"

namespace strata {
namespace {

constexpr std::int64_t kRows = 330, kColumns = 64;
const std::vector<std::int64_t> kParts = {150, 100, 80};  // a cut is 64 rows: parts begin and end inside one
constexpr std::int64_t kDownRows = 200, kDownColumns = 96;
constexpr int kSteps = 5;

StateLayout layout_of_matrices(int world, const ParamGroups& groups) {
  const int other = groups.of("norm", {.decays = false}), matrix = groups.of("qkv", {.projected = true});
  StateLayout layout;
  layout.world = WorldSize{world};
  ParamDecl norm{"norm", 100, other}, qkv{"qkv", kRows * kColumns, matrix, kColumns, row_cut(kRows, kColumns), false, kParts};
  ParamDecl down{"down", kDownRows * kDownColumns, matrix, kDownColumns, row_cut(kDownRows, kDownColumns), true};
  layout.units.push_back(layout_unit("first", {norm, qkv}, layout.world));
  layout.units.push_back(layout_unit("second", {down, {"bias", 70, other}}, layout.world));
  return layout;
}
const std::vector<std::vector<Shape>> kMatrixShapes = {{{100}, {kRows, kColumns}}, {{kDownRows, kDownColumns}, {70}}};

float weight(int unit, std::int64_t i) { return static_cast<float>((i * 31 + unit * 7) % 197 - 98) * 1e-2f; }
// The norm jumps in the third step, so that the limiter holds it.
float gradient(int unit, int step, std::int64_t i) {
  const float size = step == 3 ? 40.0f : 1.0f;
  return size * static_cast<float>((i * i * 13 + i * 7 + unit + 3 * step) % 211 - 105) * 1e-2f;
}

struct Case {
  int world, stage;
  Tier home;
  std::int64_t record_size;
};

ApolloMethodConfig config_of(ApolloScaling scaling) {
  return {.apollo = {.scaling = scaling, .scale = scaling == ApolloScaling::tensor ? 128.0 : 1.0, .norm_floor = 1.0},
          .rank = scaling == ApolloScaling::tensor ? 1 : 8,
          .update_gap = 2,
          .projections = scaling == ApolloScaling::tensor ? ProjectionKind::torch : ProjectionKind::philox};
}

// What the run leaves: values and moments of every parameter, by name.
using Values = std::map<std::string, std::vector<float>>;

// control: of the step's thread, as the other one is the communication stream's.
void run_rank(Communicator& comm, Communicator& control, const Case& c, ApolloScaling scaling, const std::string& folder,
              Values& values, std::mutex& mutex) {
  const ParamGroups groups(0.1);
  const StateLayout layout = layout_of_matrices(c.world, groups);
  Device device(Backend::host, 2);
  TierArena gpu(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
  Stream compute(device, "compute"), communication(device, "communication"), update(device, "cpu update"),
      gpu_update(device, "gpu update"), read(device, "read"), write(device, "write"), down(device, "down"), up(device, "up"),
      host(device, "host");
  ParamStore params(layout, kMatrixShapes, {.zero_stage = c.stage}, comm, gpu, cpu, {compute, communication, up, read, write});
  GradStore grads(layout, kMatrixShapes, {.zero_stage = c.stage}, comm, gpu, cpu,
                  {compute, communication, down, up, read, write});
  OptimizerStoreOptions options{.method = std::make_shared<Apollo>(config_of(scaling), 17),
                                .groups = groups,
                                .zero_stage = c.stage,
                                .home = c.home,
                                .record_size = c.record_size,
                                .exchange = [&](std::span<const std::byte> mine) { return control.gather_all(mine, "sums"); }};
  if (c.home == Tier::nvme) options.nvme_files = {folder + "/state_" + std::to_string(comm.rank().v)};
  std::vector<std::string> notes;
  auto made = OptimizerStore::create(layout, comm.rank(), options, gpu, cpu, params, grads,
                                     {update, gpu_update, read, write, down, up, host}, &notes);
  ASSERT_TRUE(made.ok()) << made.status().message();
  OptimizerStore& store = **made;
  const Status filled = store.fill([&](const OptimizerRecord& record, RecordState state) {
    zero(record, state);
    const UnitLayout& unit = layout.units[static_cast<std::size_t>(record.unit)];
    for (const ParamPiece& piece : params_in(unit, record.range))
      for (std::int64_t i = 0; i < piece.count; ++i)
        state.p[piece.offset + i] = weight(record.unit * 2 + static_cast<int>(piece.param), piece.first + i);
    return Status();
  });
  ASSERT_TRUE(filled.ok()) << filled.message();
  for (int step = 1; step <= kSteps; ++step) {
    for (int u = 1; u >= 0; --u) {
      const std::vector<TensorRef> tensors = grads.acquire(u);
      for (std::size_t p = 0; p < tensors.size(); ++p)
        compute.ref().enqueue("gradient", [&, g = tensors[p], u, p, step] {
          for (std::int64_t i = 0; comm.rank().v == 0 && i < g.numel(); ++i)
            g.as<float>()[i] = gradient(u * 2 + static_cast<int>(p), step, i);
          return Status();
        });
      grads.reduce(u, 0);
    }
    const Result<bool> kept = store.step({.number = step, .lr = 1e-2, .grad_scale = 0.5}, compute.ref().record());
    ASSERT_TRUE(kept.ok()) << kept.status().message();
  }
  const Status visited = store.visit([&](const OptimizerRecord& record, RecordState state) {
    const UnitLayout& unit = layout.units[static_cast<std::size_t>(record.unit)];
    const std::lock_guard lock(mutex);
    for (const HeldPiece& piece : store.held(record, record.range)) {
      const ParamExtent& param = unit.params[piece.param];
      std::vector<float>& p = values[param.name];
      p.resize(static_cast<std::size_t>(param.numel));
      std::copy_n(state.p + piece.offset, piece.count, p.begin() + piece.first);
      const auto& arrays = piece.of_rows ? state.rows : state.states;
      for (std::size_t k = 0; k < 2; ++k) {
        std::vector<float>& of = values[param.name + (k == 0 ? ".m" : ".v")];
        of.resize(static_cast<std::size_t>(state_count(param, *options.method, groups)));
        std::copy_n(arrays[k] + piece.state_offset, piece.state_count, of.begin() + piece.first_state);
      }
    }
    return Status();
  });
  ASSERT_TRUE(visited.ok()) << visited.message();
}

Values run(const Case& c, ApolloScaling scaling) {
  ThreadGroup group(WorldSize{c.world}), of_control(WorldSize{c.world});
  const auto folder = std::filesystem::temp_directory_path() / ("strata_rows_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  Values values;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int r = 0; r < c.world; ++r)
    threads.emplace_back([&, r] {
      const auto comm = group.communicator(Rank{r}), control = of_control.communicator(Rank{r});
      run_rank(*comm, *control, c, scaling, folder.string(), values, mutex);
    });
  for (std::thread& thread : threads) thread.join();
  std::filesystem::remove_all(folder);
  return values;
}

// One matrix, by itself: rows [first, first + rows) of parameter `name`.
void expect_matrix(const Values& found, const std::string& name, const ProjectedMatrix& matrix, int seed, std::int64_t first,
                   std::int64_t rows, ApolloScaling scaling) {
  SCOPED_TRACE(matrix.name);
  const ApolloMethodConfig config = config_of(scaling);
  const Apollo method(config, 17);
  const std::int64_t columns = matrix.columns, rank = matrix.rank;
  std::vector<float> p, g(static_cast<std::size_t>(rows * columns)), m(static_cast<std::size_t>(rows * rank)),
      v = m, projection(static_cast<std::size_t>(columns * rank)), s(static_cast<std::size_t>(rows)),
      workspace(static_cast<std::size_t>(low_rank_workspace(rank)));
  std::vector<double> squares(static_cast<std::size_t>(3 * rows));
  for (std::int64_t i = 0; i < rows * columns; ++i) p.push_back(weight(seed, first * columns + i));
  ThreadPool pool(1);
  ApolloMatrix limiter;
  const ParamGroup group{.weight_decay = 0.1, .projected = true};
  for (int number = 1; number <= kSteps; ++number) {
    for (std::int64_t i = 0; i < rows * columns; ++i)
      g[static_cast<std::size_t>(i)] = gradient(seed, number, first * columns + i);
    method.fill_projection(matrix, (number - 1) / config.update_gap, projection, pool);
    const LowRankBlock block{.rows = rows,
                             .columns = columns,
                             .rank = rank,
                             .g = g.data(),
                             .projection = projection.data(),
                             .m = m.data(),
                             .v = v.data()};
    const RowResults results{s.data(), squares.data(), squares.data() + rows, squares.data() + 2 * rows};
    apollo_project(config.apollo, block, 0.5, results, workspace);
    ApolloSums sums;
    add_rows(results, rows, sums);
    const UpdateStep step{.number = number, .lr = 1e-2, .grad_scale = 0.5};
    apollo_apply(block, scaling == ApolloScaling::channel ? s.data() : nullptr, {.p = p.data()},
                 apollo_apply_scalars(config.apollo, apollo_scale(config.apollo, sums, limiter), step, group));
  }
  const auto expect_equal = [&](const std::string& what, const std::vector<float>& wanted, std::int64_t at) {
    const std::vector<float>& all = found.at(what);
    for (std::size_t i = 0; i < wanted.size(); ++i)
      ASSERT_NEAR(all[static_cast<std::size_t>(at) + i], wanted[i], 1e-6f * std::abs(wanted[i]) + 1e-9f) << what << " " << i;
  };
  expect_equal(name, p, first * columns);
  expect_equal(name + ".m", m, first * rank);
  expect_equal(name + ".v", v, first * rank);
}

class RowUpdatesTest : public ::testing::TestWithParam<ApolloScaling> {};

TEST_P(RowUpdatesTest, AreThoseOfWholeMatricesHoweverRowsAreShared) {
  const Values whole = run({1, 0, Tier::gpu, 1 << 20}, GetParam());
  const std::int64_t rank = config_of(GetParam()).rank;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < kParts.size(); ++i) {  // numbered behind "norm" and "bias"
    const ProjectedMatrix matrix{"qkv/" + std::to_string(i), static_cast<std::int64_t>(3 + i), kColumns, rank, false};
    expect_matrix(whole, "qkv", matrix, 1, first, kParts[i], GetParam());
    first += kParts[i];
  }
  expect_matrix(whole, "down", {"down", 6, kDownColumns, rank, true}, 2, 0, kDownRows, GetParam());
  for (const Case& c : {Case{1, 0, Tier::nvme, 4096}, Case{2, 0, Tier::cpu, 8192}, Case{2, 1, Tier::nvme, 8192},
                        Case{3, 2, Tier::cpu, 4096}, Case{4, 3, Tier::nvme, 20480}}) {
    SCOPED_TRACE(::testing::Message() << c.world << " ranks, stage " << c.stage << ", records of " << c.record_size);
    const Values shared = run(c, GetParam());
    ASSERT_EQ(shared.size(), whole.size());
    for (const auto& [name, values] : whole)
      EXPECT_TRUE(std::equal(values.begin(), values.end(), shared.at(name).begin(), shared.at(name).end())) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Scalings, RowUpdatesTest, ::testing::Values(ApolloScaling::channel, ApolloScaling::tensor),
                         [](const auto& tested) { return tested.param == ApolloScaling::channel ? "channel" : "tensor"; });

TEST(RowUpdates, AnExchangeThatFailsIsTheErrorOfTheStep) {
  // Two ranks' layout, but this one's peers are gone.
  const ParamGroups groups(0.1);
  const StateLayout layout = layout_of_matrices(1, groups);
  const std::unique_ptr<Communicator> comm = make_single_rank_communicator();
  Device device(Backend::host, 1);
  TierArena gpu(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
  Stream update(device, "cpu update"), other(device, "other");
  StateLayout of_two = layout_of_matrices(2, groups);
  const Apollo method(config_of(ApolloScaling::channel), 17);
  RowUpdates rows(of_two, method, groups, {update, other, other, other, other});
  const std::vector<OptimizerRecord> records = cut_optimizer_records(of_two, Rank{0}, 3, 1 << 20, method, groups);
  ASSERT_TRUE(rows.allocate(records, std::vector<char>(records.size(), 0), 3, gpu, cpu).ok());
  const Status status = rows.exchange([](std::span<const std::byte>) {
    return Result<std::vector<std::vector<std::byte>>>(Status{Code::peer_lost, "rank 1 is silent"});
  });
  EXPECT_EQ(status.code(), Code::peer_lost);
  EXPECT_EQ(status.message(), "rank 1 is silent");
}

}  // namespace
}  // namespace strata
