#pragma once

// Kernels must be inlined into the function that is compiled for an instruction set, at every optimization level.
#define PYGRADE_INLINE inline __attribute__((always_inline))
