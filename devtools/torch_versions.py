"""Runs a small set of tests under other versions of torch: python -m devtools.torch_versions 2.11.0 newest

The library of the ops is one file for all of them. Each version is installed below build/, without its dependencies.
The registry's wheels are built for CUDA and import its libraries; stand-ins take their place, which say that there is
no GPU.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/ops", "-k", "library or contract or compile or ops_of_torch")
ABSENT = re.compile(r"lib(cu|nv|nccl)")  # CUDA's libraries
NO_DEVICE = 100  # cudaErrorNoDevice


def main(versions: Sequence[str]) -> int:
    for version in versions:
        folder = installed(version)
        environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        code = "import torch; print('torch', torch.__version__, torch.cuda.is_available())"
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
        # Older and newer versions warn of other things.
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *TESTS]
        failed = subprocess.run(tests, env=environment, cwd=ROOT).returncode
        if failed:
            return failed
    return 0


def installed(version: str) -> Path:
    """The folder with this version of torch, ``newest`` being the registry's newest, which is installed if absent."""
    folder = ROOT / "build" / f"torch-{version}"
    if not (folder / "complete").exists():
        package = "torch" if version == "newest" else f"torch=={version}"
        command = [sys.executable, "-m", "pip", "install", "--upgrade", "--no-deps", "--no-compile", "--target", folder]
        environment = os.environ | {"PIP_CONSTRAINT": os.devnull, "PIP_FIND_LINKS": ""}
        subprocess.run([*command, package], check=True, env=environment)
        write_stand_ins(folder / "torch" / "lib")
        (folder / "complete").touch()
    return folder


def write_stand_ins(folder: Path) -> None:
    """Libraries of the names that torch's need and that are not there, with the functions that torch's call."""
    needed, defined = set[str](), set[str]()
    functions, versions = dict[str, set[str]](), dict[str, set[str]]()  # by version; by library
    libraries = [path for path in folder.iterdir() if ".so" in path.name]
    for path in libraries:
        needed |= set(re.findall(r"NEEDED.*\[(.+)\]", output("readelf", "-d", path)))
        defined |= {symbol.partition("@")[0] for symbol in symbols("--defined-only", path)}
        for symbol in symbols("-u", path):
            name, _, version = symbol.partition("@")
            functions.setdefault(version, set()).add(name)
        for block in output("readelf", "-V", "-W", path).split("File: ")[1:]:
            versions.setdefault(block.split()[0], set()).update(re.findall(r"Name: (\S+)", block))
    absent = sorted(name for name in needed - {path.name for path in libraries} if ABSENT.match(name))
    # Functions without a version may be anybody's.
    functions[""] = {name for name in functions.get("", set()) - defined if re.match(r"cu|nv|nccl", name)}
    for place, library in enumerate(absent):
        groups = {version: functions.get(version, set()) for version in versions.get(library, ())}
        free = functions[""] if place == 0 else set[str]()
        source, script = folder / f"{library}.c", folder / f"{library}.map"
        names = sorted(free.union(*groups.values()))
        source.write_text("".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in names))
        nodes = [f"{version} {{ global: {' '.join(f'{n};' for n in sorted(g))} }};\n" for version, g in groups.items()]
        script.write_text("".join(nodes) or "{ global: *; };\n")
        link = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"]
        subprocess.run(["cc", *link, "-fno-builtin", source, "-o", folder / library], check=True)


def symbols(option: str, path: Path) -> Iterable[str]:
    return (line.split()[-1].replace("@@", "@") for line in output("nm", "-D", option, path).splitlines())


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
