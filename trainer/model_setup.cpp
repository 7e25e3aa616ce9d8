#include "trainer/model_setup.h"

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "model/hf.h"

namespace strata {

Result<ModelConfig> model_config_of(const Config& resolved) {
  if (!resolved.model.hf.empty()) return read_hf_config(resolved.model.hf);
  return model_config(resolved);
}

EngineOptions engine_options(const Config& c, Rank rank) {
  EngineOptions options;
  options.compute = c.precision.compute;
  options.zero_stage = static_cast<int>(c.zero.stage);
  options.prefetch_units = static_cast<int>(c.zero.prefetch_units);
  options.recompute = c.training.recompute == Config::Training::Recompute::full;
  options.micro_batch = c.training.micro_batch_size;
  options.micro_batches = static_cast<int>(c.training.gradient_accumulation_steps);
  options.seq_length = c.training.seq_length;
  options.clip_norm = c.training.clip_grad;
  options.adamw = {
      .beta1 = c.optimizer.beta1, .beta2 = c.optimizer.beta2, .eps = c.optimizer.eps, .weight_decay = c.optimizer.weight_decay};
  options.optimizer.home = c.offload.optimizer.device == Config::Offload::Optimizer::Home::nvme ? Tier::nvme : Tier::cpu;
  options.optimizer.record_size = c.offload.optimizer.record_size;
  char name[48];
  std::snprintf(name, sizeof name, "/state_rank_%05d.bin", rank.v);
  options.optimizer.nvme_file = c.nvme.path + name;
  options.optimizer.durable = c.nvme.durable;
  options.optimizer.io.kind = c.nvme.engine;
  options.optimizer.io.queue_depth = static_cast<unsigned>(c.nvme.queue_depth);
  options.optimizer.io.block_bytes = static_cast<std::size_t>(c.nvme.block_size);
  return options;
}

Schedule schedule_of(const Config& c) {
  return {.kind = c.scheduler.type,
          .lr = c.optimizer.lr,
          .min_lr = c.scheduler.min_lr,
          .warmup_steps = c.scheduler.warmup_steps,
          .total_steps = c.training.steps,
          .decay_steps = c.scheduler.decay_steps};
}

Budgets budgets_of(const Config& c, std::size_t host_memory) {
  Budgets budgets;
  if (c.memory.gpu) budgets.gpu = static_cast<std::size_t>(*c.memory.gpu);
  if (c.memory.cpu) budgets.cpu = static_cast<std::size_t>(*c.memory.cpu);
  if (c.memory.nvme) budgets.nvme = static_cast<std::size_t>(*c.memory.nvme);
  budgets.host_memory = host_memory;
  return budgets;
}

Status write_text_file(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return Status::from_errno("create", path, errno);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const int error = errno;
  if (std::fclose(file) != 0 || !written) return Status::from_errno("write", path, written ? errno : error);
  return {};
}

Result<std::string> read_text_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Status::from_errno("open", path, errno);
  std::ostringstream text;
  text << file.rdbuf();
  if (file.bad()) return Status::from_errno("read", path, errno);
  return text.str();
}

}  // namespace strata
