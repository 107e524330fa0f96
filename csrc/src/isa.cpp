#include "pygrade/isa.hpp"

#if defined(PYGRADE_X86_KERNELS)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace pygrade::inline v0_2 {
namespace {
#if defined(PYGRADE_X86_KERNELS)
struct Processor {
  bool avx2 = false, avx512 = false;
};

// By CPUID, since __builtin_cpu_supports finds nothing where the compiler comes without its runtime library. The
// registers must also be saved by the operating system (XGETBV).
Processor read_processor() noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & fma) == 0 || (c & osxsave) == 0 || (c & avx) == 0) return {};
  unsigned saved = 0, high = 0;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned ymm = 0x06, zmm = 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return {};
  constexpr unsigned avx2 = 1u << 5, f = 1u << 16, dq = 1u << 17, cd = 1u << 28, bw = 1u << 30, vl = 1u << 31;
  constexpr unsigned avx512 = f | dq | cd | bw | vl;
  return {(saved & ymm) == ymm && (b & avx2) != 0, (saved & zmm) == zmm && (b & avx512) == avx512};
}
#endif
}  // namespace

bool isa_available(Isa isa) noexcept {
#if defined(PYGRADE_X86_KERNELS)
  static const Processor processor = read_processor();
  if (isa == Isa::avx2) return processor.avx2;
#if defined(PYGRADE_AVX512_KERNELS)
  if (isa == Isa::avx512) return processor.avx512;
#endif
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
  throw std::invalid_argument("PYGRADE_ISA is '" + std::string(wanted) + "'; expected baseline, avx2 or avx512");
}
}  // namespace

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}
}  // namespace pygrade::inline v0_2
