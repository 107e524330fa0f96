/* Marks the public API. Of it, the shared library exports the C ABI (pygrade_…); the C++ API is in the static library.
 * Both stay visible in a shared library that links the static one, so that its exceptions can be caught by type. */
#ifndef PYGRADE_EXPORT_H
#define PYGRADE_EXPORT_H

#if defined(__GNUC__)
#define PYGRADE_API __attribute__((visibility("default")))
#else
#define PYGRADE_API
#endif

#endif
