"""Several runs in one server: requests name theirs, and nothing of one mixes with another."""

import json
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save

from pygrade import FusionPolicy
from pygrade.cli.commands.serve import table_of
from pygrade.config.policy import PolicyConfig
from pygrade.config.service import ServeOptions
from pygrade.logs import read_logs
from pygrade.policy import PolicySpec
from pygrade.service.exposures import read_removals
from pygrade.service.feedback_log import feedback_files
from tests.service.conftest import eventually, needs_server
from tests.service.test_server import Server, refuse

TASKS = {"shop": ("click",), "web": ("click", "buy")}


def save_policy(folder, name, seed=0):
    shutil.rmtree(folder, ignore_errors=True)
    FusionPolicy(PolicySpec(TASKS[name], ("hour",), PolicyConfig(hidden=(4,))), seed=seed).save(folder)
    return json.loads((folder / "policy.json").read_text())["version"]


@pytest.fixture
def runs(tmp_path):
    """Directories of two runs, and the versions of their policies."""
    needs_server()
    return {name: (tmp_path / name, save_policy(tmp_path / name / "policy", name)) for name in TASKS}


def serving(runs, tmp_path, *options):
    """The first run without a name, the other one with its own."""
    return Server(runs["shop"][0], tmp_path, "--run", f"web={runs['web'][0]}", "--log", "none", *options)


def page_of(name, policy=None, last=False, **more):
    """A request that fits one run."""
    policy = {} if policy is None else {"policy": policy}
    lists = {task: [0.3, 0.2, 0.1] for task in TASKS[name]}
    request = {"user": 7, "items": [10, 20, 30], "predictions": lists, "context": {"hour": 3}} | more
    return request | policy if last else policy | request


def post(server, path, body, wanted=200):
    status, _, content = server.ask("POST", path, body)
    assert status == wanted, content
    return json.loads(content)


def wrong(answer):
    return answer["error"]["argument"], answer["error"]["message"]


def test_requests_name_their_run(runs, tmp_path):
    unknown = ("policy", "policy is 'app'; expected one of web, or none")
    with serving(runs, tmp_path) as server:
        for path in ("/v1/rank", "/v1/weights", "/v1/explain"):
            for name, policy in (("shop", None), ("web", "web")):
                for last in (False, True):
                    page = post(server, path, page_of(name, policy, last))
                    assert page["policy"] == runs[name][1] and tuple(page["weights"]) == TASKS[name]
            assert wrong(post(server, path, page_of("web", "app"), 400)) == unknown
            assert wrong(post(server, path, page_of("web", 3), 400))[0] == "policy"
            assert post(server, path, page_of("web"))["policy"] == runs["shop"][1]
        requests = [page_of("web", "web"), page_of("shop"), page_of("web", "app"), page_of("web", "web", True)]
        pages = post(server, "/v1/rank", {"requests": requests})["pages"]
        assert [page.get("policy") for page in pages] == [runs[n][1] for n in ("web", "shop")] + [None, runs["web"][1]]
        assert wrong(pages[2]) == unknown
        named = page_of("shop", None, scenario='the "policy"')  # the word as a text
        assert post(server, "/v1/rank", named)["policy"] == runs["shop"][1]
        tensors = {"items": np.array([1, 2], np.int64), "predictions": np.float32([[0.3, 0.1], [0.2, 0.4]])}
        body = save(tensors, {"request": '{"user": 7, "policy": "web"}'})
        headers = {"Authorization": "Bearer a token", "Content-Type": "application/safetensors"}
        status, _, content = super(Server, server).ask("POST", "/v1/rank", body, headers)
        assert status == 200 and json.loads(content)["policy"] == runs["web"][1]
    with Server(runs["shop"][0], tmp_path) as server:
        assert wrong(post(server, "/v1/rank", page_of("shop", "web"), 400)) == (
            "policy",
            "policy is 'web'; expected none: one run is served, which has no name",
        )


def test_logs_and_removals_of_a_run_are_its_own(runs, tmp_path):
    logs = {"shop": tmp_path / "pages", "web": tmp_path / "pages/runs/web"}
    events = {"shop": tmp_path / "events", "web": tmp_path / "events/runs/web"}
    options = ("--exposures", logs["shop"], "--exposure-share", "1", "--feedback", events["shop"])
    counts = {"shop": 3, "web": 5}
    with serving(runs, tmp_path, *options) as server:
        for name, policy in (("shop", None), ("web", "web")):
            for n in range(counts[name]):
                post(server, "/v1/rank", page_of(name, policy, request_id=f"{name}-{n}"))
                event = {"user": 7, "item": 10, "task": TASKS[name][-1], "request_id": f"{name}-{n}"}
                post(server, "/v1/update", {"events": [event]} | ({} if policy is None else {"policy": policy}))
        answer = post(server, "/v1/update", {"events": [{"user": 7, "item": 1, "task": "click"}], "policy": "x"}, 400)
        assert wrong(answer)[0] == "policy"
        assert server.ask("DELETE", "/v1/users/5?policy=web")[0] == 200
        assert [sorted(read_removals(logs[name])) for name in logs] == [[], ["5"]]
        assert server.ask("DELETE", "/v1/users/6")[0] == 200  # of all runs
        assert [sorted(read_removals(logs[name])) for name in logs] == [["6"], ["5", "6"]]
        assert server.ask("DELETE", "/v1/users/6?policy=x")[0] == 400
    for name, count in counts.items():
        ids = [f"{name}-{n}" for n in range(count)]
        pages = read_logs(logs[name])
        assert pages.tasks == TASKS[name] and sorted(pages.request_id) == ids
        lines = "".join(file.read_text() for file in feedback_files([events[name]])).splitlines()
        assert [json.loads(line)["request_id"] for line in lines] == ids


def test_each_run_is_swapped_on_its_own_and_has_its_figures(runs, tmp_path):
    with serving(runs, tmp_path) as server, ThreadPoolExecutor(2) as threads:

        def load(name, policy):
            return {post(server, "/v1/rank", page_of(name, policy))["policy"] for _ in range(300)}

        served = [threads.submit(load, name, policy) for name, policy in (("shop", None), ("web", "web"))]
        version = save_policy(tmp_path / "new", "web", seed=1)
        (runs["web"][0] / "policy").rename(tmp_path / "old")
        (tmp_path / "new").rename(runs["web"][0] / "policy")
        server.signal(signal.SIGHUP)
        eventually(lambda: post(server, "/v1/rank", page_of("web", "web"))["policy"] == version)
        assert served[0].result() == {runs["shop"][1]} and served[1].result() <= {runs["web"][1], version}
        assert post(server, "/v1/rank", page_of("shop"))["policy"] == runs["shop"][1]
        status = server.answer("/v1/status")
        assert status["arms"][0]["policy"] == runs["shop"][1] and status["arms"][0]["pages"] == 301
        web = status["runs"]["web"]
        assert (
            web["arms"][0]["policy"] == version and web["arms"][0]["pages"] >= 301 and web["tasks"] == ["click", "buy"]
        )
        assert "process_open_fds" in status["counters"] and "process_open_fds" not in web["counters"]
        text = server.ask("GET", "/metrics")[2].decode()
        families = re.findall(r"^# TYPE (\S+)", text, re.M)
        assert len(families) == len(set(families))
        series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
        assert len(series) == len(set(series))
        assert server.figure('pygrade_arm_pages_total{arm="main"}') == 301
        assert server.figure('pygrade_arm_pages_total{policy="web",arm="main"}') >= 301
        assert server.figure("pygrade_reloads_total") == 0
        assert server.figure('pygrade_reloads_total{policy="web"}') >= 1
        assert f'pygrade_policy_info{{arm="main",policy="{runs["shop"][1]}"' in text
        assert f'pygrade_policy_info{{policy="web",arm="main",version="{version}"' in text
        assert server.answer("/readyz")["runs"]["web"]["policies"] == {"main": version}


def test_a_run_that_fails_takes_no_other_down(runs, tmp_path):
    late = tmp_path / "late"
    with serving(runs, tmp_path, "--run", f"late={late}") as server:
        assert "run 'late': it could not be loaded" in server.log.read_text()
        assert post(server, "/v1/rank", page_of("web", "web"))["policy"] == runs["web"][1]
        argument, message = wrong(post(server, "/v1/rank", page_of("web", "late"), 503))
        assert argument == "policy" and "the run 'late' could not be loaded" in message
        ready = server.answer("/readyz")  # which answers 200
        assert ready["ready"] and "late" in ready["runs"]["late"]["reload_error"]
        assert "late" in server.answer("/v1/status")["runs"]["late"]["error"]
        assert server.figure('pygrade_ready{policy="late"}') == 0
        shutil.copytree(runs["web"][0], late)  # it is tried again
        eventually(lambda: server.ask("POST", "/v1/rank", page_of("web", "late"))[0] == 200)
        assert server.answer("/readyz")["runs"]["late"]["reload_error"] is None
    shutil.rmtree(runs["shop"][0])  # that without a name
    with serving(runs, tmp_path) as server:
        assert post(server, "/v1/rank", page_of("web", "web"))["policy"] == runs["web"][1]
        assert "could not be loaded" in wrong(post(server, "/v1/rank", page_of("shop"), 503))[1]
        assert server.answer("/readyz")["reload_error"]
    code, text = refuse("--run", runs["shop"][0], "--run", f"late={tmp_path / 'none'}", "--port", "0")
    assert code == 1 and "shop" in text


def test_runs_of_a_file_and_without_an_unnamed_one(runs, tmp_path):
    options = {"max_k": 2, "runs": {"web": {"run": str(runs["web"][0]), "max_k": 1}}}
    (tmp_path / "options.json").write_text(json.dumps(options))
    with Server(f"shop={runs['shop'][0]}", tmp_path, "--config", tmp_path / "options.json") as server:
        for name, most in (("web", 1), ("shop", 2)):
            assert len(post(server, "/v1/rank", page_of(name, name, k=most))["items"]) == most
            assert f"from 1 to {most}" in wrong(post(server, "/v1/rank", page_of(name, name, k=3), 400))[1]
        assert wrong(post(server, "/v1/rank", page_of("web"), 400)) == (
            "policy",
            "policy is missing; expected one of web, shop",
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"a b": {"run": "x"}}, 'name in runs is "a b"; expected letters, digits, _ and - alone'),
        ({"web": {}}, "runs.web.run is missing"),
        ({"web": "x"}, "runs.web.run is missing"),
        ({"web": {"run": "x", "nothing": 1}}, "runs.web.nothing is unknown"),
        ({"web": {"run": "x", "runs": {}}}, "runs.web.runs is unknown"),
        ({"web": {"run": "x", "max_k": 0}}, "runs.web.max_k is 0"),
        ({"web": {"run": "x", "arms": [{"name": "a", "share": 0.5}]}}, "runs.web.arms have shares of 0.5"),
        ({"web": {"run": "x", "exposures": "/pages"}}, "runs.web.exposures is that of another run"),
        ({n: {"run": n, "history": "redis://h:1/0"} for n in ("web", "app")}, "history is that of another run"),
    ],
)
def test_wrong_runs_are_named(tmp_path, options, message):
    needs_server()
    config = json.dumps({"exposures": "/pages", "runs": options})
    code, text = refuse("--run", tmp_path, "--port", "0", "--config", "-", config=config)
    assert code == 2 and message in text


def test_options_of_the_command(tmp_path):
    path = tmp_path / "pygrade.toml"
    path.write_text('[serve]\nmax_k = 5\n[serve.runs.web]\nrun = "runs/web"\nmax_k = 2\n')
    table = table_of(ServeOptions(run=tmp_path, config=path))
    assert table["runs"] == {"web": {"run": str(tmp_path / "runs/web"), "max_k": 2}} and table["max_k"] == 5
    path.write_text("[serve.runs.web]\nmax_k = 2\n")
    with pytest.raises(ValueError, match=r"runs\.web lacks run"):
        table_of(ServeOptions(run=tmp_path, config=path))
