"""Calls the console's modules under node."""

import base64
import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pygrade.console.blob import pack

SOURCES = Path(str(files("pygrade.console"))) / "web"
NODE = shutil.which("node")
WEIGHTS = np.array([0.3125, 0.6875], np.float32)
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


def call(folder: Path, *calls: dict[str, Any]) -> list[Any]:
    """The results of calls that driver.mjs knows; arrays come back as arrays."""
    modules = folder / "modules"
    if not modules.exists():
        shutil.copytree(SOURCES, modules)
        (modules / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    given = folder / "input.txt"
    given.write_text(pack({"calls": list(calls)}), encoding="utf-8")
    driver = Path(__file__).with_name("driver.mjs")
    run = subprocess.run([str(NODE), str(driver), str(modules), str(given)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return _decoded(json.loads(run.stdout))


def sliders(weights: Any = WEIGHTS, multipliers: Any = (1.0, 1.0), mode: str = "weights") -> dict[str, Any]:
    """Moved sliders, as the page has them."""
    return {"mode": mode, "weights": weights, "multipliers": np.array(multipliers, np.float32)}


def page(record: dict[str, Any], moved: dict[str, Any]) -> dict[str, Any]:
    """The call of the page of a record with moved sliders."""
    return {"call": "page", "record": record, "sliders": moved}


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(entry) for entry in value]
    if isinstance(value, dict):
        if value.keys() == {"dtype", "bytes"}:
            return np.frombuffer(base64.b64decode(value["bytes"]), value["dtype"])
        return {name: _decoded(entry) for name, entry in value.items()}
    return value
