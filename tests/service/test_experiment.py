"""Experiments over weeks: assignment, the log of a service, the joined log, and the table of the users."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from pygrade import _core
from pygrade.cli import main as cli
from pygrade.config import user_table as names
from pygrade.evaluation.user_tables import header_of
from pygrade.logs import concatenate, read_logs
from pygrade.logs.parquet import write_part
from pygrade.service.experiment import DAY_MS, Experiment, assign, user_table
from pygrade.service.partition_by_request import columns_of
from tests.serving.test_shifts import FEATURES, TASKS, VALUES, policy_with

START = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp() * 1000)
OPTIONS = {
    "name": "cost",
    "start": "2026-06-01",
    "settings": [{}, {"click": -4.0}],
    "cohorts": [[0.5, 0.5], [0.2, 0.8]],
}


def test_assignment_is_even_stable_and_independent() -> None:
    users = np.arange(20_000)
    cohort, setting = assign("cost", OPTIONS["cohorts"], users)
    again = assign("cost", OPTIONS["cohorts"], users.astype(str))
    assert (cohort == again[0]).all() and (setting == again[1]).all()
    assert cohort.mean() == pytest.approx(0.5, abs=0.015)
    for c, share in ((0, 0.5), (1, 0.8)):
        assert setting[cohort == c].mean() == pytest.approx(share, abs=0.02)
    other = assign("cost2", OPTIONS["cohorts"], users)[1]
    assert abs(np.corrcoef(setting, other)[0, 1]) < 0.05
    # A change of a cohort's shares moves nobody else.
    moved = assign("cost", [[0.5, 0.5], [1.0, 0.0]], users)
    assert (moved[0] == cohort).all() and (moved[1] == setting)[cohort == 0].all() and not moved[1][cohort == 1].any()
    assert assign("cost", OPTIONS["cohorts"], [3, 5, 8])[1].tolist() == setting[[3, 5, 8]].tolist()
    for cohorts, message in (
        ([], "is empty"),
        ([[0.5, 0.4]], "want one for each"),
        ([[0.5, 0.5], [1.0]], "has 1 shares"),
    ):
        with pytest.raises(ValueError, match=message):
            assign("cost", cohorts, users)
    with pytest.raises(ValueError, match="want one id or text a user"):
        assign("cost", OPTIONS["cohorts"], np.ones((2, 2)))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A week before and ten weeks of an experiment: the run, with exposures and feedback, and what was asked."""
    run = tmp_path_factory.mktemp("experiment")
    policy_with(VALUES, trust=0.5).save(run / "policy")
    logs = {"exposures": str(run / "exposures"), "feedback": str(run / "feedback"), "exposure_share": 1.0}
    service = _core.Service(str(run / "policy"), json.dumps(logs | {"experiment": OPTIONS}))
    rng, asked = np.random.default_rng(0), []
    for user in range(40):
        for day in sorted(rng.choice(np.arange(-28, 45), 8, replace=False).tolist()):
            asked.append((day, user))
    for number, (day, user) in enumerate(sorted(asked)):
        time = START + day * DAY_MS + 1000 * number
        predictions = rng.uniform(0.01, 0.3, (len(TASKS), 12))
        body = {"user": user, "timestamp": time, "k": 3, "request_id": f"r{number}", "items": list(range(12))}
        body |= {"predictions": dict(zip(TASKS, predictions.tolist(), strict=True))}
        body |= {"context": dict.fromkeys(FEATURES, 0.5)} | ({"experiment": False} if user == 39 else {})
        body |= {"shifts": {"click": 1.0}} if user == 38 else {}
        status, _, content, _ = service.handle("POST", "/v1/rank", json.dumps(body).encode())
        page = json.loads(content)
        assert status == 200, page
        event = {
            "user": user,
            "item": page["items"][0],
            "task": "order",
            "timestamp": time + 1,
            "request_id": f"r{number}",
        }
        if number % 3 == 0:
            assert service.handle("POST", "/v1/update", json.dumps({"events": [event]}).encode())[0] == 200
    service.drain()
    del service
    return run, sorted(asked)


def test_the_joined_log_and_the_table_carry_the_experiment(served, tmp_path, capsys) -> None:
    run, asked = served
    settings = "[serve.experiment]\nname = 'cost'\nstart = '2026-06-01'\nsettings = [{}, {click = -4}]\n"
    (tmp_path / "pygrade.toml").write_text(settings + "cohorts = [[0.5, 0.5], [0.2, 0.8]]\n")
    words = ["join", "--exposures", run / "exposures", "--feedback", run / "feedback", "--out", tmp_path / "joined"]
    words += ["--final", "--users", tmp_path / "users.csv", "--experiment", tmp_path / "pygrade.toml"]
    assert cli.main([str(word) for word in words]) == 0
    assert "users of cost" in " ".join(capsys.readouterr().out.split())
    logs = read_logs(tmp_path / "joined")
    cohort, setting = assign("cost", OPTIONS["cohorts"], np.arange(40))
    user = logs.user_id.astype(int)
    day = (logs.timestamp - START) // DAY_MS
    begun = (day >= 7 * cohort[user]) & (user != 39)
    assert set(logs.experiment) == {"cost"} and (logs.cohort == np.where(user == 39, -1, cohort[user])).all()
    assert (logs.setting == np.where(begun, setting[user], -1)).all()
    click = np.where(begun & (setting[user] == 1), -4.0, np.where(user == 38, 1.0, 0.0))
    assert (np.nan_to_num(logs.shifts[:, 0]) == np.where(user == 38, 1.0, click)).all()

    found = user_table(logs, Experiment.of_options(OPTIONS))
    columns = found.columns
    assert header_of(tmp_path / "users.csv") == list(columns)
    days = {u: np.array([d for d, other in asked if other == u]) for u in range(39)}
    first = {u: d[d >= 7 * cohort[u]].min(initial=99) for u, d in days.items()}
    enrolled = {u: d for u, d in first.items() if d < 7 * cohort[u] + 7}
    assert sorted(columns[names.USER_ID].astype(int)) == sorted(enrolled)
    assert found.late == sum(d < 99 for d in first.values()) - len(enrolled)
    assert found.outside == int((~begun).sum())
    worth = logs.value_of(logs.feedback)
    of_request = np.add.reduceat(worth, logs.offsets[:-1])
    for row, u in enumerate(columns[names.USER_ID].astype(int)):
        assert columns[names.SETTING][row] == setting[u] and columns[names.ENROLLED][row] == enrolled[u]
        assert columns[names.SHIFT + "click"][row] == (-4.0 if setting[u] else 0.0)
        assert columns[names.SERVED + "click"][row] == (1.0 if u == 38 else columns[names.SHIFT + "click"][row])
        age = days[u] - enrolled[u]
        mine = of_request[user == u][np.argsort(day[user == u])]
        assert columns["visits_28"][row] == ((age >= 0) & (age < 28)).sum()
        assert columns["money_28"][row] == pytest.approx(mine[(age >= 0) & (age < 28)].sum())
        assert columns["money_1"][row] == pytest.approx(mine[age == 0].sum())
        before = (age < 0) & (age >= -28)
        assert columns[names.BEFORE_VISITS][row] == pytest.approx(before.sum() or np.nan, nan_ok=True)
    with pytest.raises(ValueError, match="experiment is 'other'; the log has cost"):
        user_table(logs, Experiment.of_options(OPTIONS | {"name": "other"}))
    early = user_table(logs.select(day < 20), Experiment.of_options(OPTIONS)).columns
    assert np.isnan(early["money_28"]).all() and not np.isnan(early["money_7"]).all()


def test_parts_without_an_experiment_are_outside_of_it(served, tmp_path) -> None:
    run, _ = served
    logs = concatenate([read_logs(file) for file in sorted((run / "exposures").glob("*.parquet"))])
    other = np.char.add("p", logs.request_id.astype(str))
    plain = replace(logs, experiment=None, setting=None, cohort=None, request_id=other)
    both = concatenate([plain, logs])
    for number, part in enumerate((plain, logs)):
        write_part(columns_of(part), tmp_path / f"part-{number:05d}.parquet")
    for found in (both, read_logs(tmp_path)):
        assert set(found.experiment[: plain.num_requests]) == {""} and set(found.experiment) == {"", "cost"}
        assert (found.setting[: plain.num_requests] == -1).all() and (found.cohort[: plain.num_requests] == -1).all()
        assert (found.setting[plain.num_requests :] == logs.setting).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--users", "users.csv"], "belong together"),
        (["--users", "users.txt", "--experiment", "a.toml"], "ends with .csv or .parquet"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, capsys, more, message) -> None:
    words = ["join", "--exposures", str(tmp_path), "--feedback", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main([*words, *more]) != 0
    assert message in " ".join(capsys.readouterr().err.split())
