"""The pipeline from one bucket to another, beside the local one."""

import json
import re
import threading
import time

import pytest

from pygrade.cli import main as cli
from pygrade.pipeline.run import run_pipeline
from pygrade.pipeline.stages import Runner
from pygrade.policy import FusionPolicy
from pygrade.serving.artifact import open_artifact
from pygrade.serving.pipeline import Pipeline
from pygrade.serving.run_copy import following, local_run
from pygrade.storage import Folder
from pygrade.storage import folder as storage
from pygrade.storage.files import Files, StorageError, files_of
from tests.pipeline.world import CONFIG, OTHER, copy, write_log
from tests.refusals import refuses

_OWN = ("report.html", "summary.json", "stage.json", "train.json")  # have durations
SHARED = ("events", "features", "leaks", "prerank", "mtl", "logs", "publish")


@pytest.fixture
def data(s3, tmp_path):
    """``logs:URL`` of the tiny world's log, as another program would put it there."""
    write_log(tmp_path / "log")
    for path in (tmp_path / "log").iterdir():
        Folder.at(f"{s3}/in/log").put(path.name, path)
    return f"logs:{s3}/in/log"


def uploaded(run, place):
    """A finished local run as one that was made at a URL."""
    runner = Runner(run, place)
    summary = json.loads((run / "summary.json").read_text())
    for name, entry in summary["stages"].items():
        runner._publish(run / f"{name}-{entry['key']}")
    runner.show(f"lmdb:{run / 'store'}")
    runner.link("artifact", (run / "artifact").resolve())
    return place


def forget(monkeypatch, tmp_path, name):
    """The next command runs on another machine."""
    monkeypatch.setenv("PYGRADE_CACHE", str(tmp_path / name))


@pytest.mark.slow
def test_a_pipeline_between_buckets_is_the_local_one(s3, data, run, tmp_path, monkeypatch, caplog):
    place = f"{s3}/runs/tiny"
    made = run_pipeline(data, place, CONFIG)
    own = json.loads((run / "summary.json").read_text())
    assert {name: entry["key"] for name, entry in made["stages"].items()} == {
        name: entry["key"] for name, entry in own["stages"].items()
    }
    assert made["data"] == own["data"] == "logs:log"
    version = own["stages"]["publish"]["version"]
    assert open_artifact(f"{place}/artifact").version == made["stages"]["publish"]["version"] == version
    there = Folder.at(place)
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    names -= {".hashes.json", ".pygrade", "store/lock.mdb"}
    names |= {f"artifact/{name}" for name in Folder.at(run / "artifact").names()}
    assert set(there.names()) == names
    for name in SHARED:
        folder = f"{name}-{own['stages'][name]['key']}"
        for file in Folder.at(run / folder).names():
            if not file.endswith(_OWN):
                assert there.read(f"{folder}/{file}") == (run / folder / file).read_bytes(), file
    policy = f"policy-{own['stages']['policy']['key']}/training/policy"
    assert FusionPolicy.load(f"{place}/{policy}").version == FusionPolicy.load(run / policy).version

    forget(monkeypatch, tmp_path, "second")  # another machine finds everything done
    caplog.clear()
    again = run_pipeline(data, place, CONFIG)
    assert all(entry["cached"] for entry in again["stages"].values())
    assert again["wall_seconds"] == made["wall_seconds"]  # it is the summary that was there

    system, known = Pipeline.load(place, seed=1), Pipeline.load(run, seed=1)
    assert system.rank(7, timestamp=10**12).items.tolist() == known.rank(7, timestamp=10**12).items.tolist()
    system.store.close()
    known.store.close()


@pytest.mark.slow
def test_a_pipeline_that_was_killed_goes_on_elsewhere(s3, data, tmp_path, monkeypatch):
    place, stages = f"{s3}/runs/tiny", []
    real = storage.Folder._write_manifest

    def write(folder, manifest):
        if folder.name.startswith("mtl-"):
            raise KeyboardInterrupt  # its files are there, the manifest is not
        stages.append(folder.name)
        real(folder, manifest)

    monkeypatch.setattr(storage.Folder, "_write_manifest", write)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(data, place, CONFIG)
    assert [name.partition("-")[0] for name in stages] == ["events", "features", "leaks", "prerank"]
    assert not any(name.startswith("mtl-") for name in Folder.at(place).names())
    refuses(FileNotFoundError, "does not exist", open_artifact, f"{place}/artifact")
    monkeypatch.setattr(storage.Folder, "_write_manifest", real)
    forget(monkeypatch, tmp_path, "second")
    made = run_pipeline(data, place, CONFIG)
    cached = [name for name, entry in made["stages"].items() if entry["cached"]]
    assert cached == ["events", "features", "leaks", "prerank"]
    first = open_artifact(f"{place}/artifact").version
    assert first == made["stages"]["publish"]["version"]
    made = run_pipeline(data, place, OTHER)
    assert open_artifact(f"{place}/artifact").version == made["stages"]["publish"]["version"] != first


@pytest.mark.slow
def test_pages_of_a_run_in_a_bucket_are_those_of_the_local_one(s3, run, capsys, tmp_path):
    own = copy(run, tmp_path / "run")
    place, records = uploaded(own, f"{s3}/runs/tiny"), []
    for at in (place, own):
        words = ["rank", "--allow-unproven", "--run", str(at), "--user", "7", "--timestamp", "1700002900000"]
        assert cli.main([*words, "--json"]) == 0
        records.append(json.loads(capsys.readouterr().out))
        assert cli.main(["pipeline", "--check", str(at), "--check-requests", "5", "--json"]) == 0
        records.append(json.loads(capsys.readouterr().out))
    assert records[0]["pages"][0]["items"] == records[2]["pages"][0]["items"]
    assert records[0]["version"] == records[2]["version"]
    assert records[1]["equal_pages"] == records[3]["equal_pages"] == 5
    assert json.loads(Folder.at(place).read("serve-check.json"))["requests"] == 5
    assert cli.main(["report", place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == f"{place}/console.html"
    assert len(Folder.at(place).read("console.html")) > 10_000


def test_a_directory_follows_the_run(s3, run, tmp_path):
    place, own = f"{s3}/runs/tiny", copy(run, tmp_path / "run")
    refuses(FileNotFoundError, "has no artifact and no policy", local_run, place)
    uploaded(own, place)
    with pytest.raises(ValueError, match="expected --store redis"), following(place, 0.05):
        pass
    with following(place, 0.05, "lmdb:elsewhere") as folder:
        first = open_artifact(folder / "artifact")
        run_pipeline(f"logs:{run.parent / 'log'}", own, OTHER)
        uploaded(own, place)
        version, limit = open_artifact(own / "artifact").version, time.monotonic() + 20
        while open_artifact(folder / "artifact").version != version:  # never something between the two
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert version != first.version
    assert not [thread for thread in threading.enumerate() if thread.name == "pygrade-follow"]


def test_a_file_that_disappears_while_it_is_copied_is_named_with_the_place(s3, data, monkeypatch, capsys):
    found = storage.Folder._stamp

    def copied(folder, name):
        answer = found(folder, name)
        if name.endswith(".parquet"):
            files, path = folder._store
            files.remove(f"{path}/{name}")
        return answer

    monkeypatch.setattr(storage.Folder, "_stamp", copied)
    assert cli.main(["pipeline", "--data", data, "--out", f"{s3}/runs/tiny", "--quiet"]) == 2
    text = capsys.readouterr().err
    assert re.search(r"in/log/part-00000\.parquet (does not exist|has disappeared).* \(data: logs:s3:", text)
    assert not [name for name in Folder.at(f"{s3}/runs/tiny").names() if "/" in name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "logs:{s3}/nothing", "--out", "{s3}/x"], "data is .*nothing.* does not exist"),
        (["--data", "{data}", "--out", "{s3}-missing/x"], "-missing/x.*no such bucket"),
        (["--data", "logs:{s3}-missing/log", "--out", "{s3}/x"], "-missing/log does not exist"),
        (["--data", "{data}", "--out", "{s3}/in/log/run"], "out is .*inside the data"),
        (["--data", "{data}", "--out", "s3://KEY:SECRET@b/x"], "has credentials"),
    ],
)
def test_bad_places_are_named_before_any_work(s3, data, options, message, capsys):
    words = [word.format(s3=s3, data=data) for word in options]
    assert cli.main(["pipeline", *words, "--quiet"]) == 2
    text = capsys.readouterr().err
    assert re.search(message, text) and "SECRET" not in text
    store, path = files_of(s3)
    assert {name.partition("/")[0] for name in store.listing(path)} == {"in"}


def test_a_store_that_refuses_in_mid_run_leaves_the_earlier_artifact(s3, data, monkeypatch):
    place = f"{s3}/runs/tiny"
    version = run_pipeline(data, place, CONFIG)["stages"]["publish"]["version"]
    real = Files.write

    def write(store, path, content):
        if "/policy-" in path:
            raise StorageError(f"{store.scheme}://{path}: the store refuses these credentials")
        real(store, path, content)

    monkeypatch.setattr(Files, "write", write)
    refuses(StorageError, r"policy-.*the store refuses", run_pipeline, data, place, OTHER)
    assert open_artifact(f"{place}/artifact").version == version
