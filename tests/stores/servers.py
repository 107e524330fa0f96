"""The mark of tests that start a Redis server."""

import pytest

from devtools.redis_server import BINARY

needs_redis = pytest.mark.skipif(BINARY is None, reason="no redis-server on this machine: apt-get install redis-server")
