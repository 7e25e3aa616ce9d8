// NCCL for ranks that are threads of one process, over any GpuQueue whose memory the host may touch: a thread copies between
// the ranks' buffers once their queues have come to the operation, and the queues wait meanwhile, as a GPU does. What really
// makes NCCL hang hangs here too: a peer that does not come, other operations, other sizes.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "parallel/nccl_api.h"

namespace strata::gpu_emulated {

// Shared by the ranks. Thread-safe.
class EmulatedNccl final : public NcclApi {
 public:
  EmulatedNccl();
  ~EmulatedNccl() override;

  std::string version() const override { return "emulated"; }
  Result<NcclId> make_id() override;
  Result<std::unique_ptr<NcclComm>> join(const NcclId& id, Rank rank, WorldSize size, GpuDriver& gpu) override;

  // From now on NCCL's own threads report `error` on the communicators of this rank.
  void break_connections(Rank rank, const Status& error);
  // Operations that ended by moving their bytes, on all ranks.
  int completed() const;

  class Group;

 private:
  void work();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::shared_ptr<Group>> groups_;  // by id
  std::map<int, Status> broken_;
  int ids_ = 0;
  int completed_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace strata::gpu_emulated
