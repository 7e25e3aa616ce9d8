#include "offload/update_distances.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/kernels/elementwise.h"

namespace strata {
namespace {

std::int64_t elements_of(const UnitLayout& unit) {
  std::int64_t n = 0;
  for (const ParamExtent& param : unit.params) n += param.numel;
  return n;
}

std::uint64_t* numbers(const Buffer& memory) { return reinterpret_cast<std::uint64_t*>(memory.data()); }

}  // namespace

UpdateDistances::~UpdateDistances() {
  if (image_) (void)gpu_to_cpu_.record().drain();
}

Status UpdateDistances::allocate(const std::vector<OptimizerRecord>& records, const std::vector<char>& measured,
                                 const std::vector<char>& on_gpu, TierArena& gpu, TierArena& cpu) {
  std::size_t longest = 0, longest_on_gpu = 0, count = 0, count_on_gpu = 0;
  records_.resize(records.size());
  for (std::size_t r = 0; r < records.size(); ++r) {
    Record& record = records_[r];
    record = {.unit = records[r].unit, .n = records[r].range.count, .on_gpu = on_gpu[r] != 0};
    if (measured[static_cast<std::size_t>(record.unit)] == 0) continue;
    std::size_t& most = record.on_gpu ? longest_on_gpu : longest;
    most = std::max(most, static_cast<std::size_t>(record.n) * sizeof(float));
    ++(record.on_gpu ? count_on_gpu : count);
  }
  const auto take = [](TierArena& from, std::size_t bytes, const char* what, Buffer& to) -> Status {
    STRATA_ASSIGN_OR_RETURN(to, from.allocate(bytes, Category::io, what));
    return {};
  };
  constexpr std::size_t kNumber = sizeof(std::uint64_t);
  if (count > 0) {
    STRATA_RETURN_IF_ERROR(take(cpu, longest, "parameters before their update", kept_));
    STRATA_RETURN_IF_ERROR(take(cpu, count * kNumber, "distances of updates", sums_));
  }
  if (count_on_gpu > 0) {
    STRATA_RETURN_IF_ERROR(take(gpu, longest_on_gpu, "parameters before their update", gpu_kept_));
    STRATA_RETURN_IF_ERROR(take(gpu, count_on_gpu * kNumber, "distances of updates", gpu_sums_));
    STRATA_RETURN_IF_ERROR(take(gpu, kernels::kChangePartials * kNumber, "partial sums of distances", gpu_partials_));
    STRATA_RETURN_IF_ERROR(take(cpu, count_on_gpu * kNumber, "distances of updates on the GPU", image_));
  }
  std::uint64_t *next = count > 0 ? numbers(sums_) : nullptr, *next_on_gpu = count_on_gpu > 0 ? numbers(gpu_sums_) : nullptr;
  for (Record& record : records_)
    if (measured[static_cast<std::size_t>(record.unit)] != 0) record.sum = (record.on_gpu ? next_on_gpu : next)++;
  return {};
}

const float* UpdateDistances::keep(std::size_t r, const float* p, StreamRef stream) {
  const Record& record = records_[r];
  std::byte* const to = (record.on_gpu ? gpu_kept_ : kept_).data();
  copy_async(p, to, static_cast<std::size_t>(record.n) * sizeof(float), stream);
  return reinterpret_cast<const float*>(to);
}

void UpdateDistances::compare(std::size_t r, const float* before, const float* after, StreamRef stream) {
  Record& record = records_[r];
  kernels::sum_relative_changes({.before = before,
                                 .after = after,
                                 .n = record.n,
                                 .sum = record.sum,
                                 .partials = record.on_gpu ? numbers(gpu_partials_) : nullptr},
                                stream);
  record.compared = true;
}

void UpdateDistances::forget() {
  for (Record& record : records_) record.compared = false;
}

Result<std::vector<double>> UpdateDistances::take(const ByteExchange* gather) {
  STRATA_RETURN_IF_ERROR(cpu_update_.synchronize());
  if (image_) {
    gpu_to_cpu_.wait(gpu_update_.record());
    copy_async(gpu_sums_.data(), image_.data(), image_.size(), gpu_to_cpu_);
    STRATA_RETURN_IF_ERROR(gpu_to_cpu_.synchronize());
  }
  if (cpu_update_.backend() == Backend::dry) return std::vector<double>(layout_.units.size(), 0.0);
  std::vector<std::uint64_t> sums(layout_.units.size(), 0);
  for (Record& record : records_) {
    if (!std::exchange(record.compared, false)) continue;
    const std::uint64_t* const found = record.on_gpu ? numbers(image_) + (record.sum - numbers(gpu_sums_)) : record.sum;
    sums[static_cast<std::size_t>(record.unit)] += *found;
  }
  if (gather != nullptr) {
    STRATA_ASSIGN_OR_RETURN(const auto ranks, (*gather)(std::as_bytes(std::span(sums))));
    std::fill(sums.begin(), sums.end(), 0);
    for (const std::vector<std::byte>& rank : ranks) {
      std::vector<std::uint64_t> theirs(sums.size());
      STRATA_CHECK(rank.size() == theirs.size() * sizeof(theirs[0]), "every rank tells the sum of each unit");
      std::memcpy(theirs.data(), rank.data(), rank.size());
      for (std::size_t u = 0; u < sums.size(); ++u) sums[u] += theirs[u];
    }
  }
  std::vector<double> distances;
  for (std::size_t u = 0; u < sums.size(); ++u)
    distances.push_back(static_cast<double>(sums[u]) /
                        (static_cast<double>(elements_of(layout_.units[u])) * kernels::kChangeUnits));
  return distances;
}

}  // namespace strata
