#include "tests/emulator/block.h"

#include <bit>
#include <exception>
#include <utility>

#include "tests/emulator/launched_kernels.h"

namespace strata::gpu_emulated {

constinit thread_local Block* running_block = nullptr;

namespace {

constexpr std::uint32_t kAllLanes = 0xffffffffu;

}  // namespace

Block::Block(const GuardedMemory& memory, const GuardedMemory* host_memory)
    : memory_(memory), host_memory_(host_memory), fibres_(live) {}

Status Block::run(const Launch& launch) {
  note_launch(launch.kernel);
  launch_ = &launch;
  grid_ = launch.grid;
  thread_count_ = launch.threads;
  warp_count_ = launch.threads / kWarp;
  shared_bytes_ = launch.shared_bytes;
  if (shared_.size() < shared_bytes_) shared_.resize(shared_bytes_);
  shadow_.resize(shared_bytes_);
  running_block = this;
  bool clean = true;
  for (place_.z = 0; clean && place_.z < grid_.z; ++place_.z)
    for (place_.y = 0; clean && place_.y < grid_.y; ++place_.y)
      for (place_.x = 0; clean && place_.x < grid_.x; ++place_.x) clean = run_block();
  running_block = nullptr;
  if (clean) return {};
  fibres_.abandon();
  return {Code::internal, std::exchange(finding_, {})};
}

bool Block::run_block() {
  finished_ = at_block_ = 0;
  block_time_ = first_time_ = ++clock_;
  for (int w = 0; w < warp_count_; ++w) {
    Warp& warp = warps_[static_cast<std::size_t>(w)];
    warp.arrived = 0;
    warp.time = clock_;
    release(w, kAllLanes);
  }
  for (int i = 0; i < thread_count_; ++i) {
    Thread& thread = threads_[static_cast<std::size_t>(i)];
    thread.state = State::ready;
    thread.fibre = nullptr;
    thread.copies.clear();
    thread.groups.clear();
  }
  thread_ = 0;
  thread_ = pick();
  Fibre* first = fibres_.take();
  threads_[static_cast<std::size_t>(thread_)].fibre = first;
  FibrePool::switch_to(fibres_.host(), *first);
  return finding_.empty();
}

void Block::live() { running_block->carry_threads(); }

// To its end, or to what it did wrong: then there is a finding.
void Block::run_thread() {
  try {
    launch_->body();
  } catch (const Stopped&) {
  } catch (const std::exception& error) {
    finding_ = where_am_i(thread_) + "threw " + error.what();
  }
}

// A fibre runs one thread after another; while one waits, it waits with it, and another fibre goes on.
void Block::carry_threads() {
  while (true) {
    run_thread();
    if (!finding_.empty()) leave_launch();
    Thread& thread = threads_[static_cast<std::size_t>(thread_)];
    Fibre* mine = thread.fibre;
    thread.state = State::finished;
    ++finished_;
    const int next = pick();
    if (next < 0) {
      if (finished_ < thread_count_) {
        note_divergence();
        leave_launch();
      }
      fibres_.put_back(mine);
      FibrePool::switch_to(*mine, fibres_.host());
      continue;
    }
    Thread& other = threads_[static_cast<std::size_t>(next)];
    thread_ = next;
    if (other.fibre == nullptr) {
      other.fibre = mine;
      continue;
    }
    fibres_.put_back(mine);
    FibrePool::switch_to(*mine, *other.fibre);
  }
}

// The next thread to run, the current warp's before others'; -1: none can.
int Block::pick() {
  if (ready_warps_ == 0) return -1;
  const std::uint32_t from_here = ready_warps_ & (kAllLanes << (thread_ / kWarp));
  const int w = std::countr_zero(from_here != 0 ? from_here : ready_warps_);
  Warp& warp = warps_[static_cast<std::size_t>(w)];
  const int lane = std::countr_zero(warp.ready);
  warp.ready &= warp.ready - 1;
  if (warp.ready == 0) ready_warps_ &= ~(1u << w);
  return w * kWarp + lane;
}

void Block::release(int w, std::uint32_t lanes) {
  warps_[static_cast<std::size_t>(w)].ready = lanes;
  if (lanes != 0) ready_warps_ |= 1u << w;
}

void Block::note_arrival(State state, const char* operation, std::source_location where) {
  Thread& thread = threads_[static_cast<std::size_t>(thread_)];
  thread.state = state;
  thread.operation = operation;
  thread.where = where;
}

// Returns when the current thread has been released.
void Block::run_others() {
  const int next = pick();
  if (next < 0) {
    note_divergence();
    throw Stopped();
  }
  Fibre* mine = threads_[static_cast<std::size_t>(thread_)].fibre;
  Thread& other = threads_[static_cast<std::size_t>(next)];
  if (other.fibre == nullptr) other.fibre = fibres_.take();
  thread_ = next;
  FibrePool::switch_to(*mine, *other.fibre);
}

void Block::meet_warp(const char* operation, std::source_location where, Complete complete) {
  const int w = thread_ / kWarp;
  Warp& warp = warps_[static_cast<std::size_t>(w)];
  const std::uint32_t me = 1u << (thread_ % kWarp);
  note_arrival(State::at_warp, operation, where);
  warp.arrived |= me;
  if (warp.arrived != kAllLanes) return run_others();
  check_meeting(w * kWarp, kWarp);
  if (complete != nullptr) complete(*this, w, warp.exchange[warp.turn]);
  warp.arrived = 0;
  warp.turn ^= 1;
  release(w, kAllLanes & ~me);
}

void Block::sync_warp(std::source_location where) {
  meet_warp("sync_warp", where,
            [](Block& block, int w, Exchange&) { block.warps_[static_cast<std::size_t>(w)].time = ++block.clock_; });
}

void Block::sync_block(std::source_location where) {
  note_arrival(State::at_block, "sync_block", where);
  if (++at_block_ < thread_count_) return run_others();
  check_meeting(0, thread_count_);
  at_block_ = 0;
  block_time_ = ++clock_;
  for (int w = 0; w < warp_count_; ++w) {
    warps_[static_cast<std::size_t>(w)].time = clock_;
    release(w, w == thread_ / kWarp ? kAllLanes & ~(1u << (thread_ % kWarp)) : kAllLanes);
  }
}

// All of `count` threads from `first` on wait: for the same?
void Block::check_meeting(int first, int count) {
  const Thread& expected = threads_[static_cast<std::size_t>(first)];
  for (int i = first + 1; i < first + count; ++i) {
    const Thread& thread = threads_[static_cast<std::size_t>(i)];
    if (thread.operation != expected.operation || thread.where.line() != expected.where.line()) {
      note_divergence();
      throw Stopped();
    }
  }
}

// The launch ends with the finding; all fibres are abandoned where they stand. Kernels own nothing that this could leak.
void Block::leave_launch() { FibrePool::leave(*threads_[static_cast<std::size_t>(thread_)].fibre, fibres_.host()); }

}  // namespace strata::gpu_emulated
