"""The service on Ray Serve: the core's answers, artifacts rolled out under load, metrics of all, drains, logs."""

import json
import os
import re
import threading
import time
import warnings

import pytest

from devtools import redis_server
from pygrade import _core
from pygrade._util.storage import Folder
from pygrade.cli.main import main
from pygrade.cluster import checks
from pygrade.cluster.figures import Board, merged
from pygrade.cluster.log_upload import LogUpload
from pygrade.cluster.run_copy import RunCopy, artifact_version, published, store_of
from pygrade.cluster.scale import Replicas
from pygrade.cluster.serve import HAPROXY, RAY_SERVE, serve
from pygrade.data.events import EventLog
from pygrade.features import FeatureSet
from pygrade.logs import read_logs
from pygrade.pipeline.run import fill_store
from pygrade.service.config import split
from pygrade.service.exposures import exposure_files
from pygrade.serving.artifact import open_artifact, write_artifact
from pygrade.serving.pipeline import load_models
from pygrade.stores import open_store
from tests.pipeline.world import trained

for name, value in {**RAY_SERVE, HAPROXY: "1"}.items():  # before the session's Ray starts
    os.environ.setdefault(name, value)

TIME = 1_700_002_900_000
BODIES = [json.dumps({"user": user, "k": 5, "candidates": 40, "timestamp": TIME}).encode() for user in range(40)]


# ---- without Ray -----------------------------------------------------------------------------------------------------
TEXT = '# HELP a_total What.\n# TYPE a_total counter\na_total{x="1"} 3\n# TYPE b gauge\nb 0.5\n'


def test_metrics_of_several_replicas_are_one_scrape():
    told = [({"node": "n", "replica": "r1"}, TEXT), ({"node": 'o"', "replica": "r2"}, TEXT + "# TYPE c gauge\nc 1\n")]
    assert merged(told) == (
        '# HELP a_total What.\n# TYPE a_total counter\na_total{node="n",replica="r1",x="1"} 3\n'
        'a_total{node="o\\"",replica="r2",x="1"} 3\n'
        '# TYPE b gauge\nb{node="n",replica="r1"} 0.5\nb{node="o\\"",replica="r2"} 0.5\n'
        '# TYPE c gauge\nc{node="o\\"",replica="r2"} 1\n'
    )
    with pytest.raises(ValueError, match="no series"):
        merged([({"node": "n"}, "a b c d\n")])


def test_the_board_forgets_replicas_that_left(monkeypatch):
    board, now = Board(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for name in ("r2", "r1", "r3"):
        board.tell(name, {"replica": name}, name)
    assert board.others("r1") == [({"replica": "r2"}, "r2"), ({"replica": "r3"}, "r3")]
    board.leave("r3")
    now[0] = 9.0
    board.tell("r1", {"replica": "r1"}, "again")
    assert board.others("r1") == [({"replica": "r2"}, "r2")]
    now[0] = 11.0
    assert board.others("") == [({"replica": "r1"}, "again")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicas": 2, "max_replicas": 3}, "rule each other out"),
        ({"min_replicas": 2}, "min_replicas is 2; want it with max_replicas alone"),
        ({"target_ongoing_requests": 3.0}, "want it with max_replicas alone"),
        ({"replicas": 0}, "replicas is 0; want 1 to 10000"),
        ({"min_replicas": 4, "max_replicas": 3}, "min_replicas is 4; want at most max_replicas, 3"),
        ({"max_replicas": 3, "target_ongoing_requests": 0.0}, "target_ongoing_requests is 0; want more than 0"),
    ],
)
def test_bad_numbers_of_replicas(options, message):
    with pytest.raises(ValueError, match=message):
        Replicas(**options)


def test_replicas_of_a_config_file_are_numbers():
    with pytest.raises(TypeError, match="replicas is '2'; want a number"):
        Replicas(replicas="2")


def test_numbers_of_replicas_as_ray_serve_takes_them():
    assert Replicas().options() == {"num_replicas": 1}
    assert Replicas(replicas=3).options() == {"num_replicas": 3}
    scaling = Replicas(max_replicas=4, target_ongoing_requests=8.0)
    assert scaling.least == 1
    assert scaling.options() == {
        "autoscaling_config": {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8.0}
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--replicas", "2"], "replicas is 2; want it with --cluster alone"),
        (["--exposures", "s3://bucket/x"], "exposures is s3://bucket/x; want a directory, or this URL with --cluster"),
        (["--cluster", "local:1", "--workers", "2"], "workers is 2; want it without a cluster alone"),
        (["--cluster", "local:1", "--online"], "online is true; want it without a cluster alone"),
        (["--cluster", "local:1", "--threads", "0"], "threads is 0; want 1 or more on a cluster"),
        (["--cluster", "local:1", "--min-replicas", "2"], "want it with max_replicas alone"),
    ],
)
def test_options_that_do_not_go_with_a_cluster(tmp_path, capsys, words, message):
    for module in ("fastapi", "uvicorn"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    (tmp_path / "artifact").mkdir()
    assert main(["serve", "--run", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"workers": 2}, "workers is 2"),
        ({"online": True}, "online is true"),
        ({"metrics": "m"}, "metrics is m"),
        ({"tls_cert": __file__, "tls_key": __file__}, "that proxy has no TLS"),  # this process has HAPROXY set
    ],
)
def test_options_of_the_file_that_do_not_go_with_a_cluster(table, message):
    with pytest.raises(ValueError, match=message):
        serve("nowhere", table, Replicas(), "local:1", print)


def test_a_run_without_an_artifact(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no artifact"):
        serve(str(tmp_path), {}, Replicas(), "local:1", print)


def node(machine, cpus=2.0, alive=True):
    return {"NodeID": machine * 2, "NodeManagerHostname": machine, "Resources": {"CPU": cpus}, "Alive": alive}


def test_checks_of_the_nodes():
    nodes = checks.machines([node("a"), node("a"), node("b", alive=False), node("head", cpus=0.0)])
    assert [found.machine for found in nodes] == ["a", "a"]
    assert checks.machine_of("lmdb:{run}/store", "run", nodes) == "a"
    assert checks.machine_of("redis://host/0", "run", checks.machines([node("a"), node("b")])) is None
    with pytest.raises(ValueError, match=r"one machine alone can read, and the cluster has 2: a, b; want redis:"):
        checks.machine_of("lmdb:store", "run", checks.machines([node("b"), node("a")]))
    with pytest.raises(ValueError, match="the run is at s3://bucket/run; want redis:"):
        checks.machine_of("lmdb:{run}/store", "s3://bucket/run", nodes)
    checks.enough(nodes, 4, may_grow=False)
    checks.enough(nodes, 5, may_grow=True)
    with pytest.raises(ValueError, match="replicas is 5; the cluster has 4 processors"):
        checks.enough(nodes, 5, may_grow=False)


def test_the_fault_of_a_replica_is_found_in_its_traceback():
    text = "The deployment failed\nTraceback\n  File x\nOSError: the reason: it\n\nSome hint"
    assert checks.last_error(text) == "OSError: the reason: it"
    assert checks.last_error("only this\n") == "only this"
    assert checks.last_error("") == "no reason is known"


def test_logs_are_uploaded_when_they_are_complete(tmp_path):
    target = tmp_path / "target"
    urls = {"exposures": f"file://{target}/exposures", "feedback": f"file://{target}/feedback"}
    upload = LogUpload(tmp_path / "logs", urls, file_seconds=300.0)
    (upload.folder("exposures") / "exposures-main-1.parquet").write_bytes(b"whole")
    (upload.folder("exposures") / ".partial.parquet").write_bytes(b"not whole")
    (upload.folder("feedback") / "feedback-1.jsonl").write_bytes(b"{}\n")
    assert upload.step() == 1
    assert (target / "exposures" / "exposures-main-1.parquet").read_bytes() == b"whole"
    assert not (target / "feedback").exists()
    upload.close()
    assert (target / "feedback" / "feedback-1.jsonl").read_bytes() == b"{}\n"
    assert not upload.own.exists() and not list(target.rglob("*partial*"))


def test_logs_of_a_replica_that_was_killed_are_uploaded_by_the_next(tmp_path):
    urls = {"feedback": f"file://{tmp_path}/target"}
    killed, next_one = (LogUpload(tmp_path / "logs", urls, file_seconds=300.0) for _ in range(2))
    (killed.folder("feedback") / "feedback-1.jsonl").write_bytes(b"{}\n")
    assert next_one.step() == 0  # it lives
    killed._lock.close()  # as the end of its process does
    assert next_one.step() == 1 and not killed.own.exists()
    assert (tmp_path / "target" / "feedback-1.jsonl").read_bytes() == b"{}\n"
    next_one.close()


def publish(place, artifact, number):
    """As the pipeline does it at a URL: a stage, then the link to it."""
    (Folder.at(place) / f"publish-{number}").publish(artifact.parent)
    (Folder.at(place) / "artifact").point_to(Folder.at(place) / f"publish-{number}" / artifact.name)


def test_a_run_at_a_url_is_copied_and_followed(s3, tmp_path):
    place, artifacts = f"{s3}/runs/shop", []
    with pytest.raises(FileNotFoundError, match="has no artifact"):
        artifact_version(place)
    for number in range(2):
        parts = {}
        for name in ("features", "prerank", "mtl", "policy"):
            parts[name] = tmp_path / f"{number}" / name
            parts[name].mkdir(parents=True)
            (parts[name] / "weights").write_text(f"{name} {number}")
        artifacts.append(write_artifact(tmp_path / f"publish-{number}" / "artifact", parts, "schema", {}))
    publish(place, artifacts[0].path, 0)
    Folder.at(place).put("store.json", b'{"store": "redis://host/0"}')
    assert artifact_version(place) == published(place, {})["artifact"] == artifacts[0].version
    assert store_of(place, {}) == "redis://host/0" and store_of(place, {"store": "redis://own/0"}) == "redis://own/0"
    copy = RunCopy(place, tmp_path / "copy")
    copy.update()
    assert open_artifact(copy.folder / "artifact").version == artifacts[0].version
    assert (copy.folder / "store.json").read_bytes() == b'{"store": "redis://host/0"}'
    publish(place, artifacts[1].path, 1)
    assert open_artifact(copy.folder / "artifact").version == artifacts[0].version  # until it is asked
    copy.update()
    assert open_artifact(copy.folder / "artifact").version == artifacts[1].version == artifact_version(place)
    assert (copy.folder / "artifact" / "policy" / "weights").read_text() == "policy 1"
    with pytest.raises(ValueError, match="policy is online/policy and the run is at s3://"):
        published(place, {"arms": [{"name": "main", "policy": "online/policy"}]})


# ---- with Ray --------------------------------------------------------------------------------------------------------
class World:
    """A run whose store is in Redis and serves two artifacts, and the pages of both."""

    def __init__(self, folder, redis):
        self.run = trained(folder)
        self.store = redis.url("service")
        record = json.loads((self.run / "store.json").read_text())
        (self.run / "store.json").write_text(json.dumps(record | {"store": self.store}))
        first = open_artifact(self.run / "artifact")
        policy = next(self.run.glob("policy-*")) / "training" / "stage1"
        parts = {name: first.part(name) for name in ("features", "prerank", "mtl")} | {"policy": policy}
        second = write_artifact(folder / "second", parts, first.schema_hash, first.record)
        self.paths = [(self.run / "artifact").resolve(), second.path]
        self.versions = [first.version, second.version]
        log = EventLog.open(self.run / record["events"])
        features = FeatureSet.open(next(self.run.glob("features-*")) / "set")
        for path, version in reversed(list(zip(self.paths, self.versions, strict=True))):
            fill_store(self.store, load_models(open_artifact(path)), log, features, version)
        self.core = _core.Service(str(self.run), "{}")
        self.pages = [{page_of(self.core.handle("POST", "/v1/rank", body)[2]) for body in BODIES}]
        self.point(1)
        assert self.core.refresh()
        self.pages.append({page_of(self.core.handle("POST", "/v1/rank", body)[2]) for body in BODIES})
        self.point(0)
        assert self.core.refresh()
        assert not self.pages[0] & self.pages[1]

    def point(self, number):
        """The run serves this artifact, as the pipeline publishes it."""
        with open_store(self.store) as opened:
            opened.switch(self.versions[number])
        new = self.run / ".artifact.new"
        new.symlink_to(self.paths[number])
        new.replace(self.run / "artifact")


def page_of(answer):
    """What of a page is the same each time, byte for byte."""
    found = re.search(rb'"arm":.*(?=,"seconds":)', answer)
    assert found, answer
    return found[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    if redis_server.BINARY is None:
        pytest.skip("redis-server is not installed")
    folder = tmp_path_factory.mktemp("cluster-serve")
    server = redis_server.RedisServer(folder)
    try:
        yield World(folder, server)
    finally:
        server.kill()


@pytest.fixture(scope="module")
def service(cluster, world):
    """Two replicas of it."""
    for module in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Ray's own classes
        pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'pygrade[cluster]'")
    from pygrade.cluster.deployment import Service

    table = {"port": 0, "exposures": f"{world.run}/exposures-{{node}}", "exposure_share": 1.0, "log": "none"}
    table |= {"feedback": f"file://{world.run}/feedback", "file_seconds": 1}
    found = Service(str(world.run), table, split(table)[0], Replicas(replicas=2))
    with found.running(may_grow=False):
        yield found


def eventually(check, seconds=60.0):
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.slow
def test_answers_are_those_of_the_core(world, service):
    import httpx

    with httpx.Client(base_url=service.url, timeout=60) as client:
        for body in BODIES[:10]:
            answer = client.post("/v1/rank", content=body)
            assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
            assert page_of(answer.content) == page_of(world.core.handle("POST", "/v1/rank", body)[2])
        cases = [("POST", "/v1/rank", b'{"user": 7, "k": 0}'), ("POST", "/v1/rank", b"\xff{"), ("GET", "/v1/rank", b"")]
        cases += [("DELETE", "/", b""), ("GET", "/v1/nothing", b""), ("POST", "/v1/rank", b"{" + b" " * (1 << 20))]
        for method, path, body in cases:
            answer = client.request(method, path, content=body)
            told = world.core.handle(method, path, body)[:3]
            assert (answer.status_code, answer.headers["content-type"], answer.content) == told
        assert client.get("/readyz").status_code == 200
        assert "/v1/rank" in client.get("/docs").text


@pytest.mark.slow
def test_metrics_of_all_replicas_are_in_one_scrape(service):
    import httpx

    def replicas():
        text = httpx.get(f"{service.url}/metrics", timeout=60).text
        return set(re.findall(r'^pygrade_ready\{node="[^"]+",replica="([^"]+)"\} 1$', text, re.MULTILINE))

    eventually(lambda: len(replicas()) == 2)


@pytest.mark.slow
def test_a_new_artifact_is_rolled_out_under_load_and_no_page_is_lost_or_mixed(world, service):
    import httpx

    answers, faults, stop = [], [], threading.Event()

    def ask(first):
        with httpx.Client(base_url=service.url, timeout=60) as client:
            number = first
            while not stop.is_set():
                try:
                    answer = client.post("/v1/rank", content=BODIES[number % len(BODIES)])
                    answers.append((answer.status_code, page_of(answer.content)))
                except (httpx.TransportError, AssertionError) as error:
                    faults.append(error)
                number += 1

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    try:
        for artifact in (1, 0, 1):
            wanted = len(answers) + 30
            eventually(lambda: len(answers) > wanted)  # noqa: B023
            world.point(artifact)
            service.look()
            assert service.rolling
            pages = world.pages[artifact]
            eventually(lambda: all(page in pages for _, page in answers[-40:]))  # noqa: B023
            eventually(lambda: service.look() or not service.rolling)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        world.point(0)
    assert not faults and {status for status, _ in answers} == {200}
    assert all((page in world.pages[0]) != (page in world.pages[1]) for _, page in answers)


@pytest.mark.slow
def test_a_damaged_artifact_leaves_what_is_served(world, service):
    import httpx

    service.look()
    eventually(lambda: service.look() or not service.rolling)
    broken = world.run.parent / "broken"
    manifest = json.loads((world.paths[1] / "manifest.json").read_text()) | {"version": "0" * 12}
    broken.mkdir()
    (broken / "manifest.json").write_text(json.dumps(manifest))
    link = world.run / ".artifact.new"
    link.symlink_to(broken)
    link.replace(world.run / "artifact")
    service.look()
    try:
        eventually(lambda: httpx.get(f"{service.url}/readyz", timeout=60).json()["reload_error"] is not None)
        answer = httpx.post(f"{service.url}/v1/rank", content=BODIES[0], timeout=60)
        assert answer.status_code == 200 and page_of(answer.content) in world.pages[0]
    finally:
        world.point(0)
    service.look()
    eventually(lambda: httpx.get(f"{service.url}/readyz", timeout=60).json()["reload_error"] is None)


@pytest.mark.slow
def test_what_can_not_be_served_is_named(world, service):
    import ray

    from pygrade.cluster.deployment import Service

    other = Service(str(world.run), {}, split({})[0], Replicas())
    with pytest.raises(ValueError, match="Ray Serve listens on this cluster at port"), other.running():
        pass
    table = {"port": 0}
    other = Service(str(world.run), table, split(table)[0], Replicas())
    with pytest.raises(ValueError, match="another pygrade serve uses this cluster"), other.running():
        pass
    nodes = checks.machines(ray.nodes())
    with pytest.raises(OSError, match=r"node \S+: .*has no artifact; .*want files that all nodes see"):
        checks.check(nodes, str(world.run.parent), world.versions[0], table, None)
    with pytest.raises(OSError, match=rf"has artifact {world.versions[0]} here and another where the command runs"):
        checks.check(nodes, str(world.run), "another", table, None)
    with pytest.raises(OSError, match=r"node .*host 127\.0\.0\.1 and port"):
        checks.check(nodes, str(world.run), world.versions[0], table, ("127.0.0.1", int(service.url.split(":")[-1])))


@pytest.mark.slow
def test_a_drain_ends_readiness_and_all_pages_are_in_the_log(world, service):
    import httpx

    for number, body in enumerate(BODIES):
        asked = json.dumps({**json.loads(body), "request_id": f"own-{number}"})
        assert httpx.post(f"{service.url}/v1/rank", content=asked, timeout=60).status_code == 200
    event = {"user": 1, "item": 3, "task": "click", "timestamp": TIME, "request_id": "own-1", "event_id": "e"}
    assert httpx.post(f"{service.url}/v1/update", json={"events": [event]}, timeout=60).status_code == 200
    service.drain()
    folder = next(world.run.glob("exposures-*"))

    def logged():
        if not exposure_files(folder):
            return set()
        return {name for name in read_logs(folder).request_id if name.startswith("own-")}

    eventually(lambda: len(logged()) == len(BODIES))
    eventually(lambda: httpx.get(f"{service.url}/readyz", timeout=60).status_code == 503)
    assert httpx.post(f"{service.url}/v1/rank", content=BODIES[0], timeout=60).status_code == 200
    eventually(lambda: list((world.run / "feedback").glob("*.jsonl")))
    lines = [json.loads(line) for file in (world.run / "feedback").iterdir() for line in file.read_text().splitlines()]
    assert [line["event_id"] for line in lines] == ["e"]
