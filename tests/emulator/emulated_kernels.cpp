// In a file of its own: what links the driver alone needs no kernels.
#include "optim/gpu_kernels.h"
#include "parallel/gpu_kernels.h"
#include "runtime/gpu/kernels/entries.h"
#include "tests/emulator/emulated_driver.h"

namespace strata::gpu_emulated {

std::unique_ptr<EmulatedDriver> make_emulated_driver() { return make_emulated_driver(EmulatedDriver::Options()); }

std::unique_ptr<EmulatedDriver> make_emulated_driver(EmulatedDriver::Options options) {
  auto driver = std::make_unique<EmulatedDriver>(kernel_table(), options);
  driver->add_table(optim_kernel_table());
  driver->add_table(parallel_kernel_table());
  return driver;
}

}  // namespace strata::gpu_emulated
