"""Reference of the first stage of ranking: a user's vector, and the items nearest to it."""

import math
from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import Tensor


def user_vector(
    request_dense: Tensor,
    request_ids: Sequence[int],
    sequence: Sequence[int],
    *,
    item_id: Sequence[int],
    item_table: Tensor,
    request_mean: Tensor,
    request_std: Tensor,
    field_tables: Sequence[Tensor],
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
) -> Tensor:
    """[x / ‖x‖, 1] with x = h + W₂ silu(W₁ [d, f, h] + b₁) + b₂, of one request.

    h: mean of the rows of item_table [V + 1, width - 1] of the items of the sequence that are known, 0 without any;
    item item_id[i] has row i + 1. d: (request_dense - mean) / std within ±5, 0 where it is NaN or std is 0. f: the row
    request_ids[j] of each field_tables[j], row 0 if there is none.
    """
    row = {item: place + 1 for place, item in enumerate(item_id)}
    known = [row[item] for item in sequence if item in row]
    history = item_table[known].sum(0) / max(1, len(known))
    scaled = (request_dense - request_mean) / request_std
    scaled = torch.where(scaled.isnan() | (request_std == 0), 0.0, scaled).clamp(-5, 5)
    fields = [
        table[value if 0 <= value < len(table) else 0] for table, value in zip(field_tables, request_ids, strict=True)
    ]
    hidden = hidden_weight @ torch.cat([scaled, *fields, history]) + hidden_bias
    vector = history + output_weight @ (hidden * hidden.sigmoid()) + output_bias
    return torch.cat([vector / vector.norm().clamp_min(1e-12), torch.ones_like(vector[:1])])


def nearest_items(
    vector: Tensor,
    item_id: Sequence[int],
    vectors: Tensor,
    n: int,
    seen: Collection[int] = (),
    eligible: Collection[int] | None = None,
) -> tuple[list[int], Tensor]:
    """The n items with the highest ⟨vector, vectors[i]⟩, best first, ties by ascending id, and these scores.

    Without the items ``seen``; of the ``eligible`` ones only, if given.
    """
    scores = vectors @ vector
    passing = [
        (-float(score), item)
        for score, item in zip(scores, item_id, strict=True)
        if item not in seen and (eligible is None or item in eligible)
    ]
    best = sorted(passing)[:n]
    return [item for _, item in best], torch.tensor([-score for score, _ in best], dtype=scores.dtype)


def nearest_of_lists(
    vector: Tensor,
    item_id: Sequence[int],
    vectors: Tensor,
    lists: Sequence[int],
    centroids: Tensor,
    nprobe: int,
    n: int,
    seen: Collection[int] = (),
    eligible: Collection[int] | None = None,
) -> tuple[list[int], Tensor]:
    """`nearest_items` of an approximate index, where item item_id[i] is in list lists[i].

    Only the items of the nprobe lists with the highest ⟨vector, centroids[list]⟩ (ties: the first) count; twice as many
    lists while fewer than n items pass. With ``eligible``, nprobe is multiplied by m / the number of eligible items;
    all of these count if they are at most n, or at most the blocks of 16 items that so many lists have on average.
    """
    m, nlist = len(item_id), len(centroids)
    order = sorted(range(nlist), key=lambda number: (-float(centroids[number] @ vector), number))
    if eligible is not None:
        passing = sum(item in eligible for item in item_id)
        nprobe = min(nlist, math.ceil(nprobe * m / max(1, passing)))
        blocks = sum(math.ceil(size / 16) for size in Counter(lists).values())
        if passing <= n or passing * nlist <= nprobe * blocks:
            nprobe = nlist
    while True:
        near = [i for i in range(m) if lists[i] in order[:nprobe]]
        found = nearest_items(vector, [item_id[i] for i in near], vectors[near], n, seen, eligible)
        if len(found[0]) == n or nprobe == nlist:
            return found
        nprobe = min(2 * nprobe, nlist)
