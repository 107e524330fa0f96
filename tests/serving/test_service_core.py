"""The core's service on a run of the pipeline; csrc/tests/test_service.cpp has the rest."""

import json

import numpy as np
import pytest

from pygrade import _core
from pygrade._util.serialization import read_json
from pygrade.data.events import EventLog
from pygrade.pipeline.names import Names
from pygrade.pipeline.serving_files import ITEM_NAMES, REFERENCE, deciles
from pygrade.serving.artifact import open_artifact
from pygrade.serving.pipeline import Pipeline, load_models
from tests.pipeline.world import trained

NOW = 1_700_000_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished pipeline. Do not write into it."""
    return trained(tmp_path_factory.mktemp("service"))


def post(service, path, **body):
    status, kind, content, _ = service.handle("POST", path, json.dumps(body).encode())
    assert kind == "application/json"
    return status, json.loads(content)


def test_pages_are_those_of_the_pipeline(run):
    service = _core.Service(str(run), "{}")
    pipeline = Pipeline.load(run)
    for user in range(20):
        status, page = post(service, "/v1/rank", user=user, timestamp=NOW, candidates=50)
        own = pipeline.rank(user, timestamp=NOW, candidates=50)
        assert status == 200 and page["items"] == own.items.tolist()
        assert np.float32(page["scores"]).tobytes() == own.scores.tobytes()
        assert np.float32(list(page["weights"].values())).tobytes() == own.page.weights[0].tobytes()
    pipeline.close()


def test_errors_name_the_argument(run):
    service = _core.Service(str(run), '{"max_k": 20}')
    status, answer = post(service, "/v1/rank", user=1, k=21)
    assert status == 400 and answer["error"] == {
        "argument": "k",
        "message": "k is 21; want a whole number from 1 to 20",
    }
    assert service.handle("GET", "/v1/rank", b"")[0] == 405
    with pytest.raises(ValueError, match="max_k is 0; want"):
        _core.Service(str(run), '{"max_k": 0}')


def test_a_drained_service_is_not_ready(run):
    service = _core.Service(str(run), "{}")
    assert service.handle("GET", "/readyz", b"")[0] == 200
    service.drain()
    assert service.handle("GET", "/readyz", b"")[0] == 503
    assert not service.refresh()


def test_predictions_like_those_at_publication_are_no_drift(run):
    version = read_json(run / "artifact" / "manifest.json")["version"]
    reference = read_json(run / REFERENCE)["versions"][version]
    assert all(np.isclose(sum(entry["shares"]), 1.0) for entry in reference.values())
    latest = list(EventLog.open(Names.of(run).events).chunks())[-1]
    context = load_models(open_artifact(run / "artifact")).schema.context

    def drift(shift):
        service = _core.Service(str(run), "{}")
        for row in latest.unique("request_id", keep="first", maintain_order=True).tail(256).iter_rows(named=True):
            known = {name: row[name] for name in context}
            time = row["timestamp"] + shift
            body = {"user": row["user_id"], "timestamp": time, "scenario": row["scenario"], "context": known}
            assert post(service, "/v1/rank", **body)[0] == 200
        found = json.loads(service.handle("GET", "/v1/status", b"")[2])["drift"]
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
