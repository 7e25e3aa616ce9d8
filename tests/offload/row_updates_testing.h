// Steps of an optimizer that treats rows of matrices, in the store, with gradients that are functions of their places: matrices
// that lie in parts, over ranks, records and homes.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "offload/row_updates.h"
#include "optim/optimizer.h"
#include "support.h"

namespace strata::row_updates_testing {

inline constexpr std::int64_t kRows = 330, kColumns = 64;
inline const std::vector<std::int64_t> kParts = {150, 100, 80};  // a cut is 64 rows: parts begin and end inside one
inline constexpr std::int64_t kDownRows = 200, kDownColumns = 96;
inline constexpr int kSteps = 5;

inline StateLayout layout_of_matrices(int world, const ParamGroups& groups) {
  const int other = groups.of("norm", {.decays = false}), matrix = groups.of("qkv", {.projected = true});
  StateLayout layout;
  layout.world = WorldSize{world};
  ParamDecl norm{"norm", 100, other}, qkv{"qkv", kRows * kColumns, matrix, kColumns, row_cut(kRows, kColumns), false, kParts};
  ParamDecl down{"down", kDownRows * kDownColumns, matrix, kDownColumns, row_cut(kDownRows, kDownColumns), true};
  layout.units.push_back(layout_unit("first", {norm, qkv}, layout.world));
  layout.units.push_back(layout_unit("second", {down, {"bias", 70, other}}, layout.world));
  return layout;
}
inline const std::vector<std::vector<Shape>> kMatrixShapes = {{{100}, {kRows, kColumns}}, {{kDownRows, kDownColumns}, {70}}};

inline float weight(int unit, std::int64_t i) { return static_cast<float>((i * 31 + unit * 7) % 197 - 98) * 1e-2f; }
// The norm jumps in the third step, so that the limiter holds it.
inline float gradient(int unit, int step, std::int64_t i) {
  const float size = step == 3 ? 40.0f : 1.0f;
  return size * static_cast<float>((i * i * 13 + i * 7 + unit + 3 * step) % 211 - 105) * 1e-2f;
}

struct Case {
  int world, stage;
  Tier home;
  std::int64_t record_size;
};

// What the run leaves: values and moments of every parameter, by name.
using Values = std::map<std::string, std::vector<float>>;

// control: of the step's thread, as the other one is the communication stream's.
inline void run_rank(Communicator& comm, Communicator& control, const Case& c, const std::shared_ptr<const Optimizer>& method,
                     const std::string& folder, Values& values, std::mutex& mutex) {
  const ParamGroups groups(0.1);
  const StateLayout layout = layout_of_matrices(c.world, groups);
  Device device(Backend::host, 2);
  TierArena gpu(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
  Stream compute(device, "compute"), communication(device, "communication"), update(device, "cpu update"),
      gpu_update(device, "gpu update"), read(device, "read"), write(device, "write"), down(device, "down"), up(device, "up"),
      host(device, "host");
  ParamStore params(layout, kMatrixShapes, {.zero_stage = c.stage}, comm, gpu, cpu, {compute, communication, up, read, write});
  GradStore grads(layout, kMatrixShapes, {.zero_stage = c.stage}, comm, gpu, cpu,
                  {compute, communication, down, up, read, write});
  OptimizerStoreOptions options{.method = method,
                                .groups = groups,
                                .zero_stage = c.stage,
                                .home = c.home,
                                .record_size = c.record_size,
                                .exchange = [&](std::span<const std::byte> mine) { return control.gather_all(mine, "sums"); }};
  if (c.home == Tier::nvme) options.nvme_files = {folder + "/state_" + std::to_string(comm.rank().v)};
  std::vector<std::string> notes;
  auto made = OptimizerStore::create(layout, comm.rank(), options, gpu, cpu, params, grads,
                                     {update, gpu_update, read, write, down, up, host}, &notes);
  ASSERT_TRUE(made.ok()) << made.status().message();
  OptimizerStore& store = **made;
  const Status filled = store.fill([&](const OptimizerRecord& record, RecordState state) {
    zero(record, state);
    const UnitLayout& unit = layout.units[static_cast<std::size_t>(record.unit)];
    for (const ParamPiece& piece : params_in(unit, record.range))
      for (std::int64_t i = 0; i < piece.count; ++i)
        state.p[piece.offset + i] = weight(record.unit * 2 + static_cast<int>(piece.param), piece.first + i);
    return Status();
  });
  ASSERT_TRUE(filled.ok()) << filled.message();
  for (int step = 1; step <= kSteps; ++step) {
    for (int u = 1; u >= 0; --u) {
      const std::vector<TensorRef> tensors = grads.acquire(u);
      for (std::size_t p = 0; p < tensors.size(); ++p)
        compute.ref().enqueue("gradient", [&, g = tensors[p], u, p, step] {
          for (std::int64_t i = 0; comm.rank().v == 0 && i < g.numel(); ++i)
            g.as<float>()[i] = gradient(u * 2 + static_cast<int>(p), step, i);
          return Status();
        });
      grads.reduce(u, 0);
    }
    const Result<bool> kept = store.step({.number = step, .lr = 1e-2, .grad_scale = 0.5}, compute.ref().record());
    ASSERT_TRUE(kept.ok()) << kept.status().message();
  }
  const Status visited = store.visit([&](const OptimizerRecord& record, RecordState state) {
    const UnitLayout& unit = layout.units[static_cast<std::size_t>(record.unit)];
    const std::lock_guard lock(mutex);
    for (const HeldPiece& piece : store.held(record, record.range)) {
      const ParamExtent& param = unit.params[piece.param];
      std::vector<float>& p = values[param.name];
      p.resize(static_cast<std::size_t>(param.numel));
      std::copy_n(state.p + piece.offset, piece.count, p.begin() + piece.first);
      for (std::size_t k = 0; k < method->states().size(); ++k) {
        std::vector<float>& of = values[param.name + (k == 0 ? ".m" : ".v")];
        of.resize(static_cast<std::size_t>(state_count(param, *options.method, groups, 0)));
        std::copy_n((piece.apart ? state.apart[k] : state.values(k)) + piece.state_offset, piece.state_count,
                    of.begin() + piece.first_state);
      }
    }
    return Status();
  });
  ASSERT_TRUE(visited.ok()) << visited.message();
}

inline Values run(const Case& c, const std::shared_ptr<const Optimizer>& method) {
  ThreadGroup group(WorldSize{c.world}), of_control(WorldSize{c.world});
  const auto folder = std::filesystem::temp_directory_path() / ("strata_rows_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  Values values;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int r = 0; r < c.world; ++r)
    threads.emplace_back([&, r] {
      const auto comm = group.communicator(Rank{r}), control = of_control.communicator(Rank{r});
      run_rank(*comm, *control, c, method, folder.string(), values, mutex);
    });
  for (std::thread& thread : threads) thread.join();
  std::filesystem::remove_all(folder);
  return values;
}

// Every case of how rows are shared leaves what `whole` has, to the bit.
inline void expect_the_same_however_rows_are_shared(const Values& whole, const std::shared_ptr<const Optimizer>& method) {
  for (const Case& c : {Case{1, 0, Tier::nvme, 4096}, Case{2, 0, Tier::cpu, 8192}, Case{2, 1, Tier::nvme, 8192},
                        Case{3, 2, Tier::cpu, 4096}, Case{4, 3, Tier::nvme, 20480}}) {
    SCOPED_TRACE(::testing::Message() << c.world << " ranks, stage " << c.stage << ", records of " << c.record_size);
    const Values shared = run(c, method);
    ASSERT_EQ(shared.size(), whole.size());
    for (const auto& [name, values] : whole)
      EXPECT_TRUE(std::equal(values.begin(), values.end(), shared.at(name).begin(), shared.at(name).end())) << name;
  }
}

}  // namespace strata::row_updates_testing
