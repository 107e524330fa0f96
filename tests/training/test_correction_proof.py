"""What an accepted correction is said to change."""

import numpy as np

from pygrade.logs.history import GROUPS, History, words_above
from pygrade.training.correction_proof import reasons_of
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
    moved = np.stack([np.where(member == dear, 0.5, 1.5), 1.04 + member, np.where(new == 1, 0.7, 1)], 1)
    assert reasons_of(logs, (logs.predictions * moved).astype(np.float32)) == (
        "a: 0.5 times what the model predicts where member is 1 and dear is 1, or neither, else 1.5 times",
        "b: 2 times what the model predicts where member is 1, else as predicted",
        "c: 0.7 times what the model predicts where new is 1, else as predicted",
    )
    assert reasons_of(logs, logs.predictions) == ()


def test_levels_of_one_text_are_one_line():
    mobile = np.arange(40) % 2 == 0
    logs = logs_of(
        np.full((40, 8, 2), 0.15),
        np.broadcast_to(np.arange(8), (40, 8)),
        np.zeros((40, 8, 2)),
        features=("device=desktop", "device=mobile"),
        context=np.stack([~mobile, mobile], 1).astype(np.float32),
    )
    moved = np.where(mobile[:, None], (2.4, 1), (1.1, 0.5))[logs.row_request].astype(np.float32)
    lines = reasons_of(logs, logs.predictions * moved)
    assert sorted(line.partition(":")[0] for line in lines) == ["a", "b"]


def test_columns_of_a_history_are_told_in_words():
    history = History(("a",), True, 1, 2, 8, ((1.0,),) * GROUPS, (1.0,), (1.0,), (1.0,))
    seen = np.arange(40 * 8) % 4
    logs = logs_of(
        np.full((40, 8, 1), 0.15),
        np.broadcast_to(np.arange(8), (40, 8)),
        np.zeros((40, 8, 1)),
        items=("seen", "item_age"),
        item_features=np.log1p([np.where(seen < 3, 0, seen), np.arange(40 * 8)]).T.astype(np.float32),
    )
    moved = (logs.predictions * np.where(seen == 3, 0.6, 1.1)[:, None]).astype(np.float32)
    assert reasons_of(logs, moved, history)[0] == (
        "a: 0.6 times what the model predicts where the user saw the item before, else 1.1 times"
    )
    assert reasons_of(logs, moved)[0].startswith("a: 0.6 times what the model predicts where seen is 1.38629, else")
    assert [words_above(column, 0.1) for column in (*history.features, *history.items)] == [
        "a of the user is above 1.1 times what is predicted",
        "the user saw items before",
        "the user saw the last item more than 0.11 minutes before",
        "a on the item is above 1.1 times what is predicted",
        "a on the item is lately above 1.1 times what is predicted",
        "the item was shown before",
        "the item was first shown more than 0.11 hours before",
        "the user saw the item before",
        "the user saw the item less than 9 hours before",
        "a of the user on the item came before",
        "a of the user on its category is above 1.1 times what is predicted",
        "the user saw its category before",
    ]
    assert words_above("seen", np.log1p(2)) == "the user saw the item more than 2 times before"
    assert words_above("item_shown", np.log1p(1)) == "the item was shown more than once before"
    assert words_above("user_pause", 0.0) == "the user saw the last item before"
    assert words_above("item_a", 0.0) == "a on the item is above what is predicted"
