"""Choosing among policies by a log: what is sure wins, what is not leaves the default."""

import copy

from bench.study.chosen_settings import choose_policy
from pygrade.config.policy import PolicyConfig
from pygrade.policy import FusionPolicy, PolicySpec
from tests.evaluation.test_policy_estimates import CURVE, TASKS, by_mode
from tests.learning import tiny_logs

LOGS = tiny_logs(1500)


def test_the_best_policy_is_chosen_where_it_is_sure():
    plain = FusionPolicy(PolicySpec(TASKS, ("mode", "noise"), PolicyConfig(hidden=(1,))))
    policies = {"plain": plain, "wrong": by_mode(-1.0), "right": by_mode(1.0), "twin": copy.deepcopy(plain)}
    name, lifts = choose_policy(policies, LOGS, CURVE)
    assert name == "right" and set(lifts) == {"wrong", "right", "twin"}
    assert lifts["wrong"].high < 0 < lifts["right"].low
    assert lifts["twin"].value == lifts["twin"].low == lifts["twin"].high == 0
    assert choose_policy({"right": policies["right"], "plain": plain}, LOGS, CURVE)[0] == "right"
    assert choose_policy({"plain": plain, "twin": policies["twin"]}, LOGS, CURVE)[0] == "plain"
