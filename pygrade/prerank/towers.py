"""The two towers: vectors of requests and items, whose inner product is the score of an item for a request.

    s(u, i) = ⟨x_u, y_i⟩ / τ + b_i       x, y: unit vectors of width - 1; b: the item's bias; τ: temperature

The item's vector is kept as [y / τ, b] and the user's as [x, 1], so that s is one inner product of ``width`` numbers.
Two-tower retrieval with in-batch negatives: Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
Recommendations", RecSys 2019. The bias beside unit vectors is our addition: some items are liked by all.

Users are served by the C++ core, which computes each output of a layer as one chain of float32 multiply-adds in the
order of its inputs, from the bias on: a vector has the same bits in every batch, language and instruction set. Training
and the vectors of items, which are computed once and stored, use torch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pygrade.config.prerank import PrerankConfig
from pygrade.features.values import KeySums
from pygrade.metrics.streamed import Moments
from pygrade.prerank.batches import Batches, Catalog, Ids, Pairs, TowerInputs, aging, positives
from pygrade.workers.group import Group

_INPUT_CLIP = 5.0
_MOST_CATEGORIES = 1 << 20
_NO_POSITIVE = "batches hold no positive; expected shown rows whose weighted feedback is above 0"


@dataclass(frozen=True)
class Inputs:
    """Known items and scales of the features, as the towers were fitted."""

    item_id: Ids  # [V] items with an embedding of their own, ascending; item_id[i] has embedding i + 1
    request_mean: NDArray[np.float32]  # [Du]
    request_std: NDArray[np.float32]  # [Du], 0: a constant or unknown feature, which is left out
    item_mean: NDArray[np.float32]  # [Di]
    item_std: NDArray[np.float32]  # [Di], 0: left out, as above
    request_sizes: Ids  # [Fu]: indices from there on are unknown
    item_sizes: Ids  # [Fi]
    length: int  # L of the sequences
    others: int  # items with a positive that share row 0, because others are more frequent

    @classmethod
    def fit(
        cls, batches: Batches, task_weights: NDArray[np.float32], config: PrerankConfig, group: Group | None = None
    ) -> "Inputs":
        """One pass over the positives of the batches, of all ranks of a group. ValueError if there is none, or for an
        infinite feature."""
        group = group or Group()
        with group.shared_errors():
            own = _Seen.of(batches, task_weights)
        ranks = [seen for seen in group.gather(own) if seen is not None]
        if not ranks:
            raise ValueError(_NO_POSITIVE)
        seen, *others = ranks
        for other in others:
            seen.merge(other)
        return seen.inputs(config.max_items)

    def no_pairs(self) -> Pairs:
        """A batch without positives."""
        none, dense = np.zeros(0, np.int64), np.zeros(0, np.float32)
        request = dense.reshape(0, len(self.request_mean)), none.reshape(0, len(self.request_sizes))
        item = dense.reshape(0, len(self.item_mean)), none.reshape(0, len(self.item_sizes))
        return Pairs(none, *request, none.reshape(0, self.length), none, *item, dense)

    def item_rows(self, item_id: Ids) -> Ids:
        """Embedding row of each item id (any shape): 1 … V, 0 for items that the towers don't know."""
        index = np.searchsorted(self.item_id, item_id).clip(max=len(self.item_id) - 1)
        return np.where(self.item_id[index] == item_id, index + 1, 0)


class _Seen:
    """Counts, moments and sizes of the positives of one rank, for `Inputs.fit`."""

    def __init__(self, pairs: Pairs, left_out: NDArray[np.bool_]) -> None:
        self.counts = KeySums()
        self.moments = [Moments(pairs.request_dense.shape[1]), Moments(pairs.item_dense.shape[1])]
        self.sizes = [np.ones(pairs.request_ids.shape[1], np.int64), np.ones(pairs.item_ids.shape[1], np.int64)]
        self.length = pairs.sequences.shape[1]
        self.left_out = left_out

    @classmethod
    def of(cls, batches: Batches, task_weights: NDArray[np.float32]) -> "_Seen | None":
        """None if there is no batch."""
        seen = None
        for batch in batches():
            pairs = positives(batch, task_weights)
            if seen is None:
                seen = cls(pairs, aging(batch))
            seen.add(pairs)
        return seen

    def add(self, pairs: Pairs) -> None:
        self.counts.add(pairs.item_id)
        names = ("request_dense", "item_dense")
        for moment, name, values in zip(self.moments, names, (pairs.request_dense, pairs.item_dense), strict=True):
            if np.isinf(values).any():
                raise ValueError(f"{name} is infinite in column {int(np.argmax(np.isinf(values).any(0)))}")
            moment.add(values)
        names = ("request_ids", "item_ids")
        for size, name, ids in zip(self.sizes, names, (pairs.request_ids, pairs.item_ids), strict=True):
            np.maximum(size, ids.max(0, initial=0) + 1, out=size)
            if (size > _MOST_CATEGORIES).any():
                column = int(np.argmax(size))
                raise ValueError(
                    f"{name} reaches {size[column] - 1} in column {column}; expected vocabulary indices below "
                    f"{_MOST_CATEGORIES}"
                )

    def merge(self, other: "_Seen") -> None:
        """Adds what another rank saw."""
        self.counts.add(*other.counts.result())
        for moment, more in zip(self.moments, other.moments, strict=True):
            moment.merge(more)
        self.sizes = [np.maximum(size, more) for size, more in zip(self.sizes, other.sizes, strict=True)]

    def inputs(self, max_items: int) -> Inputs:
        items, times = self.counts.result()
        if not len(items):
            raise ValueError(_NO_POSITIVE)
        others = max(0, len(items) - max_items)
        if others:  # the most frequent ones, ties by id
            items = np.sort(items[np.lexsort((items, -times))[:max_items]])
        request, item = self.moments
        request_sizes, item_sizes = self.sizes
        return Inputs(
            items,
            request.mean.astype(np.float32),
            request.std.astype(np.float32),
            item.mean.astype(np.float32),
            np.where(self.left_out, 0.0, item.std).astype(np.float32),
            request_sizes,
            item_sizes,
            self.length,
            others,
        )


class TwoTower(nn.Module):
    """`user` and `item` give the vectors; both read tensors that `user_inputs` and `item_inputs` make from arrays."""

    def __init__(self, config: PrerankConfig, inputs: Inputs) -> None:
        super().__init__()
        self.config, self.inputs = config, inputs
        wide, narrow = config.width - 1, config.field_embedding
        self.item_table = nn.Embedding(len(inputs.item_id) + 1, wide)
        self.request_fields = nn.ModuleList(nn.Embedding(int(size), narrow) for size in inputs.request_sizes)
        self.item_fields = nn.ModuleList(nn.Embedding(int(size), narrow) for size in inputs.item_sizes)
        for table in (self.item_table, *self.request_fields, *self.item_fields):
            assert isinstance(table, nn.Embedding)
            nn.init.normal_(table.weight, std=0.1)
        request_width = len(inputs.request_mean) + narrow * len(inputs.request_sizes) + wide
        item_width = len(inputs.item_mean) + narrow * len(inputs.item_sizes) + wide
        self.user_tower = _tower(request_width, config.hidden, wide, config.dropout)
        self.item_tower = _tower(item_width, config.hidden, wide + 1, config.dropout)
        self.item_bias = nn.Embedding(len(inputs.item_id) + 1, 1)
        nn.init.zeros_(self.item_bias.weight)

    def user(self, dense: Tensor, fields: Tensor, sequence: Tensor) -> Tensor:
        """Vectors [R, width] of requests: dense[R, Du], fields[R, Fu], sequence[R, L] of item rows."""
        is_item = (sequence > 0).unsqueeze(-1)
        history = (self.item_table(sequence) * is_item).sum(1) / is_item.sum(1).clamp_min(1)  # [R, wide]
        parts = [dense, *(table(fields[:, f]) for f, table in enumerate(self.request_fields)), history]
        vector = functional.normalize(history + self.user_tower(torch.cat(parts, -1)), dim=-1)
        return torch.cat([vector, torch.ones_like(vector[:, :1])], -1)

    def item(self, dense: Tensor, fields: Tensor, rows: Tensor) -> Tensor:
        """Vectors [n, width] of items: dense[n, Di], fields[n, Fi], rows[n] of the item table."""
        embedding = self.item_table(rows)
        parts = [dense, *(table(fields[:, f]) for f, table in enumerate(self.item_fields)), embedding]
        out = self.item_tower(torch.cat(parts, -1))
        vector = functional.normalize(embedding + out[:, :-1], dim=-1) / self.config.temperature
        return torch.cat([vector, out[:, -1:] + self.item_bias(rows)], -1)

    def user_inputs(self, requests: TowerInputs) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of `user`; ValueError if an array does not have the fitted shape."""
        self.check_requests(requests)
        inputs = self.inputs
        return (
            _scaled(requests.request_dense, inputs.request_mean, inputs.request_std),
            _indices(requests.request_ids, inputs.request_sizes),
            torch.from_numpy(inputs.item_rows(requests.sequences)),
        )

    def check_requests(self, requests: TowerInputs) -> None:
        """ValueError if an array does not have the fitted shape."""
        inputs = self.inputs
        for name, array, width in (
            ("request_dense", requests.request_dense, len(inputs.request_mean)),
            ("request_ids", requests.request_ids, len(inputs.request_sizes)),
            ("sequences", requests.sequences, inputs.length),
        ):
            _shape(name, array, len(requests.user_id), width)

    def item_inputs(self, item_id: Ids, dense: NDArray[np.float32], ids: Ids) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of `item`; ValueError if an array does not have the fitted shape."""
        inputs = self.inputs
        _shape("item_dense", dense, len(item_id), len(inputs.item_mean))
        _shape("item_ids", ids, len(item_id), len(inputs.item_sizes))
        return (
            _scaled(dense, inputs.item_mean, inputs.item_std),
            _indices(ids, inputs.item_sizes),
            torch.from_numpy(inputs.item_rows(item_id)),
        )

    def item_vectors(self, catalog: Catalog, rows: int = 8192) -> NDArray[np.float32]:
        """Vectors of a catalog, [m, width]."""
        result = np.empty((len(catalog), self.config.width), np.float32)
        with torch.inference_mode():
            for start in range(0, len(catalog), rows):
                block = slice(start, start + rows)
                inputs = self.item_inputs(catalog.item_id[block], catalog.dense[block], catalog.ids[block])
                result[block] = self.item(*inputs).numpy()
        return result


def _tower(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))


def _shape(name: str, array: NDArray[np.generic], rows: int, width: int) -> None:
    if array.shape != (rows, width):
        raise ValueError(f"{name} has shape {array.shape}; expected {(rows, width)}, as the model was fitted")


def _scaled(dense: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32]) -> Tensor:
    """Normalized features, unknown ones at the mean, clipped."""
    scaled = np.where(std > 0, (dense - mean) / np.where(std > 0, std, 1), 0)
    return torch.from_numpy(np.nan_to_num(scaled, nan=0.0).clip(-_INPUT_CLIP, _INPUT_CLIP).astype(np.float32))


def _indices(ids: Ids, sizes: Ids) -> Tensor:
    return torch.from_numpy(np.where((ids >= 0) & (ids < sizes), ids, 0).astype(np.int64))
