"""The exposure log of the C++ core, through the C ABI: what pyarrow, polars, `read_logs` and training make of it."""

import ctypes

import numpy as np
import pyarrow.parquet as parquet
import pytest

from pygrade.logs import read_logs
from pygrade.runs.fit import fit
from pygrade.serving.ranker import BlendedRanker
from tests.serving import test_embedding
from tests.serving.test_embedding import FEATURES, TASKS, CRanker, LogIds, of_mixture, struct
from tests.training.test_train import SMALL

policy, requests = test_embedding.policy, test_embedding.requests  # fixtures

Options = struct(
    "N size S name d share Q queue_bytes Q file_bytes I file_time_ms I group_time_ms Q group_rows Q group_bytes "
    "I flags I reserved P error N error_size P arms P shares N num_arms"
)
Counters = struct("N size Q requests Q complete Q dropped Q waited Q lost Q rows Q files Q bytes Q errors")


class CLog:
    """An exposure log behind the C ABI."""

    def __init__(self, ranker, path, share, **options):
        self.ranker, self.core, self.log = ranker, ranker.core, ctypes.c_void_p()
        options = Options(size=ctypes.sizeof(Options), share=share, flags=1, **options)
        self.call("open", str(path).encode(), ctypes.byref(options), ctypes.byref(self.log))

    def call(self, name, *arguments):
        status = getattr(self.core, f"pygrade_log_{name}")(*arguments)
        assert status == 0, self.core.pygrade_last_error()

    def append(self, request, page, name, arms=None, **more):
        ids = LogIds(size=ctypes.sizeof(LogIds), request_id=name.encode(), request_id_size=len(name.encode()), **more)
        taken = ctypes.c_int32(-1)
        structs = [ctypes.byref(request), ctypes.byref(page), *[arms] * (arms is not None), ctypes.byref(ids)]
        name = "append" if arms is None else "append_test"
        self.call(name, self.log, self.ranker.ranker, *structs, 1_000_000, ctypes.byref(taken))
        assert taken.value == 1

    def counters(self):
        counters = Counters(size=ctypes.sizeof(Counters))
        self.call("count", self.log, ctypes.byref(counters), None, 0)
        return {name: getattr(counters, name) for name, _ in Counters._fields_[1:]}

    def close(self):
        self.core.pygrade_log_close(self.log)


@pytest.mark.parametrize("missing", [None, np.nan, np.inf])
def test_a_log_in_full_is_the_log_of_blended_ranker(policy, requests, tmp_path, missing):
    context, predictions, scenarios = requests
    if missing is not None:
        predictions[4, [3, 7], 1] = missing
        predictions[5, :, 2] = missing
    else:
        predictions[4, [3, 7], 1] = 0.5
    ranker, more = CRanker(tmp_path / "policy"), of_mixture(policy)
    log = CLog(ranker, tmp_path / "log", 1.0, group_rows=50)
    items = np.arange(240, dtype=np.int64).reshape(6, 40) * 10**15 - 7
    names = [f'größe "{b}",\n' for b in range(6)]
    for b, name in enumerate(names):
        own = {n: array[b] for n, array in more.items()}
        request, page, _ = ranker.rank(
            context[b], predictions[b], 9, scenarios[b], draw=(8 << 32) + b, flags=3 * (b % 2), **own
        )
        ids = {"user_id": b"u%d" % (b // 2), "user_id_size": 2, "item_id": items[b].ctypes.data}
        log.append(request, page, name, timestamp=1_700_000_000_000 + b, flags=1, **ids)
    log.call("flush", log.log, None, 0)
    counters = log.counters()
    log.close()
    found = read_logs(tmp_path / "log")
    rank = BlendedRanker(policy).rank
    pages = [
        rank(context, predictions, 9, scenario=scenarios, item_id=items, **more, **draw).log_rows()
        for draw in ({}, {"explore": True, "seed": 8})
    ]
    assert found.request_id.tolist() == names
    assert found.user_id.tolist() == ["u0", "u0", "u1", "u1", "u2", "u2"]
    assert found.timestamp.tolist() == list(range(1_700_000_000_000, 1_700_000_000_006))
    assert (found.tasks, found.features) == (TASKS, FEATURES)
    for b in range(6):
        one, wanted = found.select([b]), pages[b % 2].select([b])
        columns = ["item_id", "position", "predictions", "feedback", "context", "weights", "concentration", "scenario"]
        columns += ["seed", "policy_version", "exploration", "mixture_weight", "baseline", "verdict"]
        for column in columns + (["request_values", "value"] if more else []):
            np.testing.assert_array_equal(getattr(one, column), getattr(wanted, column), column)
        assert one.items == wanted.items == (() if policy.correction is None else policy.correction.items)
        if one.items:
            np.testing.assert_array_equal(one.item_features, wanted.item_features)
    assert found.candidates.tolist() == np.diff(found.offsets).tolist() and found.complete() is found
    assert counters == {
        "requests": 6,
        "complete": 6,
        "dropped": 0,
        "waited": 0,
        "lost": 0,
        "rows": found.num_rows,
        "files": 1,
        "bytes": next((tmp_path / "log").iterdir()).stat().st_size,
        "errors": 0,
    }


def write_many(policy, path, tmp_path, count, share, **options):
    """A log of ``count`` requests of 30 candidates in several files. The predictions [count, 30, T]."""
    policy.save(tmp_path / "policy")
    ranker = CRanker(tmp_path / "policy")
    log = CLog(ranker, path, share, **options)
    rng = np.random.default_rng(1)
    predictions = rng.uniform(0.01, 0.9, (count, 30, 4)).astype(np.float32)
    context = rng.normal(size=(count, 2)).astype(np.float32)
    for b in range(count):
        request, page, _ = ranker.rank(context[b], predictions[b], 5, "search", draw=(8 << 32) + b, flags=3)
        log.append(request, page, f"r{b}", timestamp=1_700_000_000_000 + b, flags=1)
    log.call("flush", log.log, None, 0)
    counters = log.counters()
    log.close()
    return predictions, counters


one_policy = pytest.mark.parametrize("policy", ["alone"], indirect=True)


@one_policy
def test_a_sampled_log_has_all_shown_rows_and_says_what_is_complete(policy, tmp_path, caplog):
    small = {"group_rows": 200, "file_bytes": 20_000}
    predictions, counters = write_many(policy, tmp_path / "log", tmp_path, 400, 0.25, **small)
    assert counters["files"] == len(list((tmp_path / "log").iterdir())) > 3
    log = read_logs(tmp_path / "log")
    sizes = np.diff(log.offsets)
    assert set(sizes) == {5, 30} and 60 < (sizes == 30).sum() < 140
    assert log.candidates.tolist() == [30] * 400 and sizes.sum() == counters["rows"]
    assert log.shown.sum() == 5 * 400
    order = [int(name[1:]) for name in log.request_id]
    assert order == list(range(400))
    whole = log.complete()
    assert whole.num_requests == (sizes == 30).sum() == counters["complete"]
    assert f"{400 - whole.num_requests} of 400 requests list only a part of their candidates" in caplog.text
    for number in range(0, 400, 7):
        rows = slice(log.offsets[number], log.offsets[number + 1])
        np.testing.assert_array_equal(log.predictions[rows], predictions[number][log.item_id[rows]])
    again = {name: read_logs(tmp_path / "log").request_id.tolist() for name in "ab"}
    assert again["a"] == again["b"]
    shares = {share for file in (tmp_path / "log").iterdir() for share in parquet.read_table(file)["share"].to_pylist()}
    assert shares == {0.25}


@one_policy
def test_polars_reads_what_pyarrow_reads(policy, tmp_path):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    write_many(policy, tmp_path / "log", tmp_path, 60, 0.3, group_rows=100)
    (file,) = (tmp_path / "log").iterdir()
    table = parquet.read_table(file)
    frame = polars.read_parquet(file)
    assert frame.columns == table.column_names
    assert parquet.ParquetFile(file).metadata.num_row_groups > 3
    for name in table.column_names:
        np.testing.assert_array_equal(frame[name].to_numpy(), table[name].to_numpy())
    assert frame.filter(polars.col("position").is_not_null()).height == 300


@one_policy
def test_training_takes_the_complete_requests(policy, tmp_path):
    write_many(policy, tmp_path / "log", tmp_path, 300, 0.5)
    log = read_logs(tmp_path / "log")
    rng = np.random.default_rng(2)
    log.feedback[log.shown] = rng.random((int(log.shown.sum()), 4)) < log.predictions[log.shown]
    with pytest.raises(ValueError, match=r"logs\.complete"):
        fit(log, SMALL, tmp_path / "run")
    summary = fit(log.complete(), SMALL, tmp_path / "run").summary
    assert summary["requests"] == log.num_requests - log.num_incomplete
    with pytest.raises(ValueError, match="all of its candidates"):
        log.select(np.diff(log.offsets) == 5).complete()


@one_policy
def test_wrong_arguments_are_statuses_with_a_text(policy, tmp_path):
    ranker = CRanker(tmp_path / "policy")
    core, invalid, size = ranker.core, 1, ctypes.sizeof(Options)
    log, buffer = ctypes.c_void_p(), ctypes.create_string_buffer(100)

    def opened(**options):
        given = Options(size=size, error=ctypes.addressof(buffer), error_size=100, **options)
        return core.pygrade_log_open(str(tmp_path / "log").encode(), ctypes.byref(given), ctypes.byref(log))

    assert opened(flags=1, share=1.5) == invalid and b"share is 1.5" in buffer.value
    assert opened(flags=2) == invalid and b"unknown bit" in buffer.value
    assert opened(queue_bytes=10) == invalid and b"queue_bytes is 10" in buffer.value
    assert core.pygrade_log_open(None, None, ctypes.byref(log)) == invalid
    (tmp_path / "file").touch()
    assert core.pygrade_log_open(str(tmp_path / "file" / "x").encode(), None, ctypes.byref(log)) == 5
    assert b"Not a directory" in core.pygrade_last_error()
    assert not (tmp_path / "log").exists() and log.value is None

    own = CLog(ranker, tmp_path / "log", 1.0)
    request, page, _ = ranker.rank(np.zeros(2, np.float32), np.full((3, 4), 0.5, np.float32), 2, "")
    ids = LogIds(size=ctypes.sizeof(LogIds))
    structs = [ctypes.byref(struct) for struct in (request, page, ids)]
    assert core.pygrade_log_append(own.log, ranker.ranker, *structs, 0, None) == invalid
    assert b"request_id is empty" in core.pygrade_last_error()
    assert core.pygrade_log_append(None, ranker.ranker, *structs, 0, None) == invalid
    assert core.pygrade_log_flush(None, None, 0) == core.pygrade_log_count(own.log, None, None, 0) == invalid
    length = ctypes.c_size_t(7)
    own.call("disk_error", own.log, buffer, ctypes.c_size_t(100), ctypes.byref(length), None, 0)
    assert length.value == 0 and own.counters()["requests"] == 0
    own.close()
    core.pygrade_log_close(None)
