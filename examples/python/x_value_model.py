"""python x_value_model.py [--dir DIR] [--requests N] [--seeds S] [--plant NAME] [--save FILE]: X's value model.

Heads, weights and page rules are those that X published (x-algorithm, 13 August 2026); users, posts, predictions and
rates are invented, with 80 candidates in place of 2,000 for X's page of 35. The model of replies is wrong here, as X's
may have been: replies to original posts of mutual follows are 4 times as likely as predicted, others .8 times. X looked
for a cure by an A/B test of a boost of 0, 5, 10, 15 or 20 in July 2026, shipped 20, and went back to 15. Here one log,
which is written to DIR, has to name the error, and the exact truth judges what is served.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import pygrade
from pygrade.config.training import CorrectionConfig, RewardConfig, TrainConfig
from pygrade.correction.fit import correct
from pygrade.doctor import audit_ranking
from pygrade.logs import Logs, write_logs
from pygrade.metrics.intervals import student_t

HEADS = {  # of X's model: weight, and how often a look leads to it here; of the last three: to how much
    **{"favorite": (0.5, 0.06), "reply": (5, 0.02), "repost": (1, 0.02), "quote": (5, 0.008), "share": (2, 0.02)},
    **{"share_dm": (5, 0.006), "copy_link": (20, 0.006), "click": (0.4, 0.1), "open_link": (0.2, 0.03)},
    **{"photo": (0.05, 0.08), "video": (0.05, 0.08), "video_view": (0.05, 0.05), "profile_click": (0, 0.02)},
    **{"quoted_click": (0.05, 0.02), "quoted_view": (0, 0.01), "follow": (4, 0.004), "unexplored": (0.02, 0.2)},
    **{"not_interested": (-43.2, 0.003), "mute": (-58.8, 0.0008), "block": (-31.2, 0.0006), "report": (-234, 0.00005)},
    **{"dwell": (0, 0.5), "not_dwelled": (-0.02, 0.3), "dwell_seconds": (0.004, 9), "click_dwell_seconds": (0, 2)},
    "active_seconds": (0, 30),
}
TASKS, (WEIGHTS, RATES) = tuple(HEADS), np.array(list(HEADS.values())).T
VALUES = {task: weight for task, (weight, _) in HEADS.items() if weight}  # five heads decide nothing
AMOUNTS, REPLY, MOVING = slice(-3, None), TASKS.index("reply"), 8  # heads that train learns from: they move most
CANDIDATES, SLOTS, AUTHORS, POSTS, BOOSTS = 80, 35, 400, 4_000, (0, 5, 10, 15, 20)
PLANTS = {  # head, where it is wrong, and observed over predicted there and elsewhere
    **{"mutuals": ("reply", "mutual_original", 4.0, 0.8), "nothing": ("reply", "is_video", 1.0, 1.0)},
    **{"strangers": ("copy_link", "out_of_network", 0.5, 1.5), "videos": ("dwell_seconds", "is_video", 2.0, 0.6)},
}


class World:
    """Requests R with candidates C and heads T: predictions and true probabilities [R, C, T]. part 1: other users."""

    def __init__(self, requests: int, seed: int, plant: str, part: int = 0) -> None:
        rng, self.draw = np.random.default_rng(seed), np.random.default_rng([seed, part])
        author, original, video = rng.integers(0, AUTHORS, POSTS), rng.random(POSTS) < 0.6, rng.random(POSTS) < 0.3
        self.content = rng.normal(size=(12, 64))[rng.integers(0, 12, POSTS)] + 1.5 * rng.normal(size=(POSTS, 64))
        self.content /= np.linalg.norm(self.content, axis=1, keepdims=True)
        quality = 0.5 * rng.normal(size=(POSTS, len(TASKS))) + 0.3 * rng.normal(size=(POSTS, 1)) - 0.2
        error = np.exp(0.15 * rng.normal(size=(POSTS, len(TASKS))) - 0.15**2 / 2)  # no post is quite as predicted
        self.user = self.draw.integers(0, requests // 4, requests)
        self.item = np.argsort(self.draw.random((requests, POSTS), np.float32), 1)[:, :CANDIDATES]
        self.author = author[self.item]
        tie = self.draw.random((requests // 4, AUTHORS))[self.user[:, None], self.author]  # of user and author
        flags = {"out_of_network": tie > 0.5, "is_original": original[self.item], "is_video": video[self.item]}
        self.tax = np.where(flags["out_of_network"] | ~flags["is_original"], 0.75, 1.0)
        self.flags = flags | {"mutual_original": (tie < 0.1) & flags["is_original"]}
        self.predicted = (RATES * np.exp(quality)).astype(np.float32)[self.item]
        self.predicted *= np.exp(0.4 * self.draw.normal(size=(requests, CANDIDATES, 1)) - 0.08)
        self.predicted[..., TASKS.index("video_view")] *= flags["is_video"]  # X: of videos alone,
        self.predicted[..., TASKS.index("unexplored")] *= ~flags["out_of_network"]  # and in the network alone
        self.predicted[..., : AMOUNTS.start] = self.predicted[..., : AMOUNTS.start].clip(max=0.95)
        self.true, (head, where, there, elsewhere) = self.predicted * error[self.item], PLANTS[plant]
        self.true[..., TASKS.index(head)] *= np.where(self.flags[where], there, elsewhere)

    def page(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X's page rules: pages [R, SLOTS] and scores [R, C] of sums of weight times prediction [R, C]."""
        harm, most = -WEIGHTS[WEIGHTS < 0].sum(), np.abs(WEIGHTS[: AMOUNTS.start]).sum()
        score = np.where(sums < 0, (sums + harm) / most * 0.001, sums + 0.001)  # squeezed: none is below 0
        same_author = self.author[:, :, None] == self.author[:, None]
        above = (same_author & (score[:, None] > score[:, :, None])).sum(2)
        score *= ((1 - 0.25) * 0.5**above + 0.25) * self.tax
        quality = np.exp(0.65 / (2 * (1 - 0.65)) * score / score.max(1, keepdims=True))  # of the DPP, θ = .65:
        left, taken = quality[..., None] * self.content[self.item], np.zeros(score.shape, bool)
        for _ in range(SLOTS):  # each next post adds the largest volume to those that are taken
            best = np.where(taken, -1, np.square(left).sum(2)).argmax(1)[:, None]
            np.put_along_axis(taken, best, True, 1)
            axis = np.take_along_axis(left, best[..., None], 1)
            axis /= np.linalg.norm(axis, axis=2, keepdims=True)
            left -= (left @ axis.transpose(0, 2, 1)) * axis
        return np.argsort(-np.where(taken, score, -1), 1, kind="stable")[:, :SLOTS], score

    def log(self) -> dict[str, np.ndarray]:
        """What X would have logged: a row per candidate. One page in fifty is shuffled."""
        pages, score = self.page(self.predicted @ WEIGHTS)
        shuffled, number = self.draw.random(len(pages)) < 0.02, np.arange(len(pages))
        pages[shuffled] = self.draw.permuted(pages[shuffled], axis=1)
        slot = np.full(score.shape, np.nan)
        np.put_along_axis(slot, pages, np.broadcast_to(np.arange(SLOTS) * 1.0, pages.shape), 1)
        looked = (self.draw.random(slot.shape) < (np.nan_to_num(slot) + 1) ** -0.3)[..., None]
        events = (looked & (self.draw.random(self.true.shape, np.float32) < self.true)).astype(np.float32)
        events[..., AMOUNTS] = looked * self.draw.exponential(self.true[..., AMOUNTS])
        events[np.isnan(slot)] = np.nan
        requests = {"request": number, "user": self.user, "time": 1_785_000_000 + 60 * number}
        requests |= {"x_hour": number / 60 % 24, "exploration": np.where(shuffled, "shuffle", "none")}
        rows = {"item": self.item, "slot": slot, "production_score": score}
        rows |= {f"i_{name}": flag.astype(np.float32) for name, flag in self.flags.items()}
        for t in np.flatnonzero(WEIGHTS):
            rows |= {f"p_{TASKS[t]}": self.predicted[..., t], f"y_{TASKS[t]}": events[..., t]}
        repeated = {name: np.repeat(column, CANDIDATES) for name, column in requests.items()}
        return repeated | {name: column.ravel() for name, column in rows.items()}


def study(directory: Path, requests: int, seed: int, plant: str) -> dict:
    """One log: what is named in it, the verdict, and exact lifts, in %, over X's formula for users that it lacks."""
    table, later = World(requests, seed, plant).log(), World(requests // 4, seed, plant, part=1)
    write_logs(log := Logs.from_table(table, values=VALUES), directory / f"{plant}-{seed}")
    found = audit_ranking(log, VALUES)
    heads = [head.name for head in sorted(found.heads, key=lambda head: -head.replaced.value)[:MOVING]]
    values, left_out = {head: VALUES[head] for head in heads}, VALUES.keys() - heads
    some, logs = ({k: v for k, v in t.items() if k[2:] not in left_out} for t in (table, later.log()))
    plain, page = CorrectionConfig(calibration=False, item_effects=False), RewardConfig(page_size=SLOTS)
    trained = pygrade.train(some, TrainConfig(grade=False, correction=plain, reward=page), values=values, verbose=False)
    logs, correction = Logs.from_table(logs, values=values), trained.policy.correction
    moved = logs.value_of((logs.predictions if correction is None else correct(correction, logs)) - logs.predictions)
    sums, replies = later.predicted @ WEIGHTS, later.predicted[..., REPLY] * later.flags["mutual_original"]
    totals = {f"+{boost}": sums + boost * replies for boost in BOOSTS}
    totals |= {"corrected": sums + moved.reshape(sums.shape), "truth": later.true @ WEIGHTS}
    pages = {name: later.page(total)[0] for name, total in totals.items()}
    pages |= {f"{name}, sorted": np.argsort(-total, 1)[:, :SLOTS] for name, total in totals.items()}
    pages["served"] = trained.rank(logs, k=SLOTS).indices
    looks = (np.arange(SLOTS) + 1.0) ** -0.3
    earned = {name: (np.take_along_axis(totals["truth"], page, 1) @ looks).mean() for name, page in pages.items()}
    lifts = {name: 100 * (float(value / earned["+0"]) - 1) for name, value in earned.items()}
    named = [(e.head, e.segment, e.factor.value, e.factor.low, e.factor.high) for e in found.errors]
    return {"named": named, "verdict": str(trained.verdict), "reasons": trained.verdict.reasons, "lifts": lifts}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in {"dir": "x", "requests": 4_000, "seeds": 1, "plant": "mutuals", "save": ""}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    runs = [study(Path(options.dir), options.requests, seed, options.plant) for seed in range(options.seeds)]
    for run in runs:
        for head, where, value, low, high in run["named"]:
            print(f"audit: {head} is {value:.1f} ({low:.1f} to {high:.1f}) times as frequent where {where}")
        print("train:", run["verdict"], *run["reasons"], sep="\n  ")
    print("exact value over X's formula, for other users (+15: with a boost of 15; sorted: without X's page rules):")
    for name in runs[0]["lifts"]:
        lifts = np.array([run["lifts"][name] for run in runs])
        half = student_t(len(runs) - 1) * lifts.std() / max(len(runs) - 1, 1) ** 0.5
        print(f"  {lifts.mean():+6.2f} ± {half:.2f} %  {name}")
    if options.save:
        Path(options.save).write_text(json.dumps({**vars(options), "runs": runs}) + "\n")


if __name__ == "__main__":
    main()
