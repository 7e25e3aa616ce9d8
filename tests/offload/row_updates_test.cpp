// APOLLO in the store against its passes over whole matrices, which are compared with the authors' numbers elsewhere: matrices
// that lie in parts, over ranks, records and homes. Mutations that must fail: sums of a rank's own rows alone; a part's rows
// given the projection of its neighbour; a projection that is kept over a refresh; moments that begin where the record's
// elements do, or anew with each projection; the limiter's memory forgotten; a matrix's number without the parameters before
// it.
#include "offload/row_updates.h"

#include <gtest/gtest.h>

#include "optim/apollo_optimizer.h"
#include "row_updates_testing.h"

namespace strata {
namespace {

using namespace row_updates_testing;  // NOLINT

ApolloMethodConfig config_of(ApolloScaling scaling) {
  return {.apollo = {.scaling = scaling, .scale = scaling == ApolloScaling::tensor ? 128.0 : 1.0, .norm_floor = 1.0},
          .rank = scaling == ApolloScaling::tensor ? 1 : 8,
          .update_gap = 2,
          .projections = scaling == ApolloScaling::tensor ? ProjectionKind::torch : ProjectionKind::philox};
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
  const auto method = std::make_shared<Apollo>(config_of(GetParam()), 17);
  const Values whole = run({1, 0, Tier::gpu, 1 << 20}, method);
  const std::int64_t rank = config_of(GetParam()).rank;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < kParts.size(); ++i) {  // numbered behind "norm" and "bias"
    const ProjectedMatrix matrix{"qkv/" + std::to_string(i), static_cast<std::int64_t>(3 + i), kColumns, rank, false};
    expect_matrix(whole, "qkv", matrix, 1, first, kParts[i], GetParam());
    first += kParts[i];
  }
  expect_matrix(whole, "down", {"down", 6, kDownColumns, rank, true}, 2, 0, kDownRows, GetParam());
  expect_the_same_however_rows_are_shared(whole, method);
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
  ASSERT_TRUE(rows.allocate(records, std::vector<char>(records.size(), 0), Rank{0}, 3, gpu, cpu).ok());
  const Status status = rows.exchange([](std::span<const std::byte>) {
    return Result<std::vector<std::vector<std::byte>>>(Status{Code::peer_lost, "rank 1 is silent"});
  });
  EXPECT_EQ(status.code(), Code::peer_lost);
  EXPECT_EQ(status.message(), "rank 1 is silent");
}

}  // namespace
}  // namespace strata
