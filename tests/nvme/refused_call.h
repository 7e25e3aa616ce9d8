// A kernel, a device or a container that refuses a system call, imitated by a seccomp filter on one thread.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

namespace strata {

struct RefusedCall {
  int number = 0;  // __NR_...
  int error = 0;
  std::optional<std::uint32_t> third_argument = {};  // only calls with this one: of reads and writes, the number of bytes
};

// Runs `body` in a thread in which the call fails with its error. False, and nothing was run: this machine has no seccomp.
inline bool where_refused(const RefusedCall& call, const std::function<void()>& body) {
  const auto number = static_cast<std::uint32_t>(call.number);
  std::vector<sock_filter> filter = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  if (call.third_argument) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 3));
    filter.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])));
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, *call.third_argument, 0, 1));
  } else {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(call.error)));
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  bool refused = false;
  std::thread([&] {
    refused = ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    if (refused) body();
  }).join();
  return refused;
}

}  // namespace strata
