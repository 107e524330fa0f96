"""The committed vectors of the correction, of records and of the service."""

import asyncio
import json
import shutil

import numpy as np

from pygrade import _core
from pygrade.serving import asgi
from tests.service.conftest import needs_server, serving
from tests.vectors import FOLDER
from tests.vectors.cases import OPTIONS, corrected, entry, exchange, requests

EXCHANGES = json.loads((FOLDER / "http.json").read_text())


def asked():
    return [(entry["method"], entry["path"], entry["body"]) for entry in EXCHANGES]


def run_of(path):
    shutil.copytree(FOLDER / "policy", path / "policy")
    return path


def test_the_vectors_are_answers_to_what_is_asked():
    assert asked() == list(requests()) and len(asked()) <= 40
    assert {entry["status"] for entry in EXCHANGES} == {200, 400, 404, 405, 413}


def test_the_asgi_callable_gives_the_answers(tmp_path):
    app = asgi(run_of(tmp_path), **OPTIONS)
    try:
        assert asyncio.run(exchange(app, asked())) == EXCHANGES
    finally:
        app.close()


def test_pygraded_gives_the_answers(tmp_path):
    needs_server()
    path = tmp_path / "pygrade.toml"
    path.write_text('[serve]\nlog = "none"\n' + "".join(f"{name} = {value}\n" for name, value in OPTIONS.items()))
    with serving(run_of(tmp_path / "run"), tmp_path / "log", "--config", path) as server:
        found = [entry(*sent, *server.ask(sent[0], sent[1], sent[2].encode() or None)) for sent in asked()]
    assert found == EXCHANGES


def test_the_correction_gives_the_recorded_bits():
    record = json.loads((FOLDER / "policy/page.json").read_text())
    assert np.array_equal(corrected(record), np.array(record["corrected"], np.float32))


def test_records_are_written_and_read():
    records = [bytes.fromhex(text) for text in json.loads((FOLDER / "records.json").read_text())]
    values = _core.unpack_records(records, "vectors")
    assert len(values) >= 3 and _core.pack_records(values, None) == records
