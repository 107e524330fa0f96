// Pages of 2 MB for memory that is read anywhere: 64 MB take 16,000 of the usual ones, and the processor knows the
// addresses of some thousands.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <vector>

namespace pygrade::inline v0_2::detail {
// Asks for them where `bytes` from `start` on, not touched yet, hold whole ones.
inline void ask_for_huge_pages([[maybe_unused]] void* start, [[maybe_unused]] std::size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr std::size_t page = std::size_t{1} << 21;
  if (std::align(page, page, start, bytes) != nullptr) madvise(start, bytes / page * page, MADV_HUGEPAGE);
#endif
}

// Values in such pages.
template <class T>
std::vector<T> huge_vector(std::size_t size) {
  std::vector<T> values;
  values.reserve(size);
  ask_for_huge_pages(values.data(), size * sizeof(T));
  values.resize(size);
  return values;
}
}  // namespace pygrade::inline v0_2::detail
