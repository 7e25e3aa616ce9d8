#include "runtime/kernels/isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>

namespace strata::kernels {
namespace {

#if defined(__x86_64__)
// By hand: clang 14 does not know this feature's name. Meaningful where AVX2 is usable.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

std::vector<Isa> detect() {
  std::vector<Isa> isas = {Isa::generic};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (avx2) isas.push_back(Isa::avx2);
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    isas.push_back(Isa::avx512);
#endif
  return isas;
}

bool is_available(Isa isa) {
  const auto& isas = available_isas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

std::string names_of_available() {
  std::string names;
  for (const Isa isa : available_isas()) names += std::string(names.empty() ? "" : ", ") + to_string(isa);
  return names;
}

Isa from_environment() {
  const char* wanted = std::getenv("STRATA_ISA");
  if (wanted == nullptr || *wanted == '\0') return available_isas().back();
  for (const Isa isa : available_isas())
    if (std::string(wanted) == to_string(isa)) return isa;
  throw StatusError(Status(Code::invalid_config, std::string("environment variable STRATA_ISA is '") + wanted +
                                                     "'; this machine offers " + names_of_available() +
                                                     "; unset it to use the fastest"));
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa = from_environment();
  return isa;
}

}  // namespace

const char* to_string(Isa isa) {
  switch (isa) {
    case Isa::generic: return "generic";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
  }
  return "?";
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

Isa active_isa() { return chosen().load(std::memory_order_relaxed); }

Status set_isa(Isa isa) {
  if (!is_available(isa))
    return {Code::unsupported, std::string("instruction set ") + to_string(isa) + " is not available; this machine offers " +
                                   names_of_available()};
  chosen().store(isa, std::memory_order_relaxed);
  return {};
}

}  // namespace strata::kernels
