"""The committed vectors of the correction, of records and of the service."""

import json
import shutil

import numpy as np
import pytest

from pygrade.policy import FusionPolicy
from pygrade.serving.ranker import BlendedRanker
from tests.service.conftest import needs_server, serving
from tests.vectors import FOLDER
from tests.vectors.cases import OPTIONS, corrected, entry, exchange, page_requests, requests

PAGES = json.loads((FOLDER / "http_pages.json").read_text())
EXCHANGES = json.loads((FOLDER / "http.json").read_text())


def asked(exchanges=EXCHANGES):
    return [(entry["method"], entry["path"], entry["body"]) for entry in exchanges]


def run_of(path, policy="policy"):
    shutil.copytree(FOLDER / policy, path / "policy")
    return path


def test_the_vectors_are_answers_to_what_is_asked():
    assert asked() == list(requests()) and len(asked()) <= 40
    assert {entry["status"] for entry in EXCHANGES} == {200, 400, 404, 405, 413}


def test_the_core_gives_the_answers_and_searches_the_pages(tmp_path):
    assert asked(PAGES) == list(page_requests())
    assert exchange(run_of(tmp_path), asked()) == EXCHANGES
    assert exchange(run_of(tmp_path / "other", "pages"), asked(PAGES)) == PAGES


def test_the_python_ranker_searches_the_same_pages():
    policy = FusionPolicy.load(FOLDER / "pages")
    ranker, count = BlendedRanker(policy), 0
    for record in PAGES:
        body = json.loads(record["body"])
        if record["path"] != "/v1/rank" or record["status"] != 200 or "rules" in body or body.get("explore"):
            continue
        answer = json.loads(record["answer"].replace(",}", "}"))
        page = ranker.rank(
            [[body["context"][name] for name in policy.features]],
            np.array([list(body["predictions"].values())]).swapaxes(1, 2),
            body["k"],
            item_values=[body["item_values"]],
            values=body.get("values"),
            categories=body["categories"] and [body["categories"]],
            embeddings=body["embeddings"] and [body["embeddings"]],
            page_terms=body.get("page_terms", True),
            item_id=[body["items"]],
        )
        assert page.items[0].tolist() == answer["items"] and page.searched[0] == answer["searched"]
        assert np.array_equal(page.values[0], np.float32(answer["scores"]))
        count += 1
    assert count >= 6


@pytest.fixture
def server(tmp_path):
    needs_server()
    path = tmp_path / "pygrade.toml"
    path.write_text('[serve]\nlog = "none"\n' + "".join(f"{name} = {value}\n" for name, value in OPTIONS.items()))
    with serving(run_of(tmp_path / "run"), tmp_path / "log", "--config", path) as started:
        yield started


def test_pygraded_gives_the_answers(server):
    found = [entry(*sent, *server.ask(sent[0], sent[1], sent[2].encode() or None)) for sent in asked()]
    assert found == EXCHANGES


def test_the_correction_gives_the_recorded_bits():
    record = json.loads((FOLDER / "policy/page.json").read_text())
    assert np.array_equal(corrected(record), np.array(record["corrected"], np.float32))
