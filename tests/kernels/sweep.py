"""Prints as JSON the choices of the launch functions in a sweep of shapes that no variant compiles; runs no kernel.

With an architecture it compiles the sample for it, and prints what each kernel may not have.

A separate process: the other tests interpret, and launches can be recorded only if Triton compiles.
"""

import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch

from devtools.ptx.compile import Launch, compiled, record, signature_of
from tests.kernels import variants

Choices = dict[str, dict[str, set[str]]]  # kernel → what is chosen → its values


def calls() -> Iterator[Callable[[], object]]:
    """Calls of every op that has kernels."""
    tasks, samples, lists = (1, 2, 5, 8, 16, 40, 64), (1, 3, 16, 32, 100, 500), (5, 100, 700, 3000)
    for normalize, loo, g in itertools.product(("none", "group", "batch", "component"), (False, True), (1, 16, 300)):
        yield variants._advantage(normalize, g, loo)
    for g, t in itertools.product(samples, tasks):
        yield variants._sample(g, t)
        for floor in (0.0, 1e-5):
            yield variants._log_prob(g, t, floor)
            yield variants._grpo(g, t, floor)
    for t in tasks:
        yield variants._entropy(t)
        yield variants._kl(t)
    for n, masked in itertools.product((1, *lists), (False, True)):
        yield variants._lambda_loss(n, masked)
    for n, beam, jagged in itertools.product(lists, (1, 8, 64), (False, True)):
        yield variants._search(n, 10, 64, beam, jagged=jagged)
    for objective in ("mmr", "log_det"):
        yield variants._search(100, 5, 20, objective=objective)
    for transform, jagged in itertools.product(("log", "zscore", "zlog", "log1p"), (False, True)):
        yield variants._transform(transform, jagged)
        yield variants._transform(transform, jagged, candidates=1000)
    for n, t, jagged in itertools.product(lists, tasks, (False, True)):
        yield variants._fuse(n, t, 0, jagged=jagged)
        for k in (1, 10, 100, 1024):
            yield variants._topk(n, t, k, 4, jagged=jagged, masked=k == 10)
            yield variants._gain(n, t, k, 2, int(k == 10), jagged=jagged)
            if not jagged:
                yield variants._rollout(n, t, k, 16, 2, int(k == 10), k == 10)
    for dtype in (torch.float16, torch.bfloat16):
        yield variants._transform("zlog", False, dtype)
        yield variants._fuse(100, 8, 0, dtype)
        yield variants._topk(100, 8, 10, 0, dtype)
        yield variants._gain(100, 8, 10, 2, 1, dtype)


def choices(launches: list[Launch], into: Choices) -> None:
    """Adds the launches' flags, warps, element types and sizes."""
    for launch in launches:
        found = into[launch.name]
        found["num_warps"].add(str(launch.options["num_warps"]))
        signature = signature_of(launch, general=True)
        for name, kind in signature.types.items():
            value = signature.constants.get(name)
            if kind.startswith("*") or isinstance(value, bool):
                found[name].add(f"{kind} {value}")
            elif type(value) is int:
                found[f"{name} (size)"].add(str(value))


def uncovered(chosen: Choices, built: Choices) -> list[str]:
    """Choices that are not built: any flag, element type or number of warps, and the bounds of every size."""
    missing = []
    for kernel, found in chosen.items():
        for name, values in found.items():
            have = built[kernel][name]
            wanted = values - have
            if name.endswith("(size)"):
                sizes, there = sorted(map(int, values)), sorted(map(int, have)) or [0, -1]
                wanted = {str(n) for n in (sizes[0], sizes[-1]) if not there[0] <= n <= there[-1]}
            missing += [f"{kernel} {name} = {value}" for value in sorted(wanted)]
    return missing


def of_the_sample(arch: str) -> dict[str, dict[str, int]]:
    """By variant and kernel: whether multiply-adds may be fused, bytes of Triton's own global scratch."""
    found = {}
    for name, variant in variants.VARIANTS.items():
        for launch in record(variant.call) if variant.sample else ():
            made = compiled(launch, arch).metadata
            found[f"{name} {launch.name}"] = {"fused": made.enable_fp_fusion, "scratch": made.global_scratch_size}
    return found


def main() -> int:
    if sys.argv[1:]:
        print(json.dumps(of_the_sample(sys.argv[1])))
        return 0
    chosen: Choices = defaultdict(lambda: defaultdict(set))
    built: Choices = defaultdict(lambda: defaultdict(set))
    count = 0
    for call in calls():
        launches = record(call)
        count += len(launches)
        choices(launches, chosen)
    for variant in variants.VARIANTS.values():
        choices(record(variant.call), built)
    print(json.dumps({"launches": count, "kernels": sorted(chosen), "uncovered": uncovered(chosen, built)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
