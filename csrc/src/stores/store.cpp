#include "pygrade/store.hpp"

namespace pygrade {

Store::~Store() = default;

}  // namespace pygrade
