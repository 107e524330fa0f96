// Access to kernels that are compiled once per instruction set.
//
// A family's kernels are in one source, csrc/src/simd/<family>.cpp, compiled into namespace PYGRADE_ISA_NAMESPACE. It
// defines one table of function pointers; everything else is in an unnamed namespace, and no standard-library template
// with external linkage is instantiated. So no object defines a weak symbol that the linker could use for another
// instruction set.
#pragma once

#include "pygrade/isa.hpp"

#if defined(PYGRADE_AVX512_KERNELS)
#define PYGRADE_DECLARE_AVX512_KERNELS(Table, name) \
  namespace avx512 {                                \
  extern const Table name;                          \
  }
#else
namespace pygrade::inline v0_2::detail {
namespace avx2 {}
namespace avx512 = avx2;  // a name that compiles; isa_available never lets it be chosen
}  // namespace pygrade::inline v0_2::detail
#define PYGRADE_DECLARE_AVX512_KERNELS(Table, name)
#endif

#if defined(PYGRADE_X86_KERNELS)
#define PYGRADE_DECLARE_KERNELS(Table, name) \
  namespace baseline {                       \
  extern const Table name;                   \
  }                                          \
  namespace avx2 {                           \
  extern const Table name;                   \
  }                                          \
  PYGRADE_DECLARE_AVX512_KERNELS(Table, name)
#define PYGRADE_KERNELS(name)                                                                         \
  ::pygrade::detail::select_kernels(::pygrade::detail::baseline::name, ::pygrade::detail::avx2::name, \
                                    ::pygrade::detail::avx512::name)
#else
#define PYGRADE_DECLARE_KERNELS(Table, name) \
  namespace baseline {                       \
  extern const Table name;                   \
  }
#define PYGRADE_KERNELS(name) (::pygrade::detail::baseline::name)
#endif

namespace pygrade::inline v0_2::detail {
template <class Table>
const Table& select_kernels(const Table& baseline, const Table& avx2, const Table& avx512) {
  switch (active_isa()) {
    case Isa::avx512:
      return avx512;
    case Isa::avx2:
      return avx2;
    default:
      return baseline;
  }
}
}  // namespace pygrade::inline v0_2::detail
