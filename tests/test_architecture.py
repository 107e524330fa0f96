"""The floors of the house: who may import whom, one name in every layer, versions, and what may stand where."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

import pygrade
from pygrade import _core

ROOT = Path(__file__).resolve().parent.parent

FAMILIES = ("dirichlet", "fusion", "gain", "advantage", "grpo", "lambdaloss", "rollout", "ranking", "page_search")

# A family's file in each layer.
LAYERS = {
    "reference": "pygrade/reference/{}.py",
    "op": "pygrade/ops/{}.py",
    "kernel": "kernels/{}.py",
    "header": "csrc/include/pygrade/{}.hpp",
    "source": "csrc/src/{}.cpp",
    "simd": "csrc/src/simd/{}.cpp",
    "torch op": "csrc/torch/{}.cpp",
    "test": "tests/ops/test_{}.py",
}
CPP = ("header", "source", "simd")

# Every layer that a family does without, and why.
GAPS = {
    ("ranking", "kernel"): "a page is ranked where it is served, on a CPU",
    **{("rollout", layer): "on a CPU a chain of the other families' ops" for layer in CPP},
}

# The folders of the package from the ground up, as CONTRIBUTING lists them: each imports only folders that come before
# it. `ops` alone sees `reference` and `kernels`.
LISTED = re.findall(r"^  ([a-z_]+)/ ", (ROOT / "CONTRIBUTING.md").read_text().split("pygrade/", 1)[1], re.MULTILINE)
ORDER = ["config", "_typing", *(name for name in LISTED if name not in ("config", "reference")), "__main__"]
# Folders that see the core, beside the package itself, which takes the version from it.
CORE_USERS = {"config", "ops", "logs", "policy", "stores", "features", "prerank", "mtl", "correction", "training"}
CORE_USERS |= {"serving", "pipeline", "service"}


def module_of(path: Path) -> str:
    """pygrade/data/events.py → data.events; a package is named like its folder, the root is ''."""
    parts = path.relative_to(ROOT / "pygrade").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_modules() -> dict[str, Path]:
    return {module_of(path): path for path in sorted((ROOT / "pygrade").rglob("*.py")) if "kernels" not in path.parts}


def imports_of(path: Path, package: str) -> set[str]:
    """Every absolute module name that the file imports, anywhere in it; `from a import b` counts as a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def folder_of(module: str) -> str:
    return module.split(".")[0]


def imported_modules(path: Path, modules: Iterable[str]) -> set[str]:
    """The modules of the package that the file imports; one of a package stands for its ``__init__`` only if nothing
    deeper is imported from it."""
    package = "pygrade." + module_of(path.parent / "__init__.py")
    names = {name.removeprefix("pygrade.") for name in imports_of(path, package.rstrip(".")) if name != "pygrade"}
    outside = {folder_of(name) for name in names if folder_of(name) in ("_core", "kernels", "reference")}
    return {name for name in names if name in set(modules)} | outside


def test_folders_import_only_lower_folders():
    modules = package_modules()
    wrong = []
    for module, path in modules.items():
        folder = folder_of(module)
        if folder in ("", "reference"):
            continue
        assert folder in ORDER, f"{folder} is not in ORDER of this test"
        for other in sorted(imported_modules(path, modules)):
            lower = folder_of(other)
            if lower in ("reference", "kernels"):
                allowed = folder == "ops"
            elif lower == "_core":
                allowed = folder in CORE_USERS
            else:
                allowed = ORDER.index(lower) <= ORDER.index(folder)
            if not allowed:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_options_need_the_standard_library_alone():
    """So that a command line explains its options at once. The core comes with the package, which has its version."""
    wrong = []
    for path in sorted((ROOT / "pygrade/config").glob("*.py")):
        for name in sorted(imports_of(path, "pygrade.config")):
            known = name.startswith("pygrade.config") or name in ("pygrade", "pygrade._core")
            if not known and name.split(".")[0] not in sys.stdlib_module_names:
                wrong.append(f"{path.name} imports {name}")
    assert not wrong


def test_modules_of_a_folder_form_no_cycle():
    modules = package_modules()
    graph = {
        module: {o for o in imported_modules(path, modules) if folder_of(o) == folder_of(module) and o != module}
        for module, path in modules.items()
    }
    # Submodules run their package's __init__ first, so that importing it as well is no cycle of its own.
    for module in graph:
        graph[module] -= {module.rpartition(".")[0]}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"{' → '.join(error.args[1])}")


def test_contributing_lists_every_folder_of_the_package():
    folders = {p.name for p in (ROOT / "pygrade").iterdir() if (p / "__init__.py").exists()} - {"kernels"}
    assert set(LISTED) == folders and len(LISTED) == len(folders)


def test_reference_and_kernels_see_nothing_of_the_package_but_themselves():
    wrong = []
    for folder, package in (("pygrade/reference", "pygrade.reference"), ("kernels", "pygrade.kernels")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = {
                n for n in imports_of(path, package) if n.split(".")[0] in ("pygrade", "kernels", "tests", "bench")
            }
            wrong += [f"{path.name} imports {n}" for n in inside if n != package and not n.startswith(package + ".")]
    assert not wrong


def test_tests_and_bench_share_devtools_alone():
    forbidden = {"bench": {"tests"}, "devtools": {"bench", "tests"}, "tests": {"bench"}}
    forbidden |= {package: {"bench", "devtools", "tests"} for package in ("kernels", "pygrade")}
    wrong = []
    for folder, outside in forbidden.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            imported = {n.split(".")[0] for n in imports_of(path, ".".join(path.parent.relative_to(ROOT).parts))}
            if imported & outside and not name.startswith(("tests/bench/", "tests/kernels/")):
                wrong.append(f"{name} imports {imported & outside}")
    assert not wrong


def test_triton_is_imported_by_kernels_alone_and_kernels_inside_functions_alone():
    wrong = []
    for module, path in package_modules().items():
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{module} imports {n}" for n in names if n.startswith(("triton", "pygrade.kernels"))]
    assert not wrong


def test_families_have_one_name_in_every_layer():
    missing = {
        (family, layer)
        for family in FAMILIES
        for layer, pattern in LAYERS.items()
        if not (ROOT / pattern.format(family)).exists()
    }
    assert missing == set(GAPS)


def test_the_version_stands_in_one_place():
    header = (ROOT / "csrc/include/pygrade/version.hpp").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"] and "version" in project["project"]["dynamic"]
    rule = project["tool"]["scikit-build"]["metadata"]["version"]
    assert (ROOT / rule["input"]).read_text() == header
    found = re.search(rule["regex"], header)
    assert found is not None
    assert found["value"] == _core.__version__ == pygrade.__version__ == importlib.metadata.version("pygrade-ranking")
    crate = tomllib.loads((ROOT / "examples/rust/Cargo.toml").read_text())["package"]["version"]
    assert crate == pygrade.__version__


def public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def members_of(node: ast.ClassDef) -> set[str]:
    return public(member.name for member in node.body if isinstance(member, ast.FunctionDef))


def test_the_stub_lists_the_core():
    body = ast.parse((ROOT / "pygrade/_core.pyi").read_text()).body
    stub = {node.name: [a.arg for a in node.args.args] for node in body if isinstance(node, ast.FunctionDef)}
    aliases = [node for node in body if isinstance(node, ast.Assign)]
    stub |= {ast.unparse(node.targets[0]): stub[ast.unparse(node.value)] for node in aliases}
    classes = {node.name: members_of(node) for node in body if isinstance(node, ast.ClassDef)}
    assert classes == {name: public(vars(value)) for name, value in vars(_core).items() if isinstance(value, type)}
    compiled = {}
    for name in dir(_core):
        if callable(getattr(_core, name)) and not name.startswith("__") and name not in classes:
            first_line = (getattr(_core, name).__doc__ or "").splitlines()[0]
            compiled[name] = re.findall(r"(\w+): ", first_line)
    assert stub == compiled


def public_ops() -> set[str]:
    return {name for name in pygrade.ops.__all__ if name.islower() and not name.startswith("_")}


def test_public_names_are_listed_once_and_exist():
    assert len(set(pygrade.__all__)) == len(pygrade.__all__)
    nouns = {"BlendedRanker", "FusionPolicy", "FusionEstimator", "Logs", "OnlineLearner", "Pipeline", "TrainingResult"}
    nouns |= {"evaluate", "train"}
    assert set(pygrade.__all__) - {"__version__", "cmake_dir"} == set(pygrade.ops.__all__) | nouns
    for name in nouns:
        assert getattr(pygrade, name).__name__ == name
    assert set(pygrade.__all__) <= set(dir(pygrade))
    for name in pygrade.ops.__all__:
        assert getattr(pygrade.ops, name) is getattr(pygrade, name)
    for name in public_ops():
        assert getattr(pygrade, name).__doc__, f"{name} has no docstring"


def test_the_docs_list_the_public_ops():
    rows = re.findall(rf"^\| *`({'|'.join(FAMILIES)})` *\|(.*)$", (ROOT / "docs/ops.md").read_text(), re.MULTILINE)
    assert {family for family, _ in rows} == set(FAMILIES)
    listed = [name for _, row in rows for name in re.findall(r"`(\w+)[`(]", row.split("|")[0])]
    assert sorted(listed) == sorted(public_ops())


def test_the_core_knows_neither_python_nor_torch():
    forbidden = re.compile(r'#include\s*[<"](pybind11|Python\.h|torch|ATen|c10|cuda)')
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".hpp", ".cpp", ".h")]
    assert len(sources) > 10
    outside = [p for p in sources if not {"bindings", "torch"} & set(p.parts) and p.name != "run_pt2.cpp"]
    assert not [str(p.relative_to(ROOT)) for p in outside if forbidden.search(p.read_text())]


def test_the_ops_of_torch_know_its_stable_abi_alone():
    sources = sorted((ROOT / "csrc/torch").iterdir())
    included = {name for path in sources for name in re.findall(r"#include <([^>]+/[^>]+)>", path.read_text())}
    assert included and all(name.startswith("torch/csrc/stable/") for name in included)


def test_public_headers_include_public_headers_alone():
    folder = ROOT / "csrc/include/pygrade"
    for path in folder.iterdir():
        for name in re.findall(r'#include\s*"([^"]+)"', path.read_text()):
            assert name.startswith("pygrade/") and (folder.parent / name).exists(), f"{path.name} includes {name}"


def test_kernel_objects_define_no_weak_symbol():
    """The linker would take one instruction set's copy of a weak symbol for all of them."""
    origin = json.loads(importlib.metadata.distribution("pygrade-ranking").read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        pytest.skip("an installed wheel keeps no objects")
    checkout = Path(url2pathname(urlsplit(origin["url"]).path))
    build = max((checkout / "build").glob("cp*"), key=lambda path: path.stat().st_mtime)
    objects = [p for isa in ("baseline", "avx2", "avx512") for p in build.glob(f"CMakeFiles/pygrade_*{isa}.dir/**/*.o")]
    batches = [p.read_text() for p in build.glob("CMakeFiles/pygrade_*baseline.dir/Unity/*.cxx")]
    compiled = " ".join([*map(str, objects), *batches])
    assert all(f"simd/{p.name}" in compiled for p in (ROOT / "csrc/src/simd").glob("*.cpp"))
    wrong = []
    for path in objects:
        isa = re.search(r"_([a-z0-9]+)\.dir", str(path))
        assert isa is not None
        text = subprocess.run(["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True).stdout
        for line in text.splitlines():
            kind, name = line.split(maxsplit=2)[1:]
            if kind in "WVu" or (kind.isupper() and f"detail::{isa[1]}::" not in name):
                wrong.append(f"{isa[1]} {path.name}: {kind} {name}")
    assert not wrong


def test_importing_the_package_loads_no_optional_dependency():
    code = (
        "import sys, torch; before = set(sys.modules); import pygrade.cli.commands\nprint(*(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert "pygrade" in loaded
    heavy = {"triton", "matplotlib", "pyarrow", "polars", "rich", "tensorboard", "scipy"}
    heavy |= {"faiss", "lmdb", "redis", "sklearn", "ray"}
    assert not loaded & heavy


def test_text_files_do_not_depend_on_the_locale():
    wrong = []
    for module, path in package_modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in ("read_text", "write_text") and "encoding" not in {k.arg for k in node.keywords}:
                wrong.append(f"{module}:{node.lineno} says no encoding")
    assert not wrong


def test_docstrings_begin_with_a_subject_or_a_verb():
    """A clause ("What …"), a question or a bare "Of …" lets a reader guess the thing; in C++ "Whether" is a bool."""
    wrong, begins = [], re.compile(r"(Of|What|Whether|How|Why|Which|The same|Is|Are|Do|Does|Has)\b")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in (p for folder in ("pygrade", "kernels", "bench", "devtools") for p in (ROOT / folder).rglob("*.py")):
        nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
        wrong += [f"{path.relative_to(ROOT)}: {d}" for n in nodes if begins.match(d := ast.get_docstring(n) or "")]
    comment = re.compile(rf"\n(?! *// ).*\n *(?://|/\*) (?!Whether )({begins.pattern}.*)")  # a paragraph's first line
    for path in (p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".hpp", ".cpp", ".def")):
        text = "\n\n" + path.read_text(encoding="utf-8")
        wrong += [f"{path.relative_to(ROOT)}: {found[0]}" for found in comment.findall(text)]
    assert not wrong


def test_no_file_holds_a_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.~$})])/(?:home|root|work|tmp|Users|mnt)/\w")
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wrong = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_symlink() and not path.resolve().is_relative_to(ROOT):
            wrong.append(f"{name}: a link to {path.readlink()}")
        if not path.is_file():
            continue
        data = path.read_bytes()
        if b"\0" in data[:8000]:
            continue  # a picture or another binary file
        for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
            if pattern.search(line):
                wrong.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not wrong


def test_symbols_carry_the_version():
    """Two programs' parts with two versions of the library in one process do not mix."""
    version = re.search(r'PYGRADE_VERSION "(\d+)\.(\d+)', (ROOT / "csrc/include/pygrade/version.hpp").read_text())
    wanted = f"namespace pygrade::inline v{version[1]}_{version[2]}"
    for folder in ("csrc", "bench", "examples"):
        for path in (ROOT / folder).rglob("*.[ch]pp"):
            opened = re.findall(r"^namespace pygrade.*", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert all(line.startswith(wanted) for line in opened), path
