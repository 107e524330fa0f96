"""Every contender gets the same processors and threads and, if it has a switch, the same instruction set."""

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
    "affinities": sorted({len(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")}),
}
print(json.dumps(facts))
"""


def prepared(**environment: str) -> dict:
    result = subprocess.run(
        [sys.executable, "-c", REPORT], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return json.loads(result.stdout)


def test_one_processor_and_one_thread_for_every_contender():
    facts = prepared(OPENBLAS_CORETYPE="Haswell")
    assert (facts["threads"], facts["processors"], facts["openblas"]) == ("1", 1, "1")
    assert facts["affinities"] == [1]
    assert facts["coretype"] is None  # would slow numpy down


@pytest.mark.skipif("avx512f" not in machine._flags(), reason="the processor has no AVX-512")
def test_peers_are_limited_to_avx2_if_ours_is():
    facts = prepared(PYGRADE_ISA="avx2")
    assert (facts["isa"], facts["torch_isa"]) == ("avx2", "AVX2")
    assert facts["peers_isa"] == "avx2, but ONNX Runtime"
    assert facts["coretype"] == "Haswell"
    full = prepared(PYGRADE_ISA="avx512")
    assert (full["isa"], full["torch_isa"], full["peers_isa"]) == ("avx512", "AVX512", "the processor's")
