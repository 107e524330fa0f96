/* Marks the public API. Of it, the shared library exports the C ABI (pygrade_…); the C++ API is in the static library.
 * Both stay visible in a shared library that links the static one, so that its exceptions can be caught by type, unless
 * that is compiled with PYGRADE_STATIC: then nothing marks them, and -fvisibility=hidden keeps them inside. */
#ifndef PYGRADE_EXPORT_H
#define PYGRADE_EXPORT_H

#if defined(__GNUC__) && !defined(PYGRADE_STATIC)
#define PYGRADE_API __attribute__((visibility("default")))
#else
#define PYGRADE_API
#endif

#endif
