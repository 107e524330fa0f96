"""Popularity in the form of two towers, so that all that serves a prerank serves it: every user gets the same order."""

import numpy as np
import torch
from torch import nn

from pygrade.config.prerank import PrerankConfig
from pygrade.prerank.recall import Popularity
from pygrade.prerank.towers import Inputs, TwoTower
from pygrade.prerank.training import FittedTowers

_MOST = (1 << 24) - 1  # places that float32 tells apart


def popularity_towers(popularity: Popularity, like: FittedTowers) -> FittedTowers:
    """Towers with the inputs of ``like`` whose order is that of popularity, for every user.

    All parameters are 0 but the items' bias, which is minus the place among the popular items: an item's vector is
    [0, -place] and the user's is [0, 1]. Items without a positive share the place after the last one, so that ties by
    id order them.
    """
    template = like.towers.inputs
    items = popularity.item_id[:_MOST]
    order = np.argsort(items)
    inputs = Inputs(
        item_id=items[order],
        request_mean=np.zeros_like(template.request_mean),
        request_std=np.zeros_like(template.request_std),
        item_mean=np.zeros_like(template.item_mean),
        item_std=np.zeros_like(template.item_std),
        request_sizes=np.ones_like(template.request_sizes),
        item_sizes=np.ones_like(template.item_sizes),
        length=template.length,
        others=len(popularity.item_id) - len(items),
    )
    config = PrerankConfig(width=2, hidden=1, field_embedding=1, seed=like.towers.config.seed)
    with torch.random.fork_rng(devices=[]):
        towers = TwoTower(config, inputs)
    for parameter in towers.parameters():
        nn.init.zeros_(parameter)
    rank = np.concatenate([[len(items)], order]).astype(np.float32)  # row 0: items that are not known
    with torch.no_grad():
        towers.item_bias.weight.copy_(torch.from_numpy(-rank[:, None]))
    return FittedTowers(towers.eval(), like.task_weights, 0, (), ())
