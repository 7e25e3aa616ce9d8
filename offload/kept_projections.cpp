#include "offload/kept_projections.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "optim/svd_projection.h"

namespace strata {
namespace {

// Elements of a gradient that pass at once: few enough that what is on its way does not count, many against an exchange's cost.
constexpr std::int64_t kPassing = std::int64_t{1} << 18;

// Before what a rank sends.
struct Header {
  enum Kind : std::int64_t { rows, end, failed } kind = rows;
  std::int64_t matrix = 0, count = 0, dtype = 0;
};

std::vector<std::byte> message(const Header& header, const void* bytes = nullptr, std::size_t size = 0) {
  std::vector<std::byte> all(sizeof header + size);
  std::memcpy(all.data(), &header, sizeof header);
  if (size > 0) std::memcpy(all.data() + sizeof header, bytes, size);
  return all;
}

std::int64_t rows_at_once(std::int64_t columns) { return std::max<std::int64_t>(1, kPassing / columns); }

std::string text_of(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

}  // namespace

KeptProjections::KeptProjections(const StateLayout& layout, const RowMethod& method, std::vector<KeptMatrix> matrices,
                                 Rank rank, StreamRef gpu_to_cpu, StreamRef cpu_to_gpu, StreamRef host)
    : layout_(layout), method_(method), rank_(rank), gpu_to_cpu_(gpu_to_cpu), cpu_to_gpu_(cpu_to_gpu), host_(host) {
  for (KeptMatrix& matrix : matrices) kept_.push_back({.matrix = std::move(matrix), .on_host = {}, .on_gpu = {}});
}

Status KeptProjections::allocate(TierArena& gpu, TierArena& cpu) {
  std::int64_t longest = 0, widest = 0, largest = 0;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    Kept& kept = kept_[i];
    const ProjectedMatrix& m = kept.matrix.projected;
    const auto bytes = static_cast<std::size_t>(m.columns * m.rank) * sizeof(float);
    const std::string what = "projection of " + m.name;
    if (kept.matrix.on_cpu || kept.matrix.on_gpu) {
      STRATA_ASSIGN_OR_RETURN(kept.on_host, cpu.allocate(bytes, Category::optimizer, what.c_str()));
    }
    if (kept.matrix.on_gpu) {
      STRATA_ASSIGN_OR_RETURN(kept.on_gpu, gpu.allocate(bytes, Category::optimizer, what.c_str()));
    }
    longest = std::max(longest, std::min(kept.matrix.rows, rows_at_once(m.columns)) * m.columns);
    if (!is_mine(i)) continue;
    widest = std::max(widest, m.columns);
    if (!kept.on_host) largest = std::max(largest, m.columns * m.rank);
  }
  if (!method_.projects_on_singular_vectors() || kept_.empty()) return {};
  const auto take = [&](std::int64_t bytes, const char* what, Buffer& to) -> Status {
    if (bytes == 0) return {};
    STRATA_ASSIGN_OR_RETURN(to, cpu.allocate(static_cast<std::size_t>(bytes), Category::io, what));
    return {};
  };
  // As much again as the Gram matrix is for the copy that the solver makes.
  STRATA_RETURN_IF_ERROR(take(2 * widest * widest * 8, "Gram matrix of a gradient", gram_));
  STRATA_RETURN_IF_ERROR(take(longest * 4, "rows of a gradient on their way", rows_));
  STRATA_RETURN_IF_ERROR(take(longest * 4, "rows of a gradient in f32", widened_));
  return take(largest * 4, "projection made for others", made_);
}

std::span<float> KeptProjections::values(std::size_t matrix) {
  const Kept& kept = kept_[matrix];
  return {reinterpret_cast<float*>(kept.on_host.data()), kept.on_host.size() / sizeof(float)};
}

Status KeptProjections::refresh(std::int64_t number, const GradientLook& look, const ByteExchange& exchange) {
  held_ = -1;
  if (host_.backend() != Backend::dry) {
    if (method_.projects_on_singular_vectors()) {
      STRATA_RETURN_IF_ERROR(
          refresh_from_gradients(look, exchange).with_context("the projections of a gradient on its singular vectors"));
    } else {
      for (std::size_t i = 0; i < kept_.size(); ++i)
        if (const std::span<float> to = values(i); !to.empty())
          method_.fill_projection(kept_[i].matrix.projected, number, to, host_.device().pool());
    }
  }
  return hold(number);
}

Status KeptProjections::hold(std::int64_t number) {
  held_ = number;
  for (const Kept& kept : kept_)
    if (kept.on_gpu) copy_async(kept.on_host.data(), kept.on_gpu.data(), kept.on_gpu.size(), cpu_to_gpu_);
  return cpu_to_gpu_.synchronize();
}

Status KeptProjections::refresh_from_gradients(const GradientLook& look, const ByteExchange& exchange) {
  next_ = 0;
  rows_seen_ = 0;
  complete_.clear();
  all_know_ = false;
  std::size_t first = 0;
  while (first < kept_.size()) {
    const int unit = kept_[first].matrix.unit;
    std::size_t end = first;
    while (end < kept_.size() && kept_[end].matrix.unit == unit) ++end;
    for (std::size_t rank = 0; rank < static_cast<std::size_t>(layout_.world.v); ++rank) {
      const Slice slice = layout_.units[static_cast<std::size_t>(unit)].slices[rank];
      const bool has_some =
          std::any_of(kept_.begin() + static_cast<std::ptrdiff_t>(first), kept_.begin() + static_cast<std::ptrdiff_t>(end),
                      [&slice](const Kept& kept) {
                        const KeptMatrix& m = kept.matrix;
                        return m.offset < slice.end() && slice.first < m.offset + m.rows * m.projected.columns;
                      });
      if (!has_some) continue;
      STRATA_RETURN_IF_ERROR(rank == static_cast<std::size_t>(rank_.v) ? send(unit, look, exchange) : receive(rank, exchange));
    }
    first = end;
  }
  STRATA_CHECK(next_ == kept_.size() && complete_.empty(), "all rows of all matrices were seen");
  return {};
}

Status KeptProjections::send(int unit, const GradientLook& look, const ByteExchange& exchange) {
  const Status status = look(unit, [&](const ConstTensorRef& values, std::int64_t first) -> Status {
    const std::int64_t end = first + values.numel();
    for (std::size_t i = next_; i < kept_.size() && kept_[i].matrix.unit == unit; ++i) {
      const KeptMatrix& m = kept_[i].matrix;
      const std::int64_t columns = m.projected.columns;
      const std::int64_t from = std::max(first, m.offset), to = std::min(end, m.offset + m.rows * columns);
      if (from >= to) continue;
      STRATA_CHECK((from - m.offset) % columns == 0 && (to - m.offset) % columns == 0, "rows stay together");
      const std::size_t skip = static_cast<std::size_t>(from - first) * size_of(values.dtype);
      const ConstTensorRef rows{static_cast<const std::byte*>(values.data) + skip, values.dtype, Shape{to - from}};
      STRATA_RETURN_IF_ERROR(send_rows(i, rows, (from - m.offset) / columns, (to - from) / columns, exchange));
    }
    return {};
  });
  if (layout_.world.v == 1 || all_know_) return status;
  const Header header{.kind = status.ok() ? Header::end : Header::failed};
  const Result<std::vector<std::vector<std::byte>>> told =
      exchange(message(header, status.message().data(), status.message().size()));
  if (!status.ok()) return status;
  return told.ok() ? Status() : told.status();
}

Status KeptProjections::send_rows(std::size_t matrix, const ConstTensorRef& values, std::int64_t first, std::int64_t rows,
                                  const ByteExchange& exchange) {
  STRATA_CHECK(matrix == next_ && first == rows_seen_, "rows come in their order");
  const std::int64_t columns = kept_[matrix].matrix.projected.columns;
  for (std::int64_t at = 0; at < rows; at += rows_at_once(columns)) {
    const std::int64_t n = std::min(rows_at_once(columns), rows - at);
    const auto bytes = static_cast<std::size_t>(n * columns) * size_of(values.dtype);
    const std::byte* from =
        static_cast<const std::byte*>(values.data) + static_cast<std::size_t>(at * columns) * size_of(values.dtype);
    if (host_.device().has_separate_memory()) {
      copy_async(from, rows_.data(), bytes, gpu_to_cpu_);
      STRATA_RETURN_IF_ERROR(gpu_to_cpu_.synchronize());
      from = rows_.data();
    }
    if (layout_.world.v > 1) {
      const Header header{
          .matrix = static_cast<std::int64_t>(matrix), .count = n, .dtype = static_cast<std::int64_t>(values.dtype)};
      const Result<std::vector<std::vector<std::byte>>> told = exchange(message(header, from, bytes));
      STRATA_RETURN_IF_ERROR(told.ok() ? Status() : told.status());
    }
    STRATA_RETURN_IF_ERROR(take(matrix, from, values.dtype, n, exchange));
  }
  return {};
}

Status KeptProjections::receive(std::size_t from, const ByteExchange& exchange) {
  while (true) {
    STRATA_ASSIGN_OR_RETURN(const std::vector<std::vector<std::byte>> ranks, exchange({}));
    const std::span<const std::byte> bytes = ranks.at(from);
    Header header;
    if (bytes.size() < sizeof header)
      return {Code::peer_lost, "rank " + std::to_string(from) + " sends no rows of its gradient"};
    std::memcpy(&header, bytes.data(), sizeof header);
    const std::span<const std::byte> rest = bytes.subspan(sizeof header);
    if (header.kind == Header::end) return {};
    if (header.kind == Header::failed) return {Code::peer_lost, "rank " + std::to_string(from) + ": " + text_of(rest)};
    const auto dtype = static_cast<DType>(header.dtype);
    STRATA_CHECK(std::cmp_equal(header.matrix, next_), "rows come in their order");
    const std::int64_t columns = kept_[next_].matrix.projected.columns;
    STRATA_CHECK(rest.size() == static_cast<std::size_t>(header.count * columns) * size_of(dtype), "rows are whole");
    STRATA_RETURN_IF_ERROR(take(next_, rest.data(), dtype, header.count, exchange));
  }
}

Status KeptProjections::take(std::size_t matrix, const std::byte* values, DType dtype, std::int64_t rows,
                             const ByteExchange& exchange) {
  const KeptMatrix& m = kept_[matrix].matrix;
  const std::int64_t columns = m.projected.columns;
  if (is_mine(matrix)) {
    const std::span<double> gram(reinterpret_cast<double*>(gram_.data()), static_cast<std::size_t>(columns * columns));
    if (rows_seen_ == 0) std::fill(gram.begin(), gram.end(), 0.0);
    auto* const widened = reinterpret_cast<float*>(widened_.data());
    const std::int64_t n = rows * columns;
    if (dtype == DType::f32) {
      std::memcpy(widened, values, static_cast<std::size_t>(n) * sizeof(float));
    } else {
      bf16 value;
      for (std::int64_t i = 0; i < n; ++i) {
        std::memcpy(&value, values + static_cast<std::size_t>(i) * sizeof value, sizeof value);
        widened[i] = to_float(value);
      }
    }
    add_to_gram(widened, rows, columns, gram, host_.device().pool());
  }
  rows_seen_ += rows;
  if (rows_seen_ < m.rows) return {};
  complete_.push_back(next_++);
  rows_seen_ = 0;
  if (complete_.size() < static_cast<std::size_t>(layout_.world.v) && next_ < kept_.size()) return {};
  return make(exchange);
}

Status KeptProjections::make(const ByteExchange& exchange) {
  Status status;
  std::span<float> mine;
  for (const std::size_t i : complete_) {
    if (!is_mine(i)) continue;
    const ProjectedMatrix& m = kept_[i].matrix.projected;
    const auto size = static_cast<std::size_t>(m.columns * m.rank);
    mine = kept_[i].on_host ? values(i) : std::span(reinterpret_cast<float*>(made_.data()), size);
    status = svd_projection(
        std::span<const double>(reinterpret_cast<const double*>(gram_.data()), static_cast<std::size_t>(m.columns * m.columns)),
        m.columns, m.rank, mine);
    if (!status.ok()) status = status.with_context(m.name);
  }
  if (layout_.world.v == 1) {
    complete_.clear();
    return status;
  }
  const Header header{.kind = status.ok() ? Header::rows : Header::failed};
  const std::vector<std::byte> told = status.ok() ? message(header, mine.data(), mine.size_bytes())
                                                  : message(header, status.message().data(), status.message().size());
  STRATA_ASSIGN_OR_RETURN(const std::vector<std::vector<std::byte>> ranks, exchange(told));
  for (const std::vector<std::byte>& bytes : ranks) {
    Header of;
    STRATA_CHECK(bytes.size() >= sizeof of, "every rank tells what it has made");
    std::memcpy(&of, bytes.data(), sizeof of);
    all_know_ = of.kind == Header::failed;
    if (all_know_) return {Code::numerical, text_of(std::span(bytes).subspan(sizeof of))};
  }
  for (const std::size_t i : complete_) {
    const std::span<float> to = values(i);
    if (to.empty() || is_mine(i)) continue;
    const std::vector<std::byte>& bytes = ranks.at(owner(i));
    STRATA_CHECK(bytes.size() == sizeof(Header) + to.size_bytes(), "a projection is whole");
    std::memcpy(to.data(), bytes.data() + sizeof(Header), to.size_bytes());
  }
  complete_.clear();
  return {};
}

}  // namespace strata
