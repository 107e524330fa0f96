"""ONNX Runtime on the same graphs, called plainly and with bound inputs and outputs."""

from typing import Any

import numpy as np
import torch

from pygrade.policy import FusionPolicy
from .harness import Contender, optional


class Graph:
    """A chain of ONNX nodes under construction; the methods take and return names of values."""

    def __init__(self) -> None:
        import onnx

        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """One node; its output's name, or a list of them."""
        names = [f"{op}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(self._onnx.helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """A constant array."""
        name = f"constant{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def topk(self, fused: str, k: int) -> list[str]:
        """Values and indices of the k best along the last axis."""
        best: list[str] = self.add("TopK", fused, self.constant([k], np.int64), outputs=2, axis=-1, largest=1, sorted=1)
        return best

    def session(self, inputs: dict[str, tuple[int, ...]], best: list[str], shape: tuple[int, ...]) -> Any:
        """An inference session with as many threads as torch has."""
        import onnxruntime

        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        declared = [helper.make_tensor_value_info(name, kinds.FLOAT, shape) for name, shape in inputs.items()]
        outputs = [
            helper.make_tensor_value_info(name, kind, shape)
            for name, kind in zip(best, (kinds.FLOAT, kinds.INT64), strict=True)
        ]
        graph = helper.make_graph(self.nodes, "peer", declared, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def installed() -> bool:
    """Return whether onnx, which writes graphs, and onnxruntime, which runs them, are installed."""
    return None not in [optional(name) for name in ("onnx", "onnxruntime")]


def _contenders(session: Any, feeds: list[dict[str, Any]], shape: tuple[int, ...]) -> dict[str, Contender]:
    """``session`` on rotated feeds, called plainly and bound to one pair of output buffers."""
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_numpy
    values, indices = value(np.empty(shape, np.float32)), value(np.empty(shape, np.int64))
    names = [output.name for output in session.get_outputs()]
    bindings = []
    for feed in feeds:
        binding = session.io_binding()
        for name, array in feed.items():
            binding.bind_ortvalue_input(name, value(array))
        for name, output in zip(names, (values, indices), strict=True):
            binding.bind_ortvalue_output(name, output)
        bindings.append(binding)

    def bound(i: int) -> Any:
        session.run_with_iobinding(bindings[i % len(bindings)])
        return values.numpy(), indices.numpy()

    return {"onnxruntime": lambda i: session.run(None, feeds[i % len(feeds)]), "onnxruntime bound": bound}


def topk(scores: list[Any], weights: Any, k: int, log_beta: float | None) -> dict[str, Contender]:
    """Gemm and TopK of scores[N, T] and weights[T], of log(p + log_beta) if that is given."""
    if not installed():
        return {}
    graph, values = Graph(), "s"
    if log_beta is not None:
        values = graph.add("Log", graph.add("Add", "s", graph.constant([log_beta])))
    best = graph.topk(graph.add("Gemm", "w", values, transB=1), k)
    query = weights[None].copy()
    session = graph.session({"s": scores[0].shape, "w": query.shape}, best, (1, k))
    return _contenders(session, [{"s": s, "w": query} for s in scores], (1, k))


def group_topk(scores: list[Any], weights: Any, k: int) -> dict[str, Contender]:
    """MatMul and TopK of scores[B, N, T] and weights[B, G, T]."""
    if not installed():
        return {}
    graph = Graph()
    best = graph.topk(graph.add("MatMul", "w", graph.add("Transpose", "s", perm=[0, 2, 1])), k)
    shape = (*weights.shape[:2], k)
    session = graph.session({"s": scores[0].shape, "w": weights.shape}, best, shape)
    return _contenders(session, [{"s": s, "w": weights} for s in scores], shape)


def policy(network: FusionPolicy, contexts: list[Any], predictions: list[Any], k: int) -> dict[str, Contender]:
    """A graph from features and predictions to a page, as BlendedRanker makes it for a request without missing values.

    The graph leaves out NaN features and weight constraints, because the timed requests need neither.
    """
    if not installed():
        return {}
    config, graph = network.config, Graph()
    logs = graph.add("Log", graph.add("Add", "p", graph.constant([config.beta])))
    mean = graph.add("ReduceMean", logs, axes=[0], keepdims=1)
    centered = graph.add("Sub", logs, mean)
    square = graph.add("Mul", centered, centered)
    std = graph.add("Sqrt", graph.add("ReduceMean", square, axes=[0], keepdims=1))
    raw = graph.add("Concat", "x", mean, std, axis=1) if not config.context_only else "x"
    shifted = graph.add("Sub", raw, graph.constant(network.input_mean[None]))
    scaled = graph.add("Div", shifted, graph.constant(network.input_std[None]))
    hidden = graph.add("Clip", scaled, graph.constant(-5.0), graph.constant(5.0))
    layers = [layer for layer in [*network.body, network.head] if isinstance(layer, torch.nn.Linear)]
    for layer in layers:
        weight, bias = graph.constant(layer.weight.detach()), graph.constant(layer.bias.detach())
        hidden = graph.add("Gemm", hidden, weight, bias, transB=1)
        if layer is not network.head:
            hidden = graph.add("Mul", hidden, graph.add("Sigmoid", hidden))
    share = graph.add("Softmax", hidden, axis=1)
    spread = graph.add("Mul", share, graph.constant([config.total_concentration]))
    concentration = graph.add("Add", spread, graph.constant([network.spec.concentration_floor]))
    total = graph.add("ReduceSum", concentration, graph.constant([1], np.int64), keepdims=1)
    weights = graph.add("Div", concentration, total)
    values = "p"
    if config.transform == "zlog":
        values = graph.add("Div", centered, graph.add("Add", std, graph.constant([config.epsilon])))
    best = graph.topk(graph.add("Gemm", weights, values, transB=1), k)
    session = graph.session({"x": contexts[0].shape, "p": predictions[0].shape}, best, (1, k))
    return _contenders(session, [{"x": x, "p": p} for x, p in zip(contexts, predictions, strict=True)], (1, k))
