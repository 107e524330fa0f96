// The instruction sets that the core is compiled for; one is chosen when the process first asks.
#pragma once

#include <string_view>

#include "pygrade/api.hpp"

namespace pygrade::inline v0_2 {
enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };  // avx2 = x86-64-v3, avx512 = x86-64-v4

// Whether this build contains the code and this processor can run it.
PYGRADE_API bool isa_available(Isa isa) noexcept;

// The best available one, or the one that the environment variable PYGRADE_ISA names (baseline, avx2, avx512). Throws
// std::invalid_argument if that one is unknown or unavailable.
PYGRADE_API Isa active_isa();

PYGRADE_API std::string_view isa_name(Isa isa) noexcept;
}  // namespace pygrade::inline v0_2
