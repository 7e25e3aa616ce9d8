#include "runtime/cores.h"

#include <hwloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

namespace strata {
namespace {

struct FreeTopology {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
struct FreeBitmap {
  void operator()(hwloc_bitmap_s* bitmap) const { hwloc_bitmap_free(bitmap); }
};
using Topology = std::unique_ptr<hwloc_topology, FreeTopology>;
using Bitmap = std::unique_ptr<hwloc_bitmap_s, FreeBitmap>;

Bitmap no_bits() { return Bitmap(hwloc_bitmap_alloc()); }

Status failed(const std::string& what) { return {Code::unsupported, what + ": " + std::generic_category().message(errno)}; }

std::string list(const Bitmap& bitmap) {
  std::array<char, 512> text{};
  hwloc_bitmap_list_snprintf(text.data(), text.size(), bitmap.get());
  return text.data();
}

Result<Topology> new_topology() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return failed("hwloc cannot begin");
  return Topology(topology);
}

Result<Topology> loaded(Topology topology) {
  if (hwloc_topology_load(topology.get()) != 0) return failed("hwloc cannot read the cores");
  return topology;
}

// The hardware threads of `usable`, core by core.
std::vector<Bitmap> cores_of(hwloc_topology_t topology, const Bitmap& usable) {
  const bool has_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0;  // some virtual machines do not tell
  const hwloc_obj_type_t type = has_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
  std::vector<Bitmap> cores;
  for (hwloc_obj_t core = nullptr; (core = hwloc_get_next_obj_by_type(topology, type, core)) != nullptr;) {
    Bitmap threads = no_bits();
    hwloc_bitmap_and(threads.get(), core->cpuset, usable.get());
    if (hwloc_bitmap_iszero(threads.get()) == 0) cores.push_back(std::move(threads));
  }
  return cores;
}

// Without fast or far memory that is beside the same cores as a node of a lower number: it is not for everything.
std::vector<hwloc_obj_t> memory_of(hwloc_topology_t topology) {
  std::vector<hwloc_obj_t> nodes;
  for (hwloc_obj_t node = nullptr; (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != nullptr;) {
    const auto same = std::find_if(nodes.begin(), nodes.end(),
                                   [&](hwloc_obj_t other) { return hwloc_bitmap_isequal(other->cpuset, node->cpuset) != 0; });
    if (same == nodes.end()) {
      nodes.push_back(node);
    } else if (node->os_index < (*same)->os_index) {
      *same = node;
    }
  }
  return nodes;
}

hwloc_membind_policy_t policy_for(const Bitmap& nodes) {
  return hwloc_bitmap_weight(nodes.get()) > 1 ? HWLOC_MEMBIND_INTERLEAVE : HWLOC_MEMBIND_BIND;
}

}  // namespace

struct CoreMap::Impl {
  Topology topology;
  std::vector<Bitmap> cores;        // of each core, the hardware threads that may be used
  std::vector<hwloc_obj_t> memory;  // NUMA nodes

  static Result<CoreMap> make(Topology topology, const Bitmap& usable) {
    auto impl = std::make_shared<Impl>();
    impl->cores = cores_of(topology.get(), usable);
    impl->memory = memory_of(topology.get());
    impl->topology = std::move(topology);
    if (impl->cores.empty()) return Status(Code::unsupported, "hwloc finds no core that may be used");
    return CoreMap(std::move(impl));
  }

  int all() const { return static_cast<int>(cores.size()); }
  Bitmap threads(int first, int last) const {
    Bitmap set = no_bits();
    for (int i = first; i < last; ++i) hwloc_bitmap_or(set.get(), set.get(), cores[static_cast<std::size_t>(i)].get());
    return set;
  }
  Bitmap nodes(int first, int last) const {
    const Bitmap used = threads(first, last);
    Bitmap set = no_bits();
    for (const hwloc_obj_t node : memory)
      if (hwloc_bitmap_intersects(node->cpuset, used.get()) != 0) hwloc_bitmap_set(set.get(), node->os_index);
    return set;
  }
};

CoreMap::CoreMap(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Result<CoreMap> CoreMap::of_this_machine() {
  STRATA_ASSIGN_OR_RETURN(Topology topology, new_topology());
  STRATA_ASSIGN_OR_RETURN(topology, loaded(std::move(topology)));
  const Bitmap usable = no_bits();
  if (hwloc_get_cpubind(topology.get(), usable.get(), HWLOC_CPUBIND_THREAD) != 0) return failed("hwloc: affinity of a thread");
  return Impl::make(std::move(topology), usable);
}

Result<CoreMap> CoreMap::synthetic(const std::string& description, const std::string& usable) {
  STRATA_ASSIGN_OR_RETURN(Topology topology, new_topology());
  if (hwloc_topology_set_synthetic(topology.get(), description.c_str()) != 0) return failed("hwloc: '" + description + "'");
  STRATA_ASSIGN_OR_RETURN(topology, loaded(std::move(topology)));
  const Bitmap threads = no_bits();
  if (usable.empty()) {
    hwloc_bitmap_fill(threads.get());
  } else if (hwloc_bitmap_list_sscanf(threads.get(), usable.c_str()) != 0) {
    return failed("hwloc: '" + usable + "'");
  }
  return Impl::make(std::move(topology), threads);
}

int CoreMap::cores() const { return impl_->all(); }
int CoreMap::cores_of_machine() const {
  return std::max(impl_->all(), hwloc_get_nbobjs_by_type(impl_->topology.get(), HWLOC_OBJ_CORE));
}
int CoreMap::nodes() const { return hwloc_bitmap_weight(impl_->nodes(0, impl_->all()).get()); }

CoreShare CoreMap::share(int index, int count) const {
  STRATA_CHECK(index >= 0 && index < count, "share " + std::to_string(index) + " of " + std::to_string(count));
  if (impl_->all() < count) return {impl_, 0, impl_->all()};
  const auto begin = [&](std::int64_t i) { return static_cast<int>(i * impl_->all() / count); };
  return {impl_, begin(index), begin(index + 1)};
}

CoreShare::CoreShare(std::shared_ptr<const CoreMap::Impl> map, int first, int last)
    : map_(std::move(map)), first_(first), last_(last) {}

std::vector<int> CoreShare::nodes() const {
  const Bitmap set = map_->nodes(first_, last_);
  std::vector<int> numbers;
  for (int i = hwloc_bitmap_first(set.get()); i >= 0; i = hwloc_bitmap_next(set.get(), i)) numbers.push_back(i);
  return numbers;
}

bool CoreShare::is_a_part() const {
  const auto nodes_of_machine = hwloc_get_nbobjs_by_type(map_->topology.get(), HWLOC_OBJ_NUMANODE);
  return cores() < map_->all() || nodes_of_machine > 1;
}

std::string CoreShare::describe() const {
  const auto named = [](const char* what, const Bitmap& set) {
    return what + std::string(hwloc_bitmap_weight(set.get()) > 1 ? "s " : " ") + list(set);
  };
  return named("hardware thread", map_->threads(first_, last_)) + ", " + named("NUMA node", map_->nodes(first_, last_));
}

Status CoreShare::bind_this_thread() const {
  const Bitmap threads = map_->threads(first_, last_);
  if (hwloc_set_cpubind(map_->topology.get(), threads.get(), HWLOC_CPUBIND_THREAD) == 0) return {};
  return failed("a thread cannot be bound to hardware threads " + list(threads));
}

Status CoreShare::place(std::span<std::byte> memory) const {
  const Bitmap set = map_->nodes(first_, last_);
  if (memory.empty() || hwloc_set_area_membind(map_->topology.get(), memory.data(), memory.size(), set.get(), policy_for(set),
                                               HWLOC_MEMBIND_BYNODESET) == 0)
    return {};
  return failed("memory cannot be placed on NUMA nodes " + list(set));
}

Status CoreShare::try_out() const {
  const Bitmap before = no_bits();
  if (hwloc_get_cpubind(map_->topology.get(), before.get(), HWLOC_CPUBIND_THREAD) != 0)
    return failed("hwloc: affinity of a thread");
  STRATA_RETURN_IF_ERROR(bind_this_thread());
  if (hwloc_set_cpubind(map_->topology.get(), before.get(), HWLOC_CPUBIND_THREAD) != 0)
    return failed("a thread cannot be bound to hardware threads " + list(before));
  const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* page = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return failed("mmap");
  Status placed = place({static_cast<std::byte*>(page), bytes});
  ::munmap(page, bytes);
  return placed;
}

struct TouchBeside::Before {
  std::shared_ptr<const CoreMap::Impl> map;
  Bitmap nodes = no_bits();
  hwloc_membind_policy_t policy = HWLOC_MEMBIND_DEFAULT;
};

TouchBeside::TouchBeside(const CoreShare* share) {
  if (share == nullptr) return;
  auto before = std::make_unique<Before>();
  before->map = share->map_;
  const hwloc_topology_t topology = share->map_->topology.get();
  constexpr int kFlags = HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET;
  if (hwloc_get_membind(topology, before->nodes.get(), &before->policy, kFlags) != 0) return;
  // Two names for what a thread begins with; only the other one gives that back.
  if (before->policy == HWLOC_MEMBIND_FIRSTTOUCH) before->policy = HWLOC_MEMBIND_DEFAULT;
  const Bitmap set = share->map_->nodes(share->first_, share->last_);
  if (hwloc_set_membind(topology, set.get(), policy_for(set), kFlags) == 0) before_ = std::move(before);
}

TouchBeside::~TouchBeside() {
  if (!before_) return;
  (void)hwloc_set_membind(before_->map->topology.get(), before_->nodes.get(), before_->policy,
                          HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET);
}

int usable_cores() {
  const Result<CoreMap> map = CoreMap::of_this_machine();
  return map.ok() ? map->cores() : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

HostThreads host_threads(int requested, int index, int count, bool bind, Status* why_free) {
  const Result<CoreMap> map = CoreMap::of_this_machine();
  HostThreads threads(requested > 0 ? requested : std::max(1, (map.ok() ? map->cores() : usable_cores()) / count));
  if (!bind) return threads;
  Status tried = map.status();
  if (tried.ok()) {
    auto share = std::make_shared<const CoreShare>(map->share(index, count));
    if (!share->is_a_part()) return threads;
    tried = share->try_out();
    if (tried.ok()) threads.cores = std::move(share);
  }
  if (why_free != nullptr) *why_free = tried;
  return threads;
}

}  // namespace strata
