// Takes hiredis and TLS from this program instead of libpygrade_redis and libpygrade_tls.
#include "stores/redis_libraries.hpp"

extern "C" const pygrade_redis_functions pygrade_redis;
extern "C" const pygrade_tls_functions pygrade_tls;

namespace {
const bool redis = (pygrade::detail::linked_redis = &pygrade_redis, true);
#if defined(PYGRADE_LINKS_TLS)
const bool tls = (pygrade::detail::linked_tls = &pygrade_tls, true);
#endif
}  // namespace
