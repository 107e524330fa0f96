"""A CycloneDX bill of materials of the installed package: `python -m devtools.sbom FILE`.

Python's dependencies come from the metadata of what is installed, the libraries in the core from what it says itself.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pygrade
from pygrade import _core

LICENSES = {"Boost": "BSL-1.0", "LMDB": "OLDAP-2.8", "hiredis": "BSD-3-Clause", "OpenSSL": "Apache-2.0"}


def linked() -> dict[str, str]:
    """Library → version, of those in pygraded: `pygraded --version` names them in brackets."""
    program = Path(_core.__file__).parent / "bin" / "pygraded"
    line = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return dict(re.findall(r"([A-Za-z]+) ([0-9][0-9A-Za-z.]*)", line[line.index("(") :]))


def bill() -> dict[str, Any]:
    """The document."""
    root = f"pkg:pypi/pygrade@{pygrade.__version__}"
    required = [
        re.split(r"[<>=!~; \[]", text)[0]
        for text in importlib.metadata.requires("pygrade-ranking") or ()
        if "extra ==" not in text
    ]
    found = {name: importlib.metadata.version(name) for name in sorted(required)}
    components = [_component(name, version, f"pkg:pypi/{name}@{version}") for name, version in found.items()]
    components += [
        _component(name, version, f"pkg:generic/{name.lower()}@{version}", LICENSES[name])
        for name, version in sorted(linked().items())
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": _component("pygrade", pygrade.__version__, root, "Apache-2.0")},
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [entry["bom-ref"] for entry in components]}],
    }


def _component(name: str, version: str, purl: str, license: str | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return entry if license is None else {**entry, "licenses": [{"license": {"id": license}}]}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(bill(), indent=1) + "\n", encoding="utf-8")
