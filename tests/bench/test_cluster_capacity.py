"""The arithmetic of capacity, and the simulation that checks it."""

from dataclasses import replace

import numpy as np
import pytest

from bench.cluster import simulation
from bench.cluster.capacity import (
    CORES,
    DRIVER,
    KEY,
    NETWORK,
    SHARDS,
    STORE,
    STREAM,
    Cluster,
    Log,
    Stage,
    need,
    straggling,
    walls,
)
from bench.cluster.simulation import play

LOG = Log(rows=4e7, users=1e6, items=1e6)
FREE = {"node_network": 1e15, "store": 1e15, "stream": 1e15, "hand_out_ms": 0.0, "spread": 0.0}
IDEAL = Cluster(64, **FREE)  # nothing but cores
WORK = Stage("work", cpu_us=10.0, job_rows=50_000)  # 400 s of one core, 800 jobs


def test_with_nothing_but_cores_time_is_work_over_cores():
    found = need(WORK, LOG, replace(IDEAL, cores=50))
    assert found.seconds == pytest.approx(400 / 50) and found.longest == CORES
    assert found.core_hours == pytest.approx(400 / 3600)
    assert need(WORK, replace(LOG, rows=4e8), replace(IDEAL, cores=50)).seconds == pytest.approx(80)


def test_fewer_shards_than_cores_leave_cores_idle():
    stage = replace(WORK, job_rows=None, jobs=16)
    assert need(stage, LOG, IDEAL).seconds == pytest.approx(400 / 16)
    assert need(stage, LOG, replace(IDEAL, cores=12)).seconds == pytest.approx(2 * 400 / 16)  # two rounds
    assert (walls([stage], LOG, IDEAL)[0].cores, walls([stage], LOG, IDEAL)[0].resource) == (64, SHARDS)


def test_pieces_of_the_log_have_a_most():
    assert [replace(WORK, jobs=256).count(rows) for rows in (1.0, 1e6, 1e8)] == [1, 20, 256]


def test_the_largest_key_is_a_bound_for_any_number_of_cores():
    stage = replace(WORK, job_rows=None, jobs=256, largest=0.05)
    common = 400 * 0.95 / 256
    for cores, rounds in ((64, 2), (256, 0), (1024, 0)):
        assert need(stage, LOG, replace(IDEAL, cores=cores)).seconds == pytest.approx(rounds * common + 20 + common)
    assert (walls([stage], LOG, IDEAL)[0].cores, walls([stage], LOG, IDEAL)[0].resource) == (32, KEY)


@pytest.mark.parametrize(
    ("stage", "cluster", "resource", "seconds"),
    [
        ({"read_bytes": 60.0, "written_bytes": 40.0}, {"node_network": 1e7}, NETWORK, 4e9 / 4e7),
        ({"read_bytes": 60.0, "written_bytes": 40.0}, {"store": 2e7}, STORE, 4e9 / 2e7),
        ({"read_bytes": 60.0, "written_bytes": 40.0}, {"stream": 2e5}, STREAM, 4e9 / 64 / 2e5),
        ({}, {"hand_out_ms": 25.0}, DRIVER, 800 * 0.025),
    ],
)
def test_the_resource_that_allows_least_decides(stage, cluster, resource, seconds):
    found = need(replace(WORK, **stage), LOG, replace(IDEAL, **cluster))  # 4 nodes
    assert found.longest == resource and found.by[resource] == pytest.approx(seconds)
    assert found.seconds == pytest.approx(seconds, rel=0.06) and found.seconds >= seconds * (1 - 1e-9)
    assert walls([replace(WORK, **stage)], LOG, replace(IDEAL, **cluster))[0].resource == resource


def test_the_driver_alone_works_beside_nobody():
    found = need(replace(WORK, driver_us=0.1), LOG, IDEAL)
    assert found.seconds == pytest.approx(need(WORK, LOG, IDEAL).seconds + 4.0)


def test_memory_is_that_of_a_shards_keys():
    stage = Stage("keys", cpu_us=1.0, jobs=64, base_mib=100.0, key_bytes=64.0)
    log = Log(1e8, users=2**20, items=2**20)
    assert need(stage, log, IDEAL).worker_mib == pytest.approx(100.0 + 2.0)


def test_stragglers_are_as_long_as_the_longest_of_so_many():
    rng = np.random.default_rng(0)
    for jobs in (2, 16, 256):
        longest = np.exp(0.2 * rng.standard_normal((4000, jobs)) - 0.02).max(1).mean()
        assert straggling(jobs, 0.2) == pytest.approx(longest, rel=0.02)
    assert straggling(1, 0.2) == 1.0


@pytest.mark.parametrize("cores", [16, 64, 256])
@pytest.mark.parametrize(
    ("stage", "cluster"),
    [
        ({}, {}),
        ({"read_bytes": 200.0, "written_bytes": 100.0}, {"stream": 1e8}),
        ({"read_bytes": 300.0}, {"node_network": 5e7, "stream": 1e8}),
        ({"written_bytes": 300.0}, {"node_network": 5e8, "stream": 1e8}),
        ({"read_bytes": 300.0}, {"store": 4e8, "stream": 1e8}),
        ({}, {"hand_out_ms": 20.0}),
        ({"job_rows": None, "jobs": 128, "largest": 0.05}, {}),
        ({"driver_us": 0.1}, {"spread": 0.3}),
    ],
)
def test_the_simulation_agrees_with_the_closed_form(stage, cluster, cores):
    stage, cluster = replace(WORK, **stage), replace(IDEAL, **({"spread": 0.1} | cluster), cores=cores)
    assert need(stage, LOG, cluster).seconds == pytest.approx(play(stage, LOG, cluster).seconds, rel=0.12)


def test_the_simulation_shares_what_links_and_store_can_move():
    phase = np.array([simulation._READ, simulation._WRITE, simulation._READ, simulation._COMPUTE, simulation._FREE])
    node = np.array([0, 0, 1, 1, 1])
    cluster = Cluster(5, node_cores=3, node_network=70.0, store=120.0, stream=50.0)
    np.testing.assert_allclose(simulation.rates(phase, node, cluster), [35.0, 35.0, 40.0, 1.0, 0.0])
    wide = replace(cluster, store=1000.0)
    np.testing.assert_allclose(simulation.rates(phase, node, wide), [35.0, 35.0, 50.0, 1.0, 0.0])


def test_bad_stages_and_clusters_are_refused():
    with pytest.raises(ValueError, match="jobs and job_rows are None; want one"):
        Stage("none", cpu_us=1.0)
    with pytest.raises(ValueError, match=r"largest is 1\.0; want 0 to 1"):
        Stage("all", cpu_us=1.0, jobs=1, largest=1.0)
    with pytest.raises(ValueError, match="cores is 0; want more than 0"):
        Cluster(0)
