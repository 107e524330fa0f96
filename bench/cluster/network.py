"""What moves bytes and jobs on this machine: the constants that `bench.cluster.capacity` takes for a measured network.

    python -m bench.cluster.network [--mib 256] [--repeats 5] [--out FILE]

    sockets     a TCP connection over the loopback
    objects     Ray's object store of one node to that of another, both on this machine, over the loopback
    store       pyarrow's S3 file system with moto's server on this machine, which is Python and no real S3
    jobs        jobs without work through `Workers.map` of `local:2`: what the driver spends on each

A loopback has no cable, and moto no disks: these figures bound what the software does, not what a network does.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.cluster.nodes import nodes
from bench.cluster.throughput import machine, progress
from bench.report.results import RESULTS, write_json
from pygrade._util.workers import every

_MIB = 2**20
_CHUNK = 2**20


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.network", description=__doc__.split("\n")[0])
    parser.add_argument("--mib", type=int, default=256, help="size of a transfer")
    parser.add_argument("--jobs", type=int, default=2_000, help="jobs without work")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster_network.json")
    options = parser.parse_args(arguments)
    size, record = options.mib * _MIB, {}
    record["sockets"] = {"bytes_per_second": rate(size, options.repeats, over_sockets)}
    progress(f"sockets {record['sockets']}")
    record["store"] = store(size // 4, options.repeats)
    progress(f"store {record['store']}")
    record["objects"] = objects(size, options.repeats)
    progress(f"objects {record['objects']}")
    record["jobs"] = jobs(options.jobs, options.repeats)
    progress(f"jobs {record['jobs']}")
    write_json(options.out, {"machine": machine(), "mib": options.mib, **record})
    print(json.dumps(record, indent=1))
    return 0


def rate(size: int, repeats: int, move: Callable[[int], float]) -> float:
    """The median of bytes/s of ``move(size)``, which returns seconds."""
    move(size // 8)  # warm
    return size / statistics.median(move(size) for _ in range(repeats))


def over_sockets(size: int) -> float:
    """Seconds that ``size`` bytes take from a thread that sends to one that receives."""
    data = memoryview(np.random.default_rng(0).bytes(_CHUNK))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            with socket.create_connection(server.getsockname()) as connection:
                for _ in range(-(-size // _CHUNK)):
                    connection.sendall(data)

        sender = threading.Thread(target=send)
        begun = time.perf_counter()
        sender.start()
        connection, _ = server.accept()
        with connection:
            while connection.recv(_CHUNK):
                pass
        sender.join()
        return time.perf_counter() - begun


def store(size: int, repeats: int) -> dict[str, float]:
    """Bytes/s of writing and of reading objects of ``size`` bytes, by one thread and by four."""
    data = np.random.default_rng(0).bytes(size)
    found = {}
    with s3() as filesystem:

        def write(name: str) -> None:
            with filesystem.open_output_stream(f"bench/{name}") as stream:
                stream.write(data)

        def read(name: str) -> None:
            with filesystem.open_input_file(f"bench/{name}") as stream:
                assert len(stream.read()) == size

        for threads in (1, 4):
            for kind, act in (("write", write), ("read", read)):
                times = [beside(threads, act) for _ in range(repeats + 1)][1:]
                found[f"{kind}_bytes_per_second_{threads}"] = threads * size / statistics.median(times)
    return found


def beside(threads: int, act: Callable[[str], None]) -> float:
    """Seconds until so many threads have acted, each on an object of its own."""
    running = [threading.Thread(target=act, args=(f"object-{number}",)) for number in range(threads)]
    begun = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return time.perf_counter() - begun


@contextmanager
def s3() -> Iterator[Any]:
    """pyarrow's file system of a server of moto's, in a process of its own."""
    from pyarrow.fs import S3FileSystem

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        keys = {"access_key": "bench", "secret_key": "bench", "region": "us-east-1"}
        opened = S3FileSystem(**keys, endpoint_override=f"http://127.0.0.1:{port}", allow_bucket_creation=True)
        opened.create_dir("bench")
        yield opened
    finally:
        server.kill()
        server.wait()


def objects(size: int, repeats: int) -> dict[str, float]:
    """Bytes/s of an object that a task on another node takes."""
    import ray

    with nodes([1, 1], object_store_mib=2 * (repeats + 1) * size // _MIB) as cluster:
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            make = ray.remote(num_cpus=1, resources={"node_0": 1.0})(_made)
            take = ray.remote(num_cpus=1, resources={"node_1": 1.0})(_taken)
            times = []
            for number in range(repeats + 1):
                made = make.remote(size, number)
                ray.wait([made], fetch_local=False)
                times.append(ray.get(take.remote([made])))
            return {"bytes_per_second": size / statistics.median(times[1:])}
        finally:
            ray.shutdown()


def _made(size: int, number: int) -> Any:
    return np.full(size, number, np.uint8)


def _taken(made: list[Any]) -> float:
    import ray

    begun = time.perf_counter()
    ray.get(made[0])
    return time.perf_counter() - begun


def jobs(count: int, repeats: int) -> dict[str, float]:
    """Seconds of a job without work: of wall time, and of the driver's processor."""
    from pygrade.cluster import connect

    walls, cpus = [], []
    with connect("local:2", object_store_mib=200) as workers:
        for _ in range(repeats + 1):
            begun, used = time.perf_counter(), time.process_time()
            every(workers.map(abs, range(count), "no work"))
            walls.append((time.perf_counter() - begun) / count)
            cpus.append((time.process_time() - used) / count)
    return {"seconds": statistics.median(walls[1:]), "driver_cpu_seconds": statistics.median(cpus[1:])}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
