// Groups whose ranks are threads of one process, for tests and examples, and the group of one rank that a run without a
// launcher uses. Data moves by reading the other ranks' buffers directly, between two meetings of all ranks.
#pragma once

#include <chrono>
#include <memory>

#include "parallel/communicator.h"

namespace strata {

struct ThreadGroupOptions {
  std::chrono::milliseconds timeout{600'000};  // how long a rank may be behind the others
};

// communicator(r) may be called from any thread, once for every rank. Communicators outlive the group.
class ThreadGroup {
 public:
  explicit ThreadGroup(WorldSize size, const ThreadGroupOptions& options = {});
  ~ThreadGroup();
  ThreadGroup(const ThreadGroup&) = delete;
  ThreadGroup& operator=(const ThreadGroup&) = delete;

  std::unique_ptr<Communicator> communicator(Rank rank);

  class Channel;

 private:
  std::shared_ptr<Channel> channel_;
};

// Size 1: every operation is local and never waits.
std::unique_ptr<Communicator> make_single_rank_communicator();

}  // namespace strata
