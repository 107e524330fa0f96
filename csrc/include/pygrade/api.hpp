// Included by every C++ header: the export macro, and one error instead of many where the compiler's language is older.
#pragma once

#include "pygrade/export.h"

#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 202002L
#error "the C++ headers of pygrade need C++20 (-std=c++20); the C headers, <pygrade/*.h>, do not"
#define PYGRADE_NEEDS <C++20>
#include PYGRADE_NEEDS  // there is no such file: the compiler stops here
#endif
