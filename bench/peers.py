"""What a user would call instead, for fused top-k. A peer that is not installed is left out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.harness import Contender

Floats = NDArray[np.float32]
LOG_BETA = 1e-7


def aligned(shape: tuple[int, ...]) -> Floats:
    """An uninitialised float32 array on a 64-byte boundary, as torch allocates: numpy's 16 would handicap numpy."""
    size = int(np.prod(shape))
    raw = np.empty(size + 16, np.float32)
    start = (-raw.ctypes.data % 64) // 4
    return raw[start : start + size].reshape(shape)


def random_scores(rotations: int, shape: tuple[int, ...], seed: int = 0) -> list[Floats]:
    """Distinct aligned inputs, uniform in (0, 1)."""
    generator = np.random.default_rng(seed)
    inputs = []
    for _ in range(rotations):
        scores = aligned(shape)
        scores[...] = generator.random(shape, np.float32)
        inputs.append(scores)
    return inputs


def topk_peers(scores: list[Floats], weights: Floats, k: int, log: bool = False) -> dict[str, Contender]:
    """Library calls that fuse scores[N, T] with weights[T] and return the k best."""
    rotations = len(scores)
    tensors = [torch.from_numpy(s) for s in scores]
    weight = torch.from_numpy(weights)

    def with_numpy(i: int) -> Any:
        values = scores[i % rotations]
        fused = (np.log(values + np.float32(LOG_BETA)) if log else values) @ weights
        best = np.argpartition(fused, -k)[-k:] if k < len(fused) else np.arange(len(fused))
        best = best[np.argsort(-fused[best])]
        return fused[best], best

    def fuse_and_take(values: torch.Tensor, w: torch.Tensor) -> Any:
        return torch.topk(torch.mv(torch.log(values + LOG_BETA) if log else values, w), k)

    compiled = torch.compile(fuse_and_take, dynamic=False)
    peers: dict[str, Contender] = {
        "numpy": with_numpy,
        "torch": lambda i: fuse_and_take(tensors[i % rotations], weight),
        "torch.compile": lambda i: compiled(tensors[i % rotations], weight),
    }
    peers |= _onnx_peers(scores, weights, k, log)
    if not log:
        peers |= _faiss_peers(scores, weights, k)
    return peers


def _faiss_peers(scores: list[Floats], weights: Floats, k: int) -> dict[str, Contender]:
    try:
        import faiss
    except ImportError:
        return {}
    query, rotations = weights[None], len(scores)
    return {"faiss": lambda i: faiss.knn(query, scores[i % rotations], k, metric=faiss.METRIC_INNER_PRODUCT)}


def onnx_session(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> Any:
    """A single-threaded ONNX Runtime session of a small graph."""
    import onnx
    import onnxruntime

    graph = onnx.helper.make_graph(nodes, "peer", inputs, outputs, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _onnx_peers(scores: list[Floats], weights: Floats, k: int, log: bool) -> dict[str, Contender]:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return {}
    make, tensor_type, float32 = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    nodes, source = [], "s"
    if log:
        nodes += [make("Add", ["s", "beta"], ["shifted"]), make("Log", ["shifted"], ["logs"])]
        source = "logs"
    nodes += [
        make("Gemm", ["w", source], ["fused"], transB=1),
        make("TopK", ["fused", "k"], ["v", "i"], axis=1, largest=1, sorted=1),
    ]
    constants = [onnx.numpy_helper.from_array(np.array([k], np.int64), "k")]
    if log:
        constants.append(onnx.numpy_helper.from_array(np.array([LOG_BETA], np.float32), "beta"))
    count, tasks = scores[0].shape
    session = onnx_session(
        nodes,
        [tensor_type("s", float32, [count, tasks]), tensor_type("w", float32, [1, tasks])],
        [tensor_type("v", float32, [1, k]), tensor_type("i", onnx.TensorProto.INT64, [1, k])],
        constants,
    )
    rotations, query = len(scores), weights[None].copy()
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    values, indices, bound_query = value(np.empty((1, k), np.float32)), value(np.empty((1, k), np.int64)), value(query)
    bindings = []
    for one in scores:
        binding = session.io_binding()
        binding.bind_ortvalue_input("s", value(one))
        binding.bind_ortvalue_input("w", bound_query)
        binding.bind_ortvalue_output("v", values)
        binding.bind_ortvalue_output("i", indices)
        bindings.append(binding)

    def with_binding(i: int) -> Any:
        session.run_with_iobinding(bindings[i % rotations])
        return values.numpy()[0], indices.numpy()[0]

    return {
        "onnxruntime": lambda i: session.run(None, {"s": scores[i % rotations], "w": query}),
        "onnxruntime bound": with_binding,
    }


def numba_threshold() -> Callable[[Floats, Floats, int], Any] | None:
    """What a user writes in ten minutes: fuse into a buffer, keep what beats a sampled threshold, sort that."""
    try:
        import numba
    except ImportError:
        return None

    @numba.njit(fastmath=True, nogil=True)  # type: ignore[untyped-decorator]
    def fused_topk(scores: Floats, weights: Floats, k: int) -> Any:
        count, tasks = scores.shape
        fused = np.empty(count, np.float32)
        for i in range(count):
            total = np.float32(0)
            for t in range(tasks):
                total += scores[i, t] * weights[t]
            fused[i] = total
        # A strided sample's order statistic bounds the k-th best from below; a miss falls back to all of them.
        stride = max(1, count // 256)
        sample = np.sort(fused[::stride].copy())
        rank = min(len(sample), int(1.5 * k / stride) + 4)
        threshold = sample[len(sample) - rank]
        kept = np.empty(count, np.int32)
        found = 0
        for i in range(count):
            kept[found] = i
            found += fused[i] >= threshold
        if found < k:
            found = count
            for i in range(count):
                kept[i] = i
        order = np.argsort(-fused[kept[:found]])[:k]
        indices = kept[order]
        return fused[indices], indices

    return fused_topk  # type: ignore[no-any-return]
