// Takes tls.cpp from this program instead of libpygrade_tls.
#include "stores/redis_tls.hpp"

extern "C" const pygrade_tls_functions pygrade_tls;

namespace {
const bool linked = (pygrade::detail::linked_tls = &pygrade_tls, true);
}
