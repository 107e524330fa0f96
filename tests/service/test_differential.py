"""Drawn requests, of every kind at once, through Python, the C ABI, JSON and tensors: one page, bit for bit.

PYGRADE_DIFFERENTIAL: how many requests, over all policies; devtools/release-check takes 100,000.
"""

import http.client
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from pygrade import BlendedRanker, FusionPolicy
from pygrade.config.policy import PolicyConfig
from pygrade.policy import PolicySpec
from pygrade.policy.correction import ItemEffects
from tests.corrections import random_correction
from tests.service.conftest import needs_server, serving
from tests.serving.test_embedding import FEATURES, TASKS, CRanker, mixture

COUNT = int(os.environ.get("PYGRADE_DIFFERENTIAL", 300))
KINDS = ("alone", "mixed", "corrected")
TENSORS = "application/safetensors"
COLUMNS = ("mask", "boost_mul", "boost_add")  # rules of a number for each candidate


def write_policy(kind, place):
    """A policy of drawn coefficients, whose corrected form has trees and item effects."""
    config = PolicyConfig(hidden=(16, 8), trade_offs=kind == "mixed", corrected=kind == "corrected")
    policy = FusionPolicy(PolicySpec(TASKS, FEATURES, config), seed=3)
    policy.head.weight.data.mul_(40)
    policy.set_static_weights(torch.tensor([0.4, 0.2, 0.2, 0.2]), {"search": torch.tensor([0.1, 0.3, 0.3, 0.3])})
    policy.mixture = mixture() if kind != "alone" else None
    if kind == "corrected":
        effects = ItemEffects(np.arange(0, 400, 2), np.random.default_rng(6).normal(size=(200, 4)).astype(np.float32))
        made = random_correction(tasks=TASKS, features=FEATURES, form="conditional", trees=9)
        policy.correction = made.with_item_effects(effects)
        challenger = replace(mixture().baseline, name="corrected value", calibration=(), corrected=True)
        policy.mixture = replace(mixture(), challenger=challenger)
    policy.save(place / "policy")
    return policy


class Drawn:
    """A request; every option is there in about half of them."""

    def __init__(self, number, policy):
        rng = self.rng = np.random.default_rng([17, number])
        self.n = n = int(rng.integers(1, 80) if rng.random() < 0.95 else rng.integers(80, 700))
        self.k = int(rng.integers(1, min(n, 12) + 1))
        self.items = rng.choice(np.arange(800), n, replace=False)
        self.predictions = rng.beta(1, 6, (n, len(TASKS))).astype(np.float32) * (rng.random((n, 1)) < 0.97)
        self.predictions = self.predictions.astype(np.float32)
        self.predictions[rng.random(self.predictions.shape) < (0.01 if self.some() else 0)] = np.nan
        self.context = rng.normal(size=len(FEATURES)).astype(np.float32)
        self.context[rng.random(len(FEATURES)) < 0.2] = np.nan
        self.scenario = str(rng.choice(["", "search", "feed"]))
        self.columns, self.limits = {}, {}
        if self.some():
            self.columns["mask"] = rng.random(n) < 0.9
        if self.some():
            self.columns["boost_mul"] = rng.uniform(0, 2, n).astype(np.float32)
        if self.some():
            self.columns["boost_add"] = rng.normal(size=n).astype(np.float32)
        if self.some():
            self.columns["groups"] = rng.integers(-1, 9, (n, 2)).astype(np.int32)
            self.limits["caps"] = rng.integers(1, 4, 2).astype(np.int32)
            if self.some():
                self.limits["cap_slots"] = rng.integers(1, 8, 2).astype(np.int32)
            if self.some():
                self.limits["decay"] = rng.uniform(0.2, 1, 2).astype(np.float32)
        self.more = {}
        if policy.mixture is not None:
            self.more["item_values"] = rng.uniform(0, 50, n).astype(np.float32)
            if self.some():
                self.more["values"] = rng.uniform(-1 if policy.correction else 0, 5, len(TASKS)).astype(np.float32)
        if policy.correction is not None:
            self.names = policy.correction.items[: len(policy.correction.items) - len(TASKS)]
            self.own_items = rng.normal(size=(n, len(self.names))).astype(np.float32)
            self.own_items[rng.random(self.own_items.shape) < 0.1] = np.nan
            self.all_items = np.c_[self.own_items, np.full((n, len(TASKS)), np.nan, np.float32)]  # effects: looked up
        self.pins, self.demoted = np.full(self.k, -1, np.int32), np.zeros(n, bool)
        if self.some():
            places = rng.choice(self.k, min(self.k, 2), replace=False)
            self.pins[places] = rng.choice(n, len(places), replace=False)
        if self.some():
            self.demoted[rng.random(n) < 0.1] = True

    def some(self):
        return self.rng.random() < 0.5

    def placed(self):
        """Pins and demotions, where there are any."""
        given = {"pins": self.pins} if (self.pins >= 0).any() else {}
        return given | ({"demoted": self.demoted} if self.demoted.any() else {})


def of_python(ranker, drawn):
    many = {**drawn.columns, **drawn.more, **drawn.placed()}
    if ranker.policy.correction is not None:
        many["items"] = drawn.all_items if drawn.some() else drawn.own_items
    page = ranker.rank(
        drawn.context[None],
        drawn.predictions[None],
        drawn.k,
        item_id=drawn.items[None],
        scenario=drawn.scenario,
        **{name: value[None] for name, value in many.items()},
        **drawn.limits,
    )
    filled = page.indices[0] >= 0
    return page.items[0][filled].tolist(), page.values[0][filled]


def of_c(ranker, drawn, policy):
    given = {**drawn.columns, **drawn.limits, **drawn.more, **drawn.placed(), "item_ids": drawn.items}
    if "groups" in given:
        given["group_columns"] = 2
    if policy.correction is not None:
        given["items"] = drawn.all_items
    for name in ("mask", "demoted"):
        if name in given:
            given[name] = given[name].astype(np.uint8)
    _, page, arrays = ranker.rank(drawn.context, drawn.predictions, drawn.k, drawn.scenario, **given)
    return drawn.items[arrays["indices"][: page.filled]].tolist(), arrays["values"][: page.filled]


def body_of(drawn, policy, tensors):
    """The keys of a request over HTTP; the lists of tensors beside them."""
    lists = {name: drawn.columns[name] for name in COLUMNS if name in drawn.columns}
    rules = {} if tensors else {name: values.tolist() for name, values in lists.items()}
    if "groups" in drawn.columns:
        rules["groups"] = {f"g{a}": drawn.columns["groups"][:, a].tolist() for a in range(2)}
    for name, limits in drawn.limits.items():
        rules[name] = {f"g{a}": number for a, number in enumerate(limits.tolist())}
    if (drawn.pins >= 0).any():
        placed = [(int(drawn.items[item]), place) for place, item in enumerate(drawn.pins) if item >= 0]
        rules["pins"] = [{"item": item, "position": place} for item, place in placed]
    if drawn.demoted.any():
        rules["demote"] = drawn.items[drawn.demoted].tolist()
    context = {name: float(x) for name, x in zip(FEATURES, drawn.context, strict=True) if x == x}
    body = {"user": 1, "k": drawn.k, "rules": rules, "context": context}
    if drawn.scenario:
        body["scenario"] = drawn.scenario
    if "values" in drawn.more:
        body["values"] = dict(zip(TASKS, drawn.more["values"].tolist(), strict=True))
    return body, lists


def of_json(server, drawn, policy):
    body, _ = body_of(drawn, policy, False)
    rows = np.where(np.isnan(drawn.predictions), None, drawn.predictions.astype(object))
    body |= {"items": drawn.items.tolist(), "predictions": {t: rows[:, i].tolist() for i, t in enumerate(TASKS)}}
    if "item_values" in drawn.more:
        body["item_values"] = drawn.more["item_values"].tolist()
    if policy.correction is not None:
        cells = np.where(np.isnan(drawn.own_items), None, drawn.own_items.astype(object))
        body["item_features"] = {name: cells[:, i].tolist() for i, name in enumerate(drawn.names)}
    page = json.loads(ask(server, json.dumps(body).encode(), {}))
    return page["items"], np.array([np.nan if s is None else s for s in page["scores"]], np.float32)


def of_tensors(server, drawn, policy):
    body, lists = body_of(drawn, policy, True)
    tensors = {"items": drawn.items, "predictions": drawn.predictions}
    tensors |= lists
    if "item_values" in drawn.more:
        tensors["item_values"] = drawn.more["item_values"]
    if policy.correction is not None:
        tensors |= {f"item_features.{n}": drawn.own_items[:, i].copy() for i, n in enumerate(drawn.names)}
    content = save(tensors, {"request": json.dumps(body)})
    page = load(ask(server, content, {"Content-Type": TENSORS, "Accept": TENSORS}))
    return page["items"].tolist(), page["scores"]


def ask(connection, body, headers):
    connection.request("POST", "/v1/rank", body, headers)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_every_face_gives_the_same_page(kind, tmp_path):
    needs_server()
    policy = write_policy(kind, tmp_path / "run")
    ranker, in_c = BlendedRanker.load(tmp_path / "run" / "policy"), CRanker(tmp_path / "run" / "policy")
    options = ("--log", "none", "--deadline-ms", "60000")
    with serving(tmp_path / "run", tmp_path / "log", *options) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for number in range(COUNT // len(KINDS) + 1):
            drawn = Drawn(number, policy)
            items, scores = of_python(ranker, drawn)
            others = {
                "C": of_c(in_c, drawn, policy),
                "JSON": of_json(connection, drawn, policy),
                "tensors": of_tensors(connection, drawn, policy),
            }
            for face, (found, values) in others.items():
                assert found == items, (number, face)
                assert values.tobytes() == scores.tobytes(), (number, face)
        connection.close()
        counts = re.findall(
            r"^pygrade_unknown_keys_total(?:{.*})? (.*)", server.ask("GET", "/metrics")[2].decode(), re.M
        )
        assert {*counts} <= {"0"}
