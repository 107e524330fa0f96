"""KuaiRand-Pure by a schema: the very events of its importer, and the histories before its log as attributes."""

import os
from pathlib import Path

import polars as pl
import pytest

from pygrade.data.events import import_events

pytest.importorskip("pygrade_datasets")
from pygrade.config.data import KUAIRAND_TASK_VALUES
from pygrade_datasets.kuairand import USER_KINDS

pytestmark = pytest.mark.skipif("PYGRADE_DATA" not in os.environ, reason="PYGRADE_DATA names no directory of data sets")

SCHEMA = """
name = "KuaiRand-Pure"
license = "CC BY-SA 4.0"
utc_offset_hours = 8.0
requests = "day"
category = "category"
values = { VALUES }

[[events]]
files = "DATA/log_standard_4_25_to_5_04_pure.csv"
form = "wide"
user = "user_id"
item = "video_id"
time = "time_ms"
event_time = "time_ms + play_time_ms"
scenario = "tab"
exposure = "every row"
measures = { play = "play_time_ms / 1000", comment_stay = "comment_stay_time / 1000" }

[events.tasks]
click = "is_click"
long_view = "long_view"
like = "is_like"
comment = "is_comment"
follow = "is_follow"
forward = "is_forward"
profile_enter = "is_profile_enter"
comment_stay = "comment_stay_time > 0"

[[users]]
files = "DATA/user_features_pure.csv"
id = "user_id"
unknown = [-124]
attributes = { USERS }

[[items]]
files = "DATA/video_features_basic_pure.csv"
id = "video_id"
unknown = [-124]

[items.attributes]
author_id = "hashed"
video_type = "categorical"
upload_time = { column = "upload_dt", kind = "time" }
upload_type = "categorical"
duration = { column = "video_duration / 1000", kind = "dense" }
music_id = "hashed"
music_type = "categorical"
tags = { column = "tag", kind = "list" }
category = { column = "tag", kind = "categorical", first = true }
"""
HISTORY = """
[[users]]
files = "DATA/user_history_before_4_25.csv"
id = "user_id"

[users.attributes]
shown_before = { column = "history_exposures", kind = "dense" }
liked_before = { column = "history_likes / history_exposures", kind = "dense" }

[[items]]
files = "DATA/video_history_before_4_25.csv"
id = "video_id"

[items.attributes]
shown_before = { column = "history_exposures", kind = "dense" }
"""


@pytest.mark.slow
def test_the_events_are_those_of_the_importer(tmp_path):
    data = Path(os.environ["PYGRADE_DATA"]) / "kuairand_pure"
    log = import_events(f"kuairand:{data}", tmp_path / "importer")
    text = (SCHEMA + HISTORY).replace("DATA", str(data))
    text = text.replace("USERS", ", ".join(f'{name} = "{kind}"' for name, kind in USER_KINDS.items()))
    text = text.replace("VALUES", ", ".join(f"{task} = {value}" for task, value in KUAIRAND_TASK_VALUES.items()))
    (tmp_path / "events.toml").write_text(text)
    mine = import_events(f"events:{tmp_path / 'events.toml'}", tmp_path / "schema")
    assert mine.scan().collect().equals(log.scan().collect())
    for name in ("num_requests", "num_rows", "positives", "tasks", "task_values", "scenarios", "measures", "category"):
        assert mine.source[name] == log.source[name]
    for table, added in (("users", ["shown_before", "liked_before"]), ("items", ["shown_before"])):
        wanted, found = getattr(log, table)(), getattr(mine, table)()
        of_importer = found.join(wanted.select(wanted.columns[0]), wanted.columns[0], "semi", maintain_order="left")
        assert of_importer.drop(added).cast(wanted.schema).equals(wanted)
        history = pl.read_csv(data / f"{'user' if table == 'users' else 'video'}_history_before_4_25.csv")
        known = dict(found.select(found.columns[0], "shown_before").rows())
        assert {row[0]: float(row[1]) for row in history.select(history.columns[:2]).rows()}.items() <= known.items()
