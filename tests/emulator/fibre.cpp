#include "tests/emulator/fibre.h"

#include <pthread.h>
#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>
#include <cerrno>

#include "runtime/status.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace strata::gpu_emulated {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

constexpr std::size_t kGuard = 64 * 1024;  // below a stack; a large frame must not step over it
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::size_t kStack = 256 * 1024;  // frames with red zones
#else
constexpr std::size_t kStack = 64 * 1024;
#endif

void before_switch([[maybe_unused]] Fibre& from, [[maybe_unused]] Fibre& to, [[maybe_unused]] bool comes_back) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(comes_back ? &from.fake_stack : nullptr, to.bottom, to.size);
#endif
}

// First thing on the stack that was switched to.
Fibre& arrived(transfer_t transfer) {
  Fibre& from = *static_cast<Fibre*>(transfer.data);
  from.context = transfer.fctx;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.next->fake_stack, nullptr, nullptr);
#endif
  return *from.next;
}

void enter(transfer_t transfer) { arrived(transfer).life(); }

}  // namespace

FibrePool::FibrePool(void (*life)()) : life_(life) {
  pthread_attr_t attributes;
  STRATA_CHECK(pthread_getattr_np(pthread_self(), &attributes) == 0, "a thread knows its stack");
  void* bottom = nullptr;
  pthread_attr_getstack(&attributes, &bottom, &host_.size);
  pthread_attr_destroy(&attributes);
  host_.bottom = static_cast<std::byte*>(bottom);
}

FibrePool::~FibrePool() {
  for (const auto& fibre : fibres_) {
    emptied_stack(*fibre);
    munmap(fibre->bottom - kGuard, kStack + kGuard);
  }
}

Fibre* FibrePool::take() {
  if (free_.empty()) {
    void* memory = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw StatusError(Status::from_errno("mmap", "the stack of a fibre", errno));
    mprotect(memory, kGuard, PROT_NONE);
    auto fibre = std::make_unique<Fibre>();
    fibre->bottom = static_cast<std::byte*>(memory) + kGuard;
    fibre->life = life_;
    // Stacks that begin at the same place of a page would share the same few lines of the cache.
    fibre->size = kStack - fibres_.size() % 61 * 64;
    begin(*fibre);
    fibres_.push_back(std::move(fibre));
    free_.push_back(fibres_.back().get());
  }
  Fibre* fibre = free_.back();
  free_.pop_back();
  return fibre;
}

void FibrePool::begin(Fibre& fibre) const {
  fibre.context = make_fcontext(emptied_stack(fibre), fibre.size, enter);
  fibre.fake_stack = nullptr;
}

void FibrePool::abandon() {
  free_.clear();
  for (const auto& fibre : fibres_) {
    begin(*fibre);
    free_.push_back(fibre.get());
  }
}

void FibrePool::switch_to(Fibre& from, Fibre& to) {
  from.next = &to;
  before_switch(from, to, true);
  arrived(jump_fcontext(to.context, &from));
}

void FibrePool::leave(Fibre& from, Fibre& to) {
  from.next = &to;
  before_switch(from, to, false);
  jump_fcontext(to.context, &from);
  __builtin_unreachable();
}

std::byte* FibrePool::emptied_stack(Fibre& fibre) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fibre.bottom, fibre.size);
#endif
  return fibre.bottom + fibre.size;
}

bool FibrePool::is_stack_guard(const void* address) const {
  const auto* at = static_cast<const std::byte*>(address);
  for (const auto& fibre : fibres_)
    if (at >= fibre->bottom - kGuard && at < fibre->bottom) return true;
  return false;
}

}  // namespace strata::gpu_emulated
