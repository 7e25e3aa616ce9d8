// What a block says when a kernel breaks a rule, and the accesses that are checked.
#include <algorithm>
#include <cstring>

#include "tests/emulator/block.h"
#include "tests/emulator/guarded_memory.h"
#include "tests/emulator/kernel_name.h"

namespace strata::gpu_emulated {
namespace {

std::string text(const std::source_location& where) {
  const char* slash = std::strrchr(where.file_name(), '/');
  return std::string(slash ? slash + 1 : where.file_name()) + ":" + std::to_string(where.line());
}

}  // namespace

std::string Block::where_am_i(int thread) const {
  const auto number = [](std::int64_t i) { return std::to_string(i); };
  return "kernel " + kernel_name(launch_->kernel) + ", block (" + number(place_.x) + ", " + number(place_.y) + ", " +
         number(place_.z) + "), thread " + number(thread) + ": ";
}

void Block::fail_thread(int thread, const std::string& what, std::source_location where) {
  finding_ = where_am_i(thread) + what + " (" + text(where) + ")";
  throw Stopped();
}

std::uintptr_t Block::emptied_stack() {
  return reinterpret_cast<std::uintptr_t>(FibrePool::emptied_stack(*threads_[static_cast<std::size_t>(thread_)].fibre));
}

void Block::note_global_fault() {
  finding_ = where_am_i(thread_) + (is_stack_guard(fault_address) ? "its local variables do not fit the fibre's stack"
                                                                  : "touched global memory at " + describe(fault_address));
}

std::string Block::describe(const void* address) const {
  const std::string found = memory_.describe(address);
  const bool is_far = found.find("far from") != std::string::npos;
  return is_far && host_memory_ != nullptr ? host_memory_->describe(address) : found;
}

void Block::check_end(const void* address, std::size_t bytes, std::source_location where) {
  for (const GuardedMemory* const memory : {&memory_, host_memory_})
    if (memory != nullptr && memory->overhangs(address, bytes))
      fail("touches " + std::to_string(bytes) + " bytes of global memory that end behind an allocation: the last is at " +
               memory->describe(static_cast<const std::byte*>(address) + bytes - 1),
           where);
}

// No exception: it could not pass the instruction that failed.
void Block::fail_global() {
  note_global_fault();
  leave_launch();
}

// Of the lanes of a warp, by where they are: "lanes 0-15 at shuffle_xor (x.cu:7), lanes 16-31 finished".
std::string Block::whereabouts(int warp) const {
  const auto state_of = [&](int lane) {
    const Thread& thread = threads_[static_cast<std::size_t>(warp * kWarp + lane)];
    return thread.state == State::finished ? std::string("finished")
                                           : std::string("at ") + thread.operation + " (" + text(thread.where) + ")";
  };
  std::string all;
  for (int first = 0, end = 0; first < kWarp; first = end) {
    const std::string state = state_of(first);
    for (end = first + 1; end < kWarp && state_of(end) == state;) ++end;
    all += (all.empty() ? "" : ", ") + std::string(end == first + 1 ? "lane " : "lanes ") + std::to_string(first) +
           (end == first + 1 ? "" : "-" + std::to_string(end - 1)) + " " + state;
  }
  return all;
}

void Block::note_divergence() {
  std::string what = "threads wait for others that do not come:";
  std::string before;
  for (int w = 0; w < warp_count_; ++w) {
    const std::string here = whereabouts(w);
    if (here != before) what += (w == 0 ? " warp " : "; warp ") + std::to_string(w) + ": " + here;
    before = here;
  }
  if (warp_count_ > 1) what += " (a warp that is not named is where the one before it is)";
  finding_ = where_am_i(thread_) + what;
}

Moment Block::moment(int thread) const {
  return {.thread = thread,
          .warp = warps_[static_cast<std::size_t>(thread / kWarp)].time,
          .block = block_time_,
          .first = first_time_};
}

void Block::fail_shared(int thread, const char* did, std::size_t offset, std::size_t bytes, Finding finding,
                        std::source_location where) {
  const std::string other = finding.other == Finding::kSeveral ? "several threads" : "thread " + std::to_string(finding.other);
  std::string what =
      std::string(did) + " shared memory [" + std::to_string(offset) + ", " + std::to_string(offset + bytes) + "), ";
  switch (finding.kind) {
    case Finding::Kind::none: break;
    case Finding::Kind::uninitialised: what += "which nothing has written yet"; break;
    case Finding::Kind::arriving:
      what += "into which an asynchronous copy of " + other + " is on its way: no copy_async_wait";
      break;
    case Finding::Kind::written_by_other: what += "a race: " + other + " wrote it since the last barrier"; break;
    case Finding::Kind::read_by_other: what += "a race: " + other + " read it since the last barrier"; break;
  }
  fail_thread(thread, what, where);
}

const std::byte* Block::read_shared(int thread, std::size_t offset, std::size_t bytes, std::source_location where) {
  if (const Finding finding = shadow_.read(offset, bytes, moment(thread)))
    fail_shared(thread, "reads", offset, bytes, finding, where);
  return shared_.data() + offset;
}

std::byte* Block::write_shared(std::size_t offset, std::size_t bytes, std::source_location where) {
  if (const Finding finding = shadow_.write(offset, bytes, moment(thread_)))
    fail_shared(thread_, "writes", offset, bytes, finding, where);
  return shared_.data() + offset;
}

void Block::copy_later(std::size_t offset, const void* from, bool valid, std::source_location where) {
  AsyncCopy copy = {.offset = offset, .data = {}};
  if (valid) std::memcpy(copy.data.data(), from, copy.data.size());
  if (const Finding finding = shadow_.write_later(offset, copy.data.size(), moment(thread_)))
    fail_shared(thread_, "copies to", offset, copy.data.size(), finding, where);
  threads_[static_cast<std::size_t>(thread_)].copies.push_back(copy);
}

void Block::commit_copies() {
  Thread& thread = threads_[static_cast<std::size_t>(thread_)];
  thread.groups.push_back(thread.copies.size());
}

// Groups arrive in order, as late as they may: until then whoever reads finds the copy on its way.
void Block::wait_copies(std::size_t pending) {
  Thread& thread = threads_[static_cast<std::size_t>(thread_)];
  if (thread.groups.size() <= pending) return;
  const std::size_t groups = thread.groups.size() - pending;
  const std::size_t copies = thread.groups[groups - 1];
  for (std::size_t i = 0; i < copies; ++i) {
    const AsyncCopy& copy = thread.copies[i];
    std::memcpy(shared_.data() + copy.offset, copy.data.data(), copy.data.size());
    shadow_.arrive(copy.offset, copy.data.size(), moment(thread_));
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<std::ptrdiff_t>(copies));
  thread.groups.erase(thread.groups.begin(), thread.groups.begin() + static_cast<std::ptrdiff_t>(groups));
  for (std::size_t& end : thread.groups) end -= copies;
}

}  // namespace strata::gpu_emulated
