"""`pygrade rank` on corrected predictions."""

import numpy as np

from pygrade.evaluation.arms import CORRECTED_EXPECTED_VALUE
from pygrade.logs import write_logs
from pygrade.policy import Baseline, FusionPolicy, PolicySpec
from pygrade.policy.mixture import Mixture
from tests.cli.test_cli import result
from tests.corrections import random_correction
from tests.learning import VALUES, tiny_logs
from tests.training.test_train import replace


def test_pages_take_the_item_columns_that_the_correction_reads(capsys, tmp_path):
    logs = tiny_logs(30)
    columns = np.random.default_rng(1).normal(size=(logs.num_rows, 2)).astype(np.float32)
    logs = replace(logs, items=("size", "margin"), item_features=columns)
    policy = FusionPolicy(PolicySpec(logs.tasks, logs.features))
    policy.correction = random_correction(tasks=logs.tasks, features=logs.features, items=("margin",), scale=0.5)
    policy.mixture = Mixture(0.0, Baseline(CORRECTED_EXPECTED_VALUE, "identity", VALUES, True, corrected=True))
    policy.save(tmp_path / "policy")
    write_logs(logs, tmp_path / "logs")
    words = ["rank", "--data", f"logs:{tmp_path / 'logs'}", "--policy", str(tmp_path / "policy"), "--k", "12"]
    pages = result(capsys, *words, "--requests", *map(str, range(30)), "--quiet")["pages"]
    found = [[item["item_id"] for item in page["items"]] for page in pages]

    def ranked(items):
        scores = policy.scores(logs.context, logs.predictions, logs.offsets, items=items).reshape(30, -1)
        order = np.argsort(-scores, axis=1, kind="stable") + np.arange(30)[:, None] * 12
        return logs.item_id[order].tolist()

    assert found == ranked(columns[:, [1]]) != ranked(None)
