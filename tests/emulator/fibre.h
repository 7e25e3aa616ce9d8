// Fibres: stacks that one host thread switches between. Boost.Context's fcontext and not boost::context::fiber: a switch from
// fibre to fibre is one jump of some nanoseconds, and a fibre can be abandoned where it stands without unwinding it.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace strata::gpu_emulated {

struct Fibre {
  void* context = nullptr;      // where it stopped
  std::byte* bottom = nullptr;  // of its stack
  std::size_t size = 0;
  void (*life)() = nullptr;    // never returns
  Fibre* next = nullptr;       // whom it last switched to
  void* fake_stack = nullptr;  // AddressSanitizer's
};

// The fibres of one host thread, kept and used again. Not thread-safe; all calls from the thread that made it.
class FibrePool {
 public:
  // life: what a fibre runs from its first switch on; it must not return.
  explicit FibrePool(void (*life)());
  ~FibrePool();
  FibrePool(const FibrePool&) = delete;
  FibrePool& operator=(const FibrePool&) = delete;

  Fibre& host() { return host_; }  // the thread's own stack
  // One that nobody uses, at the beginning of its life or where it switched away after put_back().
  Fibre* take();
  void put_back(Fibre* fibre) { free_.push_back(fibre); }
  // Takes every fibre back, wherever it stands. What lives on the stacks is abandoned, not destroyed.
  void abandon();
  // Runs `to` until something switches back to `from`, which is the caller.
  static void switch_to(Fibre& from, Fibre& to);
  // For a caller that will be abandoned.
  [[noreturn]] static void leave(Fibre& from, Fibre& to);
  // The top of a stack whose contents nobody needs any more.
  static std::byte* emptied_stack(Fibre& fibre);
  // Whether `address` is in the guard below a stack: it was too small.
  bool is_stack_guard(const void* address) const;

 private:
  void begin(Fibre& fibre) const;

  void (*life_)();
  Fibre host_;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<Fibre*> free_;
};

}  // namespace strata::gpu_emulated
