// APOLLO against its authors' code (tests/oracle/make_apollo_vectors.py), step by step: channel-wise and for the matrix, tall,
// wide and square, rank above both sides, new projections, the limiter before and behind the scale, steps without a gradient.
// Mutations caught: a square matrix projected from the left; moments reset with the projection; the scale instead of its root;
// a limiter of 1.1; decay before the step; the bias correction of step - 1; the limiter's norm with the scale that comes after
// it.
#include <gtest/gtest.h>

#include "low_rank_testing.h"
#include "optim/projection.h"

namespace strata {
namespace {

using namespace low_rank_testing;  // NOLINT

ApolloConfig config_of(const vector_file::File& file, const std::string& which) {
  const auto h = [&](const char* name) { return file.number(which + "/h/" + name); };
  return {.beta1 = h("beta1"),
          .beta2 = h("beta2"),
          .eps = h("eps"),
          .scaling = file.text(which + "/h/scale_type") == "tensor" ? ApolloScaling::tensor : ApolloScaling::channel,
          .scale = h("scale"),
          .scale_front = h("scale_front") != 0.0,
          .limit_growth = h("disable_nl") == 0.0};
}

// A matrix that is trained, in blocks of `cut` rows.
struct Matrix {
  Matrix(const vector_file::File& file, const std::string& which, std::int64_t cut_rows)
      : config(config_of(file, which)),
        layout(layout_of(file, which)),
        rank(static_cast<std::int64_t>(file.number(which + "/h/rank"))),
        cut(cut_rows),
        p(layout.weights(file.floats(which + "/w0"))),
        m(static_cast<std::size_t>(layout.rows() * rank)),
        v(m.size()),
        s(static_cast<std::size_t>(layout.rows())),
        squares(3 * s.size()),
        workspace(static_cast<std::size_t>(low_rank_workspace(rank))) {}

  void step(const std::vector<float>& gradient, double lr, const ParamGroup& group, bool with16 = false) {
    const std::vector<float> g = layout.weights(gradient);
    std::vector<bf16> g16;
    if (with16) {
      for (const float x : g) g16.push_back(to_bf16(x));
    }
    const UpdateStep update{.number = ++updates, .lr = lr};
    const auto block = [&](std::int64_t first) {
      const std::int64_t at = first * layout.columns();
      return LowRankBlock{.rows = std::min(cut, layout.rows() - first),
                          .columns = layout.columns(),
                          .rank = rank,
                          .g = with16 ? nullptr : g.data() + at,
                          .g16 = with16 ? g16.data() + at : nullptr,
                          .projection = projection.data(),
                          .m = m.data() + first * rank,
                          .v = v.data() + first * rank};
    };
    const auto results = [&](std::int64_t first) {
      double* at = squares.data() + first;
      return RowResults{s.data() + first, at, at + layout.rows(), at + 2 * layout.rows()};
    };
    ApolloSums sums;
    for (std::int64_t i = 0; i < layout.rows(); i += cut) {
      apollo_project(config, block(i), 1.0, results(i), workspace);
      add_rows(results(i), block(i).rows, sums);
    }
    scale = apollo_scale(config, sums, limiter);
    const ApplyScalars scalars = apollo_apply_scalars(config, scale, update, group);
    for (std::int64_t i = 0; i < layout.rows(); i += cut)
      apollo_apply(block(i), config.scaling == ApolloScaling::channel ? s.data() + i : nullptr,
                   {.p = p.data() + i * layout.columns()}, scalars);
  }

  ApolloConfig config;
  Layout layout;
  std::int64_t rank, cut, updates = 0;
  std::vector<float> p, m, v, s, projection;
  std::vector<double> squares;
  std::vector<float> workspace;
  ApolloMatrix limiter;
  ApolloScale scale;
};

// Takes the stored projection at the steps that begin with a new one, which are those that should.
void refresh(const vector_file::File& file, const std::string& which, const std::string& step, Matrix& matrix) {
  const auto gap = static_cast<std::int64_t>(file.number(which + "/h/gap"));
  ASSERT_EQ(file.has(step + "/p"), begins_projection(matrix.updates, gap));
  if (file.has(step + "/p")) matrix.projection = matrix.layout.projection(file.floats(step + "/p"), matrix.rank);
}

void replay(const vector_file::File& file, const std::string& which, std::int64_t cut, double (&worst)[5]) {
  SCOPED_TRACE(which);
  Matrix matrix(file, which, cut);
  const Layout& layout = matrix.layout;
  const auto state_row = static_cast<std::size_t>(layout.left ? layout.width : matrix.rank);
  vector_file::Difference of_p(static_cast<std::size_t>(layout.width), 1e-2), of_m(state_row, 1e-2), of_v(state_row, 1e-2),
      of_s, of_limiter;
  of_p.track(file.floats(which + "/w0"));
  const ParamGroup group{.weight_decay = file.number(which + "/h/weight_decay")};
  std::int64_t t = 0;
  for (const double lr : file.learning_rates(which)) {
    const std::string step = which + "/step" + std::to_string(++t);
    if (!file.has(step + "/skipped")) {
      ASSERT_NO_FATAL_FAILURE(refresh(file, which, step, matrix));
      matrix.step(file.gradient(which, t), lr, group);
      of_m.track(layout.file_states(matrix.m));
      of_v.track(layout.file_states(matrix.v));
      if (file.has(step + "/m")) of_m.compare(layout.file_states(matrix.m), file.floats(step + "/m"));
      if (file.has(step + "/v")) of_v.compare(layout.file_states(matrix.v), file.floats(step + "/v"));
      const bool channel = matrix.config.scaling == ApolloScaling::channel;
      of_s.compare(channel ? matrix.s : std::vector{static_cast<float>(matrix.scale.tensor)}, file.floats(step + "/s"));
      if (matrix.config.limit_growth)
        of_limiter.compare({static_cast<float>(matrix.limiter.limiter_norm)}, file.floats(step + "/limiter"));
    }
    of_p.compare(layout.file_weights(matrix.p), file.floats(step + "/w"));
    const vector_file::Difference* all[] = {&of_p, &of_m, &of_v, &of_s, &of_limiter};
    for (int i = 0; i < 5; ++i) {
      // With rank 1 a row of R is one sum, which may cancel, in their f32 as in ours; and v has its square, so twice its
      // difference.
      const double allowed = i == 2 && matrix.rank == 1 ? 2e-5 : 1e-5;
      ASSERT_LE(all[i]->worst(), allowed) << "quantity " << i << " of p, m, v, s, limiter, step " << t;
      worst[i] = std::max(worst[i], all[i]->worst());
    }
  }
}

TEST(ApolloOracle, EveryStepAgreesWithTheAuthorsToOneInAHundredThousand) {
  const vector_file::File file("apollo.bin");
  double worst[5] = {};
  int cases = 0;
  for (const char* family : {"apollo", "mini", "limiter", "zero", "unit", "svd"}) {
    for (const std::string& which : file.cases(family)) {
      for (const std::int64_t cut : {7, 1000}) replay(file, which, cut, worst);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 25);
  std::printf("worst differences: p %.1e, m %.1e, v %.1e, s %.1e, limiter %.1e\n", worst[0], worst[1], worst[2], worst[3],
              worst[4]);
}

// The authors' code in bf16 against ours in f32 with their gradients: only the direction can agree.
TEST(ApolloOracle, WithGradientsInBf16TheWayHasTheAuthorsDirection) {
  const vector_file::File file("apollo.bin");
  for (const std::string& which : file.cases("bf16")) {
    SCOPED_TRACE(which);
    Matrix matrix(file, which, 1000);
    const std::vector<float> start = matrix.p;
    std::vector<float> theirs;
    std::int64_t t = 0;
    for (const double lr : file.learning_rates(which)) {
      const std::string step = which + "/step" + std::to_string(++t);
      ASSERT_NO_FATAL_FAILURE(refresh(file, which, step, matrix));
      matrix.step(file.gradient(which, t), lr, {}, true);
      theirs = matrix.layout.weights(file.floats(step + "/w"));
    }
    double product = 0.0, ours_squared = 0.0, theirs_squared = 0.0;
    for (std::size_t i = 0; i < start.size(); ++i) {
      const double a = matrix.p[i] - start[i], b = theirs[i] - start[i];
      product += a * b, ours_squared += a * a, theirs_squared += b * b;
    }
    EXPECT_GT(product / std::sqrt(ours_squared * theirs_squared), 0.999);
  }
}

// The projections and seeds that the authors' code drew are TorchProjections'.
TEST(ApolloOracle, TorchProjectionsAreTheAuthors) {
  const vector_file::File file("apollo.bin");
  const TorchProjections source;
  int projections = 0;
  for (const auto& [name, entry] : file.entries()) {
    const std::string which = name.substr(0, name.find("/step"));
    if (!name.ends_with("/p") || !file.has(which + "/seed0") || which.starts_with("unit/") || which.starts_with("svd/") ||
        which.starts_with("bf16/"))
      continue;
    SCOPED_TRACE(name);
    const bool chain_only = which.starts_with("seeds/");
    const std::vector<std::string> shapes = {"tall", "wide", "odd"};
    const auto t = std::stoll(name.substr(which.size() + 5));
    std::int64_t updates = t - 1;
    for (std::int64_t before = 1; before < t; ++before)
      updates -= file.has(which + "/step" + std::to_string(before) + "/skipped");
    const auto gap = chain_only ? 1 : static_cast<std::int64_t>(file.number(which + "/h/gap"));
    const auto rank = chain_only ? 4 : static_cast<std::int64_t>(file.number(which + "/h/rank"));
    const bool left = chain_only ? which == "seeds/matrix1" : layout_of(file, which).left;
    const std::int64_t columns = left ? entry.dims[0] : entry.dims[1];
    ASSERT_EQ(left ? entry.dims[1] : entry.dims[0], rank);
    std::vector<float> got(static_cast<std::size_t>(columns * rank));
    source.fill({"", static_cast<std::int64_t>(file.number(which + "/seed0")), columns, rank, left},
                projection_number(updates, gap), got);
    const std::vector<float> want = left ? entry.as<float>() : transposed(entry.as<float>(), rank);
    const double root = std::sqrt(static_cast<double>(rank));
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_LE(std::abs(got[i] - want[i]) * root, 1e-6 * std::max(1.0, std::abs(want[i]) * root)) << i;
    ++projections;
  }
  EXPECT_GT(projections, 40);
}

// P = the first unit vectors, so R is the first columns of G; at the first step |N| is sqrt(rank) times a constant where R is
// far above eps.
TEST(ApolloClosedForms, TheFirstStepIsTheGradientOverItsProjectedNorm) {
  const vector_file::File file("apollo.bin");
  for (const std::string& which : file.cases("unit")) {
    Matrix matrix(file, which, 1000);
    const std::vector<float> start = matrix.p, g = matrix.layout.weights(file.gradient(which, 1));
    matrix.projection = matrix.layout.projection(file.floats(which + "/step1/p"), matrix.rank);
    const double lr = file.learning_rates(which)[0];
    matrix.step(file.gradient(which, 1), lr, {});
    const auto columns = static_cast<std::size_t>(matrix.layout.columns()), rank = static_cast<std::size_t>(matrix.rank);
    int rows = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(matrix.layout.rows()); ++i) {
      double squared = 0.0, least = 1.0;
      for (std::size_t k = 0; k < rank; ++k) {
        const double r = g[i * columns + k];
        squared += r * r, least = std::min(least, std::abs(r));
      }
      if (least < 0.1) continue;
      ++rows;
      for (std::size_t j = 0; j < columns; ++j) {
        const double want =
            -lr * std::sqrt(matrix.config.scale * static_cast<double>(rank)) * g[i * columns + j] / std::sqrt(squared);
        EXPECT_NEAR(matrix.p[i * columns + j] - start[i * columns + j], want, 1e-3 * std::abs(want) + 1e-7) << which;
      }
    }
    EXPECT_GT(rows, 3) << which;
  }
}

TEST(ApolloClosedForms, MinisFirstStepIsTheGradientOverTheProjectedNormOfTheMatrix) {
  const vector_file::File file("apollo.bin");
  for (const std::string& which : file.cases("mini")) {
    Matrix matrix(file, which, 1000);
    matrix.config.eps = 1e-12;
    const std::vector<float> start = matrix.p, g = matrix.layout.weights(file.gradient(which, 1));
    matrix.projection = matrix.layout.projection(file.floats(which + "/step1/p"), 1);
    const auto columns = static_cast<std::size_t>(matrix.layout.columns());
    double squared = 0.0;
    for (std::size_t i = 0; i < g.size(); i += columns) {
      double r = 0.0;
      for (std::size_t j = 0; j < columns; ++j) r += static_cast<double>(g[i + j]) * static_cast<double>(matrix.projection[j]);
      squared += r * r;
    }
    matrix.step(file.gradient(which, 1), 1e-2, {});
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double longer = static_cast<double>(matrix.layout.rows());
      const double want = -1e-2 * std::sqrt(matrix.config.scale * longer) * g[i] / std::sqrt(squared);
      EXPECT_NEAR(matrix.p[i] - start[i], want, 1e-4 * std::abs(want) + 1e-6) << which;
    }
  }
}

}  // namespace
}  // namespace strata
