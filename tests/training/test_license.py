"""What a licensed correction is said to change."""

import numpy as np

from pygrade.training.license import reasons_of
from tests.learning import logs_of


def test_a_move_of_a_context_an_item_column_and_both_is_said():
    shape, place = (40, 8), np.arange(40 * 8)
    logs = logs_of(
        np.full((*shape, 3), 0.15),
        np.broadcast_to(np.arange(8), shape),
        np.zeros((*shape, 3)),
        features=("member",),
        context=(np.arange(40) % 2)[:, None].astype(np.float32),
        items=("new", "dear"),
        item_features=np.stack([place % 2, place // 2 % 2], 1).astype(np.float32),
        task_values=(9.0, 3.0, 1.0),
    )
    member, new, dear = logs.context[logs.row_request, 0], *logs.item_features.T
    moved = np.stack([np.where(member == dear, 0.5, 1.5), 1 + member, np.where(new == 1, 0.7, 1)], 1)
    assert reasons_of(logs, (logs.predictions * moved).astype(np.float32)) == (
        "a: 0.5 times what the model predicts where member is 1 and dear is 1, or neither, else 1.5 times",
        "b: 2 times what the model predicts where member is 1, else as predicted",
        "c: 0.7 times what the model predicts where new is 1, else as predicted",
    )
    assert reasons_of(logs, logs.predictions) == ()
