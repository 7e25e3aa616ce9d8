// What a plan says of the bytes a run writes to its drives, against numbers by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/transformer.h"
#include "trainer/model_setup.h"
#include "trainer/plan.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Every parameter's size is a multiple of 64, so none is padded: an embedding of 256 x 64 = 16384, a block of 4 x 64 x 64
// (attention) + 3 x 64 x 128 (feed-forward) + 2 x 64 (norms) = 41088, a head of 16384 + 64.
constexpr std::uint64_t kParameters = 16384 + 41088 + 16448;

Plan planned(const std::vector<std::string>& overrides, int world = 1) {
  const Config config = *resolve(
      *parse_config("model: {type: llama, vocab_size: 256, hidden_size: 64, num_layers: 1, num_heads: 2, ffn_size: 128}\n"
                    "training: {steps: 100, seq_length: 16, micro_batch_size: 1}\n"
                    "offload: {optimizer: {device: nvme, record_size: 8192}}\ndevice: {backend: host, threads: 1}\n",
                    "t.yaml", overrides),
      WorldSize{world}, {.train = true});
  const std::unique_ptr<Model> model = std::move(make_model(model_config(config))).value();
  Plan plan = *make_plan(*model, engine_options(config, Rank{0}), WorldSize{world},
                         largest_rank(*model, WorldSize{world}, engine_options(config, Rank{0})), 1, Backend::host);
  plan.drives = drive_use_of(config);
  return plan;
}

TEST(DriveWear, IsTheStateOfEveryRecordOnNvme) {
  const Plan f32 = planned({});
  ASSERT_EQ(f32.parameters, static_cast<std::int64_t>(kParameters));
  EXPECT_EQ(nvme_bytes_per_step(f32), 8u * kParameters);                                   // m, v
  EXPECT_EQ(nvme_bytes_per_step(planned({"precision.compute=bf16"})), 12u * kParameters);  // and the master
  EXPECT_EQ(nvme_bytes_per_step(planned({"offload.optimizer.device=cpu"})), 0u);
}

TEST(DriveWear, CountsAllRanks) {
  EXPECT_EQ(nvme_bytes_per_step_of_all(planned({}, 3)), 3 * 8u * kParameters);  // stage 0: each writes everything
  const Plan sharded = planned({"zero.stage=1"}, 2);
  const std::uint64_t block = 8 * 4096, units = 3;
  EXPECT_GE(nvme_bytes_per_step_of_all(sharded), 8u * kParameters);
  EXPECT_LE(nvme_bytes_per_step_of_all(sharded), 8u * kParameters + units * 2 * block);
}

TEST(DriveWear, OfSomeRecordsIsTheirs) {
  Plan plan = planned({});
  plan.update.schedule.shape.placements.at(0).home = Tier::cpu;  // 8192 parameters of the embedding
  EXPECT_EQ(nvme_bytes_per_step(plan), 8u * (kParameters - 8192));
}

TEST(DriveWear, TellsHowLongTheDrivesLast) {
  Plan plan = planned({"device.rates.nvme_endurance=1GB"});  // 591360 bytes a step
  EXPECT_EQ(plan.drives.steps, 100);
  EXPECT_EQ(steps_of_drives(plan), 1691);  // of 1691.02
  const std::string text = format_plan(plan, {});
  EXPECT_THAT(text, HasSubstr("drives: a step writes 577.5 KiB of state a rank, 577.5 KiB in all; 100 steps 59.14 MB; "
                              "rated for 1 GB, they last 1691 steps\n"));
  const auto json = nlohmann::json::parse(plan_to_json(plan))["nvme"];
  EXPECT_EQ(json["written_per_step"], 591360);
  EXPECT_EQ(json["written_per_step_by_all"], 591360);
  EXPECT_EQ(json["steps"], 100);
  EXPECT_EQ(json["written_by_all"], 59136000.0);
  EXPECT_EQ(json["endurance"], 1000000000u);
  EXPECT_EQ(json["steps_of_drives"], 1691);
}

TEST(DriveWear, SaysNoMoreThanIsKnown) {
  const Plan unrated = planned({});
  EXPECT_FALSE(steps_of_drives(unrated));
  EXPECT_THAT(format_plan(unrated, {}), AllOf(HasSubstr("; 100 steps"), Not(HasSubstr("rated"))));
  const Plan nothing = planned({"offload.optimizer.device=cpu", "device.rates.nvme_endurance=1GB"});
  EXPECT_FALSE(steps_of_drives(nothing));
  EXPECT_THAT(format_plan(nothing, {}), Not(HasSubstr("drives:")));
  const Config config = *parse_config("training: {steps: 100}\n", "t.yaml");
  EXPECT_EQ(drive_use_of(config, 60).steps, 40);
  EXPECT_EQ(drive_use_of(config, 120).steps, 0);
}

}  // namespace
}  // namespace strata
