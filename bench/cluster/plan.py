"""Capacity from the committed measurements, checked by simulation.

    python -m bench.cluster.plan [--cores 64,256,1024] [--rows 1e9,1e10] [--items 1e8] [--users 1e8] [--out FILE]

The costs of a row are those of cluster_throughput.json (`bench.cluster.costs`), the speeds those of
cluster_network.json: nodes of 16 cores, each with a loopback of this machine as its link, and moto as the store. A
second table assumes links of 10 Gb/s and a store that is no bottleneck, with 100 MB/s a stream; nobody measured these.
What the closed form says of the longest run that was measured is compared with it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.cluster.capacity import Cluster, Log, Need, Stage, need, walls
from bench.cluster.costs import stages_of
from bench.cluster.simulation import play
from bench.cluster.throughput import progress
from bench.report.results import RESULTS, write_json

MEASURED, ASSUMED = "measured here", "assumed"
NODE_CORES = 16
_MOST_SIMULATED = 20_000  # jobs


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.plan", description=__doc__.split("\n")[0])
    parser.add_argument("--cores", default="64,256,1024")
    parser.add_argument("--rows", default="1e9,1e10")
    parser.add_argument("--users", type=float, default=1e8)
    parser.add_argument("--items", type=float, default=1e8)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster_plan.json")
    options = parser.parse_args(arguments)
    throughput, network = (
        json.loads((options.results / f"cluster_{name}.json").read_text()) for name in ("throughput", "network")
    )
    stages = stages_of(throughput)
    record: dict[str, Any] = {
        "of": {"throughput": throughput["machine"].get("commit", ""), "network": network["machine"].get("commit", "")},
        "stages": [asdict(stage) for stage in stages],
        "clusters": {},
        "plans": [],
        "walls": [],
        "check": check(throughput, stages, clusters(network)[MEASURED]),
    }
    for name, cluster in clusters(network).items():
        record["clusters"][name] = asdict(cluster)
        for rows in map(float, options.rows.split(",")):
            log = Log(rows, options.users, options.items)
            record["walls"] += [{"cluster": name, "rows": rows, **asdict(wall)} for wall in walls(stages, log, cluster)]
            for cores in map(int, options.cores.split(",")):
                record["plans"].append({"cluster": name, **plan(stages, log, replace(cluster, cores=cores))})
                progress(f"{name}, {rows:g} rows, {cores} cores: {record['plans'][-1]['hours']:.2f} h")
    write_json(options.out, record)
    return 0


def clusters(network: dict[str, Any]) -> dict[str, Cluster]:
    """The speeds that were measured, and those that are assumed; jobs are handed out as measured in both."""
    store = network["store"]
    measured = Cluster(
        cores=NODE_CORES,
        node_cores=NODE_CORES,
        node_network=network["objects"]["bytes_per_second"],
        store=store["read_bytes_per_second_4"],
        stream=store["read_bytes_per_second_1"],
        hand_out_ms=1e3 * network["jobs"]["driver_cpu_seconds"],
    )
    return {MEASURED: measured, ASSUMED: replace(measured, node_network=1.25e9, store=1e11, stream=1e8)}


def plan(stages: Sequence[Stage], log: Log, cluster: Cluster) -> dict[str, Any]:
    """What a run takes on a cluster; the closed form and the simulation."""
    needs = [need(stage, log, cluster) for stage in stages]
    slowest = max(needs, key=lambda one: one.seconds)
    total = sum(one.seconds for one in needs)
    return {
        "rows": log.rows,
        "users": log.users,
        "items": log.items,
        "cores": cluster.cores,
        "hours": total / 3600,
        "simulated_hours": simulated(stages, log, cluster, needs) / 3600,
        "core_hours": sum(one.core_hours for one in needs),
        "worker_mib": max(one.worker_mib for one in needs),
        "node_gib": max(one.worker_mib for one in needs) * cluster.node_cores / 1024,
        "network_tb": sum(one.network_bytes for one in needs) / 1e12,
        "shuffled_tb": sum(one.shuffled_bytes for one in needs) / 1e12,
        "slowest": {"stage": slowest.stage, "by": slowest.longest},
        "stages": [asdict(one) for one in needs],
    }


def simulated(stages: Sequence[Stage], log: Log, cluster: Cluster, needs: Sequence[Need]) -> float:
    """Seconds by the simulation; of a stage of very many jobs, those of fewer jobs of the same size, in proportion."""
    total = 0.0
    for stage in stages:
        share = min(1.0, _MOST_SIMULATED / stage.count(log.rows))
        piece = replace(stage, jobs=None) if share < 1.0 else stage
        total += play(piece, replace(log, rows=log.rows * share), cluster).seconds / share
    return total


def check(throughput: dict[str, Any], stages: Sequence[Stage], cluster: Cluster) -> dict[str, Any]:
    """The closed form of the longest run that was measured, on this machine, beside what it took."""
    longest = list(throughput["runs"].values())[-1]
    world = throughput["world"]
    log = Log(longest["rows"], world["users"], world["items"])
    found: dict[str, Any] = {}
    for name, cores in (("local:1", 1), ("local:2", 2)):
        if name in longest:
            here = replace(cluster, cores=cores, node_network=1e12, store=1e12, stream=1e12)  # the page cache
            said = sum(need(stage, log, here).seconds for stage in stages)
            took = longest[name]["seconds"]
            found[name] = {"closed_form_seconds": said, "measured_seconds": took, "ratio": said / took}
    return {"rows": longest["rows"], **found}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
