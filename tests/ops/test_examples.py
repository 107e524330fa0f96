"""The docstring of each op has an example, and it shows what the op returns."""

import doctest

import pytest
import torch

from pygrade import ops


@pytest.mark.parametrize("name", [name for name in ops.__all__ if name.islower()])
def test_the_example_shows_what_the_op_returns(name):
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(ops, name), globs=vars(ops) | {"torch": torch})
    assert test.examples
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0
