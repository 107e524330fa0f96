"""Features materialized on Ray have the bytes of one process."""

import pytest

from pygrade.features import default_schema, materialize
from tests.features.events import make_log
from tests.features.test_sharded import same_files, saved

pytestmark = pytest.mark.slow


class Four:
    """The workers of a cluster as if they were four: enough to share spans and shards."""

    count = 4

    def __init__(self, workers):
        self.workers, self.names = workers, []

    def map(self, work, jobs, name):
        self.names.append(name)
        return self.workers.map(work, jobs, name)


def test_materialization_on_ray_is_that_of_one_process(cluster, tmp_path):
    log = saved(make_log(requests=400, seed=9), tmp_path / "log")
    one = materialize(log, default_schema(log), tmp_path / "one", rows=100)
    two = materialize(log, default_schema(log), tmp_path / "two", rows=100, workers=cluster)
    four = Four(cluster)
    shared = materialize(log, default_schema(log), tmp_path / "four", rows=100, workers=four, span_rows=400)
    assert cluster.count == 2 and same_files(one.path, two.path) and same_files(one.path, shared.path)
    assert four.names == ["features: histories", "features: pasts", "features: rows"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four", "log", "one", "two"]
