"""SCHEME:PATH names a data set; anything else is refused with the list of what is accepted."""

import numpy as np
import pytest

from pygrade.data import load
from pygrade.logs import write_logs
from pygrade.mtl import MtlConfig
from tests.data.kuairand_world import make_rows, write_excerpt

FAST = MtlConfig(experts=1, expert_hidden=8, expert_output=4, tower_hidden=4, embedding=2, buckets=64, epochs=1)


def test_kuairand_and_logs_schemes(tmp_path):
    lines = []
    directory = write_excerpt(tmp_path / "kuairand", make_rows(users=12))
    logs = load(f"kuairand:{directory}", mtl=FAST, min_rows=3, log=lines.append)
    assert np.diff(logs.offsets).min() == 3 and any("interactions.tsv" in line for line in lines)
    write_logs(logs, tmp_path / "logs")
    again = load(f"logs:{tmp_path / 'logs'}")
    np.testing.assert_array_equal(again.predictions, logs.predictions)
    np.testing.assert_array_equal(again.context, logs.context)
    assert again.task_values == logs.task_values


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("movielens:x", ValueError, "data is 'movielens:x'; want one of logs:DIR.*kuairand:DIR"),
        ("runs/logs", ValueError, "want one of logs:DIR"),
        ("logs:", ValueError, "names no directory; want one of logs:DIR"),
        ("kuairand:no/such/place", FileNotFoundError, "no/such/place does not exist; want one of logs:DIR"),
    ],
)
def test_unknown_data_is_refused(spec, error, message):
    with pytest.raises(error, match=message):
        load(spec)


def test_unknown_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="option 'rows' is unknown for kuairand:; it takes requests"):
        load(f"kuairand:{tmp_path}", rows=3)
    with pytest.raises(ValueError, match="option 'rows' is unknown for logs:"):
        load(f"logs:{tmp_path}", rows=3)
