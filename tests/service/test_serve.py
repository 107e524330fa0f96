"""`pygrade serve` as a process: pages are the pipeline's, options, runs at URLs, the loop."""

import dataclasses
import json
import re
import signal
import subprocess

import pytest

from pygrade import _core
from pygrade.cli.commands.serve import table_of
from pygrade.cli.config_file import read_table
from pygrade.cli.main import main
from pygrade.config.service import ServeOptions
from pygrade.config.shared import Output
from pygrade.pipeline.run import run_pipeline
from pygrade.service.online import log_folder
from pygrade.service.program import program
from tests.pipeline.test_urls import uploaded
from tests.pipeline.world import OTHER, write_log
from tests.service.conftest import command_of, eventually, serving

TIME = 1_700_002_900_000
RANK = {"user": 7, "k": 5, "candidates": 40, "timestamp": TIME}
SECRET = "redis://shop:secret@127.0.0.1:1/0"


def test_options_of_the_file_and_of_the_command(tmp_path, capsys):
    path = tmp_path / "pygrade.toml"
    path.write_text('[serve]\nport = 1\ndeadline_ms = 20\n[[serve.arms]]\nname = "new"\nshare = 1.0\n')
    assert read_table(path, "serve") == {"port": 1, "deadline_ms": 20, "arms": [{"name": "new", "share": 1.0}]}
    table = table_of(ServeOptions(run=tmp_path, config=path, port=2, feedback=tmp_path / "f", public=True))
    assert table == read_table(path, "serve") | {"port": 2, "feedback": str(tmp_path / "f"), "public": True}
    assert main(["serve", "--run", "x", "--config", str(path), "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out) == read_table(path, "serve")
    assert main(["serve", "--run", "x", "--log", "none", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out) == {"log": "none"}
    assert log_folder(tmp_path, {"exposures": "logs"}, "exposures") == tmp_path / "logs"


def test_what_is_wrong_before_the_server_starts_is_named(tmp_path, capsys):
    path = tmp_path / "pygrade.toml"
    for content, words, message in (
        ("[serve", (), "Expected ']' at the end"),
        ("serve = 3", (), "serve is 3; expected a table"),
        ("[serve]\nseed = 2020-01-01", ("--print-config",), "seed is 2020-01-01; expected text, a number"),
        ('[serve]\nexposures = "s3://b/x"', (), "exposures is s3://b/x; expected a directory"),
        ("", (), "has no artifact and no policy"),
        ("", ("--store", SECRET), "store has a password"),
    ):
        path.write_text(content)
        assert main(["serve", "--run", str(tmp_path), "--config", str(path), *words]) == 2
        text = capsys.readouterr().err
        assert message in text and "secret" not in text
    with pytest.raises(ValueError, match="feedback is not given"):
        log_folder(tmp_path, {}, "feedback")


def test_its_options_are_those_of_the_server(run):
    text = subprocess.run([program(), "--help"], capture_output=True, text=True, check=True).stdout
    wanted = {name.replace("-", "_") for name in re.findall(r"^  --([\w-]+) ", text, re.MULTILINE)}
    with pytest.raises(ValueError, match="unheard is unknown") as caught:
        _core.Service(str(run), '{"unheard": 1}')
    wanted |= set(str(caught.value).split("expected some of ")[1].split(", "))
    own = {entry.name for entry in dataclasses.fields(ServeOptions)} - {
        entry.name for entry in dataclasses.fields(Output)
    }
    assert own - {"print_config", "online", "interval_seconds"} <= wanted  # which has more in [serve]


def test_the_server_names_a_bad_option_and_shows_no_secret(run, tmp_path):
    path = tmp_path / "pygrade.toml"
    path.write_text(f'[serve]\nstore = "{SECRET}"\nprot = 1\n')
    command = command_of(run, "--config", path)
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2 and "prot is unknown" in found.stderr and "secret" not in found.stderr


def test_a_run_at_a_url_is_followed_and_signals_are_passed_on(own_run, s3, tmp_path):
    place = uploaded(own_run, f"{s3}/runs/tiny")
    options = ["--store", f"lmdb:{own_run / 'store'}", "--refresh-seconds", "0.1"]
    with serving(place, tmp_path / "log", *options) as server:
        before = server.answer("/v1/rank", RANK)["artifact"]
        run_pipeline(write_log(tmp_path / "log-of-events"), own_run, OTHER)
        uploaded(own_run, place)
        eventually(lambda: server.answer("/v1/rank", RANK)["artifact"] != before)
        server.signal(signal.SIGINT)
        assert server.process.wait(30) == 0
    assert "has ended" in server.log.read_text()
    refused = subprocess.run(command_of(place, *options, "--log", "some"), capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "log is 'some'" in refused.stderr


@pytest.mark.slow
def test_online_learning_runs_beside_the_server(own_run, tmp_path):
    path = tmp_path / "pygrade.toml"
    path.write_text(
        '[serve]\nexposures = "exposures"\nfeedback = "feedback"\nfile_seconds = 1\n'
        '[[serve.arms]]\nname = "main"\nshare = 0.5\n'
        '[[serve.arms]]\nname = "learned"\nshare = 0.5\npolicy = "online/policy"\nallow_identical = true\n'
    )
    with serving(own_run, tmp_path / "log", "--config", path, "--online") as server:
        assert server.answer("/v1/rank", RANK | {"arm": "learned"})["arm"] == "learned"
        eventually(lambda: (own_run / "online" / "status.json").exists())
        eventually(lambda: server.answer("/v1/status")["online"] is not None)
        record = server.answer("/v1/status")["online"]
        assert record["arms"]["control"] == "main"
        assert set(record["arms"]["users"]) == {"main", "learned"}
        other = command_of(own_run, "--config", path, "--online")
        refused = subprocess.run(other, capture_output=True, text=True, timeout=120, check=False)
        assert refused.returncode == 2 and "is in use by another pygrade process" in refused.stderr
    assert (own_run / "online" / "state" / "inputs.json").exists()  # it ended on the signal
