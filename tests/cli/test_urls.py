"""Commands whose data and results are in a bucket, beside the local ones."""

from dataclasses import replace

import numpy as np
import pytest

from pygrade.cli import main as cli
from pygrade.cli.option_list import options_of
from pygrade.config.policy import PolicyConfig
from pygrade.logs import read_logs, write_logs
from pygrade.policy import FusionPolicy, PolicySpec
from pygrade.runs import result as runs_result
from pygrade.storage import Folder
from tests.cli.test_cli import TINY, WORLD, result
from tests.cli.test_doctor import SHOP, pa, parquet
from tests.service.served import events_of, pages, write_exposures, write_feedback

pytestmark = pytest.mark.usefixtures("s3")


@pytest.mark.slow
def test_a_policy_is_trained_judged_and_used_in_a_bucket(s3, capsys, tmp_path):
    for place in (s3, tmp_path):
        simulated = ["simulate", "--out", f"{place}/logs", "--requests", "400", "--quiet", *WORLD]
        assert result(capsys, *simulated)["out"] == f"{place}/logs"
        trained = ["train", "--data", f"logs:{place}/logs", "--out", f"{place}/run", "--quiet", *TINY]
        record = result(capsys, *trained, "--policy.trade-offs")
        assert record["policy"] == f"{place}/run/policy" and record["report"] == f"{place}/run/report.html"
    own, there = Folder.at(tmp_path / "run"), Folder.at(f"{s3}/run")
    assert there.names() == [name for name in own.names() if "checkpoints" not in name.split("/")]
    assert "folds/1-of-2/policy/policy.json" in there.names() and "options.toml" in there.names()
    for name in there.names("policy/*"):
        assert there.read(name) == own.read(name), name

    def both(command, *options):
        made = [
            result(capsys, command, "--data", f"logs:{at}/logs", "--policy", f"{at}/run/policy", "--quiet", *options)
            for at in (s3, tmp_path)
        ]
        return [{k: v for k, v in record.items() if k not in ("data", "policy", "counters")} for record in made]

    for command, *options in (
        ["evaluate", "--k", "5"],
        ["evaluate", "--trade-offs", "--propensity", "0.5", "--k", "5", "--keep", "click=0.9"],
        ["rank", "--k", "5"],
    ):
        remote, local = both(command, *options)
        assert remote == local and remote, command

    words = ["--data", f"logs:{s3}/logs", "--policy", f"{s3}/run/policy", "--quiet"]
    kept = ["--keep", "click=0.9", "--propensity", "0.5", "--save", f"{s3}/turned", "--plot", f"{s3}/front.svg"]
    result(capsys, "evaluate", "--trade-offs", *words, *kept)
    assert FusionPolicy.load(f"{s3}/turned").config.values and Folder.at(s3).read("front.svg").startswith(
        b"<svg xmlns="
    )
    result(capsys, "rank", *words, "--log", f"{s3}/pages")
    assert read_logs(f"{s3}/pages").num_requests == 1
    record = result(capsys, "report", f"{s3}/run", "--data", f"logs:{s3}/logs")
    assert record["out"] == f"{s3}/run/console.html"
    record = result(capsys, "simulate", "--ab", f"{s3}/run/policy", "--requests", "60", "--quiet", *WORLD)
    assert record["sampled"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch about itself
def test_an_exported_policy_goes_to_a_bucket(s3, capsys):
    pytest.importorskip("onnxscript")
    policy = FusionPolicy(PolicySpec(("click", "buy"), ("hour",), PolicyConfig(hidden=(4,))))
    assert policy.save(f"{s3}/policy") == f"{s3}/policy"
    record = result(capsys, "export", "--policy", f"{s3}/policy", "--out", f"{s3}/policy.onnx", "--onnx")
    assert len(Folder.at(s3).read("policy.onnx")) > 1000 and record["out"] == f"{s3}/policy.onnx"


def test_an_interrupted_training_resumes_and_shows_nothing_before(s3, capsys, tmp_path, monkeypatch):
    result(capsys, "simulate", "--out", str(tmp_path / "logs"), "--requests", "400", "--quiet", *WORLD)
    command = ["train", "--data", f"logs:{tmp_path}/logs", "--out", f"{s3}/run", "--quiet", *TINY]
    real = runs_result.write_report
    monkeypatch.setattr(runs_result, "write_report", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(command) == 130
    assert Folder.at(f"{s3}/run").names() == []
    monkeypatch.setattr(runs_result, "write_report", real)
    assert cli.main(command) == 0
    assert "report.html" in Folder.at(f"{s3}/run").names()
    capsys.readouterr()
    assert cli.main(["pipeline", "--data", f"logs:{tmp_path}/logs", "--out", f"{s3}/run", "--quiet"]) == 2
    assert "holds the results of pygrade train" in capsys.readouterr().err


def test_doctor_reads_a_table_and_writes_a_log_there(s3, capsys, tmp_path):
    parquet.write_table(pa.table(SHOP), tmp_path / "shop.parquet")
    Folder.at(f"{s3}/raw").put("shop.parquet", tmp_path / "shop.parquet")
    for source in (f"{s3}/raw/shop.parquet", f"{s3}/raw"):
        record = result(capsys, "doctor", source, "--values", "buy=20", "--out", f"{s3}/shop")
        assert record["logs"] == f"{s3}/shop/logs"
    result(capsys, "doctor", str(tmp_path / "shop.parquet"), "--values", "buy=20", "--out", str(tmp_path / "shop"))
    there, own = read_logs(f"{s3}/shop/logs"), read_logs(tmp_path / "shop" / "logs")
    np.testing.assert_array_equal(there.predictions, own.predictions)
    assert f'data = "logs:{s3}/shop/logs"' in Folder.at(f"{s3}/shop").read("pygrade.toml").decode()


def test_join_reads_new_files_alone_and_publishes_the_log(s3, capsys, tmp_path, monkeypatch):
    logs = pages(100)
    records, _ = events_of(logs)
    write_feedback(records, tmp_path / "feedback", 0)
    Folder.at(f"{s3}/feedback").put("0.jsonl", tmp_path / "feedback" / "0.jsonl")
    command = ["join", "--exposures", f"{s3}/exposures", "--feedback", f"{s3}/feedback", "--out", f"{s3}/joined"]
    for number in range(2):
        write_exposures(logs.select(slice(50 * number, 50 * number + 50)), tmp_path / "exposures", number)
        name = f"exposures-{number}.parquet"
        Folder.at(f"{s3}/exposures").put(name, tmp_path / "exposures" / name)
        monkeypatch.setenv("PYGRADE_CACHE", str(tmp_path / f"machine-{number}"))  # what it knows is in the bucket
        record = result(capsys, *command, *(["--final"] if number else []))
    assert record["requests"] == 100 and record["joined"] == len(records)
    own = ["--exposures", f"{tmp_path}/exposures", "--feedback", f"{tmp_path}/feedback", "--out", f"{tmp_path}/joined"]
    assert result(capsys, "join", *own, "--final")["joined"] == len(records)
    there, here = (read_logs(place) for place in (f"{s3}/joined", tmp_path / "joined"))
    order, other = np.argsort(there.request_id), np.argsort(here.request_id)
    np.testing.assert_array_equal(there.select(order).feedback, here.select(other).feedback)


def test_a_log_replaces_nothing_but_a_log(s3):
    logs = pages(20)
    Folder.at(f"{s3}/other").put("precious.txt", b"1")
    with pytest.raises(ValueError, match=f"{s3}/other holds precious.txt, which is not part of a log"):
        write_logs(logs, f"{s3}/other")
    write_logs(logs, f"{s3}/logs", rows_per_file=60)
    write_logs(replace(logs, timestamp=logs.timestamp + 1), f"{s3}/logs")
    assert Folder.at(f"{s3}/logs").names() == ["part-00000.parquet"]
    assert read_logs(f"{s3}/logs").timestamp[0] == logs.timestamp[0] + 1


@pytest.mark.parametrize(
    "command", ["pipeline", "train", "evaluate", "rank", "doctor", "join", "report", "serve", "simulate", "export"]
)
def test_help_says_where_a_url_may_be_given(command):
    kinds = {option.name: option.kind for option in options_of(command)}
    names = {"pipeline": ["out"], "train": ["out"], "join": ["out", "exposures", "feedback"]}
    names |= {"simulate": ["out"], "export": ["out", "policy", "model"], "report": ["run", "out"], "serve": ["run"]}
    names |= {"doctor": ["files", "out"]}
    for name in names.get(command, ["policy"]):
        assert kinds[name].startswith("PATH|URL"), name


def test_a_config_file_names_urls(s3, capsys, tmp_path):
    write_logs(pages(20), f"{s3}/logs")
    (tmp_path / "pygrade.toml").write_text(f'[rank]\ndata = "logs:{s3}/logs"\npolicy = "{s3}/nothing"\n')
    assert cli.main(["rank", "--config", str(tmp_path / "pygrade.toml"), "--quiet"]) == 2
    assert f"{s3}/nothing does not exist" in capsys.readouterr().err
