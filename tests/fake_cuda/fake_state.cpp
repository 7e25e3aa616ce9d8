#include "tests/fake_cuda/fake_state.h"

#include <cstdio>

namespace strata::fake_cuda {
namespace {

thread_local int last_error = 0;
thread_local int thread_device = 0;

// 256 bytes that are no multiple of more, from memory that is aligned to pages and ends at one.
constexpr std::size_t kAlignment = 256;

}  // namespace

State& State::instance() {
  static State* const state = new State();  // for ever: destructors of static objects call CUDA
  return *state;
}

int& State::current_device() { return thread_device; }

int State::begin(const char* function, bool needs_context) {
  const std::lock_guard lock(mutex);
  ++call_counts[function];
  if (needs_context) contexts.insert(thread_device);
  if (lost != 0) return lost;
  const auto found = failures.find(function);
  if (found == failures.end() || --found->second.first > 0) return 0;
  const int code = found->second.second;
  failures.erase(found);
  return code;
}

cudaError_t State::end(int code) {
  if (code != 0) last_error = code;
  return static_cast<cudaError_t>(code);
}

cudaError_t State::take_last_error() {
  const int code = last_error;
  last_error = 0;
  return static_cast<cudaError_t>(code);
}

bool State::is_lost() {
  const std::lock_guard lock(mutex);
  return lost != 0;
}

void State::kernel_went_wrong(const std::string& finding) {
  std::fprintf(stderr, "fake CUDA: %s\n", finding.c_str());
  const std::lock_guard lock(mutex);
  if (lost == 0) lost = cudaErrorIllegalAddress;
}

void State::note_misuse(const std::string& what) {
  const std::lock_guard lock(mutex);
  misused.push_back(what);
}

void State::add(Stream* stream) {
  const std::lock_guard lock(mutex);
  streams.insert(stream);
}
void State::add(Event* event) {
  const std::lock_guard lock(mutex);
  events.insert(event);
}
bool State::remove(Stream* stream) {
  const std::lock_guard lock(mutex);
  return streams.erase(stream) == 1;
}
bool State::remove(Event* event) {
  const std::lock_guard lock(mutex);
  return events.erase(event) == 1;
}
bool State::has(const Stream* stream) {
  const std::lock_guard lock(mutex);
  return streams.contains(const_cast<Stream*>(stream));
}
bool State::has(const Event* event) {
  const std::lock_guard lock(mutex);
  return events.contains(const_cast<Event*>(event));
}

void State::synchronize_all() {
  std::vector<std::shared_ptr<Point>> points;
  {
    const std::lock_guard lock(mutex);
    for (Stream* const stream : streams) {
      points.push_back(std::make_shared<Point>());
      stream->push([point = points.back()] { point->reach(); });
    }
  }
  for (const auto& point : points) point->wait();
}

cudaError_t State::allocate(std::size_t bytes, void** to) {
  const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::lock_guard lock(mutex);
  if (rounded + device_memory.bytes() > settings.memory_bytes) return cudaErrorMemoryAllocation;
  // It ends at a page: an odd number of pieces begins at an odd one.
  const std::size_t pad = (rounded / kAlignment) % 2 == 0 ? kAlignment : 0;
  const Result<std::byte*> data = device_memory.allocate(rounded + pad, kAlignment);
  if (!data.ok()) return cudaErrorMemoryAllocation;
  device_blocks[reinterpret_cast<char*>(*data)] = bytes;
  *to = *data;
  return cudaSuccess;
}

cudaError_t State::free(void* data) {
  if (data == nullptr) return cudaSuccess;
  {
    const std::lock_guard lock(mutex);
    if (!device_blocks.contains(static_cast<char*>(data))) return cudaErrorInvalidValue;
  }
  synchronize_all();
  const std::lock_guard lock(mutex);
  device_blocks.erase(static_cast<char*>(data));
  (void)device_memory.free(static_cast<std::byte*>(data));
  return cudaSuccess;
}

cudaError_t State::allocate_host(std::size_t bytes, void** to) {
  const Result<std::byte*> data = host_memory.allocate(bytes, 16);
  if (!data.ok()) return cudaErrorMemoryAllocation;
  *to = *data;
  return cudaSuccess;
}

cudaError_t State::free_host(void* data) {
  if (data == nullptr) return cudaSuccess;
  if (!host_memory.contains(data, 1)) return cudaErrorInvalidValue;
  synchronize_all();
  if (!host_memory.free(static_cast<std::byte*>(data))) note_misuse("a store beside page-locked memory");
  return cudaSuccess;
}

cudaError_t State::add_range(void* data, std::size_t bytes) {
  if (data == nullptr || bytes == 0) return cudaErrorInvalidValue;
  char* const first = static_cast<char*>(data);
  const std::lock_guard lock(mutex);
  auto after = ranges.lower_bound(first);
  if (after != ranges.end() && after->first < first + bytes) return cudaErrorHostMemoryAlreadyRegistered;
  if (after != ranges.begin() && (--after)->first + after->second > first) return cudaErrorHostMemoryAlreadyRegistered;
  ranges[first] = bytes;
  return cudaSuccess;
}

cudaError_t State::remove_range(void* data) {
  {
    const std::lock_guard lock(mutex);
    if (!ranges.contains(static_cast<char*>(data))) return cudaErrorHostMemoryNotRegistered;
  }
  synchronize_all();
  const std::lock_guard lock(mutex);
  ranges.erase(static_cast<char*>(data));
  return cudaSuccess;
}

namespace {

// 1, 0 or -1 as State::is_known().
int part_of(const char* data, std::size_t bytes, const char* first, std::size_t size) {
  if (data >= first + size || data + bytes <= first) return 0;
  return data >= first && data + bytes <= first + size ? 1 : -1;
}

}  // namespace

bool State::is_host(const void* data, std::size_t bytes) {
  if (host_memory.contains(data, bytes)) return true;
  const std::lock_guard lock(mutex);
  for (const auto& [first, size] : ranges)
    if (part_of(static_cast<const char*>(data), bytes, first, size) == 1) return true;
  return false;
}

int State::is_known(const void* data, std::size_t bytes) {
  if (host_memory.contains(data, bytes)) return 1;
  const std::lock_guard lock(mutex);
  for (const auto* const known : {&device_blocks, &ranges})
    for (const auto& [first, size] : *known)
      if (const int part = part_of(static_cast<const char*>(data), bytes, first, size); part != 0) return part;
  return 0;
}

void State::note_pageable(std::size_t bytes) {
  const std::lock_guard lock(mutex);
  pageable += bytes;
}

// ---- what tests ask ----

void reset(const Options& options) {
  State& state = State::instance();
  (void)State::take_last_error();
  State::current_device() = 0;
  const std::lock_guard lock(state.mutex);
  state.settings = options;
  state.failures.clear();
  state.call_counts.clear();
  state.misused.clear();
  state.contexts.clear();
  state.lost = 0;
  state.pageable = 0;
}

void fail(const std::string& function, int code, int nth) {
  State& state = State::instance();
  const std::lock_guard lock(state.mutex);
  state.failures[function] = {nth, code};
}

void lose_device(int code) {
  State& state = State::instance();
  const std::lock_guard lock(state.mutex);
  state.lost = code;
}

std::map<std::string, int> calls() {
  State& state = State::instance();
  const std::lock_guard lock(state.mutex);
  return state.call_counts;
}

std::string living() {
  State& state = State::instance();
  std::string all;
  const auto add = [&](std::size_t count, const char* what) {
    if (count > 0) all += (all.empty() ? "" : ", ") + std::to_string(count) + " " + what;
  };
  const std::lock_guard lock(state.mutex);
  add(state.streams.size(), "streams");
  add(state.events.size(), "events");
  add(state.device_blocks.size(), "device allocations");
  add(state.host_memory.count(), "host allocations");
  add(state.ranges.size(), "registered ranges");
  return all;
}

std::vector<std::string> misuse() {
  State& state = State::instance();
  const std::lock_guard lock(state.mutex);
  return state.misused;
}

std::vector<int> contexts() {
  State& state = State::instance();
  const std::lock_guard lock(state.mutex);
  return {state.contexts.begin(), state.contexts.end()};
}

std::size_t pageable_bytes() {
  State& state = State::instance();
  const std::lock_guard lock(state.mutex);
  return state.pageable;
}

}  // namespace strata::fake_cuda
