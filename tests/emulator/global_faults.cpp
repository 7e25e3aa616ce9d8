#include "tests/emulator/global_faults.h"

#include <signal.h>
#include <ucontext.h>

#include <cstdint>

#include "runtime/status.h"
#include "tests/emulator/block.h"

namespace strata::gpu_emulated {
namespace {

struct Handlers {
  struct sigaction segv = {}, bus = {};  // who was there before
};
Handlers& previous() {
  static Handlers handlers;
  return handlers;
}

[[noreturn]] void fail() { running_block->fail_global(); }

// Lets the interrupted thread go on in fail(), as if it had called it: no jump out of the handler, so the signal mask and the
// sanitizers' view of the stack stay right.
void redirect(ucontext_t& context, Block& block) {
#if defined(__x86_64__)
  constexpr std::uintptr_t kRedZone = 128;
  auto& registers = context.uc_mcontext.gregs;
  auto stack = static_cast<std::uintptr_t>(registers[REG_RSP]) - kRedZone;
  if (block.is_stack_guard(block.fault_address)) stack = block.emptied_stack();
  registers[REG_RSP] = static_cast<greg_t>(stack / 16 * 16 - 8);
  registers[REG_RIP] = reinterpret_cast<greg_t>(&fail);
#elif defined(__aarch64__)
  auto& registers = context.uc_mcontext;
  if (block.is_stack_guard(block.fault_address)) registers.sp = block.emptied_stack() / 16 * 16;
  registers.pc = reinterpret_cast<std::uintptr_t>(&fail);
#else
#error "say here how a thread continues in another function"
#endif
}

void handle(int signal, siginfo_t* info, void* context) {
  Block* block = running_block;
  if (block == nullptr) {
    // Not ours: the access is made again, and reaches whom it would have reached.
    sigaction(signal, signal == SIGBUS ? &previous().bus : &previous().segv, nullptr);
    return;
  }
  block->fault_address = info->si_addr;
  redirect(*static_cast<ucontext_t*>(context), *block);
}

void install() {
  struct sigaction action = {};
  action.sa_sigaction = handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  STRATA_CHECK(sigaction(SIGSEGV, &action, &previous().segv) == 0 && sigaction(SIGBUS, &action, &previous().bus) == 0,
               "signals can be handled");
}

}  // namespace

GlobalFaults::GlobalFaults() : stack_(std::make_unique<std::byte[]>(kStack)) {
  [[maybe_unused]] static const bool installed = (install(), true);
  stack_t stack = {};
  stack.ss_sp = stack_.get();
  stack.ss_size = kStack;
  STRATA_CHECK(sigaltstack(&stack, &before_) == 0, "a thread may have a stack for signals");
}

GlobalFaults::~GlobalFaults() { sigaltstack(&before_, nullptr); }

}  // namespace strata::gpu_emulated
