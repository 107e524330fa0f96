"""A CycloneDX bill of materials of the installed package: `python -m devtools.sbom FILE`.

Python's dependencies come from the metadata of what is installed, the libraries in the core from what pygraded says
itself. Those that are linked statically have the SHA-256 of what they were made from: the source archive that
``csrc/cmake/sources.txt`` names, or the archive of this machine's compiler. `python -m devtools.sbom --check` downloads
the source archives and computes their hashes again.
"""

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pygrade
from pygrade import _core

SOURCES = Path(__file__).parent.parent / "csrc" / "cmake" / "sources.txt"
PROGRAM = Path(_core.__file__).parent / "bin" / "pygraded"
LIBRARIES = {  # license, name of the file, package of sources.txt
    "Boost": ("BSL-1.0", None, "boost-headers"),
    "LMDB": ("OLDAP-2.8", "liblmdb", "lmdb"),
    "hiredis": ("BSD-3-Clause", "libhiredis", "hiredis"),
    "OpenSSL": ("Apache-2.0", "libssl", None),
    "libstdc++": ("GPL-3.0-or-later WITH GCC-exception-3.1", "libstdc++", None),
}


def linked() -> dict[str, str]:
    """Library → version, of those in pygraded: `pygraded --version` names them in brackets, .comment its compiler."""
    line = _run(PROGRAM, "--version")
    found = dict(re.findall(r"([A-Za-z]+) ([0-9][0-9A-Za-z.]*)", line[line.index("(") :]))
    compiler = re.search(r"GCC: .* ([0-9.]+)$", _run("readelf", "-p", ".comment", PROGRAM), re.MULTILINE)
    return found if compiler is None else {**found, "libstdc++": compiler[1]}


def static_hashes() -> dict[str, str]:
    """Library in pygraded → SHA-256 of what it was made from, of those that are not loaded as shared libraries."""
    needed, sources, hashes = _run("readelf", "-d", PROGRAM), SOURCES.read_text(), {}
    for name, version in linked().items():
        _, file, package = LIBRARIES[name]
        if f"[{file}.so" in needed:
            continue
        release, digest = (re.findall(rf"^{package}==(\S+) --hash=sha256:(\w+)$", sources, re.MULTILINE) or [("", "")])[
            0
        ]
        if file or release.startswith(version):  # else headers of another release, whose archive is not known
            hashes[name] = digest or _digest(_run("c++", f"-print-file-name={file}.a").strip())
    return hashes


def check() -> None:
    """Downloads the source archives, and raises ValueError if a hash of the bill is not that of one of them."""
    with tempfile.TemporaryDirectory() as folder:
        command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation")
        _run(*command, "--requirement", SOURCES, "--dest", folder)
        found = {_digest(path) for path in Path(folder).iterdir()}
    hashes = static_hashes()
    if "Boost" not in hashes:
        raise ValueError(f"pygraded has Boost {linked()['Boost']}; expected that of {SOURCES.name}")
    wrong = {name: made for name, made in hashes.items() if LIBRARIES[name][2] and made not in found}
    if wrong:
        raise ValueError(f"the bill states {wrong}; downloaded are {found}")


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def bill() -> dict[str, Any]:
    """The document."""
    root = f"pkg:pypi/pygrade-ranking@{pygrade.__version__}"
    required = [
        re.split(r"[<>=!~; \[]", text)[0]
        for text in importlib.metadata.requires("pygrade-ranking") or ()
        if "extra ==" not in text
    ]
    found = {name: importlib.metadata.version(name) for name in sorted(required)}
    components = [_component(name, version, f"pkg:pypi/{name}@{version}") for name, version in found.items()]
    hashes = static_hashes()
    for name, version in sorted(linked().items()):
        entry = _component(name, version, f"pkg:generic/{name.lower()}@{version}", LIBRARIES[name][0])
        if name in hashes:
            entry["hashes"] = [{"alg": "SHA-256", "content": hashes[name]}]
        components.append(entry)
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
    if license is None:
        return entry
    return {**entry, "licenses": [{"expression": license} if " " in license else {"license": {"id": license}}]}


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        sys.exit(check())
    Path(sys.argv[1]).write_text(json.dumps(bill(), indent=1) + "\n", encoding="utf-8")
