// Shared by the tests of offload/: a small model's layout, and one rank with all three stores.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "offload/grad_store.h"
#include "offload/optimizer_store.h"
#include "offload/param_store.h"
#include "optim/adamw.h"
#include "parallel/thread_communicator.h"

namespace strata {

inline constexpr std::int64_t kN = 3 * 4096 + 70;

inline StateLayout layout_of(int world) {
  StateLayout layout;
  layout.world = WorldSize{world};
  layout.units.push_back(layout_unit("first", {{"a", kN, true}}, layout.world));
  layout.units.push_back(layout_unit("second", {{"b", 100, false}, {"c", 5000, true}}, layout.world));
  return layout;
}

inline const std::vector<std::vector<Shape>> kShapes = {{{kN}}, {{100}, {5000}}};

// One rank's optimizer: 4 + 2 records of 4096 parameters over three windows.
struct OneRank {
  explicit OneRank(OptimizerStoreOptions options) : compute_dtype(options.compute) {
    options.record_size = 4096;
    auto made = OptimizerStore::create(layout, Rank{0}, options, gpu, cpu, params, grads,
                                       {update, gpu_update, nvme_read, nvme_write, gpu_to_cpu, cpu_to_gpu, host}, &notes);
    created = made.status();
    if (made.ok()) store = std::move(made).value();
  }

  Status fill() {
    return store->fill([](const OptimizerRecord& r, RecordState s) {
      for (std::int64_t i = 0; i < r.range.count; ++i) {
        s.p[i] = static_cast<float>((r.range.first + i) % 251) * 0.01f - 1.0f;
        for (std::size_t k = 0; k < s.count; ++k) s.values(k)[i] = 0.0f;
      }
      return Status();
    });
  }

  // Enqueues gradients that depend on the step, and the update.
  void step(int number) {
    gradients(number);
    EXPECT_TRUE(store->step({.number = number, .lr = 1e-2}, compute.ref().record()).ok());
  }

  void gradients(int number) {
    for (int u = 0; u < 2; ++u) {
      for (const TensorRef& g : grads.acquire(u))
        compute.ref().enqueue("gradient", [g, u, number] {
          for (std::int64_t i = 0; i < g.numel(); ++i)
            g.as<float>()[i] = static_cast<float>((i * 7 + u + number) % 83 - 41) * 0.1f;
          return Status();
        });
      grads.reduce(u, 0);
    }
  }

  // p and the states of every record in order.
  Result<std::vector<float>> state() {
    std::vector<float> all;
    STRATA_RETURN_IF_ERROR(store->visit([&](const OptimizerRecord& r, RecordState s) {
      all.insert(all.end(), s.p, s.p + r.range.count);
      for (std::size_t k = 0; k < s.count; ++k) all.insert(all.end(), s.values(k), s.values(k) + r.range.count);
      return Status();
    }));
    return all;
  }

  DType compute_dtype;
  StateLayout layout = layout_of(1);
  std::unique_ptr<Communicator> comm = make_single_rank_communicator();
  Device device{Backend::host, 1};
  TierArena gpu{Tier::gpu, std::size_t{16} << 20}, cpu{Tier::cpu, std::size_t{16} << 20};
  Stream compute{device, "compute"}, communication{device, "communication"}, update{device, "cpu update"},
      gpu_update{device, "gpu update"}, nvme_read{device, "read"}, nvme_write{device, "write"}, gpu_to_cpu{device, "down"},
      cpu_to_gpu{device, "up"}, host{device, "host"};
  ParamStore params{
      layout, kShapes, {.dtype = compute_dtype}, *comm, gpu, cpu, {compute, communication, cpu_to_gpu, nvme_read, nvme_write}};
  GradStore grads{
      layout, kShapes, {}, *comm, gpu, cpu, {compute, communication, gpu_to_cpu, cpu_to_gpu, nvme_read, nvme_write}};
  std::unique_ptr<OptimizerStore> store;
  Status created;
  std::vector<std::string> notes;
};

}  // namespace strata
