// Instruction sets the core is compiled for; one is chosen when the process first asks.
#pragma once

#include <string_view>

#include "pygrade/export.h"

namespace pygrade {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };  // avx2 = x86-64-v3, avx512 = x86-64-v4

// True where this build holds the code and this processor runs it.
PYGRADE_API bool isa_available(Isa isa) noexcept;

// The best available one, or what the environment variable PYGRADE_ISA (baseline, avx2, avx512) names.
// Throws std::invalid_argument where that names an unknown or unavailable one.
PYGRADE_API Isa active_isa();

PYGRADE_API std::string_view isa_name(Isa isa) noexcept;

}  // namespace pygrade
