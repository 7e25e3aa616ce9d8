#include "tests/emulator/launched_kernels.h"

#include <cstdlib>
#include <fstream>
#include <mutex>
#include <set>
#include <string>

#include "tests/emulator/kernel_name.h"

namespace strata::gpu_emulated {
namespace {

class LaunchedKernels {
 public:
  LaunchedKernels() {
    if (const char* file = std::getenv("STRATA_LAUNCHED_KERNELS"); file != nullptr) file_ = file;
  }
  ~LaunchedKernels() {
    if (file_.empty()) return;
    std::set<std::string> names;
    for (const void* const kernel : kernels_) names.insert(kernel_name(kernel));
    std::ofstream out(file_);
    for (const std::string& name : names) out << name << '\n';
  }
  LaunchedKernels(const LaunchedKernels&) = delete;
  LaunchedKernels& operator=(const LaunchedKernels&) = delete;
  void note(const void* kernel) {
    if (file_.empty()) return;
    const std::lock_guard lock(mutex_);
    kernels_.insert(kernel);
  }

 private:
  std::string file_;
  std::mutex mutex_;
  std::set<const void*> kernels_;
};

}  // namespace

void note_launch(const void* kernel) {
  static LaunchedKernels launched;
  launched.note(kernel);
}

}  // namespace strata::gpu_emulated
