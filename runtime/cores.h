// The processor cores that a rank computes on, and the memory beside them (NUMA nodes). By hwloc; physical cores, because two
// threads of one core share its vector units and its way to memory, which is all that kernels wait for.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace strata {

// Immutable; any thread.
class CoreMap {
 public:
  // This machine, as far as the calling thread may use it (affinity, control groups). Error unsupported: the system does not
  // say.
  static Result<CoreMap> of_this_machine();
  // A described one, for tests: "package:2 core:4 pu:2" (hwloc(7), synthetic topologies), of which a process may use the
  // hardware threads `usable` ("0-7"; "" : all).
  static Result<CoreMap> synthetic(const std::string& description, const std::string& usable = "");

  // Physical cores with a hardware thread that may be used, at least 1.
  int cores() const;
  // Those that the machine has, or a control group leaves of it, whatever this process may use.
  int cores_of_machine() const;
  // NUMA nodes beside them.
  int nodes() const;
  // The cores of one of `count` ranks that may use the same: neighbours, node by node; where there are fewer cores than ranks,
  // all of them. 0 <= index < count.
  CoreShare share(int index, int count) const;

  struct Impl;  // of cores.cpp

 private:
  explicit CoreMap(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

// Immutable; any thread.
class CoreShare {
 public:
  int cores() const { return last_ - first_; }
  // Numbers of the NUMA nodes whose memory is beside them; of several memories beside the same cores, the first.
  std::vector<int> nodes() const;
  // Whether it makes a difference to stay here: there are cores that belong to others, or memory that is not as near.
  bool is_a_part() const;
  // "hardware threads 0-7, NUMA node 0".
  std::string describe() const;

  // The calling thread runs on these cores only from now on.
  Status bind_this_thread() const;
  // Pages of `memory` that nobody has touched will come from these nodes, in turns where there are several: a page's place then
  // does not depend on who touches it first. What these nodes do not have comes from others.
  Status place(std::span<std::byte> memory) const;
  // Whether the system allows the two: does both for a moment. A sandbox may forbid them. Errors say which.
  Status try_out() const;

 private:
  friend class CoreMap;
  friend class TouchBeside;
  CoreShare(std::shared_ptr<const CoreMap::Impl> map, int first, int last);
  std::shared_ptr<const CoreMap::Impl> map_;
  int first_, last_;  // among the map's cores
};

// While it lives, pages that the calling thread touches first come from the share's nodes: for memory that a library maps and
// touches. A null share changes nothing.
class TouchBeside {
 public:
  explicit TouchBeside(const CoreShare* share);
  ~TouchBeside();
  TouchBeside(const TouchBeside&) = delete;
  TouchBeside& operator=(const TouchBeside&) = delete;

 private:
  struct Before;
  std::unique_ptr<const Before> before_;
};

// Physical cores that this process may use, at least 1.
int usable_cores();

// Threads of rank `index` of `count` that may use the same cores: `requested`, or 0: one for each core of its part, at least 1.
// bind: they stay on that part, where it is one. `why_free` (may be null) receives what keeps them from it.
HostThreads host_threads(int requested, int index, int count, bool bind, Status* why_free = nullptr);

}  // namespace strata
