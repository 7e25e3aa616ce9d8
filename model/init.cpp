#include "model/init.h"

#include <algorithm>
#include <array>

#include "runtime/rng.h"

namespace strata {
namespace {

// Of a matrix that is drawn as (out, in) and stored as (in, out). Draws along the input, as many rows at a time as there are,
// since neighbours there are drawn together.
void draw_transposed(const Philox& draw, const ParamSpec& spec, std::int64_t first, std::span<float> out) {
  constexpr std::int64_t kRows = 128;
  const std::int64_t in = spec.shape[0], columns = spec.shape[1];
  const std::int64_t end = first + static_cast<std::int64_t>(out.size());
  std::array<float, kRows> drawn;
  for (std::int64_t at = first; at < end;) {
    const std::int64_t row = at / columns, column = at % columns;
    // Whole rows together; what begins or ends inside a row alone.
    const bool whole = column == 0 && end - at >= columns;
    const std::int64_t rows = whole ? std::min(kRows, (end - at) / columns) : 1;
    const std::int64_t last = whole ? columns : std::min(columns, column + end - at);
    for (std::int64_t c = column; c < last; ++c) {
      draw.normal(static_cast<std::uint64_t>(c * in + row), spec.init.mean, spec.init.stddev,
                  std::span(drawn).first(static_cast<std::size_t>(rows)));
      for (std::int64_t r = 0; r < rows; ++r)
        out[static_cast<std::size_t>(at - first + r * columns + c - column)] = drawn[static_cast<std::size_t>(r)];
    }
    at += whole ? rows * columns : last - column;
  }
}

}  // namespace

void init_parameter(const ParamSpec& spec, std::uint64_t seed, std::int64_t first, std::span<float> out) {
  STRATA_CHECK(first >= 0 && first + static_cast<std::int64_t>(out.size()) <= spec.shape.numel(), "slice outside " + spec.name);
  if (spec.init.kind == Init::Kind::constant) {
    std::fill(out.begin(), out.end(), spec.init.mean);
    return;
  }
  const Philox draw(seed, stream_id("parameter/" + spec.name));
  if (spec.transposed) return draw_transposed(draw, spec, first, out);
  draw.normal(static_cast<std::uint64_t>(first), spec.init.mean, spec.init.stddev, out);
}

}  // namespace strata
