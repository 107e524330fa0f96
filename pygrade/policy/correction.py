"""The correction of a request's predictions by its context: part of a policy, applied by the C++ core.

`pygrade.reference.correction` has the formula. A task has a parent if it never happens without it (an order without a
click): its log odds are then those given the parent's event.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pygrade import _core
from pygrade.policy.page_terms import PageTerms

FORMS = ("", "marginal", "conditional")
KNOTS = 5
NODES = 7  # of a tree, with a leaf more
_SMALLEST_MOVE = 0.01  # of log odds, which a cause explains
LEVEL = "level of "  # names of the item columns that hold levels
_REACH = 4.0  # of standardized item columns
PREFIX = "correction."  # of its tensors in the policy's file
_PAGE = PREFIX + "page_terms."  # of those of its page terms
_LISTS = ("items", "parents", "amounts", "indicators", "form")  # in policy.json


@dataclass(frozen=True, eq=False)
class ItemEffects:
    """Effects of n items beyond the correction of T tasks, in log odds given the parent. They are item columns, looked
    up by the item's id when it is ranked.
    """

    keys: NDArray[np.uint64]  # [n] rising: `pygrade.logs.keys.hashes` of the ids
    values: NDArray[np.float32]  # [n, T]

    def of(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Return the effects [M, T] of items by key; 0 of unknown ones."""
        result = np.zeros((len(keys), self.values.shape[1]), np.float32)
        if len(self.keys):
            index = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            is_known = self.keys[index] == keys
            result[is_known] = self.values[index[is_known]]
        return result

    def record(self) -> dict[str, str]:
        """The effects as policy.json holds them: little-endian bytes in base64."""
        parts = {"item_keys": self.keys.astype("<u8"), "values": self.values.astype("<f4")}
        return {name: base64.b64encode(part.tobytes()).decode() for name, part in parts.items()}

    @classmethod
    def decode(cls, record: Mapping[str, str], tasks: int) -> "ItemEffects":
        """Read the effects back from a `record`."""
        keys, values = (base64.b64decode(record[name], validate=True) for name in ("item_keys", "values"))
        table = np.frombuffer(values, "<f4").astype(np.float32).reshape(-1, tasks)
        effects = cls(np.frombuffer(keys, "<u8").astype(np.uint64), table)
        if len(effects.keys) != len(table) or (np.diff(effects.keys.astype(object)) <= 0).any():
            raise ValueError(
                f"levels of the correction have {len(effects.keys)} keys; expected {len(table)} rising ones"
            )
        return effects


_NODES = np.zeros((0, NODES), np.float32)
_LEAVES = np.zeros((0, NODES + 1), np.float32)


@dataclass(frozen=True, eq=False)
class Correction:
    """Coefficients of T tasks, F features and I item columns; V = T + I, X = F + K, Z = 1 + X + V, U = 1 + V.

    Arrays are float32 and finite; what ends with ``std`` is positive. ValueError names the field that is not as below.
    """

    tasks: tuple[str, ...]  # T names in the order of the predictions
    features: tuple[str, ...]  # of the context
    items: tuple[str, ...]  # item columns, without the i_ prefix
    parents: tuple[int, ...]  # [T] place of the parent, -1: a root
    amounts: tuple[bool, ...]  # [T] roots whose prediction is an expected amount, which may exceed 1
    median: NDArray[np.float32]  # [F] in the place of a missing feature
    indicators: tuple[int, ...]  # [K] places of the features of which it counts that they are missing, rising
    x_mean: NDArray[np.float32]  # [X] of the context and the indicators
    x_std: NDArray[np.float32]  # [X]
    l_mean: NDArray[np.float32]  # [V] of the conditional log odds and the item columns
    l_std: NDArray[np.float32]  # [V]
    weights: NDArray[np.float32]  # [T, Z, U]
    form: str  # of the maps: one of `FORMS`, "": none
    map_mean: NDArray[np.float32]  # [T] of the log odds that are mapped; without maps any
    map_std: NDArray[np.float32]  # [T]
    map_knots: NDArray[np.float32]  # [T, 5] of standardized log odds
    map_weights: NDArray[np.float32]  # [T, 7] level, slope, hinges
    tree_inputs: NDArray[np.float32] = field(
        default_factory=_NODES.copy
    )  # [G, 7] places among the D inputs of `tree_columns`
    tree_thresholds: NDArray[np.float32] = field(default_factory=_NODES.copy)  # [G, 7]
    tree_masks: NDArray[np.float32] = field(
        default_factory=_NODES.copy
    )  # [G, 7] bits of leaves that a larger input leaves; 255: no node
    tree_leaves: NDArray[np.float32] = field(
        default_factory=_LEAVES.copy
    )  # [G, 8] summed, logarithms of a factor on all predictions
    item_effects: ItemEffects | None = None  # of items; the last T item columns are theirs
    page_terms: PageTerms | None = None  # of what stands above an item on a page

    def __post_init__(self) -> None:
        for name in ("tasks", "features", "items"):
            names = tuple(map(str, getattr(self, name)))
            if len({*names}) != len(names):
                raise ValueError(f"{name} of the correction are {names}; expected distinct names")
            object.__setattr__(self, name, names)
        for name, kind in (("parents", int), ("amounts", bool), ("indicators", int)):
            object.__setattr__(self, name, tuple(map(kind, getattr(self, name))))
        for name in ("parents", "amounts"):
            if len(getattr(self, name)) != len(self.tasks):
                count = len(getattr(self, name))
                raise ValueError(f"{name} of the correction has {count} entries; expected {len(self.tasks)}")
        for name, shape in self._shapes().items():
            array = np.array(getattr(self, name), np.float32, order="C")
            if array.shape != shape:
                raise ValueError(f"{name} of the correction has shape {array.shape}; expected {shape}")
            if name.startswith("map_") and not self.form:
                array = np.full(shape, float(name == "map_std"), np.float32)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        try:
            _ = self._in_core()
        except ValueError as error:
            raise ValueError(f"the correction is wrong: {error}") from None
        if self.page_terms is not None:
            self.page_terms.check(self.tasks, self.parents, self.amounts)

    def _in_core(self) -> _core.Correction:
        """The correction as an object of the C++ core, which checks it."""
        names = [f.name for f in fields(self) if f.name not in ("tasks", "features", "item_effects", "page_terms")]
        return _core.Correction(**{name: getattr(self, name) for name in names})

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        count, variables = len(self.tasks), len(self.tasks) + len(self.items)
        inputs = len(self.features) + len(self.indicators)
        return {
            "median": (len(self.features),),
            "x_mean": (inputs,),
            "x_std": (inputs,),
            "l_mean": (variables,),
            "l_std": (variables,),
            "weights": (count, 1 + inputs + variables, 1 + variables),
            "map_mean": (count,),
            "map_std": (count,),
            "map_knots": (count, KNOTS),
            "map_weights": (count, 2 + KNOTS),
            **{name: (self.trees, NODES) for name in ("tree_inputs", "tree_thresholds", "tree_masks")},
            "tree_leaves": (self.trees, NODES + 1),
        }

    @property
    def trees(self) -> int:
        """G, the number of trees."""
        return len(self.tree_leaves)

    def __eq__(self, other: object) -> bool:
        """Equal bit for bit."""
        if not isinstance(other, Correction):
            return NotImplemented
        return all(_bits(getattr(self, f.name)) == _bits(getattr(other, f.name)) for f in fields(self))

    def __hash__(self) -> int:
        return hash((self.tasks, self.features, self.items, self.weights.tobytes()))

    def with_item_effects(self, item_effects: ItemEffects) -> "Correction":
        """Add item effects, whose columns are added to the log odds as they are."""
        count, (rows, columns) = len(self.tasks), self.weights.shape[1:]
        reach = np.maximum(np.abs(item_effects.values).max(0, initial=0.0), 1e-6) / _REACH  # no effect is cut
        weights = np.zeros((count, rows + count, columns + count), np.float32)
        weights[:, :rows, :columns] = self.weights
        tasks = np.arange(count)
        weights[tasks, 0, columns + tasks] = reach  # of the deviation from the request's mean, and of that mean
        weights[tasks, rows + tasks, 0] = reach
        return replace(
            self,
            tree_inputs=self._tree_inputs_with(len(self.l_mean), count),
            items=(*self.items, *(f"{LEVEL}{task}" for task in self.tasks)),
            l_mean=np.concatenate([self.l_mean, np.zeros(count, np.float32)]),
            l_std=np.concatenate([self.l_std, reach.astype(np.float32)]),
            weights=weights,
            item_effects=item_effects,
        )

    def with_items(self, names: Sequence[str]) -> "Correction":
        """Add item columns that the correction reads for boosts alone: their weights are 0."""
        new = tuple(name for name in names if name not in self.items)
        index = len(self.tasks) + len(self.own_items)  # before the effects
        row, count = self.weights.shape[1] - (len(self.items) - len(self.own_items)), len(new)
        weights = np.insert(self.weights, [row] * count, 0.0, 1)
        return replace(
            self,
            tree_inputs=self._tree_inputs_with(index, count),
            items=(*self.own_items, *new, *self.items[len(self.own_items) :]),
            l_mean=np.insert(self.l_mean, [index] * count, 0.0),
            l_std=np.insert(self.l_std, [index] * count, 1.0),
            weights=np.insert(weights, [1 + index] * count, 0.0, 2),
        )

    def _tree_inputs_with(self, index: int, count: int) -> NDArray[np.float32]:
        """Places [G, 7] of the trees' inputs once there are `count` more variables from a place on."""
        before = np.arange(len(self.l_mean))
        place, wide, x = np.where(before < index, before, before + count), len(before) + count, len(self.x_mean)
        places = np.concatenate([place, wide + place, 2 * wide + np.arange(x), 2 * wide + x + place])
        return np.asarray(places[self.tree_inputs.astype(np.int64)], np.float32)

    @classmethod
    def identity(cls, tasks: Sequence[str], features: Sequence[str]) -> "Correction":
        """One that counts nothing, for policies that read item columns without one."""
        count, inputs = len(tasks), len(features)
        return cls(
            tasks=tuple(tasks),
            features=tuple(features),
            items=(),
            parents=(-1,) * count,
            amounts=(False,) * count,
            median=np.zeros(inputs, np.float32),
            indicators=(),
            x_mean=np.zeros(inputs, np.float32),
            x_std=np.ones(inputs, np.float32),
            l_mean=np.zeros(count, np.float32),
            l_std=np.ones(count, np.float32),
            weights=np.zeros((count, 1 + inputs + count, 1 + count), np.float32),
            form="",
            map_mean=np.zeros(count, np.float32),
            map_std=np.ones(count, np.float32),
            map_knots=np.zeros((count, KNOTS), np.float32),
            map_weights=np.zeros((count, 2 + KNOTS), np.float32),
        )

    @property
    def own_items(self) -> tuple[str, ...]:
        """The item columns without those of item effects."""
        return self.items if self.item_effects is None else self.items[: len(self.items) - len(self.tasks)]

    def look_up_effects(
        self, items: NDArray[np.float32] | None, keys: NDArray[np.uint64]
    ) -> NDArray[np.float32] | None:
        """Item columns [M, I] of items with these keys [M]: effects that are not given, or NaN, are looked up.

        items: all columns [M, I], those without item effects [M, I - T], or None.
        """
        if self.item_effects is None:
            return items
        own = len(self.items) - len(self.tasks)
        rows = np.full((len(keys), len(self.items)), np.nan, np.float32)
        if items is not None:
            width = items.shape[-1]
            if width not in (own, len(self.items)):
                raise ValueError(
                    f"items has {width} columns; expected {len(self.items)}, or {own} without item effects"
                )
            rows[:, :width] = items.reshape(-1, width)
        rows[:, own:] = np.where(np.isnan(rows[:, own:]), self.item_effects.of(keys), rows[:, own:])
        return rows

    def item_columns(
        self, given: Mapping[str, NDArray[np.float32]], keys: NDArray[np.uint64]
    ) -> NDArray[np.float32] | None:
        """Return columns [M, I] of the items with these keys [M]: the given ones by name, else NaN, and effects."""
        if not self.items:
            return None
        unknown = np.full(len(keys), np.nan, np.float32)
        return self.look_up_effects(np.stack([given.get(name, unknown) for name in self.items], 1), keys)

    def apply(
        self,
        context: NDArray[np.float32] | None,
        predictions: NDArray[np.float32],
        offsets: NDArray[np.int64],
        items: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """The corrected predictions, float32 [M, T] of finite predictions [M, T] with offsets [R + 1].

        context [R, F]; None, or a row without a finite value: nothing is known of the request. items [M, I]: item
        columns; None: unknown. NaN and infinite: unknown.
        """
        arrays = self._arrays(context, predictions, offsets, items)
        result: NDArray[np.float32] = np.empty_like(arrays["predictions"])
        self._in_core().apply(**arrays, result=result, num_threads=torch.get_num_threads())
        return result

    def _arrays(
        self,
        context: NDArray[np.float32] | None,
        predictions: NDArray[np.float32],
        offsets: NDArray[np.int64],
        items: NDArray[np.float32] | None,
    ) -> dict[str, Any]:
        """The arguments of `apply` as the core takes them. ValueError for a shape that does not fit."""
        count, bounds = len(self.tasks), np.ascontiguousarray(offsets, np.int64)
        rows = np.ascontiguousarray(predictions, np.float32)
        if rows.ndim != 2 or rows.shape[1] != count:
            raise ValueError(f"predictions has shape {rows.shape}; expected [M, {count}]")
        given = {
            "context": (context, (len(bounds) - 1, len(self.features))),
            "items": (items, (len(rows), len(self.items))),
        }
        arrays: dict[str, Any] = {"predictions": rows, "offsets": bounds}
        for name, (value, shape) in given.items():
            arrays[name] = None if value is None else np.ascontiguousarray(value, np.float32)
            if (found := arrays[name]) is not None and found.shape != shape:
                raise ValueError(f"{name} has shape {found.shape}; expected {shape}")
        return arrays

    def tree_columns(
        self,
        context: NDArray[np.float32] | None,
        predictions: NDArray[np.float32],
        offsets: NDArray[np.int64],
        items: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Inputs [M, D] of the trees, D = V + V + X + V: a candidate's standardized variables, these less the request's
        mean, the standardized context and these means. Arguments as of `apply`."""
        arrays, core = self._arrays(context, predictions, offsets, items), self._in_core()
        result = np.empty((len(arrays["predictions"]), core.num_tree_inputs), np.float32)
        core.tree_inputs(**arrays, result=result)
        return result

    def shifts(
        self, context: NDArray[Any] | None, predictions: NDArray[Any] | None, items: NDArray[Any] | None
    ) -> NDArray[np.float64]:
        """S [T, 1 + V] of a request with context [F] and candidates' predictions [N, T] and items [N, I]: `apply` adds
        S_0 + Σ_v S_v u_v to a task's log odds, u the candidate's standardized variables. None: unknown.
        """
        variables = len(self.tasks) + len(self.items)
        result = np.empty((len(self.tasks), 1 + variables))
        request = {"context": context, "predictions": predictions, "items": items}
        arrays = {name: None if a is None else np.ravel(a).astype(np.float32) for name, a in request.items()}
        self._in_core().shifts(**arrays, result=result)
        return result

    def find_cause(self, context: NDArray[np.float32], task: int, up: bool) -> str:
        """The feature of a request's context [F] that moves the log odds of a task and of those that it needs most, up
        or down: "hour 23", or "age unknown"; "" if none moves them that way.
        """
        known = np.isfinite(context)
        if not known.any():
            return ""
        places = list(self.indicators)
        x = np.concatenate([np.where(known, context, self.median), ~known[places]]).astype(np.float64)
        x = ((x - self.x_mean) / self.x_std).clip(-4, 4)
        moves = np.zeros(len(x))
        while task >= 0:
            moves += x * self.weights[task, 1 : 1 + len(x), 0]
            task = self.parents[task]
        of_feature = moves[: len(context)]
        of_feature[places] += moves[len(context) :]
        best = int(np.argmax(of_feature if up else -of_feature))
        if (of_feature[best] if up else -of_feature[best]) < _SMALLEST_MOVE:
            return ""
        return f"{self.features[best]} {context[best]:.3g}" if known[best] else f"{self.features[best]} unknown"

    def record(self) -> dict[str, Any]:
        """The names and lists that policy.json holds."""
        item_effects = {} if self.item_effects is None else {"levels": self.item_effects.record()}
        page_terms = {} if self.page_terms is None else {"page_terms": self.page_terms.record()}
        trees = {"trees": self.trees} if self.trees else {}
        return {name: getattr(self, name) for name in _LISTS} | trees | item_effects | page_terms

    def tensors(self) -> dict[str, Tensor]:
        """The arrays that the file of tensors holds, by name there."""
        page_terms = {} if self.page_terms is None else self.page_terms.tensors()
        names = (name for name in self._shapes() if self.trees or not name.startswith("tree_"))
        own = {PREFIX + name: torch.from_numpy(getattr(self, name).copy()) for name in names}
        return own | {_PAGE + name: tensor for name, tensor in page_terms.items()}

    @classmethod
    def decode(
        cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor], tasks: tuple[str, ...], features: tuple[str, ...]
    ) -> "Correction":
        """Read a correction back from a `record` and its `tensors`."""
        arrays: dict[str, Any] = {
            name.removeprefix(PREFIX): t.numpy()
            for name, t in tensors.items()
            if name.startswith(PREFIX) and not name.startswith(_PAGE)
        }
        arrays |= {name: record[name] for name in _LISTS}
        if record.get("levels"):
            arrays["item_effects"] = ItemEffects.decode(record["levels"], len(tasks))
        if record.get("page_terms"):
            of_page = {name.removeprefix(_PAGE): t.numpy() for name, t in tensors.items() if name.startswith(_PAGE)}
            arrays["page_terms"] = PageTerms.decode(record["page_terms"], of_page)
        return cls(tasks=tasks, features=features, **arrays)


def _bits(value: Any) -> Any:
    if isinstance(value, ItemEffects):
        return _bits(value.keys), _bits(value.values)
    return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
