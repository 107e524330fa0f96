#include "pygrade/isa.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace pygrade {

bool isa_available(Isa isa) noexcept {
#if defined(PYGRADE_X86_KERNELS)
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(PYGRADE_AVX512_KERNELS)
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::baseline;
}

std::string_view isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

namespace {

Isa choose() {
  constexpr Isa best_first[] = {Isa::avx512, Isa::avx2, Isa::baseline};
  const char* wanted = std::getenv("PYGRADE_ISA");
  if (wanted == nullptr || *wanted == '\0') {
    for (Isa isa : best_first)
      if (isa_available(isa)) return isa;
  }
  for (Isa isa : best_first) {
    if (isa_name(isa) != wanted) continue;
    if (isa_available(isa)) return isa;
    throw std::invalid_argument("PYGRADE_ISA is '" + std::string(wanted) +
                                "', which this build or processor does not have");
  }
  throw std::invalid_argument("PYGRADE_ISA is '" + std::string(wanted) + "'; want baseline, avx2 or avx512");
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace pygrade
