// Calls hiredis.
#include "pygrade/version.hpp"
#include "stores/redis_libraries.hpp"

extern "C" __attribute__((visibility("default"))) const pygrade_redis_functions pygrade_redis;
const pygrade_redis_functions pygrade_redis{PYGRADE_VERSION,  redisConnectWithOptions, redisFree,
                                            freeReplyObject,  redisSetTimeout,         redisAppendFormattedCommand,
                                            redisBufferWrite, redisBufferRead,         redisGetReplyFromReader};
