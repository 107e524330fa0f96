#pragma once

// Functions must be inlined into the kernel that calls them, at every optimization level.
#define PYGRADE_INLINE inline __attribute__((always_inline))
