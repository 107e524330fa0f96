/* Marks what the shared library exports. */
#ifndef PYGRADE_EXPORT_H
#define PYGRADE_EXPORT_H

#if defined(__GNUC__)
#define PYGRADE_API __attribute__((visibility("default")))
#else
#define PYGRADE_API
#endif

#endif
