"""The core's service on runs of the pipeline and of a policy; csrc/tests/test_service*.cpp have the rest."""

import json

import numpy as np
import pytest

from pygrade import BlendedRanker, FusionPolicy, _core
from pygrade._util.hashing import stable_id
from pygrade._util.serialization import read_json
from pygrade.config.policy import PolicyConfig
from pygrade.data.events import EventLog
from pygrade.logs import read_logs
from pygrade.logs.categories import encode
from pygrade.pipeline.publish import ITEM_NAMES, REFERENCE, deciles
from pygrade.policy import PolicySpec
from pygrade.serving.artifact import open_artifact
from pygrade.serving.names import Names
from pygrade.serving.pipeline import Pipeline, load_models
from tests.pipeline.world import copy

NOW = 1_700_000_000_000


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    return copy(trained_run, tmp_path_factory.mktemp("service") / "run")


def post(service, path, **body):
    status, kind, content, _ = service.handle("POST", path, json.dumps(body).encode())
    assert kind == "application/json"
    return status, json.loads(content)


def test_pages_are_those_of_the_pipeline(run):
    service = _core.Service(str(run), '{"allow_unproven": true}')
    pipeline = Pipeline.load(run)
    for user in range(20):
        status, page = post(service, "/v1/rank", user=user, timestamp=NOW, candidates=50)
        own = pipeline.rank(user, timestamp=NOW, candidates=50)
        assert status == 200 and page["items"] == own.items.tolist()
        assert np.float32(page["scores"]).tobytes() == own.scores.tobytes()
        if page["ranked_by"][0] == "policy":
            assert np.float32(list(page["weights"].values())).tobytes() == own.page.weights[0].tobytes()
        else:
            assert page["weights"] is None
    pipeline.close()


def test_predictions_like_those_at_publication_are_no_drift(run):
    version = read_json(run / "artifact" / "manifest.json")["version"]
    reference = read_json(run / REFERENCE)["versions"][version]
    assert all(np.isclose(sum(entry["shares"]), 1.0) for entry in reference.values())
    latest = list(EventLog.open(Names.of(run).events).chunks())[-1]
    context = load_models(open_artifact(run / "artifact")).schema.context

    def drift(shift):
        service = _core.Service(str(run), '{"allow_unproven": true}')
        for row in latest.unique("request_id", keep="first", maintain_order=True).tail(256).iter_rows(named=True):
            known = {name: row[name] for name in context}
            time = row["timestamp"] + shift
            body = {"user": row["user_id"], "timestamp": time, "scenario": row["scenario"], "context": known}
            assert post(service, "/v1/rank", **body)[0] == 200
        status, _, content, _ = service.handle("GET", "/v1/status", b"")
        assert status == 200, content
        found = json.loads(content)["drift"]
        assert set(found) == set(reference)
        return service, max(found.values())

    assert drift(365 * 86_400_000)[1] > 0.5  # a year later everything is old
    service, small = drift(0)
    assert small < 0.05
    assert b"pygrade_prediction_psi{" in service.handle("GET", "/metrics", b"")[2]
    assert not (run / ITEM_NAMES).exists()  # these items are numbers


def test_deciles_hold_a_tenth_each():
    found = deciles(np.linspace(0, 1, 1000, dtype=np.float32))
    assert np.allclose(found["shares"], 0.1, atol=2e-3)
    assert deciles(np.zeros(10, np.float32))["shares"][-1] == 1.0  # equal predictions fall into one bin


TASKS = ("click", "order")
SPEC = PolicySpec(tasks=TASKS, features=("hour", "device=app", "device=web"))


@pytest.fixture(scope="module")
def policy_run(tmp_path_factory):
    """What `train` wrote, as far as serving reads it. Do not write into it."""
    folder = tmp_path_factory.mktemp("policy")
    FusionPolicy(SPEC).save(folder / "policy")
    return folder


def request_of(rng, count, **more):
    predictions = rng.random((count, len(TASKS)), np.float32)
    lists = {task: predictions[:, t].tolist() for t, task in enumerate(TASKS)}
    return predictions, {"user": "ann", "items": (10 * np.arange(count)).tolist(), "predictions": lists} | more


def test_pages_of_a_policy_are_those_of_the_ranker(policy_run):
    service = _core.Service(str(policy_run), '{"max_explore": 1}')
    ranker = BlendedRanker(FusionPolicy.load(policy_run / "policy"))
    rng = np.random.default_rng(0)
    for k, row in ((5, {"hour": 3.5, "device": "web"}), (30, {"hour": None, "device": "tv"}), (10, {})):
        predictions, body = request_of(rng, 25, k=k, context=row)
        predictions[3, 1] = np.nan
        body["predictions"]["order"][3] = None
        rules = {
            "mask": rng.random(25) < 0.8,
            "boost_mul": rng.random(25, np.float32),
            "boost_add": rng.random(25, np.float32),
        }
        sellers = rng.integers(-1, 4, 25)
        status, page = post(
            service,
            "/v1/rank",
            **body,
            rules={name: values.tolist() for name, values in rules.items()}
            | {"groups": {"seller": sellers.tolist()}, "caps": {"seller": 2}}
            | {"cap_slots": {"seller": 6}, "decay": {"seller": 0.5}},
        )
        assert status == 200, page
        own = ranker.rank(
            encode(SPEC.features, [row]) if row else None,
            predictions[None],
            k,
            **{name: values[None] for name, values in rules.items()},
            groups=sellers[None, :, None],
            caps=[2],
            cap_slots=[6],
            decay=[0.5],
        )
        filled = int((own.indices[0] >= 0).sum())
        assert page["items"] == [body["items"][i] for i in own.indices[0, :filled]]
        scores = np.array([np.nan if score is None else score for score in page["scores"]], np.float32)
        assert scores.tobytes() == own.values[0, :filled].tobytes()
        assert np.float32(list(page["weights"].values())).tobytes() == own.weights[0].tobytes()
        assert page["user"] == ("known" if row else "unknown") and page["artifact"] is None


def test_the_log_of_a_policy_s_run_is_one_to_train_on(policy_run, tmp_path):
    config = {
        "exposures": str(tmp_path / "log"),
        "exposure_share": 1.0,
        "explore": {"shuffle": 0.2, "weights": 0.2},
        "max_explore": 0.5,
        "seed": 1,
    }
    service = _core.Service(str(policy_run), json.dumps(config))
    rng, pages, sent = np.random.default_rng(2), {}, {}
    for r in range(300):
        predictions, body = request_of(rng, 12, k=4, context={"hour": float(r % 24), "device": "app"})
        body |= {"items": [f"sku-{i}" for i in range(12)], "request_id": f"r{r}", "user": f"u{r % 7}"}
        status, pages[f"r{r}"] = post(service, "/v1/rank", **body)
        assert status == 200
        sent[f"r{r}"] = predictions
    service.drain()
    logs = read_logs(tmp_path / "log")
    assert logs.tasks == TASKS and logs.features == SPEC.features and logs.num_requests == 300
    ids = {stable_id(f"sku-{i}"): i for i in range(12)}
    counts = dict.fromkeys(("none", "dirichlet", "shuffle"), 0)
    for r, number in enumerate(logs.request_id):
        rows = slice(logs.offsets[r], logs.offsets[r + 1])
        order = [ids[item] for item in logs.item_id[rows].tolist()]
        assert np.array_equal(logs.predictions[rows], sent[number][order])
        assert logs.context[r].tolist() == [int(number[1:]) % 24, 1.0, 0.0]
        page, positions = pages[number], logs.position[rows]
        shown = [order[i] for i in np.argsort(np.where(positions < 0, 99, positions))[:4]]
        assert [f"sku-{i}" for i in shown] == page["items"]
        assert logs.exploration[r] == page["exploration"] and logs.user_id[r] == f"u{int(number[1:]) % 7}"
        counts[page["exploration"]] += 1
        assert (page["scores"] == sorted(page["scores"], reverse=True)) or page["exploration"] == "shuffle"
    assert all(30 < counts[kind] < 100 for kind in ("dirichlet", "shuffle"))


def test_weights_follow_from_the_context_alone(tmp_path):
    spec = PolicySpec(TASKS, ("hour",), PolicyConfig(context_only=True))
    FusionPolicy(spec).save(tmp_path / "policy")
    service = _core.Service(str(tmp_path), "{}")
    _, found = post(service, "/v1/weights", context={"hour": 2.0})
    _, body = request_of(np.random.default_rng(3), 9, context={"hour": 2.0})
    _, page = post(service, "/v1/rank", **body)
    assert found["weights"] == page["weights"] == found["scores"][0]["weights"]
    _, several = post(service, "/v1/weights", requests=[{"context": {"hour": 2.0}}, {"context": 3}])
    assert several["weights"][0]["weights"] == found["weights"]
    assert several["weights"][1]["error"]["argument"] == "context"
