// What the tests of APOLLO and GaLore share: the formulas of low_rank.h, literally, for one block; arrays with guards around
// them; and matrices as the authors' vectors have them.
#pragma once

#include <cmath>
#include <utility>

#include "optim/apollo.h"
#include "optim/galore.h"
#include "update_testing.h"
#include "vector_file.h"

namespace strata::low_rank_testing {

using update_testing::bits;
using update_testing::Guarded;
using update_testing::Values;

inline std::uint64_t bits(double x) { return std::bit_cast<std::uint64_t>(x); }
inline float canonical(float x) { return std::isnan(x) ? std::bit_cast<float>(0x7fc00000u) : x; }
inline double canonical(double x) { return std::isnan(x) ? std::bit_cast<double>(std::uint64_t{0x7ff8} << 48) : x; }

// Everything that the passes read and write for a block.
struct Arrays {
  Arrays(std::int64_t rows_of, std::int64_t columns_of, std::int64_t rank_of, std::size_t offset = 0)
      : rows(rows_of),
        columns(columns_of),
        rank(rank_of),
        g(n_weights(), offset, -7.0f),
        g16(n_weights(), offset, {0xabcd}),
        projection(static_cast<std::size_t>(columns * rank), offset * 3, -7.0f),
        m(n_states(), offset * 5, -7.0f),
        v(n_states(), offset * 7, -7.0f),
        new_m(n_states(), offset + 1, -7.0f),
        new_v(n_states(), offset + 2, -7.0f),
        p(n_weights(), offset, -7.0f),
        new_p(n_weights(), offset, -7.0f),
        p16(n_weights(), offset, {0xabcd}),
        s(static_cast<std::size_t>(rows), offset, -7.0f),
        g_squares(static_cast<std::size_t>(rows), offset, -7.0),
        r_squares(static_cast<std::size_t>(rows), offset, -7.0),
        n_squares(static_cast<std::size_t>(rows), offset, -7.0) {}

  std::size_t n_weights() const { return static_cast<std::size_t>(rows * columns); }
  std::size_t n_states() const { return static_cast<std::size_t>(rows * rank); }

  // any: NaN, infinities, denormals among the values, in few rows and columns so that not all sums are NaN.
  void fill(std::uint64_t seed, bool any) {
    Values values(seed);
    const auto set = [&](auto& array, std::size_t n, std::int64_t row) {
      for (std::size_t i = 0; i < n; ++i) {
        const bool wild = any && (i / static_cast<std::size_t>(row)) % 8 == 5;
        array.data()[i] = wild ? values.any() : values.ordinary();
      }
    };
    set(g, n_weights(), columns);
    set(projection, static_cast<std::size_t>(columns * rank), rank * columns);
    set(m, n_states(), rank);
    set(v, n_states(), rank);
    set(p, n_weights(), columns);
    if (any && columns > 3) projection.data()[3 * rank + rank / 2] = 0x1p-140f;
    for (std::size_t i = 0; i < n_states(); ++i) {
      if (i % 64 != 3) v.data()[i] = std::abs(v.data()[i]);
    }
    for (std::size_t i = 0; i < n_weights(); ++i) g16.data()[i] = to_bf16(g.data()[i]);
  }

  LowRankBlock block(std::int64_t first, std::int64_t count, bool gradient16, bool elsewhere) {
    return {.rows = count,
            .columns = columns,
            .rank = rank,
            .g = gradient16 ? nullptr : g.data() + first * columns,
            .g16 = gradient16 ? g16.data() + first * columns : nullptr,
            .projection = projection.data(),
            .m = m.data() + first * rank,
            .v = v.data() + first * rank,
            .new_m = elsewhere ? new_m.data() + first * rank : nullptr,
            .new_v = elsewhere ? new_v.data() + first * rank : nullptr};
  }
  WeightRows weights(std::int64_t first, bool with16, bool elsewhere) {
    return {.p = p.data() + first * columns,
            .p16 = with16 ? p16.data() + first * columns : nullptr,
            .new_p = elsewhere ? new_p.data() + first * columns : nullptr};
  }
  RowResults results(std::int64_t first) {
    return {s.data() + first, g_squares.data() + first, r_squares.data() + first, n_squares.data() + first};
  }
  bool guards_intact() const {
    return g.guards_intact() && g16.guards_intact() && projection.guards_intact() && m.guards_intact() && v.guards_intact() &&
           new_m.guards_intact() && new_v.guards_intact() && p.guards_intact() && new_p.guards_intact() &&
           p16.guards_intact() && s.guards_intact() && g_squares.guards_intact() && r_squares.guards_intact() &&
           n_squares.guards_intact();
  }

  std::int64_t rows, columns, rank;
  Guarded<float> g;
  Guarded<bf16> g16;
  Guarded<float> projection, m, v, new_m, new_v, p, new_p;
  Guarded<bf16> p16;
  Guarded<float> s;
  Guarded<double> g_squares, r_squares, n_squares;
};

template <class T>
::testing::AssertionResult same(const char* what, T* got, T* want, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    bool equal = false;
    if constexpr (std::is_same_v<T, bf16>)
      equal = got[i].bits == want[i].bits;
    else
      equal = bits(got[i]) == bits(want[i]);
    if (!equal) return ::testing::AssertionFailure() << what << "[" << i << "]";
  }
  return ::testing::AssertionSuccess();
}
// All arrays, those too that were not to be written.
inline ::testing::AssertionResult same(Arrays& got, Arrays& want) {
  const auto rows = static_cast<std::size_t>(want.rows);
  for (const auto& result :
       {same("m", got.m.data(), want.m.data(), want.n_states()), same("v", got.v.data(), want.v.data(), want.n_states()),
        same("new_m", got.new_m.data(), want.new_m.data(), want.n_states()),
        same("new_v", got.new_v.data(), want.new_v.data(), want.n_states()),
        same("p", got.p.data(), want.p.data(), want.n_weights()),
        same("new_p", got.new_p.data(), want.new_p.data(), want.n_weights()),
        same("p16", got.p16.data(), want.p16.data(), want.n_weights()), same("s", got.s.data(), want.s.data(), rows),
        same("g_squares", got.g_squares.data(), want.g_squares.data(), rows),
        same("r_squares", got.r_squares.data(), want.r_squares.data(), rows),
        same("n_squares", got.n_squares.data(), want.n_squares.data(), rows)}) {
    if (!result) return result;
  }
  if (!got.guards_intact()) return ::testing::AssertionFailure() << "wrote outside";
  return ::testing::AssertionSuccess();
}

// ---- the formulas ----

inline double squares(const std::vector<float>& x) {
  double lanes[16] = {};
  for (std::size_t i = 0; i < x.size(); ++i) lanes[i % 16] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (std::size_t half : {8u, 4u, 2u, 1u})
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return canonical(lanes[0]);
}

struct Row {
  std::vector<float> g, r, n;  // g', R, N
};
// Of row i; writes its moments.
inline Row project_row(const LowRankBlock& b, const LowRankScalars& c, std::int64_t i) {
  Row row;
  for (std::int64_t j = 0; j < b.columns; ++j) {
    const std::int64_t at = i * b.columns + j;
    row.g.push_back((b.g16 != nullptr ? to_float(b.g16[at]) : b.g[at]) * c.grad_scale);
  }
  for (std::int64_t k = 0; k < b.rank; ++k) {
    float r = 0.0f;
    for (std::int64_t j = 0; j < b.columns; ++j)
      r = std::fma(row.g[static_cast<std::size_t>(j)], b.projection[j * b.rank + k], r);
    const std::int64_t at = i * b.rank + k;
    const float m = canonical(std::fma(c.one_minus_beta1, r - b.m[at], b.m[at]));
    const float v = canonical(std::fma(c.one_minus_beta2 * r, r, c.beta2 * b.v[at]));
    (b.new_m != nullptr ? b.new_m : b.m)[at] = m;
    (b.new_v != nullptr ? b.new_v : b.v)[at] = v;
    row.r.push_back(r);
    row.n.push_back(canonical(m / (std::sqrt(v) + c.eps)));
  }
  return row;
}

inline void put_weight(const WeightRows& weights, std::int64_t at, float p) {
  (weights.new_p != nullptr ? weights.new_p : weights.p)[at] = canonical(p);
  if (weights.p16 != nullptr) weights.p16[at] = to_bf16(canonical(p));
}

// A step of APOLLO for the block alone.
inline void reference_apollo(const ApolloConfig& config, const LowRankBlock& b, const RowResults& to, const WeightRows& weights,
                             const UpdateStep& step, const ParamGroup& group) {
  const LowRankScalars c = low_rank_scalars({config.beta1, config.beta2, config.eps}, step.grad_scale);
  std::vector<Row> rows;
  for (std::int64_t i = 0; i < b.rows; ++i) {
    const Row& row = rows.emplace_back(project_row(b, c, i));
    to.g_squares[i] = squares(row.g), to.r_squares[i] = squares(row.r), to.n_squares[i] = squares(row.n);
    to.s[i] = canonical(static_cast<float>(std::sqrt(to.n_squares[i]) / (std::sqrt(to.r_squares[i]) + 1e-8)));
  }
  ApolloSums sums;
  add_rows(to, b.rows, sums);
  ApolloMatrix matrix;
  const ApplyScalars a = apollo_apply_scalars(config, apollo_scale(config, sums, matrix), step, group);
  for (std::int64_t i = 0; i < b.rows; ++i) {
    const bool channel = config.scaling == ApolloScaling::channel;
    const auto size = static_cast<float>(channel ? a.step * static_cast<double>(to.s[i]) : a.step);
    for (std::int64_t j = 0; j < b.columns; ++j)
      put_weight(
          weights, i * b.columns + j,
          std::fma(-size, rows[static_cast<std::size_t>(i)].g[static_cast<std::size_t>(j)], weights.p[i * b.columns + j]) *
              a.decay_factor);
  }
}

inline void reference_galore(const GaloreConfig& config, const LowRankBlock& b, const WeightRows& weights,
                             const UpdateStep& step, const ParamGroup& group) {
  const GaloreScalars c = galore_scalars(config, step, group);
  for (std::int64_t i = 0; i < b.rows; ++i) {
    const Row row = project_row(b, c.moments, i);
    for (std::int64_t j = 0; j < b.columns; ++j) {
      float update = 0.0f;
      for (std::int64_t k = 0; k < b.rank; ++k)
        update = std::fma(row.n[static_cast<std::size_t>(k)], b.projection[j * b.rank + k], update);
      put_weight(weights, i * b.columns + j, std::fma(-c.step_size, update, weights.p[i * b.columns + j]) * c.decay_factor);
    }
  }
}

// ---- matrices of the authors' vectors ----

inline std::vector<float> transposed(const std::vector<float>& x, std::int64_t rows) {
  const auto height = static_cast<std::size_t>(rows), width = x.size() / height;
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < height; ++i)
    for (std::size_t j = 0; j < width; ++j) y[j * height + i] = x[i * width + j];
  return y;
}

// rows x columns as low_rank.h wants it: of a matrix that is projected from the left, the transposed one.
struct Layout {
  std::int64_t height = 0, width = 0;  // of the model's matrix
  bool left = false;
  std::int64_t rows() const { return left ? width : height; }
  std::int64_t columns() const { return left ? height : width; }
  // From the file's matrix of weights, and back.
  std::vector<float> weights(const std::vector<float>& x) const { return left ? transposed(x, height) : x; }
  std::vector<float> file_weights(const std::vector<float>& x) const { return left ? transposed(x, width) : x; }
  // The file's projection: rank x width, or height x rank.
  std::vector<float> projection(const std::vector<float>& x, std::int64_t rank) const { return left ? x : transposed(x, rank); }
  std::vector<float> file_states(const std::vector<float>& x) const { return left ? transposed(x, width) : x; }
};
inline Layout layout_of(const vector_file::File& file, const std::string& which, bool reverse = false) {
  const auto& dims = file[which + "/w0"].dims;
  return {dims[0], dims[1], lies_transposed(dims[0], dims[1]) != reverse};
}

}  // namespace strata::low_rank_testing
