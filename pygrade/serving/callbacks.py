"""Callbacks of the core while it makes a page, and their arguments: candidates, predictions, prices."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Rows(NamedTuple):
    """The candidates of one request, for a model of the user's own."""

    user_id: int | None  # None: an unknown user, whose page is ready for requests that run out of time
    timestamp: int  # ms since 1970
    scenario: str | None
    item_id: NDArray[np.int64]  # [n]
    # As the multi-task model would read them: dense ones normalized, ids as places in vocabularies.
    request_dense: NDArray[np.float32]  # [1, Du]
    request_ids: NDArray[np.int64]  # [1, Fu]
    dense: NDArray[np.float32]  # [n, Di + Dx]
    ids: NDArray[np.int64]  # [n, Fi]
    first: int = 0  # place of the first row among the request's candidates, which may come in parts
    user_data: Any = None  # of the request


Predict = Callable[[Rows], ArrayLike]  # → probabilities [n, T] of the policy's tasks; NaN: unknown, ranks last
ItemValues = Mapping[int, float] | ArrayLike | Callable[[NDArray[np.int64]], ArrayLike]


def predicted(predict: Predict, tasks: int, *inputs: Any) -> NDArray[np.float32]:
    """Called by the core with the fields of `Rows`."""
    rows = Rows(*inputs)
    predictions = np.ascontiguousarray(predict(rows), np.float32)
    if predictions.shape != (len(rows.item_id), tasks):
        raise ValueError(f"predict gave shape {predictions.shape}; expected [n, T], {(len(rows.item_id), tasks)}")
    return predictions


def prices_of(item_values: ItemValues, item_ids: NDArray[np.int64] | None) -> Callable[[Any], NDArray[np.float32]]:
    """ids [n] → prices [n], as the core asks."""
    if isinstance(item_values, Mapping):
        price_of: Mapping[int, float] = item_values

        def look_up(ids: NDArray[np.int64]) -> NDArray[np.float32]:
            missing = [item for item in ids.tolist() if item not in price_of]
            if missing:
                raise ValueError(f"item_values has no price of item {missing[0]}; expected one of every candidate")
            return np.array([price_of[item] for item in ids.tolist()], np.float32)

        return look_up
    if not callable(item_values):
        prices = np.ascontiguousarray(item_values, np.float32)
        if item_ids is None or prices.shape != item_ids.shape:
            wanted = "a mapping or a function" if item_ids is None else f"one for each of item_ids, {item_ids.shape}"
            raise ValueError(f"item_values has shape {prices.shape}; expected {wanted}")
        return lambda ids: prices
    ask = item_values
    return lambda ids: np.ascontiguousarray(ask(ids), np.float32)


def checked_items(item_ids: ArrayLike) -> NDArray[np.int64]:
    ids = np.asarray(item_ids)
    if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
        raise ValueError(f"item_ids has shape {ids.shape} and dtype {ids.dtype}; expected integers [n]")
    items: NDArray[np.int64] = ids.astype(np.int64).reshape(-1)
    values, counts = np.unique(items, return_counts=True)
    wrong = values[(counts > 1) | (values < 0)]
    if len(wrong):
        raise ValueError(
            f"item_ids holds {wrong[0]} {items.tolist().count(wrong[0])} times; expected ids ≥ 0, each once"
        )
    return items
