"""`pygrade aot`: the manifest, the binaries and the programs that use them. Compiling is a process of its own."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pygrade.aot import build as aot
from pygrade.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "aot"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = "import sys; from pygrade.cli.main import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLES / "check_aot.py", directory], capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("aot") / "binaries"
    run = command("aot", "--arch", "sm_90,gfx942", "--only", "entropy-T8", "--out", str(out), "--json", "--quiet")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"out": str(out), **json.loads((out / "manifest.json").read_text())}
    return out


def test_the_manifest_says_what_a_launch_needs(built):
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["format"] == 1 and manifest["pygrade"] and manifest["triton"]
    nvidia, amd = manifest["binaries"]
    assert (nvidia["arch"], amd["arch"]) == ("sm_90", "gfx942")
    assert [file["kind"] for file in nvidia["files"]] == ["cubin", "ptx"]
    assert [file["kind"] for file in amd["files"]] == ["hsaco"]
    assert (nvidia["threads"], amd["threads"]) == (32, 64)
    for binary in (nvidia, amd):
        assert binary["kernel"] == "_entropy_kernel" and binary["constants"] == {"TP": 8}
        assert binary["warps"] == 1 and binary["shared_bytes"] == 0 and binary["global_scratch_bytes"] == 0
        names = ("concentration", "entropy", "gradient", "tasks", "global_scratch", "profile_scratch")
        types, offsets = ("*fp32", "*fp32", "*fp32", "i32", "*i8", "*i8"), (0, 8, 16, 24, 32, 40)
        arguments = [(a["name"], a["type"], a["offset"]) for a in binary["arguments"]]
        assert arguments == list(zip(names, types, offsets, strict=True))


def test_the_layout_is_that_of_the_code(built):
    binary = json.loads((built / "manifest.json").read_text())["binaries"][0]
    ptx = (built / binary["files"][1]["file"]).read_text()
    types = re.findall(r"^\s*\.param \.(\w+) .*_param_\d+", ptx, re.M)
    assert [int(kind[1:]) // 8 for kind in types] == [a["bytes"] for a in binary["arguments"]]
    assert str(ROOT) not in ptx


def test_a_consumer_finds_everything_in_order_and_notices_damage(built, tmp_path):
    run = check(built)
    assert (run.returncode, run.stdout) == (0, "2 binaries for gfx942, sm_90: 0 problems\n")
    damaged = tmp_path / "damaged"
    shutil.copytree(built, damaged)
    cubin = next(damaged.glob("*.cubin"))
    content = bytearray(cubin.read_bytes())
    content[100] ^= 1
    cubin.write_bytes(content)
    (damaged / "stray").touch()
    next(damaged.glob("*.hsaco")).unlink()
    run = check(damaged)
    assert run.returncode == 1 and run.stdout.endswith("3 problems\n")
    assert f"{cubin.name}: its bytes are not those of the manifest" in run.stderr
    assert "stray: not in the manifest" in run.stderr


def test_the_c_example_compiles_and_launches_where_there_is_a_gpu(built, tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "launch_aot"
    source = EXAMPLES / "launch_aot.c"
    subprocess.run(
        [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", source, "-o", program, "-ldl", "-lm"], check=True
    )
    assert subprocess.run([program], capture_output=True).returncode == 2
    cubin = next(built.glob("*.cubin"))
    run = subprocess.run([program, cubin, "_entropy_kernel", "32", "0"], capture_output=True, text=True)
    # 77: no driver; 1: a GPU of another architecture
    assert run.returncode == 77 or "entropy -8.525" in run.stdout or "cuModuleLoad gives error" in run.stderr


def test_layouts_are_naturally_aligned():
    signature = aot.Signature({"a": "i32", "p": "*fp32", "c": "constexpr", "f": "fp32", "s": "i64"}, {"c": 1}, ("p",))
    entries = aot.layout(signature)
    places = {e["name"]: (e["offset"], e["bytes"]) for e in entries[:4]}
    assert places == {"a": (0, 4), "p": (8, 8), "f": (16, 4), "s": (24, 8)}
    assert [e["name"] for e in entries if "multiple_of" in e] == ["p"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--arch", "sm90", "arch is 'sm90'; want some of sm_80, sm_86, "),
        ("--arch", "sm_90,sm_99", "arch is 'sm_99'; want some of sm_80, sm_86, "),
        ("--only", "nothing", "only is 'nothing'"),
    ],
)
def test_bad_arguments_are_named(option, value, message, tmp_path, capsys):
    assert cli.main(["aot", "--out", str(tmp_path / "x"), option, value, "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_what_no_earlier_run_left_is_never_replaced(tmp_path, capsys):
    (tmp_path / "precious").write_text("data")
    for out in (tmp_path, tmp_path / "precious"):
        assert cli.main(["aot", "--out", str(out), "--only", "entropy-T8", "--quiet"]) == 2
        assert f"out is {out}, which holds something else" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == "data"


def test_an_interrupted_run_leaves_the_earlier_one(built, tmp_path, monkeypatch, capsys):
    out = tmp_path / "binaries"
    shutil.copytree(built, out)
    earlier = sorted(path.name for path in out.iterdir())

    def interrupt(call):
        raise KeyboardInterrupt

    monkeypatch.setattr(aot, "record", interrupt)
    assert cli.main(["aot", "--out", str(out), "--only", "entropy-T8", "--quiet"]) == 130
    assert "interrupted; what was written is whole" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == earlier
    assert list(tmp_path.iterdir()) == [out]


def test_an_interpreted_process_compiles_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert cli.main(["aot", "--out", str(tmp_path / "x"), "--only", "entropy-T8", "--quiet"]) == 2
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
