// What the functions of the fake runtime share.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/emulator/guarded_memory.h"
#include "tests/fake_cuda/fake_cuda.h"
#include "tests/fake_cuda/fake_stream.h"

namespace strata::fake_cuda {

// As the libraries that it stands for have, one for a process. Thread-safe, unless a comment says otherwise.
class State {
 public:
  static State& instance();

  // How a call begins: what it returns instead of what it is for, if it is not success. needs_context: makes one on the
  // thread's device where there is none.
  int begin(const char* function, bool needs_context);
  // How a runtime call ends: the code is left for cudaGetLastError().
  static cudaError_t end(int code);
  static cudaError_t take_last_error();
  static int& current_device();  // of the thread

  bool is_lost();
  void kernel_went_wrong(const std::string& finding);
  void note_misuse(const std::string& what);

  void add(Stream* stream);
  void add(Event* event);
  bool remove(Stream* stream);
  bool remove(Event* event);
  bool has(const Stream* stream);
  bool has(const Event* event);
  // Waits until every stream has done what it was given, as freeing may.
  void synchronize_all();

  cudaError_t allocate(std::size_t bytes, void** to);
  cudaError_t free(void* data);
  cudaError_t allocate_host(std::size_t bytes, void** to);
  cudaError_t free_host(void* data);
  cudaError_t add_range(void* data, std::size_t bytes);
  cudaError_t remove_range(void* data);
  // 1: all of it is the device's or page-locked; 0: none of it; -1: a part.
  int is_known(const void* data, std::size_t bytes);
  bool is_host(const void* data, std::size_t bytes);
  void note_pageable(std::size_t bytes);

  Options options() {
    const std::lock_guard lock(mutex);
    return settings;
  }

  std::mutex mutex;  // of all below that is not itself thread-safe
  Options settings;
  gpu_emulated::GuardedMemory device_memory, host_memory;
  std::map<std::string, std::pair<int, int>> failures;  // function: calls until then, code
  std::map<std::string, int> call_counts;
  int lost = 0;
  std::set<Stream*> streams;
  std::set<Event*> events;
  std::map<char*, std::size_t> device_blocks, ranges;  // bytes as they were asked for; of memory that was registered
  std::vector<std::string> misused;
  std::set<int> contexts;
  std::size_t pageable = 0;
};

}  // namespace strata::fake_cuda
