// Plans of known (model, machine) pairs, to the character: tests/golden/plans/<name>.yaml gives <name>.txt, refusals included.
// All are for cuda: what a host kernel needs depends on its instruction set. After a change that is meant to change them,
// STRATA_UPDATE_GOLDEN=1 writes them anew; read the difference.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "model/transformer.h"
#include "trainer/gpu_setup.h"
#include "trainer/model_setup.h"
#include "trainer/plan.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names() {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(STRATA_SOURCE_DIR "/tests/golden/plans"))
    if (entry.path().extension() == ".yaml") found.push_back(entry.path().stem().string());
  std::sort(found.begin(), found.end());
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  // A plan is one thread's work and takes twenty times as long: these are the shortest of each kind.
  std::erase_if(found, [](const std::string& name) {
    return name != "gpt2_124m_workstation" && name != "llama_7b_h100_nvme" && name != "llama_7b_long_context_no_rates";
  });
#endif
  return found;
}

Result<std::string> planned(const std::string& file) {
  STRATA_ASSIGN_OR_RETURN(const Config written, load_config(file));
  const WorldSize world{written.parallel.data == 0 ? 1 : static_cast<int>(written.parallel.data)};
  STRATA_ASSIGN_OR_RETURN(const Config config, resolve(written, world, {.train = true}));
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, make_model(model_config(config)));
  Budgets budgets = budgets_of(config, 0);
  budgets.host_memory.reset();
  STRATA_ASSIGN_OR_RETURN(Plan plan, make_plan(*model, engine_options(config, Rank{0}), world,
                                               largest_rank(*model, world, engine_options(config, Rank{0})),
                                               static_cast<int>(config.device.threads), planned_backend(config), budgets));
  plan.drives = drive_use_of(config);
  const Status fits = check_budgets(plan, budgets);
  return format_plan(plan, budgets) + (fits.ok() ? "\nfits\n" : "\nrefused: " + fits.message() + "\n");
}

class GoldenPlans : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenPlans, AreWhatIsOnRecord) {
  const std::string stem = std::string(STRATA_SOURCE_DIR "/tests/golden/plans/") + GetParam();
  const Result<std::string> plan = planned(stem + ".yaml");
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  EXPECT_EQ(plan->find("refused") != std::string::npos, GetParam().ends_with("_refused"));
  if (std::getenv("STRATA_UPDATE_GOLDEN") != nullptr) std::ofstream(stem + ".txt") << *plan;
  std::ostringstream golden;
  golden << std::ifstream(stem + ".txt").rdbuf();
  EXPECT_EQ(*plan, golden.str());
}

INSTANTIATE_TEST_SUITE_P(Pairs, GoldenPlans, ::testing::ValuesIn(names()), [](const auto& test) { return test.param; });

}  // namespace
}  // namespace strata
