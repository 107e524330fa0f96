"""Whole pages through the C ABI of the shared library, without Python's stores and models, against Pipeline's."""

import ctypes
import json
import shutil
import subprocess

import numpy as np
import pytest

import pygrade
from pygrade import _core
from pygrade.serving.pipeline import Pipeline
from tests.pipeline.world import copy
from tests.serving.test_embedding import ROOT, library, struct

BUILT = [kind for kind, _, _, built in _core.store_kinds() if built]
pytestmark = pytest.mark.skipif("lmdb" not in BUILT, reason="the C++ library was built without LMDB")

NOW, K, CANDIDATES = 1_700_003_000_000, 5, 40
TASKS = 3
Options = struct(
    "N size I flags I seed d ttl N cache I store_timeout_ms I reserved P predict P user P error N error_size"
)
Context = struct("S name S text N text_size d number")
Request = struct(
    "N size q user_id q timestamp S scenario N scenario_size P context N context_size N candidates P item_ids N items "
    "P seen N seen_size P eligible N eligible_size P values N tasks P rules P user Q draw I deadline_us I flags "
    "P workspace P error N error_size P predictions P item_features N item_features_size P user_data Q waited_us "
    "P categories P embeddings N embedding_size P production_scores P pins P demoted P history P history_user"
)
Column = struct("S name P values")
UserPage = struct(
    "N size N k P items P scores P weights P concentration i filled i candidates i missing_predictions i degraded "
    "i fallback i explored Q seed V policy_version V artifact_version f mixture_weight i verdict B baseline "
    "f history F seconds P candidate_ids P predictions"
)
Events = struct(
    "N size N count P user_id P item_id P time P scenario P outcomes P values N num_outcomes P error N error_size"
)
Batch = struct("N size P requests P pages N count i num_threads I flags P error N error_size")
Info = struct("N size V version C schema_hash Q items N request_features N item_features")


class CPipeline:
    """A pipeline behind the C ABI."""

    def __init__(self, artifact, store, **options):
        self.core = ctypes.CDLL(str(library()))
        self.core.pygrade_last_error.restype = ctypes.c_char_p
        self.pipeline = ctypes.c_void_p()
        self.context = (Context * 1)(Context(name=b"c_hour", number=2.0))
        chosen = Options(size=ctypes.sizeof(Options), flags=1, seed=0, **options)
        self.call("load", str(artifact).encode(), store.encode(), ctypes.byref(chosen), ctypes.byref(self.pipeline))

    def close(self):
        self.core.pygrade_pipeline_free(self.pipeline)

    def call(self, name, *arguments, status=0):
        found = getattr(self.core, f"pygrade_pipeline_{name}")(*arguments)
        assert found == status, self.core.pygrade_last_error()

    def page(self):
        arrays = {"items": np.full(K, -7), "scores": np.zeros(K, np.float32), "weights": np.zeros(TASKS, np.float32)}
        places = {name: array.ctypes.data for name, array in arrays.items()}
        return UserPage(size=ctypes.sizeof(UserPage), k=K, **places), arrays

    def request(self, user, **more):
        asked = {"user_id": user, "timestamp": NOW, "scenario": b"feed", "scenario_size": 4, "candidates": CANDIDATES}
        context = {"context": ctypes.addressof(self.context), "context_size": 1}
        return Request(size=ctypes.sizeof(Request), **asked, **context, **more)

    def rank(self, user, status=0, **more):
        request, (page, arrays) = self.request(user, **more), self.page()
        self.call("rank", self.pipeline, ctypes.byref(request), ctypes.byref(page), status=status)
        return page, arrays


def of_python(system, user):
    return system.rank(user, k=K, candidates=CANDIDATES, scenario="feed", timestamp=NOW, context={"c_hour": 2.0})


def same(arrays, served):
    return (
        arrays["items"].tolist() == served.items.tolist()
        and arrays["scores"].tobytes() == served.scores.tobytes()
        and arrays["weights"].tobytes() == served.page.weights[0].tobytes()
    )


def pointers(arrays):
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def test_pages_updates_batches_and_reloads_through_c(run, tmp_path):
    mine = copy(run, tmp_path / "run")
    feedback = {
        "user_id": np.array([3, 3, 4]),
        "item_id": np.array([7, 9, 7]),
        "event_time": np.array([NOW - 2, NOW - 1, NOW - 1]),
        "scenario": ["feed", "feed", "search"],
        "y_click": np.array([1.0, 0.0, 1.0]),
        "y_like": np.array([0.0, 0.0, 1.0]),
        "y_order": np.array([0.0, 1.0, 0.0]),
    }
    users = [3, 4, 10**12]
    system = Pipeline.load(mine, seed=0)  # LMDB: one process opens a store in Python or in C++, not in both at once
    before = [of_python(system, user) for user in users]
    system.update(feedback)
    after = [of_python(system, user) for user in users]
    version = system.version
    system.close()

    mine = copy(run, tmp_path / "again")
    artifact, store = mine / "artifact", f"lmdb:{mine / 'store'}"
    core = CPipeline(artifact, store)
    try:
        for user, wanted in zip(users, before, strict=True):
            page, arrays = core.rank(user)
            assert same(arrays, wanted) and page.degraded == 0 and page.candidates == CANDIDATES
            assert page.artifact_version.decode() == version and page.history == wanted.history
            assert list(page.seconds) == [seconds for seconds in page.seconds if seconds > 0]
        outcomes = [feedback[name] for name in ("y_click", "y_like", "y_order")]
        names = (ctypes.c_char_p * 3)(b"y_click", b"y_like", b"y_order")
        scenarios = (ctypes.c_char_p * 3)(*(text.encode() for text in feedback["scenario"]))
        columns = pointers(outcomes)
        events = Events(
            size=ctypes.sizeof(Events),
            count=3,
            user_id=feedback["user_id"].ctypes.data,
            item_id=feedback["item_id"].ctypes.data,
            time=feedback["event_time"].ctypes.data,
            scenario=ctypes.addressof(scenarios),
            outcomes=ctypes.addressof(names),
            values=ctypes.addressof(columns),
            num_outcomes=3,
        )
        core.call("update", core.pipeline, ctypes.byref(events))
        for user, wanted in zip(users, after, strict=True):
            assert same(core.rank(user)[1], wanted)

        kept = [core.page() for _ in users]
        requests, pages = (Request * 3)(*map(core.request, users)), (UserPage * 3)(*(page for page, _ in kept))
        batch = Batch(
            size=ctypes.sizeof(Batch),
            requests=ctypes.addressof(requests),
            pages=ctypes.addressof(pages),
            count=3,
            num_threads=2,
        )
        core.call("rank_batch", core.pipeline, ctypes.byref(batch))
        assert all(same(arrays, wanted) for (_, arrays), wanted in zip(kept, after, strict=True))

        error = ctypes.create_string_buffer(500)
        core.rank(3, status=1, eligible_size=0, flags=4, error=ctypes.addressof(error), error_size=500)
        assert b"no candidate is left" in error.value
        page, _ = core.rank(3, deadline_us=1)
        assert page.degraded == 2 and page.filled == K and page.fallback > 0
        page, _ = core.rank(3, deadline_us=10**9, waited_us=10**9 + 1)
        assert page.degraded == 2
        core.call("reload", core.pipeline, str(artifact).encode(), None, 0)
        assert same(core.rank(3)[1], after[0])
        core.call("reload", core.pipeline, str(tmp_path).encode(), error, 500, status=2)
        assert b"manifest.json does not exist" in error.value
        info = Info(size=ctypes.sizeof(Info))
        core.call("describe", core.pipeline, ctypes.byref(info), None, 0)
        record = json.loads((artifact / "manifest.json").read_text())
        assert (info.version.decode(), info.schema_hash.decode()) == (record["version"], record["schema_hash"])
        assert info.items == 120
    finally:
        core.close()


def test_predictions_and_columns_of_a_request_through_c_and_in_the_example(run, tmp_path):
    rng = np.random.default_rng(1)
    items, predictions = np.arange(60)[::-1].copy(), rng.uniform(0, 1, (60, TASKS)).astype(np.float32)
    mine = copy(run, tmp_path / "run")
    artifact, store = mine / "artifact", f"lmdb:{mine / 'store'}"
    system = Pipeline.load(mine, seed=0)
    name = system.models.schema.item_features[0]
    column = rng.uniform(0, 1, 60).astype(np.float32)
    asked = {"k": K, "item_ids": items, "scenario": "feed", "timestamp": NOW, "context": {"c_hour": 2.0}}
    own = system.rank(3, **asked, predictions=predictions)
    changed = system.rank(3, **asked, item_features={name: column})
    assert not np.array_equal(changed.predictions, system.rank(3, **asked).predictions)
    shown = items[items % 10 != 0]
    made = np.float32(0.01) * (1 + (shown[:, None] * 7 + np.arange(TASKS) * 3) % 50).astype(np.float32)
    of_example = system.rank(3, k=K, item_ids=shown, scenario="feed", timestamp=NOW, predictions=made)
    system.close()
    core = CPipeline(artifact, store)
    given = {"item_ids": items.ctypes.data, "items": 60}
    try:
        page, arrays = core.rank(3, **given, predictions=predictions.ctypes.data)
        assert same(arrays, own) and page.degraded == 0
        columns = (Column * 1)(Column(name=name.encode(), values=column.ctypes.data))
        more = {"item_features": ctypes.addressof(columns), "item_features_size": 1}
        assert same(core.rank(3, **given, **more)[1], changed)
        core.rank(3, status=1, **given, **more, predictions=predictions.ctypes.data)  # no model reads it
        first, rows = items.tolist().index(own.items[0]), np.zeros(60, np.uint8)
        rows[first], pins = 1, np.array([-1, 0, *[-1] * (K - 2)], np.int32)
        ruled = {"pins": pins.ctypes.data, "demoted": rows.ctypes.data, "predictions": predictions.ctypes.data}
        found = core.rank(3, **given, **ruled)[1]["items"].tolist()
        assert found[0] == own.items[1] and found[1] == items[0] and own.items[0] not in found
        core.rank(3, status=1, predictions=predictions.ctypes.data)
    finally:
        core.close()
    if shutil.which("cmake") is None:
        pytest.skip("no cmake: the example is not built")
    build = tmp_path / "build"
    for command in (
        ["cmake", "-S", str(ROOT / "examples"), "-B", str(build), f"-Dpygrade_DIR={pygrade.cmake_dir()}"],
        ["cmake", "--build", str(build), "--target", "page"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    ran = subprocess.run(
        [str(build / "page"), str(artifact), store, "3", *map(str, items)], check=True, capture_output=True, text=True
    )
    assert [int(line) for line in ran.stdout.split()] == of_example.items.tolist() and not ran.stderr


def test_a_model_of_the_callers_is_called_back(run, tmp_path):
    mine = copy(run, tmp_path / "run")
    rows_seen = []

    def predict(_user, rows, probabilities):
        count = ctypes.cast(rows, ctypes.POINTER(ctypes.c_size_t))[1]
        rows_seen.append(count)
        np.ctypeslib.as_array(ctypes.cast(probabilities, ctypes.POINTER(ctypes.c_float)), (count * TASKS,))[:] = 0.5
        return int(len(rows_seen) > 2)

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(predict)
    core = CPipeline(mine / "artifact", f"lmdb:{mine / 'store'}", predict=ctypes.cast(callback, ctypes.c_void_p).value)
    try:
        page, arrays = core.rank(3)
        assert page.filled == K and rows_seen[-1] == CANDIDATES and len(set(arrays["scores"].tolist())) == 1
        core.rank(3, status=5)  # the function says that it failed
    finally:
        core.close()
