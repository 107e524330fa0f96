"""Everyone gets the same processors, threads and, where there is a switch, the same instruction set."""

import json
import os
import subprocess
import sys

import pytest

from bench.cpu import machine

REPORT = """
import json, os
from bench.cpu import machine
machine.prepare(1)
import numpy, torch
facts = machine.facts() | {
    "processors": len(os.sched_getaffinity(0)),
    "openblas": os.environ["OPENBLAS_NUM_THREADS"],
    "coretype": os.environ.get("OPENBLAS_CORETYPE"),
    "everyone": sorted({len(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")}),
}
print(json.dumps(facts))
"""


def prepared(**environment: str) -> dict:
    result = subprocess.run(
        [sys.executable, "-c", REPORT], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return json.loads(result.stdout)


def test_one_processor_and_one_thread_for_everyone():
    found = prepared(OPENBLAS_CORETYPE="Haswell")
    assert (found["threads"], found["processors"], found["openblas"]) == ("1", 1, "1")
    assert found["everyone"] == [1]
    assert found["coretype"] is None  # an override that would slow numpy down


@pytest.mark.skipif("avx512f" not in machine._flags(), reason="the processor has no AVX-512 to hold peers back from")
def test_peers_are_held_to_avx2_where_ours_is():
    found = prepared(PYGRADE_ISA="avx2")
    assert (found["isa"], found["torch_isa"]) == ("avx2", "AVX2")
    assert found["peers_isa"] == "avx2, but ONNX Runtime"
    assert found["coretype"] == "Haswell"
    full = prepared(PYGRADE_ISA="avx512")
    assert (full["isa"], full["torch_isa"], full["peers_isa"]) == ("avx512", "AVX512", "the processor's")
