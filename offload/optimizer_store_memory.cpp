// The memory of an OptimizerStore: homes, windows, staging.
#include <algorithm>
#include <array>
#include <utility>

#include "nvme/gpu_record_memory.h"
#include "offload/array_stride.h"
#include "offload/optimizer_store.h"

namespace strata {

std::size_t OptimizerStore::payload_bytes(std::size_t r) const {
  const OptimizerRecord& record = records()[r];
  std::int64_t bytes = 0, next = 0;
  const auto add = [&](std::int64_t n) {
    if (n > 0) bytes = next + n;
    next += array_stride(n);
  };
  if (has_master(plan_.schedule.shape, r)) add(kF32States.bytes(record.range.count));
  for (std::size_t k = 0; k < states(); ++k) add(format().bytes(record.states));
  return static_cast<std::size_t>(bytes);
}

std::size_t OptimizerStore::home_bytes(std::size_t r) const {
  if (!shares(r)) return payload_bytes(r);
  return has_master(plan_.schedule.shape, r) ? static_cast<std::size_t>(records()[r].range.count) * sizeof(float) : 0;
}

std::size_t OptimizerStore::shared_bytes(std::size_t r) const {
  const std::int64_t bytes = format().bytes(records()[r].states);
  return states() == 0 ? 0 : static_cast<std::size_t>(static_cast<std::int64_t>(states() - 1) * array_stride(bytes) + bytes);
}

// Large enough for the largest record of its number.
Status OptimizerStore::allocate_shared(TierArena& gpu, TierArena& cpu) {
  std::array<std::vector<std::size_t>, 2> bytes;
  for (std::size_t r = 0; r < records().size(); ++r) {
    if (!shares(r) || !units_.is_block(records()[r].unit)) continue;
    std::vector<std::size_t>& of_tier = bytes[placement(r).home == Tier::gpu ? 0 : 1];
    of_tier.resize(std::max(of_tier.size(), number_in_unit_[r] + 1));
    of_tier[number_in_unit_[r]] = std::max(of_tier[number_in_unit_[r]], shared_bytes(r));
  }
  for (std::size_t t = 0; t < shared_.size(); ++t)
    for (const std::size_t n : bytes[t])
      for (int turn = 0; turn < units_.blocks_at_once(); ++turn) {
        STRATA_ASSIGN_OR_RETURN(
            Buffer buffer,
            (t == 0 ? gpu : cpu).allocate(n, Category::optimizer, "optimizer states of the blocks that are trained"));
        shared_[t].push_back(std::move(buffer));
      }
  return {};
}

const Buffer& OptimizerStore::shared_memory(std::size_t r) const {
  const std::size_t at = number_in_unit_[r] * static_cast<std::size_t>(units_.blocks_at_once());
  return shared_[placement(r).home == Tier::gpu ? 0 : 1][at + static_cast<std::size_t>(units_.turn(records()[r].unit))];
}

Status OptimizerStore::allocate(Rank rank, TierArena& gpu, TierArena& cpu, std::vector<std::string>* notes) {
  STRATA_RETURN_IF_ERROR(allocate_windows(gpu, cpu));
  homes_.resize(records().size());
  shadows_.resize(records().size());
  file_records_.resize(records().size());
  std::vector<std::size_t> payloads;
  for (std::size_t r = 0; r < records().size(); ++r) {
    if (placement(r).home == Tier::nvme) {
      file_records_[r] = static_cast<std::int64_t>(payloads.size());
      payloads.push_back(payload_bytes(r));
      continue;
    }
    const std::string what = "optimizer state of " + layout_.units[static_cast<std::size_t>(records()[r].unit)].name;
    TierArena& home = placement(r).home == Tier::gpu ? gpu : cpu;
    STRATA_ASSIGN_OR_RETURN(homes_[r], home.allocate(home_bytes(r), Category::optimizer, what.c_str()));
    if (!needs_shadow(plan_.schedule.shape, r)) continue;
    STRATA_ASSIGN_OR_RETURN(shadows_[r], cpu.allocate(payload_bytes(r), Category::optimizer, ("second " + what).c_str()));
  }
  STRATA_RETURN_IF_ERROR(allocate_shared(gpu, cpu));
  std::vector<char> on_gpu;
  for (std::size_t r = 0; r < records().size(); ++r) on_gpu.push_back(route_of(plan_.schedule.shape, r).on_gpu ? 1 : 0);
  STRATA_RETURN_IF_ERROR(choices_.allocate(records(), on_gpu, streams_.gpu_update, gpu, cpu));
  STRATA_RETURN_IF_ERROR(turns_.allocate(records(), pieces_, on_gpu, gpu, cpu));
  hold_choice(-1, 0);
  STRATA_RETURN_IF_ERROR(rows_.allocate(records(), on_gpu, rank, options_.zero_stage, gpu, cpu));
  if (units_.measures()) {
    std::vector<char> blocks;
    for (int u = 0; u < plan_.schedule.shape.units; ++u) blocks.push_back(units_.is_block(u) ? 1 : 0);
    STRATA_RETURN_IF_ERROR(distances_.allocate(records(), blocks, on_gpu, gpu, cpu));
  }
  std::vector<std::span<std::byte>> windows;
  for (const Buffer& w : cpu_windows_) windows.emplace_back(w.data(), w.size());
  const std::optional<GpuDirectMemory> direct = direct_memory();
  STRATA_ASSIGN_OR_RETURN(file_,
                          NvmeRecords::create(options_.nvme_files, payloads, format::kSlots, options_.nvme, streams_.nvme_read,
                                              streams_.nvme_write, windows, notes, direct ? &*direct : nullptr));
  return {};
}

Status OptimizerStore::allocate_windows(TierArena& gpu, TierArena& cpu) {
  const WindowCounts& counts = plan_.schedule.windows;
  std::size_t in_file = 0, in_gpu = 0;
  std::int64_t longest = 0, longest_image = 0;
  bool some_direct = false, live_on_gpu = false, params_on_gpu = false, params_up = false, params_down = false,
       grads_down = false, grads_up = false;
  for (std::size_t r = 0; r < records().size(); ++r) {
    const UpdateRoute route = route_of(plan_.schedule.shape, r);
    const std::size_t in_window = NvmeRecords::window_bytes(payload_bytes(r));
    // Also of those that no CPU window serves in a step: fill() and visit() have the host look at them.
    if (route.reads_file) in_file = std::max(in_file, in_window);
    if (route.has_gpu_window()) in_gpu = std::max(in_gpu, route.direct ? in_window : payload_bytes(r));
    some_direct = some_direct || route.direct;
    live_on_gpu = live_on_gpu || placement(r).home == Tier::gpu;
    params_on_gpu = params_on_gpu || (!reaches_params(r) && !params_on_nvme(r));
    params_up = params_up || route.params_up;
    params_down = params_down || route.params_down;
    grads_down = grads_down || route.grads_down;
    grads_up = grads_up || route.grads_up;
    longest = std::max(longest, records()[r].range.count);
    longest_image = std::max(longest_image, kF32States.bytes(records()[r].range.count) +
                                                static_cast<std::int64_t>(states()) * format().bytes(records()[r].states));
  }
  const auto n = static_cast<std::size_t>(longest);
  const auto take = [](TierArena& from, std::size_t bytes, const char* what, std::vector<Buffer>& to) -> Status {
    STRATA_ASSIGN_OR_RETURN(Buffer buffer, from.allocate(bytes, Category::io, what));
    to.push_back(std::move(buffer));
    return {};
  };
  for (int w = 0; w < counts.cpu; ++w) STRATA_RETURN_IF_ERROR(take(cpu, in_file, "window of optimizer records", cpu_windows_));
  for (int w = 0; w < counts.gpu; ++w)
    STRATA_RETURN_IF_ERROR(take(gpu, in_gpu, "window of optimizer records on the GPU", gpu_windows_));
  if (some_direct) STRATA_RETURN_IF_ERROR(allocate_direct(gpu, cpu, in_file));
  for (int w = 0; w < counts.params; ++w)
    STRATA_RETURN_IF_ERROR(take(cpu, NvmeRecords::window_bytes(n * size_of(options_.compute)),
                                "window of parameters on their way to NVMe", params_windows_));
  for (int w = 0; w < counts.grads; ++w)
    STRATA_RETURN_IF_ERROR(take(cpu, NvmeRecords::window_bytes(n * size_of(grads_.dtype())),
                                "window of gradients on their way from NVMe", grads_windows_));
  const bool rounds = options_.compute != DType::f32;  // in f32, p itself is copied
  const auto stage = [&](TierArena& from, bool grads, bool params, int count, std::vector<Staging>& to) -> Status {
    to.resize(static_cast<std::size_t>(count));
    for (Staging& s : to) {
      if (grads) {
        STRATA_ASSIGN_OR_RETURN(s.grads, from.allocate(n * size_of(grads_.dtype()), Category::io, "window of gradients"));
      }
      if (params) {
        STRATA_ASSIGN_OR_RETURN(s.params, from.allocate(n * sizeof(bf16), Category::io, "window of parameters"));
      }
    }
    return {};
  };
  STRATA_RETURN_IF_ERROR(stage(cpu, grads_down, params_up && rounds, counts.staging, staging_));
  STRATA_RETURN_IF_ERROR(stage(gpu, grads_up, params_down && rounds, counts.gpu_staging, gpu_staging_));
  if (params_on_gpu && !params_up && rounds) {
    STRATA_ASSIGN_OR_RETURN(rounded_, cpu.allocate(n * sizeof(bf16), Category::io, "rounded parameters of a record"));
  }
  if (separate_ && live_on_gpu) {
    STRATA_ASSIGN_OR_RETURN(
        image_, cpu.allocate(static_cast<std::size_t>(longest_image), Category::io, "host image of an optimizer record"));
  }
  return {};
}

Status OptimizerStore::allocate_direct(TierArena& gpu, TierArena& cpu, std::size_t window_bytes) {
  if (plan_.schedule.windows.cpu == 0) {
    STRATA_ASSIGN_OR_RETURN(direct_image_, cpu.allocate(window_bytes, Category::io, "host image of a record on NVMe"));
  }
  if (streams_.nvme_read.device().planned() != Backend::cuda) return {};
  for (int way = 0; way < 2; ++way) {
    STRATA_ASSIGN_OR_RETURN(Buffer scratch,
                            gpu.allocate(GpuRecordMemory::kDeviceBytes, Category::io, "checksums of records on the GPU"));
    STRATA_ASSIGN_OR_RETURN(Buffer bounce, cpu.allocate(GpuRecordMemory::kHostBytes, Category::io, "headers of records"));
    direct_scratch_.push_back(std::move(scratch));
    direct_bounce_.push_back(std::move(bounce));
  }
  return {};
}

std::optional<GpuDirectMemory> OptimizerStore::direct_memory() const {
  const auto span_of = [](const Buffer& b) { return std::span<std::byte>(b.data(), b.size()); };
  bool some = false;
  for (std::size_t r = 0; r < records().size(); ++r) some = some || route_of(plan_.schedule.shape, r).direct;
  if (!some) return std::nullopt;
  GpuDirectMemory memory;
  for (const Buffer& w : gpu_windows_) memory.windows.push_back(span_of(w));
  if (direct_scratch_.empty()) return memory;
  memory.read_scratch = span_of(direct_scratch_[0]), memory.write_scratch = span_of(direct_scratch_[1]);
  memory.read_bounce = span_of(direct_bounce_[0]), memory.write_bounce = span_of(direct_bounce_[1]);
  return memory;
}

}  // namespace strata
