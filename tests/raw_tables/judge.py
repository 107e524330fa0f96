"""What a reading of a raw table has otherwise than the table's truth."""

import re
import tomllib
from pathlib import Path

import numpy as np
import polars as pl

CONTEXT = ("member", "device", "evening", "code")
ITEMS = ("kind", "stars", "length")


def base(column):
    return re.split(r"[.:]", column)[-1].split(" ")[0]


def signatures(request, user, item):
    """Request → its user and items: what it is known by, whatever its id is. And the places of its rows, by item."""
    frame = pl.DataFrame({"request": request, "user": user, "item": item}).with_row_index("place")
    pages = frame.sort("request", "item").group_by("request", maintain_order=True)
    pages = pages.agg(pl.col("user").first(), pl.col("item"), pl.col("place"))
    keys = zip(pages["user"], pages["item"], pages["place"], strict=True)
    return {(user, *items): places for user, items, places in keys}


def differences(logs, rows, truth):
    """What the log has otherwise than the rows that the table holds."""
    texts = np.asarray(logs.item_id).astype(str), np.asarray(logs.user_id).astype(str)
    found = signatures(logs.row_request, texts[1][logs.row_request], texts[0])
    wanted = signatures(rows["request"], rows["user"].cast(pl.String), rows["item"].cast(pl.String))
    assert len(wanted) == rows["request"].n_unique(), "two requests have the same user and items"
    if found.keys() != wanted.keys() or logs.num_requests != len(wanted):
        same = len(found.keys() & wanted.keys())
        counts = f"{len(np.unique(texts[0]))} items of {rows['item'].n_unique()}"
        return [f"{logs.num_requests} requests of {len(wanted)}, {same} of them the same; {counts}"]
    order = np.concatenate([found[key] for key in wanted])
    rows = rows[np.concatenate(list(wanted.values()))]
    shown = rows["slot"].is_not_null().to_numpy()
    wrong = []

    def compare(name, values, column, where=slice(None), tolerance=2e-4):
        held = rows[column].cast(pl.Float64).to_numpy()
        if values is None or not np.allclose(values[where], held[where], tolerance, tolerance):
            wrong.append(f"{name} is lost" if values is None else f"{name} differs")

    request = logs.row_request[order]
    compare("slot", logs.position[order], "slot", shown)
    wrong += ["rows count as shown that were not"] if np.any(logs.position[order][~shown] >= 0) else []
    starts = rows.with_columns(pl.col("time").min().over("request"))["time"].to_numpy()
    if logs.timestamp is None or not np.array_equal(logs.timestamp[request], starts):
        wrong.append("time is lost" if logs.timestamp is None else "time differs")
    holds = {base(raw): column for raw, column in truth["holds"].items()}
    if "price" in holds.values():
        compare("price", None if logs.value is None else logs.value[order], "price")

    wrong += [f"tasks are {', '.join(logs.tasks)}"] if len(logs.tasks) != len(truth["tasks"]) else []
    for task, (_, source, scale) in truth["tasks"].items():
        number = next((n for n, known in enumerate(logs.tasks) if known.startswith(task)), None)
        if number is None:
            wrong.append(f"task {task} is lost")
            continue
        compare(f"feedback of {task}", logs.feedback[order, number], f"y_{task}", shown)
        predicted, held = logs.predictions[order, number], rows[f"p_{task}"].to_numpy()
        if scale == "score":  # any rising map to the rate of the events
            rate, rises = predicted[shown].mean() / rows[f"y_{task}"].mean(), np.diff(predicted[np.argsort(held)])
            wrong += [] if 0.75 < rate < 4 and rises.min() > -1e-6 else [f"{source} is not calibrated"]
        else:
            compare(f"prediction of {task}", predicted, f"p_{task}")
        if (logs.task_values[number] < 0) != (task in truth.get("harm", ())):
            wrong.append(f"{task} is worth {logs.task_values[number]:g}")

    item_values = logs.item_features[order] if logs.items else None
    for names, values, kinds in ((logs.features, logs.context[request], CONTEXT), (logs.items, item_values, ITEMS)):
        for raw in (raw for raw, column in holds.items() if column in kinds):
            levels = {name: n for n, name in enumerate(names) if base(name.split("=")[0]) == raw}
            wrong += [] if levels else [f"feature {raw} is lost"]
            for name, number in levels.items():
                held, level = rows[holds[raw]], name.split("=", 1)[1:]
                if held.dtype == pl.Boolean and level:  # yes or no in the words of the table
                    held = held if values[held.arg_max(), number] else ~held
                elif held.dtype == pl.String:  # without a level, text was read as a number
                    held = held == level[0] if level else pl.Series([None])
                same = np.array_equal(values[:, number], held.cast(pl.Float64))
                wrong += [] if same else [f"feature {name} differs"]
    used = {base(name.split("=")[0]) for name in (*logs.features, *logs.items)}
    wrong += [f"{name} is a feature: {why}" for name, why in truth.get("out", {}).items() if name in used]
    drawn = np.zeros(len(rows)) if logs.exploration is None else logs.exploration[request] == "shuffle"
    same = "shuffled" not in holds.values() or np.array_equal(drawn, rows["shuffled"])
    return wrong if same else [*wrong, "the pages in random order are lost"]


def event_differences(record, rows, truth):
    """The same of raw events, which become a schema."""
    wrong = [] if record["num_requests"] == rows["request"].n_unique() else ["requests differ"]
    wrong += [] if record["num_shown"] == len(rows) else ["exposures differ"]
    config = tomllib.loads(Path(record["schema"]).read_text(encoding="utf-8"))
    wrong += [] if any("slot" in table for table in config["events"]) else ["slot is lost"]
    for task in truth["tasks"]:
        counts = [count for name, count in record["positives"].items() if task in name and "cancel" not in name]
        wrong += [] if counts == [rows[f"y_{task}"].sum()] else [f"feedback of {task} differs"]
    for task in record["tasks"]:
        if any(part in task for part in truth["harm"]) and config["values"][task] >= 0:
            wrong.append(f"{task} is worth {config['values'][task]:g}")
        wrong += [f"{task} is a task: {why}" for part, why in truth["out"].items() if part in task]
    return wrong
