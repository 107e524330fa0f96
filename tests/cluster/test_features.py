"""Features materialized on Ray have the bytes of one process."""

import pytest

from pygrade.features import default_schema, materialize
from tests.features.events import make_log
from tests.features.test_sharded import same_files, saved

pytestmark = pytest.mark.slow


def test_materialization_on_ray_is_that_of_one_process(cluster, tmp_path):
    log = saved(make_log(requests=400, seed=9), tmp_path / "log")
    one = materialize(log, default_schema(log), tmp_path / "one", rows=100)
    ray = materialize(log, default_schema(log), tmp_path / "ray", rows=100, workers=cluster, span_rows=300)
    assert cluster.count > 1 and same_files(one.path, ray.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "one", "ray"]
