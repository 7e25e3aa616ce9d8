// GaLore, FRUGAL's subspaces and APOLLO on singular vectors in the store, against their passes over whole matrices with
// projections of whole gradients. Mutations that must fail: a projection of a rank's own rows; rows that come twice; a matrix
// that gets its neighbour's projection; one that is kept a step too long; moments of a rule with one state that begin where
// those of two would.
#include "offload/kept_projections.h"

#include <gtest/gtest.h>

#include <limits>

#include "optim/apollo_optimizer.h"
#include "optim/frugal_subspace.h"
#include "optim/galore_optimizer.h"
#include "optim/svd_projection.h"
#include "row_updates_testing.h"

namespace strata {
namespace {

using namespace row_updates_testing;  // NOLINT

constexpr int kGap = 2;

struct Method {
  const char* name;
  std::shared_ptr<const Optimizer> optimizer;
};
std::vector<Method> methods() {
  FrugalConfig random{.choice = FrugalChoice::random_space, .density = 0.1, .update_gap = kGap, .stateful = LionConfig()};
  FrugalConfig singular{.choice = FrugalChoice::singular_vectors,
                        .density = 0.1,
                        .update_gap = kGap,
                        .reset_statistics = false,
                        .state_free = StateFreeRule::sgd};
  return {
      {"galore", std::make_shared<Galore>(GaloreMethodConfig{.rank = 8, .update_gap = kGap})},
      {"frugal_svd_sgd", std::make_shared<Frugal>(singular, 17)},
      {"frugal_random_lion", std::make_shared<Frugal>(random, 17)},
      {"apollo_svd",
       std::make_shared<Apollo>(
           ApolloMethodConfig{.apollo = {.norm_floor = 1.0}, .rank = 8, .update_gap = kGap, .projections = ProjectionKind::svd},
           17)}};
}

// Rows [first, first + rows) of parameter `name`, by themselves.
void expect_matrix(const Values& found, const Optimizer& optimizer, const std::string& name, const ProjectedMatrix& matrix,
                   int seed, std::int64_t first, std::int64_t rows) {
  SCOPED_TRACE(matrix.name);
  const RowMethod& method = *optimizer.rows();
  const std::int64_t columns = matrix.columns, rank = matrix.rank;
  const bool two = optimizer.states().size() == 2;
  std::vector<float> p, g(static_cast<std::size_t>(rows * columns)), m(static_cast<std::size_t>(rows * rank)),
      v = m, projection(static_cast<std::size_t>(columns * rank)), s(static_cast<std::size_t>(rows));
  std::vector<double> squares(static_cast<std::size_t>(3 * rows));
  for (std::int64_t i = 0; i < rows * columns; ++i) p.push_back(weight(seed, first * columns + i));
  ThreadPool pool(1);
  double memory = -1.0;
  const ParamGroup group{.weight_decay = 0.1, .projected = true};
  for (int number = 1; number <= kSteps; ++number) {
    for (std::int64_t i = 0; i < rows * columns; ++i)
      g[static_cast<std::size_t>(i)] = gradient(seed, number, first * columns + i);
    if ((number - 1) % kGap == 0 && method.projects_on_singular_vectors()) {
      std::vector<double> gram(static_cast<std::size_t>(columns * columns));
      add_to_gram(g.data(), rows, columns, gram);
      ASSERT_TRUE(svd_projection(gram, columns, rank, projection).ok());
    } else if ((number - 1) % kGap == 0) {
      method.fill_projection(matrix, (number - 1) / kGap, projection, pool);
    }
    const LowRankBlock block{.rows = rows,
                             .columns = columns,
                             .rank = rank,
                             .g = g.data(),
                             .projection = projection.data(),
                             .m = m.data(),
                             .v = two ? v.data() : nullptr};
    const UpdateStep step{.number = number, .lr = 1e-2, .grad_scale = 0.5};
    double scale = 1.0;
    if (method.measures()) {
      const RowResults results{s.data(), squares.data(), squares.data() + rows, squares.data() + 2 * rows};
      measure(method, block, step, results, pool);
      ApolloSums sums;
      add_rows(results, rows, sums);
      scale = method.scale(sums, memory);
    }
    apply(method, block, method.measures() ? s.data() : nullptr, {.p = p.data()}, scale, step, group, pool);
  }
  const auto expect_equal = [&](const std::string& what, const std::vector<float>& wanted, std::int64_t at) {
    const std::vector<float>& all = found.at(what);
    for (std::size_t i = 0; i < wanted.size(); ++i)
      ASSERT_NEAR(all[static_cast<std::size_t>(at) + i], wanted[i], 1e-6f * std::abs(wanted[i]) + 1e-9f) << what << " " << i;
  };
  expect_equal(name, p, first * columns);
  expect_equal(name + ".m", m, first * rank);
  if (two) expect_equal(name + ".v", v, first * rank);
}

class KeptProjectionsOf : public ::testing::TestWithParam<Method> {};

TEST_P(KeptProjectionsOf, AreThoseOfWholeGradientsHoweverRowsAreShared) {
  const Optimizer& optimizer = *GetParam().optimizer;
  const Values whole = run({1, 0, Tier::gpu, 1 << 20}, GetParam().optimizer);
  const auto rank = [&](std::int64_t columns) { return optimizer.rows()->rank({"", 100, columns}, {.projected = true}); };
  std::int64_t first = 0;
  for (std::size_t i = 0; i < kParts.size(); ++i) {
    const ProjectedMatrix matrix{"qkv/" + std::to_string(i), static_cast<std::int64_t>(3 + i), kColumns, rank(kColumns), false};
    expect_matrix(whole, optimizer, "qkv", matrix, 1, first, kParts[i]);
    first += kParts[i];
  }
  expect_matrix(whole, optimizer, "down", {"down", 6, kDownColumns, rank(kDownColumns), true}, 2, 0, kDownRows);
  expect_the_same_however_rows_are_shared(whole, GetParam().optimizer);
}

INSTANTIATE_TEST_SUITE_P(Methods, KeptProjectionsOf, ::testing::ValuesIn(methods()),
                         [](const auto& tested) { return std::string(tested.param.name); });

// One rank's projections, with gradients that a function gives.
struct Peer {
  explicit Peer(const StateLayout& layout, const RowMethod& method, Rank rank)
      : device(Backend::host, 1), stream(device, "host") {
    std::vector<KeptMatrix> matrices;
    std::int64_t offset = layout.units[0].params[0].offset;
    for (const std::int64_t rows : kParts) {
      matrices.push_back({.projected = {.name = "part " + std::to_string(matrices.size()), .columns = kColumns, .rank = 4},
                          .unit = 0,
                          .offset = offset,
                          .rows = rows,
                          .on_cpu = true});
      offset += rows * kColumns;
    }
    kept = std::make_unique<KeptProjections>(layout, method, matrices, rank, stream, stream, stream);
  }
  Device device;
  Stream stream;
  TierArena gpu{Tier::gpu, std::size_t{1} << 20}, cpu{Tier::cpu, std::size_t{16} << 20};
  std::unique_ptr<KeptProjections> kept;
};

// Calls refresh() on two ranks, each of which looks at its rows as `look` does.
std::vector<Status> refresh_of_two(const std::function<Status(int rank, std::vector<float>& rows)>& look) {
  const ParamGroups groups(0.0);
  StateLayout layout;
  layout.world = WorldSize{2};
  layout.units.push_back(layout_unit(
      "u",
      {{"qkv", kRows * kColumns, groups.of("qkv", {.projected = true}), kColumns, row_cut(kRows, kColumns), false, kParts}},
      layout.world));
  const Galore method(GaloreMethodConfig{.rank = 4});
  ThreadGroup ranks(WorldSize{2});
  std::vector<Status> statuses(2);
  std::vector<std::thread> threads;
  for (int r = 0; r < 2; ++r)
    threads.emplace_back([&, r] {
      const auto comm = ranks.communicator(Rank{r});
      Peer peer(layout, method, Rank{r});
      ASSERT_TRUE(peer.kept->allocate(peer.gpu, peer.cpu).ok());
      const Slice mine = layout.units[0].slices[static_cast<std::size_t>(r)];
      std::vector<float> rows(static_cast<std::size_t>(mine.count), 1.0f);
      statuses[static_cast<std::size_t>(r)] = peer.kept->refresh(
          0,
          [&](int, const auto& each) {
            const Status status = look(r, rows);
            return status.ok()
                       ? each({reinterpret_cast<const std::byte*>(rows.data()), DType::f32, Shape{mine.count}}, mine.first)
                       : status;
          },
          [&](std::span<const std::byte> bytes) { return comm->gather_all(bytes, "projections"); });
      EXPECT_EQ(peer.kept->held(), statuses[static_cast<std::size_t>(r)].ok() ? 0 : -1);
    });
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

TEST(KeptProjections, ARankThatCannotReadItsGradientIsTheErrorOfAll) {
  const std::vector<Status> statuses = refresh_of_two(
      [](int rank, std::vector<float>&) { return rank == 1 ? Status(Code::io_error, "the drive is gone") : Status(); });
  EXPECT_EQ(statuses[1].code(), Code::io_error);
  EXPECT_EQ(statuses[0].code(), Code::peer_lost);
  EXPECT_NE(statuses[0].message().find("rank 1: the drive is gone"), std::string::npos) << statuses[0].message();
}

TEST(KeptProjections, AGradientThatIsNotFiniteIsTheErrorOfAllAndNamesTheMatrix) {
  const std::vector<Status> statuses = refresh_of_two([](int rank, std::vector<float>& rows) {
    if (rank == 1) rows.back() = std::numeric_limits<float>::infinity();  // of the last part, which rank 0 makes
    return Status();
  });
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), Code::numerical);
    EXPECT_NE(status.message().find("part 2"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("not finite"), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace strata
