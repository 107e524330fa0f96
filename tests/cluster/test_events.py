"""Raw events on Ray: the log of one process, byte for byte."""

import pytest

from pygrade.data.events import import_events
from tests.data.test_events_jobs import contract, digest, write_parts
from tests.datasets.kuairand_world import make_rows, write_excerpt


@pytest.mark.slow
def test_events_imported_on_ray_are_those_of_one_process(cluster, tmp_path):
    frame = contract()
    specs = [
        write_parts(tmp_path / "logs", [frame[:700], frame[700:]]),
        f"kuairand:{write_excerpt(tmp_path / 'kuairand', make_rows())}",
    ]
    for number, spec in enumerate(specs):
        here = import_events(spec, tmp_path / f"here{number}", rows=300)
        there = import_events(spec, tmp_path / f"there{number}", rows=300, workers=cluster)
        assert digest(there) == digest(here)


@pytest.mark.slow
def test_a_bad_row_on_ray_is_named_with_its_file_and_job(cluster, tmp_path):
    frame = contract()
    bad = frame.with_columns(y_click=frame["y_click"] + 2)
    spec = write_parts(tmp_path / "logs", [frame, bad])
    with pytest.raises(ValueError, match=r"part-00001\.parquet: row 0, column 'y_click' is [23]") as caught:
        import_events(spec, tmp_path / "log", rows=300, workers=cluster)
    assert "logs: read: job 2 of 2, " in "\n".join(caught.value.__notes__)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
