#include "util/crc32.hpp"

namespace pygrade::inline v0_2::detail {

std::uint32_t crc32(std::string_view data, std::uint32_t crc) {
  return PYGRADE_KERNELS(crc32_kernels).update(crc, reinterpret_cast<const unsigned char*>(data.data()), data.size());
}

}  // namespace pygrade::inline v0_2::detail
