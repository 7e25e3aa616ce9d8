#include "offload/row_updates.h"

#include <algorithm>
#include <cstring>

namespace strata {
namespace {

// What add_rows() gives of the rows of one cut, as the ranks tell it.
constexpr std::size_t kSums = 4;

std::array<double, kSums> packed(const ApolloSums& sums) { return {sums.update, sums.g, sums.r, sums.n}; }
void add(const double* from, ApolloSums& to) {
  to.update += from[0];
  to.g += from[1];
  to.r += from[2];
  to.n += from[3];
}

RowResults shifted(const RowResults& results, std::int64_t rows) {
  return {results.s + rows, results.g_squares + rows, results.r_squares + rows, results.n_squares + rows};
}

}  // namespace

RowUpdates::RowUpdates(const StateLayout& layout, const Optimizer& method, const ParamGroups& groups, const RowStreams& streams)
    : layout_(layout), method_(method.rows()), arrays_(method.states().size()), groups_(groups), streams_(streams) {
  if (method_ == nullptr) return;
  std::int64_t others = 0;
  for (const UnitLayout& unit : layout_.units) {
    first_matrix_.emplace_back();
    for (const ParamExtent& param : unit.params) {
      first_matrix_.back().push_back(matrices_.size());
      const std::int64_t rank = method_->rank(shape_of(param), groups_[param.group]);
      if (rank == 0) {
        ++others;
        continue;
      }
      const std::size_t parts = std::max<std::size_t>(1, param.parts.size());
      for (std::size_t i = 0; i < parts; ++i)
        matrices_.push_back({.projected = {.name = parts == 1 ? param.name : param.name + "/" + std::to_string(i),
                                           .columns = param.columns,
                                           .rank = rank,
                                           .transposed = param.transposed}});
    }
  }
  // As optimizers have them: first what is not projected.
  for (std::size_t i = 0; i < matrices_.size(); ++i) matrices_[i].projected.number = others + static_cast<std::int64_t>(i) + 1;
}

RowUpdates::~RowUpdates() {
  if (!some_on_gpu_) return;
  for (const StreamRef stream : {streams_.host, streams_.cpu_to_gpu, streams_.gpu_update, streams_.gpu_to_cpu})
    (void)stream.record().drain();
}

std::vector<RowUpdates::Stretch> RowUpdates::stretches_in(std::size_t unit, Slice range) const {
  std::vector<Stretch> all;
  if (method_ == nullptr) return all;
  std::int64_t states = 0, rows = 0;
  for (const ParamPiece& piece : params_in(layout_.units[unit], range)) {
    const ParamExtent& param = layout_.units[unit].params[piece.param];
    const std::int64_t rank = method_->rank(shape_of(param), groups_[param.group]);
    if (rank == 0) continue;
    const std::int64_t first = piece.first / param.columns, end = first + piece.count / param.columns;
    const std::vector<std::int64_t> whole = {param.numel / param.columns};
    std::int64_t part_begin = 0;
    std::size_t matrix = first_matrix_[unit][piece.param];
    for (const std::int64_t part_rows : param.parts.empty() ? whole : param.parts) {
      const std::int64_t from = std::max(first, part_begin), to = std::min(end, part_begin + part_rows);
      if (from < to)
        all.push_back({.matrix = matrix,
                       .group = param.group,
                       .offset = piece.offset + (from - first) * param.columns,
                       .first_row = from,
                       .rows = to - from,
                       .columns = param.columns,
                       .rank = rank,
                       .cut_rows = param.cut / param.columns,
                       .states_at = states + (from - first) * rank,
                       .rows_at = rows + from - first});
      part_begin += part_rows;
      ++matrix;
    }
    states += (end - first) * rank;
    rows += end - first;
  }
  return all;
}

Status RowUpdates::allocate(const std::vector<OptimizerRecord>& records, const std::vector<char>& on_gpu, Rank rank,
                            int zero_stage, TierArena& gpu, TierArena& cpu) {
  if (!any()) return {};
  std::size_t on_cpu_floats = 0, on_gpu_floats = 0, image_floats = 0;
  records_.resize(records.size());
  for (std::size_t r = 0; r < records.size(); ++r) {
    Record& record = records_[r];
    record.stretches = stretches_in(static_cast<std::size_t>(records[r].unit), records[r].range);
    record.on_gpu = on_gpu[r] != 0;
    record.rows = records[r].rows;
    record.values = records[r].row_states;
    if (record.stretches.empty()) continue;
    const std::string what = "moments of rows of " + layout_.units[static_cast<std::size_t>(records[r].unit)].name;
    const auto values = static_cast<std::size_t>(record.values);
    STRATA_ASSIGN_OR_RETURN(record.memory,
                            (record.on_gpu ? gpu : cpu)
                                .allocate(moment_bytes(record) + result_bytes(record.rows), Category::optimizer, what.c_str()));
    if (record.on_gpu) image_floats = std::max(image_floats, arrays_ * values);
    if (record.on_gpu && method_->measures()) {
      STRATA_ASSIGN_OR_RETURN(record.results,
                              cpu.allocate(result_bytes(record.rows), Category::optimizer, "what measuring leaves of rows"));
    }
    (record.on_gpu ? some_on_gpu_ : some_on_cpu_) = true;
    for (const Stretch& s : record.stretches) {
      std::size_t& most = record.on_gpu ? on_gpu_floats : on_cpu_floats;
      most = std::max(most, static_cast<std::size_t>(s.columns * s.rank));
    }
  }
  if (some_on_gpu_) {
    STRATA_ASSIGN_OR_RETURN(image_, cpu.allocate(image_floats * sizeof(float), Category::io, "host image of moments of rows"));
  }
  const std::size_t ranks = zero_stage == 0 ? 1 : static_cast<std::size_t>(layout_.world.v);
  for (std::size_t i = 0; i < ranks; ++i) {
    shares_.emplace_back();
    for (const UnitLayout& unit : layout_.units)
      shares_.back().push_back(zero_stage == 0 ? Slice{0, unit.numel} : unit.slices[i]);
  }
  if (method_->keeps_projections()) return allocate_kept(rank, gpu, cpu);
  if (some_on_cpu_) {
    STRATA_ASSIGN_OR_RETURN(projection_, cpu.allocate(on_cpu_floats * sizeof(float), Category::io, "projection of a matrix"));
  }
  if (some_on_gpu_) {
    const std::size_t bytes = on_gpu_floats * sizeof(float);
    windows_.resize(method_->projects_on_gpu() ? 1 : 2);
    for (Window& window : windows_) {
      STRATA_ASSIGN_OR_RETURN(window.memory, gpu.allocate(bytes, Category::io, "projection of a matrix"));
      if (method_->projects_on_gpu()) continue;
      STRATA_ASSIGN_OR_RETURN(window.image, cpu.allocate(bytes, Category::io, "projection on its way"));
    }
  }
  return {};
}

Status RowUpdates::allocate_kept(Rank rank, TierArena& gpu, TierArena& cpu) {
  std::vector<KeptMatrix> matrices;
  for (std::size_t u = 0; u < layout_.units.size(); ++u) {
    for (const Stretch& s : stretches_in(u, {0, layout_.units[u].numel}))
      matrices.push_back(
          {.projected = matrices_[s.matrix].projected, .unit = static_cast<int>(u), .offset = s.offset, .rows = s.rows});
  }
  STRATA_CHECK(matrices.size() == matrices_.size(), "a whole unit has each of its matrices once");
  for (const Record& record : records_)
    for (const Stretch& s : record.stretches) (record.on_gpu ? matrices[s.matrix].on_gpu : matrices[s.matrix].on_cpu) = true;
  kept_ = std::make_unique<KeptProjections>(layout_, *method_, std::move(matrices), rank, streams_.gpu_to_cpu,
                                            streams_.cpu_to_gpu, streams_.host);
  return kept_->allocate(gpu, cpu);
}

Status RowUpdates::refresh(const UpdateStep& step, const GradientLook& look, const ByteExchange& exchange) {
  if (kept_ == nullptr || kept_->held() == method_->projection(step.number)) return {};
  STRATA_RETURN_IF_ERROR(streams_.cpu_update.synchronize());
  STRATA_RETURN_IF_ERROR(streams_.gpu_update.synchronize());
  return kept_->refresh(method_->projection(step.number), look, exchange);
}

Status RowUpdates::hold_projections(std::int64_t updates_done) {
  if (kept_ == nullptr) return {};
  return kept_->hold(updates_done == 0 ? -1 : method_->projection(updates_done));
}

std::vector<RowUpdates::HeldProjection> RowUpdates::projections(int unit, std::size_t param) {
  std::vector<HeldProjection> all;
  if (kept_ == nullptr) return all;
  const auto u = static_cast<std::size_t>(unit);
  const ParamExtent& extent = layout_.units[u].params[param];
  std::int64_t first = 0;
  for (const Stretch& s : stretches_in(u, {extent.offset, extent.numel})) {
    const std::int64_t count = s.columns * s.rank;
    all.push_back({s.first_row * s.columns, first, count, kept_->values(s.matrix)});
    first += count;
  }
  return all;
}

RowResults RowUpdates::results_at(std::byte* memory, std::int64_t rows) {
  auto* const squares = reinterpret_cast<double*>(memory);
  return {.s = reinterpret_cast<float*>(squares + 3 * rows),
          .g_squares = squares,
          .r_squares = squares + rows,
          .n_squares = squares + 2 * rows};
}

RowResults RowUpdates::results(const Record& record) const {
  return results_at(record.memory.data() + moment_bytes(record), record.rows);
}

RowResults RowUpdates::results_on_host(const Record& record) const {
  return record.on_gpu ? results_at(record.results.data(), record.rows) : results(record);
}

std::array<float*, kMaxStates> RowUpdates::arrays_in(const Buffer& memory, std::size_t r) const {
  std::array<float*, kMaxStates> arrays{};
  for (std::size_t k = 0; k < arrays_; ++k)
    arrays[k] = reinterpret_cast<float*>(memory.data()) + static_cast<std::int64_t>(k) * records_[r].values;
  return arrays;
}

LowRankBlock RowUpdates::block(const Record& record, const Stretch& s, const std::byte* grads, DType dtype) const {
  auto* const m = reinterpret_cast<float*>(record.memory.data());
  return {.rows = s.rows,
          .columns = s.columns,
          .rank = s.rank,
          .g = dtype == DType::f32 ? reinterpret_cast<const float*>(grads) + s.offset : nullptr,
          .g16 = dtype == DType::f32 ? nullptr : reinterpret_cast<const bf16*>(grads) + s.offset,
          .projection = kept_ == nullptr ? nullptr : kept_->of(s.matrix, record.on_gpu),
          .m = m + s.states_at,
          .v = arrays_ < 2 ? nullptr : m + record.values + s.states_at};
}

void RowUpdates::enqueue_measure(std::size_t r, const std::byte* grads, DType dtype, const UpdateStep& step, StreamRef stream,
                                 double amount) {
  if (records_[r].on_gpu) return measure_on_gpu(records_[r], grads, dtype, step, stream);
  measure_on_host(records_[r], grads, dtype, step, stream, amount);
}

void RowUpdates::measure_on_host(Record& record, const std::byte* grads, DType dtype, const UpdateStep& step, StreamRef stream,
                                 double amount) {
  struct Part {
    LowRankBlock block;
    RowResults results;
    const ProjectedMatrix* make = nullptr;  // the projection anew
  };
  const std::int64_t number = method_->projection(step.number);
  auto* const projection = reinterpret_cast<float*>(projection_.data());
  std::vector<Part> parts;
  for (const Stretch& s : record.stretches) {
    Part& part = parts.emplace_back(Part{block(record, s, grads, dtype), shifted(results(record), s.rows_at)});
    if (kept_ != nullptr) continue;
    part.block.projection = projection;
    if (projection_number_ != number || projection_matrix_ != s.matrix) part.make = &matrices_[s.matrix].projected;
    projection_number_ = number;
    projection_matrix_ = s.matrix;
  }
  const auto work = [parts = std::move(parts), number, projection, step, &method = *method_, &pool = stream.device().pool()] {
    for (const Part& part : parts) {
      if (part.make != nullptr)
        method.fill_projection(*part.make, number,
                               std::span(projection, static_cast<std::size_t>(part.block.columns * part.block.rank)), pool);
      measure(method, part.block, step, part.results, pool);
    }
    return Status();
  };
  stream.enqueue("measure rows", work, amount);
}

RowUpdates::Window& RowUpdates::projection_on_gpu(const Stretch& s, std::int64_t number, StreamRef stream) {
  for (Window& window : windows_)
    if (window.number == number && window.matrix == s.matrix) return window;
  Window& window = windows_[next_window_];
  next_window_ = (next_window_ + 1) % windows_.size();
  window.matrix = s.matrix;
  window.number = number;
  if (method_->projects_on_gpu()) {
    if (!stream.on_gpu()) return window;
    const GpuOperation operation(stream, "projection");
    method_->enqueue_projection(matrices_[s.matrix].projected, number, reinterpret_cast<float*>(window.memory.data()),
                                stream.device().gpu(), operation.queue());
    return window;
  }
  const std::size_t floats = static_cast<std::size_t>(s.columns * s.rank);
  const std::span<float> values(reinterpret_cast<float*>(window.image.data()), floats);
  streams_.host.wait(window.copied);
  streams_.host.enqueue("projection", [values, number, &matrix = matrices_[s.matrix].projected, &method = *method_,
                                       &pool = streams_.host.device().pool()] {
    method.fill_projection(matrix, number, values, pool);
    return Status();
  });
  streams_.cpu_to_gpu.wait(streams_.host.record());
  streams_.cpu_to_gpu.wait(window.used);
  copy_async(values.data(), window.memory.data(), values.size_bytes(), streams_.cpu_to_gpu);
  window.copied = streams_.cpu_to_gpu.record();
  return window;
}

void RowUpdates::measure_on_gpu(Record& record, const std::byte* grads, DType dtype, const UpdateStep& step, StreamRef stream) {
  const std::int64_t number = method_->projection(step.number);
  for (const Stretch& s : record.stretches) {
    Window* const window = kept_ == nullptr ? &projection_on_gpu(s, number, stream) : nullptr;
    LowRankBlock of = block(record, s, grads, dtype);
    const RowResults into = shifted(results(record), s.rows_at);
    if (window != nullptr) {
      of.projection = reinterpret_cast<const float*>(window->memory.data());
      stream.wait(window->copied);
    }
    if (stream.on_gpu()) {
      const GpuOperation operation(stream, "measure rows");
      method_->enqueue_measure(of, step, into, stream.device().gpu(), operation.queue());
    }
    if (window != nullptr) window->used = stream.record();
  }
  streams_.gpu_to_cpu.wait(stream.record());
  copy_async(record.memory.data() + moment_bytes(record), record.results.data(), result_bytes(record.rows),
             streams_.gpu_to_cpu);
}

template <class Body>
void RowUpdates::for_cuts(const Stretch& s, Body body) {
  for (std::int64_t row = s.first_row; row < s.first_row + s.rows;) {
    const std::int64_t end = std::min(s.first_row + s.rows, (row / s.cut_rows + 1) * s.cut_rows);
    body(row - s.first_row, end - row);
    row = end;
  }
}

Status RowUpdates::exchange(const ByteExchange& gather) {
  STRATA_RETURN_IF_ERROR(streams_.cpu_update.synchronize());
  if (some_on_gpu_) STRATA_RETURN_IF_ERROR(streams_.gpu_to_cpu.synchronize());
  if (streams_.cpu_update.backend() == Backend::dry) return {};
  std::vector<double> mine;
  for (const Record& record : records_) {
    const RowResults all = record.stretches.empty() ? RowResults() : results_on_host(record);
    for (const Stretch& s : record.stretches)
      for_cuts(s, [&](std::int64_t first, std::int64_t rows) {
        ApolloSums sums;
        add_rows(shifted(all, s.rows_at + first), rows, sums);
        const std::array<double, kSums> values = packed(sums);
        mine.insert(mine.end(), values.begin(), values.end());
      });
  }
  std::vector<std::vector<std::byte>> ranks;
  const auto bytes = std::as_bytes(std::span(mine));
  if (shares_.size() == 1) {
    ranks.emplace_back(bytes.begin(), bytes.end());
  } else {
    STRATA_ASSIGN_OR_RETURN(ranks, gather(bytes));
  }
  std::vector<ApolloSums> sums(matrices_.size());
  std::vector<std::size_t> at(ranks.size(), 0);
  for (std::size_t u = 0; u < layout_.units.size(); ++u)
    for (std::size_t i = 0; i < ranks.size(); ++i)
      for (const Stretch& s : stretches_in(u, shares_[i][u]))
        for_cuts(s, [&](std::int64_t, std::int64_t) {
          std::array<double, kSums> values{};
          STRATA_CHECK(at[i] + sizeof values <= ranks[i].size(), "every rank tells the sums of its rows");
          std::memcpy(values.data(), ranks[i].data() + at[i], sizeof values);
          at[i] += sizeof values;
          add(values.data(), sums[s.matrix]);
        });
  for (std::size_t i = 0; i < matrices_.size(); ++i) matrices_[i].scale = method_->scale(sums[i], matrices_[i].memory);
  return {};
}

RowUpdates::Application RowUpdates::application(std::size_t r, const Stretch& s, const std::byte* grads, DType dtype, float* p,
                                                bf16* p16) const {
  const Record& record = records_[r];
  return {.block = block(record, s, grads, dtype),
          .s = method_->measures() ? results(record).s + s.rows_at : nullptr,
          .weights = {.p = p + s.offset, .p16 = p16 == nullptr ? nullptr : p16 + s.offset},
          .scale = matrices_[s.matrix].scale,
          .group = s.group};
}

std::vector<double> RowUpdates::memory(int unit, std::size_t param) const {
  std::vector<double> values;
  if (!measures()) return values;
  const ParamExtent& extent = layout_.units[static_cast<std::size_t>(unit)].params[param];
  if (method_->rank(shape_of(extent), groups_[extent.group]) == 0) return values;
  const std::size_t first = first_matrix_[static_cast<std::size_t>(unit)][param];
  for (std::size_t i = 0; i < std::max<std::size_t>(1, extent.parts.size()); ++i) values.push_back(matrices_[first + i].memory);
  return values;
}

void RowUpdates::set_memory(int unit, std::size_t param, const std::vector<double>& values) {
  if (values.empty()) return;
  const std::size_t first = first_matrix_[static_cast<std::size_t>(unit)][param];
  for (std::size_t i = 0; i < values.size(); ++i) matrices_[first + i].memory = values[i];
}

}  // namespace strata
