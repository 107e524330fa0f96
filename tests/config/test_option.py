"""Fields of options: ranges, choices, lists, and that every default is one that is taken."""

import dataclasses
import importlib
import math
import pkgutil
from dataclasses import dataclass
from typing import Literal

import pytest

import pygrade.config
from pygrade.config.option import Options, Range, option


@dataclass(frozen=True)
class Sizes(Options):
    k: int = option(10, "items", ge=1)
    share: float = option(0.5, "", gt=0, le=1)
    dropout: float = option(0.1, "", ge=0, lt=1)
    width: float | None = option(None, "", gt=0, lt=math.inf)
    shares: tuple[float, ...] = option((0.5,), "", gt=0, le=1)
    kind: Literal["flat", "ivf"] = option("flat", "")
    values: dict[str, float] = option({"click": 1.0}, "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"k": 0}, "k is 0; expected at least 1"),
        ({"k": math.nan}, "k is nan; expected at least 1"),
        ({"k": 1e20}, r"k is 1e\+20; expected a whole number below 2\^63"),
        ({"k": 1.5}, r"k is 1.5; expected a whole number below 2\^63"),
        ({"share": 0.0}, "share is 0.0; expected a number above 0 and up to 1"),
        ({"share": 1.5}, "share is 1.5; expected a number above 0 and up to 1"),
        ({"dropout": 1.0}, "dropout is 1.0; expected a number from 0 to below 1"),
        ({"width": math.inf}, "width is inf; expected a number above 0"),
        ({"shares": (0.5, 2.0)}, r"shares is \(0.5, 2.0\); expected numbers above 0 and up to 1"),
        ({"kind": "tree"}, "kind is 'tree'; expected one of flat, ivf"),
    ],
)
def test_what_is_out_of_range_is_named(given, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Sizes(**given)


def test_the_ends_of_a_range_are_in_it_or_not():
    assert Sizes(k=1, share=1.0, dropout=0.0, width=5.0).share == 1.0
    assert str(Range(ge=0, le=1)) == "from 0 to 1" and Range(ge=0).holds(math.inf)


def test_lists_become_tuples_and_mappings_are_copied():
    assert Sizes(shares=[0.25, 0.5]).shares == (0.25, 0.5)
    first, second = Sizes(), Sizes()
    first.values["buy"] = 2.0
    assert second.values == {"click": 1.0}


def options_classes():
    for module in pkgutil.iter_modules(pygrade.config.__path__):
        for kind in vars(importlib.import_module(f"pygrade.config.{module.name}")).values():
            if isinstance(kind, type) and issubclass(kind, Options) and kind is not Options:
                yield kind


def test_every_rule_of_a_class_is_on_top_of_the_ranges():
    """A class with a rule of its own checks the ranges, too, and takes its own defaults."""
    kinds = {kind for kind in options_classes() if "__post_init__" in vars(kind)}
    assert len(kinds) > 8
    for kind in kinds:
        needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]
        made = kind(**{name: {"values": {"click": 1.0}}.get(name, "logs:x") for name in needed})
        ranged = [f for f in dataclasses.fields(kind) if "range" in f.metadata and isinstance(f.default, int | float)]
        for entry in ranged[:1]:
            with pytest.raises(ValueError, match=entry.name):
                dataclasses.replace(made, **{entry.name: math.nan})
